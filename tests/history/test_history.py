"""The history: every publication, with its very bytes, and whether they are still on the disk."""

from pathlib import Path

from syncd.store.root import Store
from tests.history.world import forget, rolled_back, run, told, version, versions
from tests.pull.world import model_name, pulled
from tests.support.daemon import RunningDaemon
from tests.support.oracle import assert_store_whole
from tests.support.registry import ScriptedRegistry


async def test_every_publication_is_an_entry_and_every_manifest_is_raw(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    first, second = await versions(registry, store_path, 2)
    version(registry, 1)
    await pulled(first.name, store_path)

    with Store.open(store_path, create=False) as store:
        found = store.models.publications(model_name(first.name))
        each = store.models.history(model_name(first.name))

    assert [one.manifest.raw for one in found] == [first.manifest, second.manifest, first.manifest]
    assert [one.time for one in found] == sorted((one.time for one in found), reverse=True)
    assert [one.manifest.raw for one in each] == [first.manifest, second.manifest]


async def test_bytes_that_are_fetched_again_for_a_version_that_never_left_are_no_publication(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    (model,) = await versions(registry, store_path, 1)
    for _ in range(2):
        forget(store_path, model.weights)
        await pulled(model.name, store_path)
    (store_path / "manifests").joinpath(*model_name(model.name).parts).unlink()
    await pulled(model.name, store_path)

    with Store.open(store_path, create=False) as store:
        found = store.models.publications(model_name(model.name))

    assert len(found) == 2  # the first one, and the one after somebody took the tag away
    assert assert_store_whole(store_path) == {model.name: model.digest}


async def test_a_publication_that_was_chosen_is_marked(registry: ScriptedRegistry, store_path: Path) -> None:
    _, second = await versions(registry, store_path, 2)
    await rolled_back(store_path, second.name)

    with Store.open(store_path, create=False) as store:
        found = store.models.publications(model_name(second.name))

    assert [one.chosen for one in found] == [True, False, False]


async def test_the_command_shows_what_is_here_what_is_pinned_and_what_is_gone(
    registry: ScriptedRegistry, host: RunningDaemon
) -> None:
    first, second, third = await versions(registry, host.store)
    forget(host.store, first.weights)
    await rolled_back(host.store, third.name)

    shown = told(host, "history", third.name)["publications"]
    page = run(host, "history", third.name.replace("mistral", "Mistral")).splitlines()

    assert [one["digest"] for one in shown] == [second.digest, third.digest, second.digest, first.digest]
    assert [one["current"] for one in shown] == [True, False, True, False]
    assert [one["blobs"] for one in shown] == ["here", "here", "here", "partly"]
    assert (shown[0]["pinned"], shown[3]["missing"]) == ("a test", first.weights_size)
    assert page[0].split() == ["DIGEST", "PUBLISHED", "SIZE", "BLOBS", "FROM"]
    assert page[1].startswith("*")
    assert "pinned by a test" in page[1]
    assert "to fetch)" in page[4]
