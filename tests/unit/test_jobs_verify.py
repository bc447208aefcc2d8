"""Verification: every fault is found, each blob is hashed once, nothing of it hangs."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from syncd.errors import NotFoundError
from syncd.jobs.verify import FaultKind, Verification, VerifyProgress, verify
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStatus
from syncd.store.root import Store
from tests.unit.store_world import NAME, blob_path, descriptor, manifest_of, manifest_path, publish

WEIGHTS, CONFIG = b"weights" * 100, b"config"
OTHER = ModelName.parse("llava")


async def check(store: Store, *names: ModelName) -> Verification:
    return await verify(store, names or None, on_progress=lambda _: None)


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


async def test_a_whole_store_has_no_faults_and_each_blob_is_hashed_once(store: Store) -> None:
    publish(store, WEIGHTS, CONFIG)
    publish(store, b"other weights", CONFIG, name=OTHER)
    seen: list[VerifyProgress] = []

    found = await verify(store, None, on_progress=seen.append)

    size = len(WEIGHTS) + len(CONFIG) + len(b"other weights")
    assert found == Verification(models=2, blobs=3, size=size, faults=())
    assert seen[0] == VerifyProgress(0, size, 0, 3)
    assert seen[-1] == VerifyProgress(size, size, 3, 3)
    assert [one.done for one in seen] == sorted(one.done for one in seen)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (Path.unlink, FaultKind.MISSING),
        (lambda path: overwrite(path, WEIGHTS[:-1]), FaultKind.WRONG_SIZE),
        (lambda path: overwrite(path, b"x" * len(WEIGHTS)), FaultKind.WRONG_BYTES),
        (lambda path: replace(path, lambda at: at.symlink_to("/etc/passwd")), FaultKind.NOT_A_FILE),
        (lambda path: replace(path, os.mkfifo), FaultKind.NOT_A_FILE),
        (lambda path: replace(path, Path.mkdir), FaultKind.NOT_A_FILE),
    ],
)
async def test_every_damage_is_found(store: Store, damage: Callable[[Path], None], kind: FaultKind) -> None:
    publish(store, WEIGHTS, CONFIG)
    damage(blob_path(store, descriptor(WEIGHTS)))

    (fault,) = (await check(store)).faults

    assert (fault.kind, fault.models, fault.blob) == (kind, ("mistral:7b",), descriptor(WEIGHTS))
    assert descriptor(WEIGHTS).digest.hex in fault.detail


async def test_rot_behind_an_unchanged_size_and_mtime_is_found_and_not_stored(store: Store) -> None:
    publish(store, WEIGHTS, CONFIG)
    path = blob_path(store, descriptor(WEIGHTS))
    before = path.stat()
    overwrite(path, b"x" * len(WEIGHTS))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.blobs.status(descriptor(WEIGHTS)) is BlobStatus.STORED

    (fault,) = (await check(store)).faults

    assert fault.kind is FaultKind.WRONG_BYTES
    assert store.blobs.status(descriptor(WEIGHTS)) is BlobStatus.ABSENT


async def test_a_fault_hits_every_model_that_names_the_blob(store: Store) -> None:
    publish(store, WEIGHTS, CONFIG)
    publish(store, b"other weights", CONFIG, name=OTHER)
    blob_path(store, descriptor(CONFIG)).unlink()

    (fault,) = (await check(store)).faults

    assert sorted(fault.models) == ["llava:latest", "mistral:7b"]


async def test_a_broken_manifest_is_a_fault_and_stops_nothing(store: Store) -> None:
    publish(store, WEIGHTS, CONFIG)
    publish(store, b"other weights", CONFIG, name=OTHER)
    manifest_path(store).write_bytes(b"{")
    blob_path(store, descriptor(CONFIG)).unlink()

    kinds = [fault.kind for fault in (await check(store)).faults]

    assert kinds == [FaultKind.BROKEN_MANIFEST, FaultKind.MISSING]


async def test_only_the_named_models_are_looked_at(store: Store) -> None:
    publish(store, WEIGHTS, CONFIG)
    publish(store, b"other weights", name=OTHER)
    blob_path(store, descriptor(WEIGHTS)).unlink()

    assert (await check(store, ModelName.parse("LLAVA"))).faults == ()
    assert len((await check(store, NAME)).faults) == 1
    with pytest.raises(NotFoundError, match="nothing:latest"):
        await check(store, ModelName.parse("nothing"))


async def test_what_ollama_left_and_passes_is_stored_from_then_on(store: Store) -> None:
    publish(store, CONFIG)
    blob_path(store, descriptor(WEIGHTS)).write_bytes(WEIGHTS)
    manifest_path(store).write_bytes(manifest_of(WEIGHTS, CONFIG).raw)

    assert (await check(store)).faults == ()

    assert store.blobs.status(descriptor(WEIGHTS)) is BlobStatus.STORED


async def test_a_blob_that_somebody_works_on_is_hashed_but_not_recorded(store: Store) -> None:
    publish(store, WEIGHTS, CONFIG)
    blob = descriptor(WEIGHTS)
    store.records.remove(blob.digest)
    held = store.locks.try_digest(blob.digest)
    assert held is not None
    with held:
        assert (await check(store)).faults == ()

    assert store.records.get(blob.digest) is None


async def test_a_model_that_was_removed_meanwhile_has_no_faults(store: Store) -> None:
    publish(store, WEIGHTS, CONFIG)

    def remove_it(_: VerifyProgress) -> None:
        for path in (manifest_path(store), *(store.path / "blobs").iterdir()):
            path.unlink(missing_ok=True)

    assert (await verify(store, None, on_progress=remove_it)).faults == ()


async def test_a_manifest_that_lied_about_a_size_and_was_replaced_meanwhile_is_no_fault(store: Store) -> None:
    right = publish(store, WEIGHTS, CONFIG).raw
    lie = right.replace(b'"size": %d' % len(WEIGHTS), b'"size": %d' % (len(WEIGHTS) + 1))
    manifest_path(store).write_bytes(lie)
    assert [fault.kind for fault in (await check(store)).faults] == [FaultKind.WRONG_SIZE]

    def tell_the_truth(_: VerifyProgress) -> None:
        manifest_path(store).write_bytes(right)

    assert (await verify(store, None, on_progress=tell_the_truth)).faults == ()


async def test_a_cancelled_verification_ends_in_mid_blob(store: Store) -> None:
    publish(store, WEIGHTS, CONFIG)
    size = 64 << 30  # half a minute of hashing and more; it has no bytes on the disk
    raw = manifest_path(store).read_bytes().replace(b'"size": %d' % len(WEIGHTS), b'"size": %d' % size)
    manifest_path(store).write_bytes(raw)
    path = blob_path(store, descriptor(WEIGHTS))
    path.chmod(0o644)
    os.truncate(path, size)
    begun = asyncio.Event()

    def note(progress: VerifyProgress) -> None:
        if progress.done:
            begun.set()

    job = asyncio.create_task(verify(store, None, on_progress=note))
    await asyncio.wait_for(begun.wait(), 30)
    started = time.monotonic()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job

    assert time.monotonic() - started < 10
