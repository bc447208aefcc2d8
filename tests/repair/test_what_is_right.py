"""What is right stays where it is, whatever is said of it, and whoever cannot be asked for what is not."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from syncd.api.operation import Desk
from syncd.api.repair import BlobNotMended
from syncd.api.repair import mend as mend_all
from syncd.errors import BusyError, IntegrityError, NotFoundError, RegistryUnavailableError
from syncd.jobs.mend import Fate, Mending, mend
from syncd.jobs.repair import repair, survey
from syncd.jobs.rules import Rules
from syncd.jobs.withdraw import withdraw
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.name import ModelName
from syncd.registry.hosts import RegistryConfig
from syncd.store.blobs import BlobStatus
from syncd.store.root import Store
from tests.pull.world import ActingAfter, means, model_name, pulled, tag_file, until, write_as_ollama
from tests.repair.world import CHUNKS, SIZE, Scene, flipped, repaired, scene_at, verified
from tests.scrub.world import scrubbed
from tests.support.content import whole
from tests.support.models import synthetic_model
from tests.support.oracle import assert_store_whole, snapshot
from tests.support.registry import ScriptedRegistry

DAMAGED = CHUNK_SIZE + 5


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """With a bit flipped in the second chunk, and that found out."""
    async with ScriptedRegistry() as registry:
        scene = await scene_at(registry, tmp_path / "store")
        flipped(DAMAGED)(scene.file)
        assert not await verified(scene)
        yield scene


async def mended(scene: Scene, *names: str, configs: dict[str, RegistryConfig] | None = None) -> tuple[Mending, ...]:
    """As ``verify --repair`` does with what is known to be damaged of these models (none named: of all)."""
    with Store.open(scene.path, create=False) as store:
        damages = survey(store, [model_name(name) for name in names] or None)
        async with means(store, configs=configs) as everything:
            return tuple([await mend(store, everything, one, keep=False, report=lambda _: None) for one in damages])


async def test_whoever_names_the_blob_is_asked_for_it_though_one_model_only_was_to_be_mended(
    scene: Scene, registry: ScriptedRegistry
) -> None:
    twin = registry.add(synthetic_model("codellama:7b", weights_bytes=SIZE))
    manifest = scene.path.joinpath("manifests", *model_name(twin.name).parts)
    write_as_ollama(scene.path, twin.name, twin.manifest)
    await pulled(twin.name, scene.path)
    flipped(DAMAGED)(scene.file)
    assert not await verified(scene)
    scene.registry.remove_blob(scene.model.weights)

    (ended,) = await mended(scene, scene.model.name)

    assert ended.fate is Fate.MENDED
    assert manifest.exists()
    assert assert_store_whole(scene.path) == {scene.model.name: scene.model.digest, twin.name: twin.digest}


@pytest.mark.parametrize("mended_before", [True, False], ids=["of a whole blob", "of a damaged one"])
async def test_a_manifest_that_lies_about_a_size_takes_no_other_model_with_it(
    scene: Scene, registry: ScriptedRegistry, mended_before: bool
) -> None:
    """Its registry, which does not know the blob, says nothing of where the others came from."""
    if mended_before:
        await repaired(scene)
    lie = json.loads(scene.model.manifest)
    for layer in lie["layers"]:
        layer["size"] -= layer["digest"] == scene.model.weights
    liar = f"{registry.host}/library/liar:latest"
    write_as_ollama(scene.path, liar, json.dumps(lie).encode())

    ended = await mended(scene, liar)

    assert [one.fate for one in ended] == [Fate.QUARANTINED]
    await repaired(scene)
    assert assert_store_whole(scene.path) == {scene.model.name: scene.model.digest}
    assert await verified(scene)


async def test_a_right_blob_stays_when_the_only_model_that_is_withdrawn_lied_about_its_size(
    scene: Scene, registry: ScriptedRegistry
) -> None:
    await repaired(scene)
    lie = json.loads(scene.model.manifest)
    for layer in lie["layers"]:
        layer["size"] -= layer["digest"] == scene.model.weights
    liar = f"{registry.host}/library/liar:latest"
    write_as_ollama(scene.path, liar, json.dumps(lie).encode())
    scene.path.joinpath("manifests", *model_name(scene.model.name).parts).unlink()

    await mended(scene, liar)

    with Store.open(scene.path, create=False) as store:
        assert store.blobs.look(scene.weights) == (BlobStatus.STORED, True)


async def test_a_mirror_that_is_away_may_have_what_the_origin_has_not(scene: Scene) -> None:
    before = snapshot(scene.path)
    scene.registry.remove_blob(scene.model.weights)
    async with ScriptedRegistry() as mirror:
        mirror.add(synthetic_model(weights_bytes=SIZE))
        configs = {scene.registry.host: RegistryConfig(mirrors=(mirror.url,))}
        mirror.stop()

        (ended,) = await mended(scene, configs=configs)

        assert ended.fate is Fate.LATER
        assert isinstance(ended.error, RegistryUnavailableError)
        assert snapshot(scene.path) == before
        mirror.start()
        (ended,) = await mended(scene, configs=configs)

    assert ended.fate is Fate.MENDED
    scene.assert_whole()


async def test_a_mirror_that_sent_other_bytes_once_may_send_the_right_ones_later(scene: Scene) -> None:
    before = snapshot(scene.path)
    scene.registry.remove_blob(scene.model.weights)
    async with ScriptedRegistry() as mirror:
        mirror.add(synthetic_model(weights_bytes=SIZE))
        configs = {scene.registry.host: RegistryConfig(mirrors=(mirror.url,))}
        mirror.flip(DAMAGED + 1000, times=1)

        (ended,) = await mended(scene, configs=configs)

        assert ended.fate is Fate.LATER
        assert isinstance(ended.error, IntegrityError)
        assert snapshot(scene.path) == before
        (ended,) = await mended(scene, configs=configs)

    assert ended.fate is Fate.MENDED
    scene.assert_whole()


async def test_what_was_taken_for_damaged_and_is_right_is_not_withdrawn(scene: Scene) -> None:
    """Somebody put the right bytes there since; or memory was wrong, and not the disk."""
    scene.record.unlink()  # so that no map tells which chunks are right
    assert not await verified(scene)
    flipped(DAMAGED)(scene.file)
    scene.registry.remove_blob(scene.model.weights)

    (ended,) = await mended(scene)

    assert ended.fate is Fate.MENDED
    assert ended.repaired
    assert not ended.repaired.replaced
    scene.assert_whole()


async def test_nothing_is_withdrawn_while_somebody_else_mends_it(scene: Scene) -> None:
    before = snapshot(scene.path)
    with Store.open(scene.path, create=False) as store:
        lock = store.locks.try_digest(scene.weights.digest)
        assert lock
        with lock, pytest.raises(BusyError):
            await withdraw(store, scene.damage)

    assert snapshot(scene.path) == before


async def test_a_store_that_models_were_adopted_from_and_that_cannot_be_looked_into_is_passed_over(
    scene: Scene,
) -> None:
    with Store.open(scene.path, create=False) as store:
        name = model_name(scene.model.name)
        manifest = store.models.read(name)
        assert manifest
        # As a folder of another user's is; that one root looks into all the same.
        store.models.remember(name, manifest, f"adopted from /{'x' * 300}", 2e9)

    await repaired(scene)

    scene.assert_whole()


async def test_a_cancelled_repair_leaves_no_lease(scene: Scene) -> None:
    scene.registry.stall(1 << 20)
    with Store.open(scene.path, create=False) as store:
        async with means(store) as everything:
            task = asyncio.create_task(repair(store, everything, scene.damage))
            await until(lambda: scene.served() or task.done())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        assert store.leases.all(time.time()) == []


async def test_a_repair_that_was_killed_between_its_two_renames_is_known_to_be_unfinished(scene: Scene) -> None:
    scene.kept.write_bytes(whole(scene.model.blobs[scene.model.weights]))
    with Store.open(scene.path, create=False) as store:
        assert [one.blob.digest for one in survey(store, None)] == [scene.weights.digest]

    (ended,) = await mended(scene)

    assert ended.fate is Fate.MENDED
    assert scene.served() == 0
    scene.assert_whole()


@pytest.mark.parametrize("chunk", [CHUNKS + 1, -1])
async def test_a_place_that_is_none_condemns_no_blob(scene: Scene, chunk: int) -> None:
    """What a scrub remembers has no checksum: it may have rotted itself."""
    await repaired(scene)
    state = scene.path / ".syncd" / "state" / "scrub.json"
    found = scene.file.stat()
    identity = {
        "device": found.st_dev,
        "inode": found.st_ino,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
    }
    whole_one = {"names": None, "begun": 1.0, "digest": scene.weights.digest.hex, "size": SIZE}
    state.write_text(json.dumps({"whole": {**whole_one, "chunk": chunk, "identity": identity}}))
    with Store.open(scene.path, create=False) as store:
        assert (await scrubbed(store)).damaged == 0
        assert store.blobs.look(scene.weights) == (BlobStatus.STORED, True)


async def test_a_client_who_leaves_in_the_middle_of_a_withdrawal_leaves_none_half_done(scene: Scene) -> None:
    damaged = scene.file.read_bytes()
    with Store.open(scene.path, create=False) as store:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(withdraw(store, scene.damage))
        gone = lambda: loop.call_soon_threadsafe(task.cancel)  # noqa: E731 - what happens then, in a word
        store.quarantine = ActingAfter(store.quarantine, "take_manifest", gone)  # type: ignore[assignment] - a stand-in

        with pytest.raises(asyncio.CancelledError):
            await task

    assert assert_store_whole(scene.path) == {}
    taken = [path for path in (scene.path / ".syncd" / "quarantine").rglob("*") if path.is_file()]
    assert sorted(path.read_bytes() for path in taken) == sorted((damaged, scene.model.manifest))


async def test_others_hear_of_a_withdrawal_whose_client_left_in_the_middle_of_it(scene: Scene) -> None:
    scene.registry.remove_blob(scene.model.weights)
    heard: list[Mending] = []
    with Store.open(scene.path, create=False) as store:
        loop = asyncio.get_running_loop()
        gone = lambda: loop.call_soon_threadsafe(task.cancel)  # noqa: E731 - what happens then, in a word
        store.quarantine = ActingAfter(store.quarantine, "take_manifest", gone)  # type: ignore[assignment] - a stand-in
        async with means(store) as everything:
            work = mend(store, everything, scene.damage, keep=False, report=lambda _: None, ended=heard.append)
            task = asyncio.create_task(work)
            with pytest.raises(asyncio.CancelledError):
                await task

    assert [(one.fate, one.withdrawn and one.withdrawn.models) for one in heard] == [
        (Fate.QUARANTINED, (model_name(scene.model.name),))
    ]


async def test_a_withdrawal_that_stops_half_way_is_told_of_and_gone_on_with(scene: Scene) -> None:
    tag = tag_file(scene.path, scene.model.name)
    os.link(tag, tag.with_name("mine"))
    scene.registry.remove_blob(scene.model.weights)
    heard: list[Mending] = []
    told: list[msgspec.Struct] = []
    changed: list[ModelName] = []
    with Store.open(scene.path, create=False) as store, Store.open(scene.path, create=False) as other:
        desk = SimpleNamespace(
            store=store,
            rules=Rules(floor=0),
            pulling=lambda: means(store),
            mended=heard.append,
            changed=lambda *names: changed.extend(names),
        )
        first, second = (one.name for one in store.models.list())
        lock = other.locks.try_name(second)
        assert lock is not None

        with lock:
            (ended,) = await mend_all(cast("Desk", desk), survey(store, None), told.append)

        assert [one.name for one in store.models.list()] == [second]
        assert (ended.fate, heard, changed) == (Fate.LATER, [ended], [first])
        (line,) = (one for one in told if isinstance(one, BlobNotMended))
        assert line.fate == "later"
        assert str(first) in line.reason
        assert str(second) in line.reason

        (ended,) = await mend_all(cast("Desk", desk), survey(store, None), told.append)

    assert (ended.fate, changed) == (Fate.QUARANTINED, [first, second])
    assert assert_store_whole(scene.path) == {}


async def test_a_404_that_is_not_the_registrys_own_word_takes_nothing_out_of_sight(scene: Scene) -> None:
    """As of a reverse proxy whose registry is being restarted."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() not in {b"\r\n", b""}:
            pass
        body = b"404 page not found\n"
        writer.write(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    before = snapshot(scene.path)
    port = int(scene.registry.host.rpartition(":")[2])
    scene.registry.stop()
    async with await asyncio.start_server(answer, "127.0.0.1", port):
        (ended,) = await mended(scene)

    assert ended.fate is Fate.LATER
    assert isinstance(ended.error, NotFoundError)
    assert snapshot(scene.path) == before
