"""A damaged blob is mended with at most its damaged chunks fetched, however it was damaged."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from syncd.errors import RegistryUnavailableError
from syncd.jobs.repair import UnmendableError, survey
from syncd.oci.chunks import CHUNK_SIZE
from syncd.store.root import Store
from tests.pull.world import pulled
from tests.repair.world import (
    CHUNKS,
    SIZE,
    Damaging,
    Scene,
    deleted,
    extended,
    flipped,
    repaired,
    replaced_by,
    scene_at,
    truncated,
    unlinked,
    unlinked_after,
    unseen,
    verified,
    zeroed,
)
from tests.support.registry import ScriptedRegistry

LAST = SIZE - (CHUNKS - 1) * CHUNK_SIZE


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with ScriptedRegistry() as registry:
        yield await scene_at(registry, tmp_path / "store")


FAULTS = [
    pytest.param(flipped(CHUNK_SIZE + 5), CHUNK_SIZE, id="a flipped bit"),
    pytest.param(unseen(flipped(CHUNK_SIZE + 5)), CHUNK_SIZE, id="rot that mtime does not tell of"),
    pytest.param(unseen(zeroed(CHUNK_SIZE - 2048)), 2 * CHUNK_SIZE, id="a zeroed block across two chunks"),
    pytest.param(flipped(SIZE - 1), LAST, id="the last byte"),
    pytest.param(truncated(CHUNK_SIZE + 5), CHUNK_SIZE + LAST, id="truncated"),
    pytest.param(truncated(0), SIZE, id="emptied"),
    pytest.param(extended, 0, id="extended"),
    pytest.param(deleted, SIZE, id="deleted"),
    pytest.param(unlinked, 0, id="its name in blobs/ deleted"),
    pytest.param(replaced_by(7), 0, id="replaced, while keep/ has it"),
    pytest.param(unlinked_after(unseen(flipped(CHUNK_SIZE + 5))), CHUNK_SIZE, id="deleted, while keep/ has rotted"),
]


@pytest.mark.parametrize(("damage", "at_most"), FAULTS)
async def test_a_blob_with_a_map_is_mended_by_its_damaged_chunks_alone(
    scene: Scene, damage: Damaging, at_most: int
) -> None:
    damage(scene.file)
    await verified(scene)

    found = await repaired(scene)

    scene.assert_whole()
    assert scene.served() == found.fetched == at_most
    assert await verified(scene)


@pytest.mark.parametrize(("damage", "_at_most"), FAULTS[:1] + FAULTS[4:8])
async def test_a_blob_whose_map_is_lost_is_fetched_whole(scene: Scene, damage: Damaging, _at_most: int) -> None:
    damage(scene.file)
    scene.record.unlink()
    await verified(scene)

    await repaired(scene)

    scene.assert_whole()
    assert scene.served() == SIZE


@pytest.mark.parametrize(("damage", "at_most"), [FAULTS[1], FAULTS[4], FAULTS[7]])
async def test_a_pull_of_a_damaged_model_fetches_its_damaged_chunks_alone(
    scene: Scene, damage: Damaging, at_most: int
) -> None:
    damage(scene.file)
    await verified(scene)

    await pulled(scene.model.name, scene.path)

    scene.assert_whole()
    assert scene.served() == at_most


async def test_what_a_verification_found_is_known_until_it_is_mended(scene: Scene) -> None:
    unseen(flipped(5))(scene.file)
    with Store.open(scene.path, create=False) as store:
        assert survey(store, None) == ()
    await verified(scene)

    with Store.open(scene.path, create=False) as store:
        (damage,) = survey(store, None)
    assert (damage.blob.digest, damage.models) == (scene.weights.digest, scene.damage.models)

    await repaired(scene)

    with Store.open(scene.path, create=False) as store:
        assert survey(store, None) == ()


async def test_an_origin_that_is_gone_for_good_is_told_from_one_that_is_away(scene: Scene) -> None:
    flipped(5)(scene.file)
    await verified(scene)
    before = scene.file.read_bytes()
    scene.registry.remove_blob(scene.model.weights)

    with pytest.raises(UnmendableError):
        await repaired(scene)
    scene.registry.stop()
    with pytest.raises(RegistryUnavailableError):
        await repaired(scene)

    assert scene.file.read_bytes() == before


async def test_two_repairs_at_once_fetch_once(scene: Scene) -> None:
    flipped(5)(scene.file)
    await verified(scene)

    await asyncio.gather(repaired(scene), repaired(scene))

    scene.assert_whole()
    assert scene.served() == CHUNK_SIZE
