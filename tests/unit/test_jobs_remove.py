"""Removing models, and the pulls of them."""

import asyncio
import time

import pytest

from syncd.errors import BusyError, NotFoundError
from syncd.jobs import remove
from syncd.oci.name import ModelName
from syncd.store.leases import LeaseState
from syncd.store.models import BrokenModel, StoredModel
from syncd.store.root import Store
from tests.unit.store_world import NAME, blob_path, descriptor, manifest_of, manifest_path, publish

OTHER = ModelName.parse("llava")
MINE, THEIRS = manifest_of(b"weights", b"shared"), manifest_of(b"other weights", b"shared")


def test_a_plan_tells_freed_blobs_from_shared_ones() -> None:
    models = [StoredModel(NAME, MINE, 0), StoredModel(OTHER, THEIRS, 0)]

    planned = remove.plan_removal(NAME, models, [])

    assert planned is not None
    assert planned.digest == MINE.digest
    assert planned.freed == (descriptor(b"weights"),)
    assert planned.shared == (descriptor(b"shared"),)
    assert planned.freed_bytes == 7


def test_a_blob_that_another_pull_needs_is_shared() -> None:
    pulled = LeaseState("id", OTHER, THEIRS, live=True, age=0)
    dead = LeaseState("id", NAME, MINE, live=False, age=0)  # its own

    planned = remove.plan_removal(NAME, [StoredModel(NAME, MINE, 0)], [pulled, dead])

    assert planned is not None
    assert planned.shared == (descriptor(b"shared"),)


def test_a_broken_model_can_be_removed() -> None:
    planned = remove.plan_removal(NAME, [BrokenModel("…", NAME, "no JSON")], [])

    assert planned == remove.Removal(NAME, None)
    assert remove.plan_removal(OTHER, [], []) is None


async def test_a_removed_models_tag_goes_and_its_blobs_stay_for_now(store: Store) -> None:
    publish(store, b"weights", b"shared")
    publish(store, b"other weights", b"shared", name=OTHER)

    removal = await remove.remove(store, ModelName.parse("MISTRAL:7b"), now=time.time())

    assert removal.name == NAME
    assert removal.freed == (descriptor(b"weights"),)
    assert store.models.read(NAME) is None
    assert not manifest_path(store).parent.exists()
    assert store.models.read(OTHER) == THEIRS
    assert blob_path(store, descriptor(b"weights")).exists()


def test_a_dry_run_removes_nothing(store: Store) -> None:
    publish(store, b"weights", b"shared")
    mark = store.locks.removal_mark(NAME)

    assert remove.plan(store, NAME, time.time()).freed_bytes == 13

    assert store.models.read(NAME) == MINE
    assert store.locks.removal_mark(NAME) == mark


async def test_a_name_that_is_not_there_gets_the_nearest_ones(store: Store) -> None:
    publish(store, b"weights", b"shared")

    with pytest.raises(NotFoundError, match="mistal:7b is not in the store") as caught:
        await remove.remove(store, ModelName.parse("mistal:7b"), now=time.time())

    assert caught.value.hint == "did you mean mistral:7b?"


async def test_a_pull_is_cancelled_first(store: Store) -> None:
    publish(store, b"weights", b"shared")
    mark = store.locks.removal_mark(NAME)
    pull = store.locks.try_name(NAME)
    assert pull is not None

    async def pulling() -> None:
        while store.locks.removal_mark(NAME) == mark:
            await asyncio.sleep(0.01)
        pull.release()

    async with asyncio.TaskGroup() as group:
        group.create_task(pulling())
        await remove.remove(store, NAME, now=time.time())

    assert store.models.read(NAME) is None


async def test_a_pull_that_had_published_nothing_is_forgotten(store: Store) -> None:
    held = store.locks.try_references(shared=True)
    assert held is not None
    with held:
        store.leases.take(NAME, MINE, held).abandon()

    removal = await remove.remove(store, NAME, now=time.time())

    assert not removal.published
    assert store.leases.all(time.time()) == []


async def test_a_pull_that_does_not_let_go_is_busy(store: Store) -> None:
    publish(store, b"weights", b"shared")
    pull = store.locks.try_name(NAME)
    assert pull is not None
    with pull, pytest.raises(BusyError, match="has not stopped"):
        await remove.remove(store, NAME, now=time.time(), timeout=0.2)

    assert store.models.read(NAME) == MINE


async def test_what_somebody_planted_in_place_of_a_manifest_can_be_removed_and_is_not_followed(store: Store) -> None:
    publish(store, b"weights")
    target = store.path.parent / "theirs"
    target.write_text("of another")
    manifest_path(store).unlink()
    manifest_path(store).symlink_to(target)

    await remove.remove(store, NAME, now=time.time())

    assert not manifest_path(store).is_symlink()
    assert target.read_text() == "of another"
