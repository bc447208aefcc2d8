"""Collection: what may go, what must stay, and what it does beside pulls."""

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.jobs import collect
from syncd.jobs.collection import GRACE_SECONDS, CollectRules, Memories, kept_by, left_behind, ripe
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName, Reference
from syncd.store import collected
from syncd.store.blobs import BlobStatus
from syncd.store.holds import Hold
from syncd.store.leases import LEASE_SECONDS, Lease, LeaseState
from syncd.store.locks import Lock
from syncd.store.root import Store
from syncd.store.sweep import HeldBlob, StagedFile
from tests.unit.store_world import NAME, blob_path, commit, descriptor, manifest_of, manifest_path, publish

HOUR = 3600.0
WEIGHTS, CONFIG = b"weights", b"config"
CONTENTS = [bytes([number]) for number in range(6)]
MANIFESTS = st.lists(st.sampled_from(CONTENTS), min_size=1, max_size=4, unique=True).map(
    lambda contents: manifest_of(*contents)
)


def lease(manifest: Manifest, *, live: bool, age: float) -> LeaseState:
    return LeaseState("id", NAME, manifest, live, age)


def take(store: Store, manifest: Manifest) -> Lease:
    held = store.locks.try_references(shared=True)
    assert held is not None
    with held:
        return store.leases.take(NAME, manifest, held)


def take_down(store: Store, name: ModelName = NAME) -> None:
    held = store.locks.try_references(shared=False)
    assert held is not None
    with held:
        store.models.unpublish(name, held=held)


def left_of(store: Store, content: bytes) -> list[str]:
    blob = descriptor(content)
    folders = ("blobs", ".syncd/keep", ".syncd/records")
    return [folder for folder in folders if blob_path(store, blob, folder).exists()]


def later(seconds: float) -> float:
    return time.time() + seconds


# The decision


@given(st.lists(MANIFESTS), st.lists(MANIFESTS))
def test_leases_keep_what_they_name_until_their_holder_is_dead_for_a_week(
    leased: list[Manifest], expired: list[Manifest]
) -> None:
    leases = [lease(one, live=True, age=2 * LEASE_SECONDS) for one in leased]
    leases += [lease(one, live=False, age=LEASE_SECONDS) for one in expired]

    assert kept_by(leases) == {blob.digest for manifest in leased for blob in manifest.blobs}


@given(st.floats(0, 10 * LEASE_SECONDS))
def test_a_blob_is_ripe_an_hour_after_its_last_reference(age: float) -> None:
    now = 100 * LEASE_SECONDS
    blob = HeldBlob(Digest.of(WEIGHTS), 7, now - age)

    assert ripe([blob], now) == ((blob,) if now - blob.modified > GRACE_SECONDS else ())


def test_a_partial_stays_as_long_as_its_journal_is_young() -> None:
    digest, now = Digest.of(WEIGHTS), 100 * LEASE_SECONDS
    partial = StagedFile("p", digest, 1, now - 2 * LEASE_SECONDS)
    journal = StagedFile("j", digest, 1, now - 60)
    temporary = StagedFile("tmp-x", None, 1, now - 2 * HOUR)
    fresh = StagedFile("tmp-y", None, 1, now - 60)

    assert left_behind([partial, journal, temporary, fresh], frozenset(), now) == (temporary,)
    assert left_behind([partial], frozenset(), now) == (partial,)
    assert left_behind([partial], frozenset({digest}), now) == ()


# The deed


async def test_what_nothing_names_goes_and_the_rest_stays(store: Store) -> None:
    publish(store, WEIGHTS, CONFIG)
    commit(store, b"orphan")

    taken = await collect.collect(store, now=later(2 * HOUR))

    assert [blob.digest for blob in taken.blobs] == [Digest.of(b"orphan")]
    assert taken.freed == 6
    assert left_of(store, b"orphan") == []
    assert len(left_of(store, WEIGHTS)) == len(left_of(store, CONFIG)) == 3
    assert list((store.path / ".syncd" / "trash").iterdir()) == []


async def test_the_hour_counts_from_the_removal(store: Store) -> None:
    publish(store, WEIGHTS, CONFIG)
    for content in (WEIGHTS, CONFIG):
        path = blob_path(store, descriptor(content))
        os.utime(path, (0, 0))
        assert store.blobs.verify(descriptor(content), on_bytes=lambda _: None, cancelled=lambda: False)
    take_down(store)

    assert (await collect.collect(store, now=later(HOUR - 60))).blobs == ()
    assert len((await collect.collect(store, now=later(HOUR + 60))).blobs) == 2


async def test_a_dry_run_names_what_the_run_takes_and_takes_nothing(store: Store) -> None:
    commit(store, b"orphan")
    now = later(2 * HOUR)

    planned = collect.plan(store, now)

    assert len(left_of(store, b"orphan")) == 3
    assert await collect.collect(store, now=now) == planned


async def test_a_broken_manifest_stops_every_collection(store: Store) -> None:
    commit(store, b"orphan")
    publish(store, WEIGHTS, CONFIG)
    manifest_path(store).write_bytes(b"{")

    taken = await collect.collect(store, now=later(2 * HOUR))

    assert taken.blobs == ()
    assert [model.name for model in taken.broken] == [NAME]
    assert len(left_of(store, b"orphan")) == 3


async def test_what_a_lease_keeps_stays_until_the_week_is_over(store: Store) -> None:
    commit(store, WEIGHTS)
    take(store, manifest_of(WEIGHTS, CONFIG)).abandon()

    assert (await collect.collect(store, now=later(LEASE_SECONDS - 60))).blobs == ()
    await collect.collect(store, now=later(LEASE_SECONDS + 60))  # the lease itself keeps nothing now

    assert left_of(store, WEIGHTS) == []
    assert list((store.path / ".syncd" / "leases").iterdir()) == []


async def test_what_only_keep_still_holds_for_a_published_model_stays(store: Store) -> None:
    publish(store, WEIGHTS, CONFIG)
    blob_path(store, descriptor(WEIGHTS)).unlink()  # an outside Ollama

    await collect.collect(store, now=later(2 * HOUR))

    assert store.blobs.status(descriptor(WEIGHTS)) is BlobStatus.STORED


async def test_what_only_keep_still_holds_for_nobody_goes(store: Store) -> None:
    commit(store, WEIGHTS)
    blob_path(store, descriptor(WEIGHTS)).unlink()

    await collect.collect(store, now=later(2 * HOUR))

    assert left_of(store, WEIGHTS) == []


async def test_a_record_without_its_blob_goes(store: Store) -> None:
    commit(store, WEIGHTS)
    blob_path(store, descriptor(WEIGHTS)).unlink()
    blob_path(store, descriptor(WEIGHTS), ".syncd/keep").unlink()

    await collect.collect(store, now=later(2 * HOUR))

    assert left_of(store, WEIGHTS) == []


async def test_what_a_killed_collection_left_in_the_trash_goes(store: Store) -> None:
    store.sweep.throw_away([commit(store, WEIGHTS).digest])
    assert len(list((store.path / ".syncd" / "trash").iterdir())) == 3

    await collect.collect(store, now=time.time())

    assert list((store.path / ".syncd" / "trash").iterdir()) == []


async def test_partials_that_no_lease_keeps_go_after_an_hour_unless_somebody_holds_them(store: Store) -> None:
    with store.blobs.partials.stage(descriptor(WEIGHTS)) as partial:
        os.close(partial.open_journal())
    staging = store.path / ".syncd" / "staging"

    assert (await collect.collect(store, now=later(HOUR - 60))).staged == ()
    held = store.locks.try_digest(descriptor(WEIGHTS).digest)
    assert held is not None
    with held:
        assert (await collect.collect(store, now=later(HOUR + 60))).staged == ()
        assert len(list(staging.iterdir())) == 2
    assert len((await collect.collect(store, now=later(HOUR + 60))).staged) == 2
    assert list(staging.iterdir()) == []


async def test_what_killed_publications_left_goes_after_an_hour(store: Store) -> None:
    half = store.path / ".syncd" / "staging" / "tmp-0123456789abcdef" / "library" / "mistral"
    half.mkdir(parents=True)
    (half / "7b").touch()
    (store.path / "manifests" / "hf.co" / "x").mkdir(parents=True)  # and an outside Ollama an empty folder

    await collect.collect(store, now=later(2 * HOUR))

    assert list((store.path / ".syncd" / "staging").iterdir()) == []
    assert list((store.path / "manifests").iterdir()) == []


async def test_files_of_ollamas_own_pulls_are_its_own(store: Store) -> None:
    own = store.path / "blobs" / f"sha256-{'0' * 64}-partial"
    own.touch()

    await collect.collect(store, now=later(10 * LEASE_SECONDS))

    assert own.exists()


@pytest.mark.timeout(60)
async def test_a_collection_beside_pulls_never_takes_what_they_publish(store: Store) -> None:
    """Each pull finds a blob stored or makes it, publishes, checks, and takes its model down again."""
    stop = threading.Event()
    lost: list[str] = []
    rounds = [0, 0]

    def pulling(index: int) -> None:
        name = ModelName.parse(f"m{index}:1")
        with Store.open(store.path, create=False) as mine:
            while not stop.is_set():
                _pull(mine, name, CONTENTS[index], lost)
                rounds[index] += 1
                stop.wait(0.15)  # a collection may come between

    pulls = [threading.Thread(target=pulling, args=(index,)) for index in range(2)]
    for thread in pulls:
        thread.start()
    until = time.monotonic() + 30
    collected = 0
    while (collected < 5 or min(rounds) < 5) and time.monotonic() < until:
        collected += len((await collect.collect(store, now=later(2 * HOUR))).blobs)
    stop.set()
    for thread in pulls:
        thread.join()

    assert lost == []
    assert collected >= 5
    assert min(rounds) >= 5


def _pull(store: Store, name: ModelName, weights: bytes, lost: list[str]) -> None:
    manifest = manifest_of(weights, CONFIG)
    with wait(store, shared=True) as held:
        kept = store.leases.take(name, manifest, held)
    with kept:
        for content in (weights, CONFIG):
            blob = descriptor(content)
            while (lock := store.locks.try_digest(blob.digest)) is None:
                time.sleep(0.001)
            with lock:
                if store.blobs.status(blob) is BlobStatus.STORED:
                    store.blobs.refresh(blob)
                else:
                    commit(store, content)
        with wait(store, shared=True) as held:
            store.models.publish(name, manifest, expected=None, held=held)
    time.sleep(0.005)
    lost.extend(str(path) for blob in manifest.blobs if not (path := blob_path(store, blob)).exists())
    with wait(store, shared=False) as held:
        store.models.unpublish(name, held=held)


def wait(store: Store, *, shared: bool) -> Lock:
    while (lock := store.locks.try_references(shared=shared)) is None:
        time.sleep(0.001)
    return lock


def test_a_blob_in_the_plan_is_one_whose_file_it_is(store: Store, tmp_path: Path) -> None:
    """A link planted under a blob's name is nobody's blob: it is neither followed nor collected."""
    (tmp_path / "elsewhere").touch()
    blob_path(store, descriptor(WEIGHTS)).symlink_to(tmp_path / "elsewhere")

    assert collect.plan(store, later(2 * HOUR)).blobs == ()


async def test_expiring_takes_what_an_old_pull_left_and_no_blob(store: Store) -> None:
    commit(store, CONFIG)  # nobody names it: a collection would take it
    with store.blobs.partials.stage(descriptor(WEIGHTS)):
        pass

    assert (await collect.expire(store, now=later(60))).staged == ()
    taken = await collect.expire(store, now=later(2 * HOUR))

    assert {file.digest for file in taken.staged} == {Digest.of(WEIGHTS)}
    assert taken.blobs == ()
    assert store.blobs.status(descriptor(CONFIG)) is BlobStatus.STORED


async def test_what_an_interrupted_pull_left_expires_beside_a_broken_manifest_too(store: Store) -> None:
    with store.blobs.partials.stage(descriptor(WEIGHTS)):
        pass
    stray = store.path / "manifests" / "host" / "namespace" / "model" / ".DS_Store"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"no manifest")

    taken = await collect.expire(store, now=later(2 * HOUR))

    assert {file.digest for file in taken.staged} == {Digest.of(WEIGHTS)}


def test_the_settings_may_shorten_what_a_dead_lease_keeps() -> None:
    assert LeaseState("id", NAME, manifest_of(WEIGHTS, CONFIG), live=False, age=HOUR).keeps
    assert not LeaseState("id", NAME, manifest_of(WEIGHTS, CONFIG), live=False, age=HOUR, lifetime=HOUR).keeps


# What keeps a blob, beside a published manifest and a lease


def replace_by(store: Store, *contents: bytes, now: float) -> Manifest:
    """Publish this under ``NAME``, and note it in the history, as a pull does."""
    manifest = publish(store, *contents)
    store.models.remember(NAME, manifest, "a registry", now)
    return manifest


def replaced(store: Store, *weights: bytes) -> list[Manifest]:
    """Versions of one model, a minute after each other; the last one is published."""
    now = time.time()
    versions = [replace_by(store, one, CONFIG, now=now + 60 * at) for at, one in enumerate(weights)]
    os.utime(manifest_path(store), (now, now))
    return versions


async def test_what_a_server_has_loaded_stays_until_it_is_unloaded(store: Store) -> None:
    old, _ = replaced(store, b"old", b"new")
    loaded = Memories(loaded=frozenset({old.digest}))

    held = await collect.collect(store, now=later(2 * HOUR), memories=lambda: loaded)
    taken = await collect.collect(store, now=later(2 * HOUR))

    assert (held.blobs, held.held_back, held.doubts) == ((), (), ())
    assert [blob.digest for blob in taken.blobs] == [Digest.of(b"old")]


async def test_what_a_server_has_loaded_by_the_lease_of_a_dead_pull_stays(store: Store) -> None:
    commit(store, WEIGHTS)
    manifest = manifest_of(WEIGHTS, CONFIG)
    take(store, manifest).abandon()

    loaded = Memories(loaded=frozenset({manifest.digest}))

    assert collect.plan(store, later(2 * LEASE_SECONDS), memories=loaded).blobs == ()


async def test_while_a_server_has_loaded_what_nobody_knows_every_blob_stays_and_leftovers_go(store: Store) -> None:
    commit(store, b"orphan")
    with store.blobs.partials.stage(descriptor(WEIGHTS)):
        pass

    taken = await collect.collect(
        store, now=later(2 * HOUR), memories=lambda: Memories(loaded=frozenset({Digest.of(b"strange")}))
    )

    assert [blob.digest for blob in taken.held_back] == [Digest.of(b"orphan")]
    assert (taken.blobs, len(taken.staged), taken.freed_later) == ((), 1, 6)
    assert str(Digest.of(b"strange")) in taken.doubts[0]
    assert len(left_of(store, b"orphan")) == 3


async def test_who_insists_overrules_what_is_not_known_and_never_what_is(store: Store) -> None:
    old, _ = replaced(store, b"old", b"new")
    commit(store, b"orphan")
    memories = Memories(
        loaded=frozenset({old.digest, Digest.of(b"strange")}), doubts=("gpu-0 does not answer",), insisted=True
    )

    taken = await collect.collect(store, now=later(2 * HOUR), memories=lambda: memories)

    assert [blob.digest for blob in taken.blobs] == [Digest.of(b"orphan")]


@pytest.mark.parametrize(("count", "gone"), [(0, [b"1", b"2", b"3"]), (1, [b"1", b"2"]), (2, [b"1"]), (9, [])])
async def test_so_many_previous_versions_of_a_published_model_stay(store: Store, count: int, gone: list[bytes]) -> None:
    replaced(store, b"1", b"2", b"3", b"4")

    taken = await collect.collect(store, now=later(2 * HOUR), rules=CollectRules(keep_previous=count))

    assert {blob.digest for blob in taken.blobs} == {Digest.of(content) for content in gone}


async def test_of_a_model_that_was_removed_no_version_stays(store: Store) -> None:
    replaced(store, b"old", b"new")
    take_down(store)

    taken = await collect.collect(store, now=later(2 * HOUR), rules=CollectRules(keep_previous=5))

    assert {blob.digest for blob in taken.blobs} == {Digest.of(content) for content in (b"old", b"new", CONFIG)}


def test_what_an_outside_ollama_replaced_less_than_an_hour_ago_stays(store: Store) -> None:
    """It has not given those blobs their hour, as syncd does: their mtime is that of their own publication."""
    replaced(store, b"old")
    commit(store, b"outside")
    manifest = manifest_of(b"outside", CONFIG)
    manifest_path(store).write_bytes(manifest.raw)
    written = later(2 * HOUR)
    os.utime(manifest_path(store), (written, written))

    assert collect.plan(store, written + HOUR - 60).blobs == ()
    assert [blob.digest for blob in collect.plan(store, written + HOUR + 60).blobs] == [Digest.of(b"old")]


@pytest.mark.parametrize("file", [f"sha256-{'1' * 64}-partial", f"sha256-{'1' * 64}-partial-3", f"sha256-{'2' * 64}"])
def test_while_an_outside_ollama_pulls_every_blob_stays(store: Store, file: str) -> None:
    """Its manifest, which comes last, may name what nobody names now; it takes a blob that is there for granted."""
    orphan, now = blob_path(store, commit(store, b"orphan")), time.time()
    os.utime(orphan, (now - 2 * HOUR, now - 2 * HOUR))
    brought = store.path / "blobs" / file
    brought.touch()

    held = collect.plan(store, now + HOUR - 60)

    assert ([blob.digest for blob in held.held_back], held.blobs) == ([Digest.of(b"orphan")], ())
    assert "pulls into this store" in held.doubts[0]
    assert Digest.of(b"orphan") in {blob.digest for blob in collect.plan(store, now + HOUR + 60).blobs}


def test_what_syncd_itself_is_about_to_record_is_no_outsiders_pull(store: Store) -> None:
    commit(store, b"orphan")
    coming = blob_path(store, descriptor(WEIGHTS))
    coming.touch()
    now = later(2 * HOUR)
    os.utime(coming, (now, now))

    with take(store, manifest_of(WEIGHTS, CONFIG)):
        planned = collect.plan(store, now)

    assert [blob.digest for blob in planned.blobs] == [Digest.of(b"orphan")]


def test_what_an_outside_ollama_names_while_it_is_taken_is_put_back(store: Store) -> None:
    manifest = publish(store, WEIGHTS, CONFIG)
    take_down(store)
    planned = collect.plan(store, later(2 * HOUR))
    assert len(planned.blobs) == 2
    path = manifest_path(store)
    path.parent.mkdir(parents=True)
    path.write_bytes(manifest.raw)

    assert collect.take_blobs(store, planned).blobs == ()

    assert [store.blobs.look(descriptor(one)) for one in (WEIGHTS, CONFIG)] == [(BlobStatus.STORED, True)] * 2
    assert len(left_of(store, WEIGHTS)) == 3
    assert store.sweep.trash() == []


async def test_what_came_with_an_mtime_in_years_to_come_puts_nothing_off(store: Store) -> None:
    for content in (b"orphan", b"foreign"):
        commit(store, content)
    (store.path / ".syncd" / "records" / blob_path(store, descriptor(b"foreign")).name).unlink()
    for content in (b"orphan", b"foreign"):
        os.utime(blob_path(store, descriptor(content)), (later(10 * 365 * 86400),) * 2)

    taken = await collect.collect(store, now=later(2 * HOUR))

    assert (len(taken.blobs), taken.doubts) == (2, ())


def test_while_an_outside_ollama_writes_a_manifest_everything_is_put_back(store: Store) -> None:
    manifest = publish(store, WEIGHTS, CONFIG)
    take_down(store)
    planned = collect.plan(store, later(2 * HOUR))
    path = manifest_path(store)
    path.parent.mkdir(parents=True)
    path.write_bytes(manifest.raw[:20])

    taken = collect.take_blobs(store, planned)

    assert (taken.blobs, taken.held_back, len(taken.doubts)) == ((), planned.blobs, 1)
    path.write_bytes(manifest.raw)
    assert [store.blobs.look(descriptor(one)) for one in (WEIGHTS, CONFIG)] == [(BlobStatus.STORED, True)] * 2


@pytest.mark.parametrize("pinned", [False, True])
async def test_what_a_model_of_the_settings_is_put_back_from_stays(store: Store, pinned: bool) -> None:
    older, newer = publish(store, b"older", CONFIG), manifest_of(WEIGHTS, CONFIG)
    store.models.remember(NAME, older, "a registry", 1.0)
    publish(store, WEIGHTS, CONFIG)
    store.models.remember(NAME, newer, "a registry", 2.0)
    manifest_path(store).unlink()  # by an outside Ollama, while no daemon ran
    wanted, stays, goes = (older, b"older", WEIGHTS) if pinned else (newer, WEIGHTS, b"older")
    rules = CollectRules(wanted=(Reference(NAME, wanted.digest if pinned else None),))

    taken = await collect.collect(store, now=later(2 * HOUR), rules=rules)

    assert [blob.digest for blob in taken.blobs] == [Digest.of(goes)]
    assert (len(left_of(store, stays)), len(left_of(store, CONFIG))) == (3, 3)


async def test_what_a_rollback_holds_stays_though_its_tag_was_taken_away(store: Store) -> None:
    manifest = publish(store, WEIGHTS, CONFIG)
    store.holds.put(Hold(NAME, manifest, 1.0, "a rollback", "a registry"))
    manifest_path(store).unlink()

    assert (await collect.collect(store, now=later(2 * HOUR))).blobs == ()


async def test_what_a_killed_collection_took_is_never_put_in_use_again(store: Store) -> None:
    manifest = publish(store, WEIGHTS, CONFIG)
    take_down(store)
    store.sweep.throw_away([Digest.of(WEIGHTS)])  # and here it is killed
    path = manifest_path(store)
    path.parent.mkdir(parents=True)
    path.write_bytes(manifest.raw)

    await collect.collect(store, now=time.time())

    assert store.blobs.status(descriptor(WEIGHTS)) is BlobStatus.ABSENT
    assert store.sweep.trash() == []


# What age takes


async def test_what_is_in_quarantine_goes_after_its_age_and_not_before(store: Store) -> None:
    stray = store.path / "blobs" / "stray"
    stray.write_bytes(b"x" * 5000)
    assert store.quarantine.take_leftover("stray")
    folder = store.path / ".syncd" / "quarantine" / "host+namespace+model.0123"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "tag").write_bytes(b"{")
    rules = CollectRules(quarantine_age=10 * HOUR)

    early = await collect.collect(store, now=later(10 * HOUR - 60), rules=rules)
    late = await collect.collect(store, now=later(10 * HOUR + 60), rules=rules)

    assert early.quarantined == ()
    assert len(late.quarantined) == 2
    assert late.freed >= 5000
    assert list((store.path / ".syncd" / "quarantine").iterdir()) == []
    assert store.sweep.trash() == []


async def test_what_collections_came_to_is_noted_and_one_that_was_held_back_is_not_complete(store: Store) -> None:
    commit(store, b"orphan")
    now = later(2 * HOUR)
    await collect.collect(store, now=now, memories=lambda: Memories(doubts=("gpu-0 starts",)))
    assert collected.read(store.state) == collected.CollectionNote()

    await collect.collect(store, now=now)
    commit(store, b"other")
    await collect.collect(store, now=now + HOUR)

    assert collected.read(store.state) == collected.CollectionNote(completed=now + HOUR, freed=5, total=11)
