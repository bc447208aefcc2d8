"""Others at work in the same store in the middle of a pull: Ollama, a second syncd, an operator, a slow disk."""

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from syncd.download.receive import BATCH
from syncd.errors import BusyError, CancelledByRemovalError, NotFoundError, StoreError, SyncdError
from syncd.jobs.progress import BlobState, Phase, PullProgress, Totals
from syncd.jobs.pull import pull
from syncd.jobs.remove import remove
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.manifest import Descriptor, Manifest
from syncd.oci.name import Reference
from syncd.store import layout
from syncd.store.partial import Partial
from syncd.store.root import Store
from tests.pull.world import (
    QUICK,
    THROUGH_THE_LOOP,
    ActingAfter,
    blob_file,
    means,
    model_name,
    prune_as_ollama,
    pulled,
    tag_file,
    until,
    write_as_ollama,
)
from tests.support.models import build_model, synthetic_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry

MIB = 1 << 20
PATIENT = replace(QUICK, stall_timeout=30.0)  # nothing stalls here but what the test itself holds up


@pytest.fixture
def mistral(registry: ScriptedRegistry) -> ModelHandle:
    """A small model."""
    return registry.add(build_model("mistral:7b"))


@pytest.fixture
def slow(registry: ScriptedRegistry) -> ModelHandle:
    """A model whose weights come to a halt, and go on when ``registry.heal()`` is called."""
    model = registry.add(synthetic_model(weights_bytes=2 * CHUNK_SIZE))
    registry.stall(MIB, digest=model.weights)
    return model


def at(phase: Phase, act: Callable[[], None]) -> Callable[[PullProgress], None]:
    """Act once, the moment that a pull comes to ``phase``."""
    todo = [act]

    def report(progress: PullProgress) -> None:
        if progress.phase is phase and todo:
            todo.pop()()

    return report


def lose_all_blobs(path: Path) -> None:
    for folder in (path / "blobs", path / ".syncd" / "keep"):
        for file in folder.iterdir():
            file.unlink(missing_ok=True)


# A starting Ollama prunes what no manifest names yet.


async def test_blobs_that_ollama_prunes_before_the_manifest_is_in_come_back_without_the_network(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    prune = at(Phase.PUBLISHING, lambda: prune_as_ollama(store_path, mistral.blobs))

    await pulled(mistral.name, store_path, report=prune)

    assert assert_store_whole(store_path) == {mistral.name: mistral.digest}
    assert registry.bytes_served() == mistral.size


async def test_a_blob_that_is_pruned_while_another_is_on_its_way_comes_back_without_the_network(
    registry: ScriptedRegistry, slow: ModelHandle, store_path: Path
) -> None:
    small = slow.config

    async with asyncio.TaskGroup() as group:
        group.create_task(pulled(slow.name, store_path, settings=PATIENT))
        await until((store_path / "blobs" / blob_file(small)).exists)
        await until((store_path / ".syncd" / "records" / blob_file(small)).exists)
        prune_as_ollama(store_path, [small])
        registry.heal()

    assert assert_store_whole(store_path) == {slow.name: slow.digest}
    assert registry.bytes_served() == slow.size


async def test_blobs_that_are_pruned_and_not_kept_either_are_fetched_again(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    await pulled(mistral.name, store_path, report=at(Phase.PUBLISHING, lambda: lose_all_blobs(store_path)))

    assert assert_store_whole(store_path) == {mistral.name: mistral.digest}
    assert registry.bytes_served() == 2 * mistral.size


async def test_blobs_that_vanish_as_fast_as_they_come_are_an_error_and_no_endless_loop(
    mistral: ModelHandle, store_path: Path
) -> None:
    with Store.open(store_path, create=True) as store:
        store.blobs = ActingAfter(store.blobs, "commit", lambda: lose_all_blobs(store_path))  # type: ignore[assignment] - it is one, and acts
        async with means(store) as everything:
            with pytest.raises(StoreError, match="vanish") as refused:
                await pull(Reference.parse(mistral.name), everything, lambda _: None)

    assert "OLLAMA_NOPRUNE" in (refused.value.hint or "")
    assert assert_store_whole(store_path) == {}


async def test_a_model_that_shares_a_blob_with_one_just_published_may_be_removed_by_ollama(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    codellama = registry.add(build_model("codellama:7b"))
    await pulled(mistral.name, store_path)
    registry.forget_requests()

    def ollama_rm() -> None:
        # It read its list of manifests before ours was there, so it takes the shared blobs for its model's alone.
        tag_file(store_path, mistral.name).unlink()
        tag_file(store_path, mistral.name).parent.rmdir()
        prune_as_ollama(store_path, mistral.blobs)

    with Store.open(store_path, create=False) as store:
        store.models = ActingAfter(store.models, "publish", ollama_rm)  # type: ignore[assignment] - it is one, and acts
        async with means(store) as everything:
            await pull(Reference.parse(codellama.name), everything, lambda _: None)

    assert assert_store_whole(store_path) == {codellama.name: codellama.digest}
    assert not any(registry.bytes_served(digest) for digest in set(mistral.blobs) & set(codellama.blobs))


async def test_a_current_model_whose_blobs_ollama_took_is_whole_again_after_a_pull(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    await pulled(mistral.name, store_path)
    registry.forget_requests()
    prune_as_ollama(store_path, mistral.blobs)

    await pulled(mistral.name, store_path)

    assert assert_store_whole(store_path) == {mistral.name: mistral.digest}
    assert registry.blob_requests() == []


# Two that publish one tag.


async def test_an_older_manifest_never_lands_on_a_newer_one(
    registry: ScriptedRegistry, slow: ModelHandle, store_path: Path
) -> None:
    newer = build_model("mistral:7b", seed=2)

    async with asyncio.TaskGroup() as group:
        work = group.create_task(pulled(slow.name, store_path, settings=PATIENT))
        await registry.until(lambda r: r.bytes_served(slow.weights) > 0)
        registry.add(newer)  # the tag moves on, and an Ollama beside us has it at once
        for digest, content in newer.blobs.items():
            (store_path / "blobs" / blob_file(digest)).write_bytes(content.read(0, content.size))
        write_as_ollama(store_path, slow.name, newer.manifest)
        registry.heal()

    assert str(work.result().digest) == newer.digest
    tagged = assert_tags(store_path)
    assert tagged == {slow.name: newer.digest}
    assert not any(registry.requests_for(digest) for digest in set(newer.blobs) - set(slow.blobs))


def assert_tags(store_path: Path) -> dict[str, str]:
    """As the oracle, after an Ollama wrote blobs of its own: they have its modes, until syncd adopts them."""
    for file in (store_path / "blobs").iterdir():
        assert file.stat().st_mode & 0o444 == 0o444
        file.chmod(0o444)
    return assert_store_whole(store_path)


async def test_what_another_published_meanwhile_gives_way_to_what_the_registry_says_now(
    registry: ScriptedRegistry, slow: ModelHandle, store_path: Path
) -> None:
    other = build_model("mistral:7b", seed=2)

    async with asyncio.TaskGroup() as group:
        work = group.create_task(pulled(slow.name, store_path, settings=PATIENT))
        await registry.until(lambda r: r.bytes_served(slow.weights) > 0)
        write_as_ollama(store_path, slow.name, other.manifest)
        registry.heal()

    assert str(work.result().digest) == slow.digest
    assert assert_store_whole(store_path) == {slow.name: slow.digest}
    assert len(registry.manifest_requests()) == 2
    assert registry.bytes_served() == slow.size


async def test_what_was_fetched_is_counted_once_and_never_less_whatever_moves(
    registry: ScriptedRegistry, slow: ModelHandle, store_path: Path
) -> None:
    told: list[int] = []

    def report(progress: PullProgress) -> None:
        told.append(Totals.of(progress).fetched)

    stranger, newer = build_model("mistral:7b", seed=8), build_model("mistral:7b", seed=9)
    with Store.open(store_path, create=True) as store:
        async with means(store, settings=PATIENT) as everything, asyncio.TaskGroup() as group:
            work = group.create_task(pull(Reference.parse(slow.name), everything, report))
            await until(lambda: told and told[-1] >= MIB)
            write_as_ollama(store_path, slow.name, stranger.manifest)
            registry.add(newer)
            registry.heal()
            outcome = await work

    assert outcome.fetched_bytes == registry.bytes_served() > slow.size
    assert told == sorted(told)


async def test_a_tag_that_another_moves_again_and_again_ends_as_busy(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    manifests = iter([build_model("mistral:7b", seed=seed).manifest for seed in range(2, 9)])

    def interfere(progress: PullProgress) -> None:
        if progress.phase is Phase.PUBLISHING:
            write_as_ollama(store_path, mistral.name, next(manifests))

    with pytest.raises(BusyError, match="again and again") as refused:
        await pulled(mistral.name, store_path, report=interfere)

    assert refused.value.exit_code == 8
    assert registry.bytes_served() == mistral.size


async def test_of_two_pulls_of_one_tag_the_later_one_sees_what_the_registry_says_then(
    registry: ScriptedRegistry, slow: ModelHandle, store_path: Path
) -> None:
    newer = build_model("mistral:7b", seed=2)
    waiting: list[PullProgress] = []

    async with asyncio.TaskGroup() as group:
        first = group.create_task(pulled(slow.name, store_path, settings=PATIENT))
        await registry.until(lambda r: r.bytes_served(slow.weights) > 0)
        second = group.create_task(pulled(slow.name, store_path, settings=PATIENT, report=waiting.append))
        await until(lambda: waiting and waiting[-1].phase is Phase.WAITING)
        registry.add(newer)
        registry.heal()

    assert str(first.result().digest) == slow.digest
    assert str(second.result().digest) == newer.digest
    assert assert_store_whole(store_path) == {slow.name: newer.digest}


async def test_two_names_that_share_a_large_blob_fetch_it_once(registry: ScriptedRegistry, store_path: Path) -> None:
    one, other = (registry.add(synthetic_model(name, weights_bytes=2 * CHUNK_SIZE)) for name in ("one:a", "other:b"))
    assert one.weights == other.weights
    registry.throttle(30 * MIB, digest=one.weights)

    async with asyncio.TaskGroup() as group:
        for model in (one, other):
            group.create_task(pulled(model.name, store_path))

    assert registry.bytes_served(one.weights) == one.weights_size
    assert set(assert_store_whole(store_path)) == {one.name, other.name}


# rm during a pull.


async def removed(name: str, path: Path) -> None:
    with Store.open(path, create=False) as store:
        await remove(store, model_name(name), now=time.time())


async def test_rm_ends_the_pull_and_those_who_wait_for_it_and_the_next_pull_works(
    registry: ScriptedRegistry, slow: ModelHandle, store_path: Path
) -> None:
    seen: list[PullProgress] = []
    first = asyncio.create_task(pulled(slow.name, store_path, settings=PATIENT))
    await registry.until(lambda r: r.bytes_served(slow.weights) > 0)
    second = asyncio.create_task(pulled(slow.name, store_path, settings=PATIENT, report=seen.append))
    await until(lambda: seen and seen[-1].phase is Phase.WAITING)

    await removed(slow.name, store_path)

    ended = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(one) for one in ended] == [CancelledByRemovalError, CancelledByRemovalError]
    assert assert_store_whole(store_path) == {}
    registry.heal()
    await pulled(slow.name, store_path, settings=PATIENT)
    assert assert_store_whole(store_path) == {slow.name: slow.digest}


async def test_who_waits_for_a_pull_that_rm_ends_does_not_slip_in_before_rm(
    mistral: ModelHandle, store_path: Path
) -> None:
    seen: list[PullProgress] = []
    with Store.open(store_path, create=True) as store:
        lock = store.locks.try_name(model_name(mistral.name))
        assert lock is not None
        waiter = asyncio.create_task(pulled(mistral.name, store_path, report=seen.append))
        await until(lambda: seen and seen[-1].phase is Phase.WAITING)

        store.locks.mark_removal(model_name(mistral.name))
        lock.release()  # and rm itself polls for it more slowly than the waiter

        with pytest.raises(CancelledByRemovalError):
            await waiter
    assert assert_store_whole(store_path) == {}


async def test_rm_while_an_update_is_pulled_takes_the_old_version_away_too(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    await pulled(mistral.name, store_path)
    newer = registry.add(synthetic_model("mistral:7b", weights_bytes=CHUNK_SIZE))
    registry.stall(MIB, digest=newer.weights)
    work = asyncio.create_task(pulled(newer.name, store_path, settings=PATIENT))
    await registry.until(lambda r: r.bytes_served(newer.weights) > 0)

    await removed(newer.name, store_path)

    with pytest.raises(CancelledByRemovalError):
        await work
    assert assert_store_whole(store_path) == {}
    assert not list((store_path / "manifests").iterdir())
    assert not list((store_path / ".syncd" / "leases").iterdir())


async def test_rm_of_another_name_leaves_a_pull_alone(
    registry: ScriptedRegistry, slow: ModelHandle, store_path: Path
) -> None:
    other = registry.add(build_model("codellama:7b"))
    await pulled(other.name, store_path)

    async with asyncio.TaskGroup() as group:
        group.create_task(pulled(slow.name, store_path, settings=PATIENT))
        await registry.until(lambda r: r.bytes_served(slow.weights) > 0)
        await removed(other.name, store_path)
        registry.heal()

    assert assert_store_whole(store_path) == {slow.name: slow.digest}


async def test_rm_of_what_is_neither_there_nor_pulled_is_not_found(store_path: Path, mistral: ModelHandle) -> None:
    await pulled(mistral.name, store_path)

    with pytest.raises(NotFoundError):
        await removed("nothing:here", store_path)

    assert assert_store_whole(store_path) == {mistral.name: mistral.digest}


# What lies in blobs/ already.


@pytest.fixture
def ollamas(store_path: Path) -> Path:
    """A models folder that an Ollama made."""
    (store_path / "blobs").mkdir(parents=True)
    (store_path / "manifests").mkdir()
    return store_path


def content_of(model: ModelHandle, digest: str) -> bytes:
    return bytes(model.blobs[digest].read(0, model.blobs[digest].size))


@pytest.mark.parametrize("what", ["wrong bytes", "too short", "too long", "empty"])
async def test_a_false_blob_of_ollamas_is_replaced_by_good_bytes(
    what: str, registry: ScriptedRegistry, mistral: ModelHandle, ollamas: Path
) -> None:
    good = content_of(mistral, mistral.weights)
    false = {
        "wrong bytes": good[:1000] + bytes([good[1000] ^ 1]) + good[1001:],
        "too short": good[:-1],
        "too long": good + b"x",
        "empty": b"",
    }[what]
    (ollamas / "blobs" / blob_file(mistral.weights)).write_bytes(false)

    await pulled(mistral.name, ollamas)

    assert assert_store_whole(ollamas) == {mistral.name: mistral.digest}
    assert registry.bytes_served(mistral.weights) == mistral.weights_size


@pytest.mark.parametrize("mode", [0o644, 0o400, 0o444])
async def test_a_right_blob_of_ollamas_is_taken_over_and_not_fetched(
    mode: int, registry: ScriptedRegistry, mistral: ModelHandle, ollamas: Path
) -> None:
    there = ollamas / "blobs" / blob_file(mistral.weights)
    there.write_bytes(content_of(mistral, mistral.weights))
    there.chmod(mode)

    outcome = await pulled(mistral.name, ollamas)

    assert assert_store_whole(ollamas) == {mistral.name: mistral.digest}  # which wants mode 0444
    assert registry.requests_for(mistral.weights) == []
    assert outcome.found_bytes == mistral.weights_size
    with Store.open(ollamas, create=False) as store:
        blob = next(one for one in Manifest.parse(mistral.manifest).blobs if str(one.digest) == mistral.weights)
        assert store.blobs.status(blob) == "stored"


async def test_hashing_what_ollama_left_shows_as_verifying(registry: ScriptedRegistry, ollamas: Path) -> None:
    large = registry.add(synthetic_model(weights_bytes=3 * CHUNK_SIZE))
    large.blobs[large.weights].write_to(ollamas / "blobs" / blob_file(large.weights))
    shown: list[tuple[BlobState, int]] = []

    def look(progress: PullProgress) -> None:
        shown.extend((one.state, one.done) for one in progress.blobs if str(one.blob.digest) == large.weights)

    def wait_to_be_seen() -> None:
        deadline = time.monotonic() + 10
        while not any(state is BlobState.VERIFYING and done for state, done in shown) and time.monotonic() < deadline:
            time.sleep(0.01)

    with Store.open(ollamas, create=True) as store:
        store.blobs = HashingSlowly(store.blobs, wait_to_be_seen)  # type: ignore[assignment] - it is one
        async with means(store) as everything:
            await pull(Reference.parse(large.name), everything, look)

    verifying = [done for state, done in shown if state is BlobState.VERIFYING]
    assert any(verifying)
    assert verifying == sorted(verifying)
    assert registry.requests_for(large.weights) == []
    assert assert_store_whole(ollamas) == {large.name: large.digest}


class HashingSlowly:
    """Blobs on a disk so slow that ``pause`` passes after each step of a verification."""

    def __init__(self, it: Any, pause: Callable[[], None]) -> None:
        self._it, self._pause = it, pause

    def __getattr__(self, name: str) -> Any:
        return getattr(self._it, name)

    def verify(self, blob: Descriptor, *, on_bytes: Callable[[int], None], cancelled: Callable[[], bool]) -> bool:
        def slowly(count: int) -> None:
            on_bytes(count)
            self._pause()

        return bool(self._it.verify(blob, on_bytes=slowly, cancelled=cancelled))


# What somebody planted in the store.

PLANTED = ("link to a file", "link to nothing", "FIFO", "folder")
FOLDERS = ("manifests", "blobs", ".syncd", *(f".syncd/{name}" for name in ("staging", "keep", "records", "locks")))


def plant(what: str, path: Path, victim: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    match what:
        case "link to a file":
            path.symlink_to(victim)
        case "link to nothing":
            path.symlink_to(victim.with_name("nothing"))
        case "FIFO":
            os.mkfifo(path)
        case "folder":
            path.mkdir()


def places(path: Path, model: ModelHandle) -> dict[str, Path]:
    """Every file of a store that a pull of ``model`` opens."""
    own, blob = path / ".syncd", blob_file(model.weights)
    return {
        "blob": path / "blobs" / blob,
        "keep": own / "keep" / blob,
        "partial": own / "staging" / f"{blob}.partial",
        "journal": own / "staging" / f"{blob}.journal",
        "record": own / "records" / blob,
        "digest lock": own / "locks" / blob,
        "name lock": own / "locks" / layout.name_lock(model_name(model.name)),
        "references lock": own / "locks" / "references",
        "self-test lock": own / "locks" / "self-test",
        "version": own / "version",
        "tag": tag_file(path, model.name),
    }


@pytest.mark.parametrize("what", PLANTED)
@pytest.mark.parametrize("where", list(places(Path(), ModelHandle("a:1/b/c:d", "", "", b"", {}, "", ""))))
async def test_what_is_planted_where_a_file_belongs_is_never_followed_and_never_hangs(
    where: str, what: str, mistral: ModelHandle, store_path: Path, tmp_path: Path
) -> None:
    Store.open(store_path, create=True).close()
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    victim.chmod(0o640)
    place = places(store_path, mistral)[where]
    place.unlink(missing_ok=True)
    plant(what, place, victim)

    failure: SyncdError | None = None
    try:
        async with asyncio.timeout(20):
            await pulled(mistral.name, store_path)
    except SyncdError as error:
        failure = error

    assert victim.read_bytes() == b"mine"
    assert victim.stat().st_mode & 0o777 == 0o640
    assert not victim.with_name("nothing").exists()
    if where in {"record", "journal"} and what != "folder":
        assert failure is None  # a record that cannot be read counts as none, so does a journal without its partial
        assert_store_whole(store_path)
        assert not place.is_symlink()
    else:
        assert failure is not None
        assert failure.hint
        assert str(place) in failure.message
        assert not any(file.is_file() for file in (store_path / "manifests").rglob("*") if file != place)


@pytest.mark.parametrize("what", ["link", "file"])
@pytest.mark.parametrize("where", FOLDERS)
async def test_a_folder_of_the_store_that_is_a_link_or_a_file_is_refused(
    where: str, what: str, mistral: ModelHandle, store_path: Path, tmp_path: Path
) -> None:
    Store.open(store_path, create=True).close()
    elsewhere = tmp_path / "elsewhere"
    (store_path / where).rename(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    if what == "link":
        (store_path / where).symlink_to(elsewhere)
    else:
        (store_path / where).write_bytes(b"")

    with pytest.raises(StoreError, match="where a folder should be") as refused:
        await pulled(mistral.name, store_path)

    assert refused.value.hint
    assert sorted(elsewhere.rglob("*")) == before


async def test_a_folder_on_a_tags_way_that_is_a_link_is_refused(
    mistral: ModelHandle, store_path: Path, tmp_path: Path
) -> None:
    Store.open(store_path, create=True).close()
    (tmp_path / "elsewhere").mkdir()
    (store_path / "manifests" / mistral.name.partition("/")[0]).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StoreError, match="where a folder should be"):
        await pulled(mistral.name, store_path)

    assert not list((tmp_path / "elsewhere").iterdir())


async def test_the_store_itself_may_be_reached_through_a_link(
    mistral: ModelHandle, store_path: Path, tmp_path: Path
) -> None:
    store_path.mkdir()
    (tmp_path / "link").symlink_to(store_path)

    await pulled(mistral.name, tmp_path / "link")

    assert assert_store_whole(store_path) == {mistral.name: mistral.digest}


async def test_a_partial_that_is_another_name_of_somebodys_file_is_not_written_into(
    mistral: ModelHandle, store_path: Path, tmp_path: Path
) -> None:
    Store.open(store_path, create=True).close()
    victim = tmp_path / "victim"
    victim.write_bytes(bytes(mistral.weights_size))
    (store_path / ".syncd" / "staging" / f"{blob_file(mistral.weights)}.partial").hardlink_to(victim)

    await pulled(mistral.name, store_path)

    assert victim.read_bytes() == bytes(mistral.weights_size)
    assert assert_store_whole(store_path) == {mistral.name: mistral.digest}


# A region has one writer.


class Watched:
    """A partial that notes when two writes overlap, and holds up the last write of a connection that was dropped."""

    def __init__(self, it: Partial) -> None:
        self._it = it
        self._guard = threading.Lock()
        self._in_flight: list[tuple[int, int]] = []
        self.overlaps: list[tuple[int, int]] = []
        self.held_up = threading.Event()
        self.go_on = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._it, name)

    def write(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        end = offset + sum(map(len, parts))
        with self._guard:
            if any(start < end and offset < stop for start, stop in self._in_flight):
                self.overlaps.append((offset, end))
            self._in_flight.append((offset, end))
        # Whole batches, and those that end a chunk, are a healthy connection's.
        if end - offset < BATCH and end % CHUNK_SIZE and end < self._it.blob.size and not self.held_up.is_set():
            self.held_up.set()
            assert self.go_on.wait(20)
        self._it.write(parts, offset)
        with self._guard:
            self._in_flight.remove((offset, end))


async def test_a_segment_is_handed_on_only_when_the_old_connections_last_write_has_returned(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    large = registry.add(synthetic_model(weights_bytes=3 * CHUNK_SIZE))
    registry.stall(5 * MIB + 300_000, digest=large.weights, times=1)
    blob = next(one for one in Manifest.parse(large.manifest).blobs if str(one.digest) == large.weights)
    with Store.open(store_path, create=True) as store, store.blobs.partials.stage(blob) as partial:
        watched = Watched(partial)
        async with means(
            store, settings=replace(QUICK, connections=3, stall_timeout=0.3, max_rate=THROUGH_THE_LOOP)
        ) as everything:
            fetch = everything.fetcher.blob(model_name(large.name), watched)  # type: ignore[arg-type] - it is one

            async with asyncio.TaskGroup() as group:
                work = group.create_task(fetch.run())
                await until(watched.held_up.is_set)
                await registry.until(lambda r: r.bytes_served(blob.digest) >= 2 * CHUNK_SIZE + 5 * MIB)
                await asyncio.sleep(0.3)  # the others are idle now: time enough to take it, if they could
                asked = len(registry.requests_for(large.weights))
                watched.go_on.set()

        assert asked == 3
        assert watched.overlaps == []
        store.blobs.commit(partial, work.result())
    assert registry.bytes_served(blob.digest) == blob.size
    assert_store_whole(store_path)


# Cancelled at any moment.


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_pull_that_is_cancelled_at_any_moment_leaves_nothing_but_what_the_next_one_resumes(
    registry: ScriptedRegistry, tmp_path: Path
) -> None:
    model = registry.add(synthetic_model(weights_bytes=CHUNK_SIZE + MIB))
    await pulled(model.name, tmp_path / "warm-up")
    before = open_files()
    draw, cancelled, path = random.Random(2), 0, tmp_path / "store 0"

    for number in range(30):
        work = asyncio.create_task(pulled(model.name, path))
        await asyncio.sleep(draw.uniform(0, 0.15))
        work.cancel()
        ended = (await asyncio.gather(work, return_exceptions=True))[0]
        if isinstance(ended, asyncio.CancelledError):
            cancelled += 1
            assert assert_store_whole(path) in ({}, {model.name: model.digest})
            await until(lambda: open_files() <= before)
            assert_nothing_is_locked(path, model)
        else:
            assert assert_store_whole(path) == {model.name: model.digest}
            path = tmp_path / f"store {number + 1}"

    await pulled(model.name, path)
    assert assert_store_whole(path) == {model.name: model.digest}
    assert not list((path / ".syncd" / "staging").iterdir())
    assert not list((path / ".syncd" / "leases").iterdir())
    assert cancelled > 5


def assert_nothing_is_locked(path: Path, model: ModelHandle) -> None:
    with Store.open(path, create=True) as store:
        locks = [store.locks.try_name(model_name(model.name)), store.locks.try_references(shared=False)]
        locks += [store.locks.try_digest(blob.digest) for blob in Manifest.parse(model.manifest).blobs]
        assert None not in locks
        assert not any(lease.live for lease in store.leases.all(time.time()))
        for lock in locks:
            assert lock is not None
            lock.release()


# What others see in between.


class Onlooker:
    """Looks at Ollama's two trees all the time, as a starting server does, and notes what should never be seen."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="onlooker")
        self.faults: list[str] = []
        self.rounds = 0
        self.seen: set[str] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._look(self._path / "manifests", depth=4)
            for file in (self._path / "blobs").iterdir():
                if layout.digest_of_file(file.name) is None:
                    self.faults.append(f"a stray file in blobs: {file.name}")
            self.rounds += 1

    def _look(self, folder: Path, depth: int) -> None:
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return  # removed since it was listed
        except NotADirectoryError:
            self.faults.append(f"{folder} is no folder")
            return
        try:
            names = os.listdir(fd)  # noqa: PTH208 - by descriptor
            # A folder that went away with its model may be empty where it went to.
            if not names and depth < 4 and self._still_there(folder, fd):
                self.faults.append(f"{folder} is empty")
        finally:
            os.close(fd)
        for name in names:
            if depth > 1:
                self._look(folder / name, depth - 1)
            else:
                self._judge(folder / name)

    def _still_there(self, folder: Path, fd: int) -> bool:
        try:
            return folder.stat().st_ino == os.fstat(fd).st_ino
        except FileNotFoundError:
            return False

    def _judge(self, tag: Path) -> None:
        try:
            raw = tag.read_bytes()
        except FileNotFoundError:
            return
        self.seen.add("/".join(tag.parts[-4:]))
        for blob in Manifest.parse(raw).blobs:
            file = self._path / "blobs" / blob_file(str(blob.digest))
            if not file.exists() or file.stat().st_size != blob.size:
                self.faults.append(f"{tag} is there before {blob.digest}")


async def test_nobody_ever_sees_half_a_model_a_stray_file_or_an_empty_folder(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    names = [f"{namespace}/{model}:{tag}" for namespace in ("a", "b") for model in ("x", "y") for tag in ("1",)]
    models = [registry.add(synthetic_model(name, weights_bytes=1000, seed=len(name))) for name in names]
    Store.open(store_path, create=True).close()

    with Onlooker(store_path) as onlooker:
        for _ in range(2):
            for model in models:
                await pulled(model.name, store_path)
            await asyncio.gather(*(removed(model.name, store_path) for model in models))
            await asyncio.gather(*(pulled(model.name, store_path) for model in models))
            for model in models:
                await removed(model.name, store_path)

    assert onlooker.faults == []
    assert onlooker.rounds > 10
    assert len(onlooker.seen) > len(models) // 2
    assert assert_store_whole(store_path) == {}
