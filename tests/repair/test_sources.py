"""Where the bytes of a repair come from, and what becomes of it when they are wrong, or nobody has room for them."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from syncd.errors import IntegrityError, NoSpaceError, RegistryUnavailableError
from syncd.jobs.damage import Damage
from syncd.jobs.mend import Fate, mend
from syncd.jobs.repair import UnmendableError, repair
from syncd.oci.chunks import CHUNK_SIZE
from syncd.registry.hosts import RegistryConfig
from syncd.store.root import Store
from tests.pull.world import QUICK, blob_file, means, model_name, pulled, tag_file
from tests.repair.world import SIZE, Scene, flipped, repaired, scene_at, truncated, verified
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


async def test_a_registry_that_lies_once_about_the_range_is_asked_for_that_range_again(scene: Scene) -> None:
    scene.registry.flip(DAMAGED + 1000, times=1)

    await repaired(scene)

    scene.assert_whole()
    assert scene.served() == 2 * CHUNK_SIZE  # verified bytes are not fetched again because others were wrong


async def test_a_registry_that_always_lies_changes_nothing_and_takes_nothing_away(scene: Scene) -> None:
    before = snapshot(scene.path)
    scene.registry.flip(DAMAGED + 1000)

    with pytest.raises(IntegrityError) as failure:
        await repaired(scene)

    assert not isinstance(failure.value, UnmendableError)
    assert snapshot(scene.path) == before
    assert scene.served() == 2 * CHUNK_SIZE
    scene.registry.heal()
    await repaired(scene)
    scene.assert_whole()


async def test_a_mirror_mends_while_the_origin_is_away(scene: Scene) -> None:
    async with ScriptedRegistry() as mirror:
        mirror.add(synthetic_model(weights_bytes=SIZE))
        scene.registry.stop()
        configs = {scene.registry.host: RegistryConfig(mirrors=(mirror.url,))}
        with Store.open(scene.path, create=False) as store:
            async with means(store, configs=configs) as everything:
                found = await repair(store, everything, scene.damage)

    assert found.fetched == CHUNK_SIZE
    scene.assert_whole()


async def test_another_name_that_shares_the_blob_is_asked_where_the_first_one_is_unknown(
    scene: Scene, registry: ScriptedRegistry
) -> None:
    twin = registry.add(synthetic_model("codellama:7b", weights_bytes=SIZE))
    await pulled(twin.name, scene.path)
    flipped(DAMAGED)(scene.file)
    await verified(scene)
    registry.forget_requests()
    scene.registry.remove_blob(scene.model.weights)

    with Store.open(scene.path, create=False) as store:
        async with means(store) as everything:
            damage = Damage(
                scene.weights,
                scene.damage.kind,
                None,
                (model_name(scene.model.name), model_name(twin.name)),
                "as the test made it",
            )
            await repair(store, everything, damage)

    assert registry.bytes_served(twin.weights) == CHUNK_SIZE
    assert assert_store_whole(scene.path) == {scene.model.name: scene.model.digest, twin.name: twin.digest}


@pytest.mark.parametrize("with_map", [True, False], ids=["with a map", "without one"])
async def test_the_store_that_a_model_was_adopted_from_is_asked_before_the_network(
    scene: Scene, tmp_path: Path, with_map: bool
) -> None:
    source = tmp_path / "ollama"
    (source / "blobs").mkdir(parents=True)
    content = scene.model.blobs[scene.model.weights]
    (source / "blobs" / blob_file(scene.model.weights)).write_bytes(whole(content))
    if not with_map:
        scene.record.unlink()
        await verified(scene)
    with Store.open(scene.path, create=False) as store:
        name = model_name(scene.model.name)
        manifest = store.models.read(name)
        assert manifest
        store.models.remember(name, manifest, f"adopted from {source}", 2e9)

    await repaired(scene)

    scene.assert_whole()
    assert scene.served() == 0


async def test_without_room_everything_stays_as_it_was(scene: Scene) -> None:
    before = snapshot(scene.path)

    with pytest.raises(NoSpaceError):
        await repaired(scene, floor=1 << 60)

    assert snapshot(scene.path) == before
    assert not list((scene.path / ".syncd" / "staging").iterdir())
    await repaired(scene)
    scene.assert_whole()


async def ended(scene: Scene, *, keep: bool = False) -> Fate:
    with Store.open(scene.path, create=False) as store:
        async with means(store) as everything:
            found = await mend(store, everything, scene.damage, keep=keep, report=lambda _: None)
            return found.fate


async def test_a_registry_that_is_away_takes_nothing_out_of_sight(scene: Scene) -> None:
    before = snapshot(scene.path)
    scene.registry.stop()

    assert await ended(scene) is Fate.LATER

    assert snapshot(scene.path) == before
    scene.registry.start()
    assert await ended(scene) is Fate.MENDED
    scene.assert_whole()
    assert scene.served() == CHUNK_SIZE


async def test_what_nobody_has_any_more_is_withdrawn_and_kept_in_quarantine(scene: Scene) -> None:
    damaged = scene.file.read_bytes()
    scene.registry.remove_blob(scene.model.weights)

    assert await ended(scene) is Fate.QUARANTINED

    assert assert_store_whole(scene.path) == {}
    taken = [path for path in (scene.path / ".syncd" / "quarantine").rglob("*") if path.is_file()]
    assert sorted(path.read_bytes() for path in taken) == sorted((damaged, scene.model.manifest))
    assert not list((scene.path / ".syncd" / "staging").iterdir())


async def test_what_nobody_has_any_more_stays_where_the_settings_say_so(scene: Scene) -> None:
    before = snapshot(scene.path)
    scene.registry.remove_blob(scene.model.weights)

    assert await ended(scene, keep=True) is Fate.KEPT

    assert snapshot(scene.path) == before
    assert not list((scene.path / ".syncd" / "staging").iterdir())


async def test_a_model_that_was_made_here_is_withdrawn_when_it_cannot_be_whole_again(scene: Scene) -> None:
    """Its registry was asked, and knows nothing of it."""
    tag = tag_file(scene.path, scene.model.name)
    mine = tag.with_name("mine")
    os.link(tag, mine)
    scene.registry.remove_blob(scene.model.weights)

    assert await ended(scene) is Fate.QUARANTINED

    assert assert_store_whole(scene.path) == {}, "whoever names the blob goes, known to the scrub or not"


async def test_an_unfinished_repair_is_gone_on_with(scene: Scene) -> None:
    truncated(5)(scene.file)  # all chunks are gone
    await verified(scene)
    scene.registry.drop_after(1 << 20, skip=1)  # after the first chunk
    with pytest.raises(RegistryUnavailableError):
        await repaired(scene, settings=replace(QUICK, attempts=1, connections=1))
    scene.registry.heal()
    scene.registry.forget_requests()

    await repaired(scene)

    scene.assert_whole()
    assert scene.served() == SIZE - CHUNK_SIZE
