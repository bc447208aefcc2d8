"""A disk that is full, fills up, is read-only, or belongs to somebody else: a pull says so early and takes nothing."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from syncd.errors import NoSpaceError, StoreError
from syncd.jobs.pull import pull
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.name import Reference
from syncd.store.root import Store
from tests.pull.world import ActingAfter, as_root, command, means, pulled
from tests.support.models import build_model, synthetic_model
from tests.support.oracle import assert_store_whole, snapshot
from tests.support.registry import ModelHandle, ScriptedRegistry

MIB = 1 << 20
DISK = 40 * MIB

can_mount = pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can mount a small disk")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def two_chunks(registry: ScriptedRegistry) -> ModelHandle:
    return registry.add(synthetic_model(weights_bytes=2 * CHUNK_SIZE))


def free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def fill(path: Path, *, leave: int = 0) -> Path:
    """Another program takes what is free, but for ``leave`` bytes."""
    file = path / "somebody-elses"
    with file.open("wb", buffering=0) as taken, suppress(OSError):
        while (room := free(path) - leave) > 0:
            taken.write(bytes(min(room, MIB)))
    return file


@can_mount
async def test_a_model_that_does_not_fit_is_refused_before_a_byte_of_it_is_asked_for(
    registry: ScriptedRegistry, small_disk: Path
) -> None:
    model = registry.add(synthetic_model(weights_bytes=3 * CHUNK_SIZE))
    Store.open(small_disk / "models", create=True).close()
    before = free(small_disk)

    with pytest.raises(NoSpaceError, match=r"needs .* more") as refused:
        await pulled(model.name, small_disk / "models")

    assert refused.value.exit_code == 7
    assert "syncd gc" in (refused.value.hint or "")
    assert registry.blob_requests() == []
    assert before - free(small_disk) < 64 * 1024
    assert list((small_disk / "models" / ".syncd" / "staging").iterdir()) == []
    assert assert_store_whole(small_disk / "models") == {}


@can_mount
async def test_a_reservation_that_fails_halfway_gives_back_what_it_took(
    registry: ScriptedRegistry, two_chunks: ModelHandle, small_disk: Path
) -> None:
    path, taken = small_disk / "models", list[Path]()

    def take_the_rest() -> None:
        if not taken:
            taken.append(fill(small_disk))

    with Store.open(path, create=True) as store:
        partials = ActingAfter(store.blobs.partials, "stage", take_the_rest)
        store.blobs.partials = partials  # type: ignore[assignment] - they are, and act
        async with means(store) as everything:
            with pytest.raises(NoSpaceError) as refused:
                await pull(Reference.parse(two_chunks.name), everything, lambda _: None)

    assert refused.value.exit_code == 7
    assert registry.blob_requests() == []
    assert not list((path / ".syncd" / "staging").glob("*.partial"))
    taken[0].unlink()
    await pulled(two_chunks.name, path)
    assert assert_store_whole(path) == {two_chunks.name: two_chunks.digest}


@can_mount
async def test_what_was_reserved_cannot_be_taken_by_others(
    registry: ScriptedRegistry, two_chunks: ModelHandle, small_disk: Path
) -> None:
    rule = registry.stall(MIB, digest=two_chunks.weights)
    path = small_disk / "models"

    outcome = await pulled_while(
        two_chunks,
        path,
        registry,
        lambda: (fill(small_disk, leave=256 * 1024), rule.lift()),  # room for a record, a journal, a manifest
    )

    assert outcome.fetched_bytes == two_chunks.size
    assert assert_store_whole(path) == {two_chunks.name: two_chunks.digest}


@can_mount
async def test_a_disk_without_room_for_a_manifest_costs_no_byte_of_the_blobs(
    registry: ScriptedRegistry, two_chunks: ModelHandle, small_disk: Path
) -> None:
    rule = registry.stall(MIB, digest=two_chunks.weights)
    path = small_disk / "models"

    with pytest.raises(NoSpaceError) as refused:
        await pulled_while(two_chunks, path, registry, lambda: (fill(small_disk), rule.lift()))

    assert refused.value.exit_code == 7
    assert assert_store_whole(path) == {}
    (small_disk / "somebody-elses").unlink()
    await pulled(two_chunks.name, path)
    assert assert_store_whole(path) == {two_chunks.name: two_chunks.digest}
    assert registry.bytes_served(two_chunks.weights) == two_chunks.weights_size


async def pulled_while(model: ModelHandle, path: Path, registry: ScriptedRegistry, act: Callable[[], object]) -> Any:
    """A pull of ``model``, and ``act`` when its weights have begun to come and all the rest is in."""
    acted = False

    def report(_: object) -> None:
        nonlocal acted
        stored = list((path / "blobs").iterdir())
        if not acted and len(stored) == len(model.blobs) - 1 and registry.bytes_served(model.weights) >= 2 * MIB:
            acted = True
            act()

    return await pulled(model.name, path, report=report)


@can_mount
async def test_the_floor_of_free_space_is_left_to_others(
    registry: ScriptedRegistry, two_chunks: ModelHandle, small_disk: Path
) -> None:
    path = small_disk / "models"
    Store.open(path, create=True).close()
    spare = free(small_disk) - two_chunks.size

    with pytest.raises(NoSpaceError, match="to stay free") as refused:
        await pulled(two_chunks.name, path, floor=spare + MIB)

    assert refused.value.exit_code == 7
    assert registry.blob_requests() == []
    await pulled(two_chunks.name, path, floor=spare - MIB)
    assert assert_store_whole(path) == {two_chunks.name: two_chunks.digest}
    assert free(small_disk) >= spare - MIB


@can_mount
async def test_a_read_only_store_is_an_error_and_stays_as_it_is(
    registry: ScriptedRegistry, two_chunks: ModelHandle, small_disk: Path
) -> None:
    small = registry.add(build_model("codellama:7b"))
    path = small_disk / "models"
    await pulled(small.name, path)
    before = snapshot(path)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)

    with pytest.raises(StoreError, match="cannot be changed") as refused:
        await pulled(two_chunks.name, path)

    assert refused.value.exit_code == 1
    assert "read-only" in (refused.value.hint or "")
    assert snapshot(path) == before
    assert registry.requests_for(two_chunks.weights) == []


@can_mount
async def test_no_store_is_made_on_a_read_only_disk(two_chunks: ModelHandle, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)

    with pytest.raises(StoreError, match="cannot be changed"):
        await pulled(two_chunks.name, small_disk / "models")


@can_mount
@pytest.mark.parametrize("folder", ["blobs", "manifests", ".syncd/staging", ".syncd/keep"])
async def test_a_store_that_spans_two_mounts_is_refused_before_anything_is_asked_for(
    folder: str, registry: ScriptedRegistry, two_chunks: ModelHandle, small_disk: Path
) -> None:
    path = small_disk / "models"
    Store.open(path, create=True).close()
    # Of one file system even: rename(2) refuses that.
    subprocess.run(["mount", "--bind", path / folder, path / folder], check=True)

    try:
        with pytest.raises(StoreError, match="another mount") as refused:
            await pulled(two_chunks.name, path)
    finally:
        subprocess.run(["umount", path / folder], check=True)

    assert "mount their parent" in (refused.value.hint or "")
    assert registry.requests == ()


@as_root
@pytest.mark.parametrize(("folder", "kept"), [("blobs", 1), ("manifests", 5), (".syncd/staging", 0)])
def test_an_owner_who_may_not_write_is_not_authorised_and_loses_nothing(
    folder: str, kept: int, registry: ScriptedRegistry, open_path: Path
) -> None:
    """``kept``: blobs that the next run does not fetch. Where the first one fails, the others may be on their way."""
    model, store = registry.add(build_model("mistral:7b")), open_path / "models"
    assert command("init", "--owner", "nobody", "--store", str(store)).returncode == 0
    (store / folder).chmod(0o555)

    refused = command("pull", "--store", str(store), model.name, user="nobody")

    assert refused.returncode == 4
    assert "Permission denied" in refused.stderr
    assert "hint: " in refused.stderr
    (store / folder).chmod(0o755)
    assert assert_store_whole(store) == {}
    registry.forget_requests()
    assert command("pull", "--store", str(store), model.name).returncode == 0
    assert sum(not registry.bytes_served(digest) for digest in model.blobs) >= kept
    assert assert_store_whole(store) == {model.name: model.digest}
