"""What the settings want is so, stays so, and follows its tag: real store, real registry, real events."""

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from syncd.daemon.units import Window
from syncd.jobs.board import JobState
from syncd.jobs.remove import remove
from syncd.oci.name import Reference
from syncd.store.root import Store
from tests.daemon.world import HOUR, Clock, World, daemon, model
from tests.pull.world import blob_file, model_name, pulled, tag_file, write_as_ollama
from tests.support.models import MIB, build_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry

NIGHT = Window(60, 300)


@pytest.fixture
def mistral(registry: ScriptedRegistry) -> ModelHandle:
    return registry.add(build_model("mistral:7b"))


def updated(registry: ScriptedRegistry) -> ModelHandle:
    """The tag moves on."""
    return registry.add(build_model("mistral:7b", seed=2))


async def restored(world: World, name: str, digest: str) -> None:
    """It is there again, long before the next pass of the reconcile looks."""
    file = tag_file(world.store.path, name)
    await world.until(lambda: file.is_file() and {name: digest}.items() <= found(world).items(), seconds=20.0)


def found(world: World) -> dict[str, str]:
    try:
        return assert_store_whole(world.store.path)
    except (AssertionError, OSError, ValueError):
        return {}


# Pulled, kept, followed


async def test_a_desired_model_is_pulled_at_once(mistral: ModelHandle, store_path: Path) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        shown = await world.becomes(mistral.name, "published")

    assert assert_store_whole(store_path) == {mistral.name: mistral.digest}
    assert (shown.digest, shown.done, shown.pending, shown.failures) == (mistral.digest, mistral.size, None, 0)
    assert world.reconcile.first_pass_done


async def test_a_check_that_finds_nothing_new_costs_one_manifest_request(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name, every=HOUR)) as world:
        before = await world.becomes(mistral.name, "published")
        registry.forget_requests()

        world.forward(1.2 * HOUR)
        await world.until(lambda: world.shown(mistral.name).last_check != before.last_check)

        assert len(registry.requests) == len(registry.manifest_requests()) == 1


async def test_an_update_is_applied(registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        newer = updated(registry)

        world.forward(7 * HOUR)
        await world.until(lambda: world.shown(mistral.name).digest == newer.digest)

    assert assert_store_whole(store_path) == {mistral.name: newer.digest}


async def test_an_update_that_is_only_to_be_announced_waits_for_an_operators_pull(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name, apply="notify")) as world:
        await world.becomes(mistral.name, "published")
        newer = updated(registry)
        world.forward(7 * HOUR)

        shown = await world.becomes(mistral.name, "pending")
        assert (shown.digest, shown.pending) == (mistral.digest, newer.digest)
        assert "syncd pull" in (shown.reason or "")
        world.forward(7 * HOUR)
        await world.quiet()
        assert [event.detail for event in world.told("model.pending")] == [newer.digest]

        world.board.pull(Reference.parse(mistral.name), asked_by="an operator")
        await world.becomes(mistral.name, "published")

    assert assert_store_whole(store_path) == {mistral.name: newer.digest}


async def test_an_update_waits_for_its_window(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name, window=NIGHT)) as world:
        await world.becomes(mistral.name, "published")  # the first pull does not wait
        newer = updated(registry)
        world.forward(7 * HOUR)
        shown = await world.becomes(mistral.name, "pending")
        assert "01:00-05:00" in (shown.reason or "")
        assert shown.digest == mistral.digest

        world.clock.second = 2 * HOUR
        world.reconcile.poke()
        await world.until(lambda: world.shown(mistral.name).digest == newer.digest)


async def test_a_pin_is_pulled_once_and_never_replaced(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    updated(registry)
    pinned = f"{mistral.name}@{mistral.digest}"
    async with daemon(store_path, model(pinned)) as world:
        await world.becomes(mistral.name, "published")
        registry.forget_requests()

        world.forward(100 * HOUR)
        await world.quiet()
        assert not registry.requests

        # Somebody who may write here replaces it all the same.
        world.board.pull(Reference.parse(mistral.name), asked_by="an operator")
        await world.until(lambda: world.store.models.history(model_name(mistral.name))[1:])
        await world.until(lambda: found(world) == {mistral.name: mistral.digest})


async def test_a_pin_that_is_set_later_takes_the_model_back(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        newer = updated(registry)
        world.forward(7 * HOUR)
        await world.until(lambda: world.shown(mistral.name).digest == newer.digest)
        await world.becomes(mistral.name, "published")
        registry.forget_requests()

        world.settings.put(model(f"{mistral.name}@{mistral.digest}"))

        await world.until(lambda: found(world) == {mistral.name: mistral.digest})
        await world.becomes(mistral.name, "published")
    assert not registry.requests


async def test_a_model_that_somebody_else_brought_is_taken_over_without_fetching_it(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    await pulled(mistral.name, store_path)
    shutil.rmtree(store_path / ".syncd")
    registry.forget_requests()

    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        await world.until(lambda: world.store.models.history(model_name(mistral.name)))

    assert not registry.blob_requests()


# Put back


async def test_a_deleted_manifest_is_put_back_without_a_request(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        registry.forget_requests()

        shutil.rmtree(store_path / "manifests" / model_name(mistral.name).host)

        await restored(world, mistral.name, mistral.digest)
        await world.until(lambda: world.told("model.restored"))
    assert not registry.requests


async def test_deleted_blobs_are_put_back_without_a_request(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        registry.forget_requests()

        for digest in mistral.blobs:
            (store_path / "blobs" / blob_file(digest)).unlink()

        await restored(world, mistral.name, mistral.digest)
    assert not registry.requests


@pytest.mark.parametrize("what", ["emptied", "replaced", "link", "folder"])
async def test_a_replaced_manifest_is_put_back_without_a_request(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, what: str
) -> None:
    other = build_model("codellama:7b")
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        registry.forget_requests()
        file = tag_file(store_path, mistral.name)

        if what == "replaced":
            write_as_ollama(store_path, mistral.name, other.manifest)
        elif what == "emptied":
            file.write_bytes(b"")
        else:
            file.unlink()
            if what == "link":
                file.symlink_to("/etc/passwd")
            else:
                (file / "deeper").mkdir(parents=True)

        await restored(world, mistral.name, mistral.digest)
    assert not registry.requests


def moved(folder: Path) -> None:
    folder.rename(folder.with_name(f"taken at {time.time()}"))


@pytest.mark.parametrize(("folder", "how"), [("manifests", shutil.rmtree), ("manifests", moved), ("blobs", moved)])
async def test_a_whole_folder_that_vanishes_comes_back(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, folder: str, how: Callable[[Path], None]
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        registry.forget_requests()

        how(store_path / folder)
        await restored(world, mistral.name, mistral.digest)
        await world.quiet(1.2)
        how(store_path / folder)  # the one that was made is watched, too
        await restored(world, mistral.name, mistral.digest)
    assert not registry.requests


async def test_the_old_version_is_put_back_while_the_new_one_is_fetched(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        newer = updated(registry)
        slow = registry.throttle(MIB / 20, digest=newer.weights)
        world.forward(7 * HOUR)
        await world.until(lambda: world.shown(mistral.name).done > 0 and world.board.running(model_name(mistral.name)))

        tag_file(store_path, mistral.name).unlink()
        await restored(world, mistral.name, mistral.digest)
        (store_path / "blobs" / blob_file(mistral.weights)).unlink()
        await restored(world, mistral.name, mistral.digest)
        assert world.shown(mistral.name).state == "pulling"

        slow.lift()
        registry.drop_connections()
        await world.until(lambda: world.shown(mistral.name).digest == newer.digest)
        await world.quiet()
        (job, *_) = world.board.jobs()
        assert job.view.state is JobState.DONE
    assert assert_store_whole(store_path) == {mistral.name: newer.digest}
    assert registry.bytes_served(newer.weights) < 2 * newer.weights_size


async def test_what_was_deleted_while_no_daemon_ran_is_put_back(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    await pulled(mistral.name, store_path)
    tag_file(store_path, mistral.name).unlink()
    registry.stop()

    async with daemon(store_path, model(mistral.name)) as world:
        await restored(world, mistral.name, mistral.digest)


async def test_removing_a_desired_model_behind_the_daemons_back_does_not_last(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        registry.forget_requests()

        with Store.open(store_path, create=False) as store:
            await remove(store, model_name(mistral.name), now=time.time())

        await restored(world, mistral.name, mistral.digest)
    assert not registry.requests


async def test_a_pull_by_another_process_is_no_replacement_from_outside(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        newer = updated(registry)

        await pulled(mistral.name, store_path)
        await world.until(lambda: world.shown(mistral.name).digest == newer.digest)
        await world.quiet()

        assert not world.told("model.restored")
    assert assert_store_whole(store_path) == {mistral.name: newer.digest}


async def test_blobs_whose_bytes_are_gone_are_pulled_again(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        registry.forget_requests()

        for folder in ("blobs", ".syncd/keep"):
            (store_path / folder / blob_file(mistral.weights)).unlink()

        await world.until(lambda: found(world) == {mistral.name: mistral.digest})
        await world.until(lambda: world.told("model.restored"))
    assert {request.digest for request in registry.blob_requests()} == {mistral.weights}


async def test_a_newer_version_that_comes_in_the_place_of_lost_bytes_is_no_restored_model(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        newer = updated(registry)

        for folder in ("blobs", ".syncd/keep"):
            (store_path / folder / blob_file(mistral.weights)).unlink()

        await world.until(lambda: world.shown(mistral.name).digest == newer.digest)
        await world.becomes(mistral.name, "published")
        await world.quiet()
        assert not world.told("model.restored")


async def test_a_model_of_which_nothing_is_left_counts_as_put_back_once_it_is_fetched_again(
    mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        await world.quiet()
        assert not world.told("model.restored")

        for folder in ("manifests", "blobs", ".syncd/keep"):
            for file in [path for path in (store_path / folder).rglob("*") if path.is_file()]:
                file.unlink()

        await world.until(lambda: world.told("model.restored"))
        await world.until(lambda: found(world) == {mistral.name: mistral.digest})
        await world.quiet()
        assert len(world.told("model.restored")) == 1


async def test_bytes_that_turn_out_wrong_are_pulled_again(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        registry.forget_requests()
        weights = store_path / "blobs" / blob_file(mistral.weights)
        weights.chmod(0o644)

        with weights.open("r+b") as file:
            file.write(b"not what it was")

        await world.until(lambda: found(world) == {mistral.name: mistral.digest})
        await world.until(lambda: world.told("model.restored"))
    assert registry.bytes_served(mistral.weights) >= mistral.weights_size


async def test_a_storm_of_deletions_ends_with_a_whole_model(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        registry.forget_requests()
        file = tag_file(store_path, mistral.name)

        async with asyncio.timeout(60):
            for _ in range(4):
                while not file.exists():
                    await asyncio.sleep(0.01)
                file.unlink()

        await world.until(lambda: found(world) == {mistral.name: mistral.digest})
    assert not registry.requests


async def test_models_that_people_made_are_left_alone(mistral: ModelHandle, store_path: Path) -> None:
    async with daemon(store_path, model(mistral.name), prune=True) as world:
        await world.becomes(mistral.name, "published")
        write_as_ollama(store_path, "mine:latest", mistral.manifest)
        await world.quiet(1.2)
        assert tag_file(store_path, "mine:latest").exists()

        shutil.rmtree(tag_file(store_path, "mine:latest").parents[2])
        await world.quiet(1.2)

    assert assert_store_whole(store_path) == {mistral.name: mistral.digest}


# The settings change


async def test_a_model_that_leaves_the_settings_is_left_over(mistral: ModelHandle, store_path: Path) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        assert not world.reconcile.left_over(model_name(mistral.name))

        world.settings.put()
        await world.until(lambda: not world.reconcile.desired())

        assert world.reconcile.left_over(model_name(mistral.name))
    assert assert_store_whole(store_path) == {mistral.name: mistral.digest}


async def test_pruning_removes_what_the_reconcile_published_and_nothing_else(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    by_hand = registry.add(build_model("codellama:7b"))
    await pulled(by_hand.name, store_path)
    async with daemon(store_path, model(mistral.name), model(by_hand.name)) as world:
        await world.becomes(mistral.name, "published")
        await world.becomes(by_hand.name, "published")

    async with daemon(store_path, prune=True) as world:  # it remembers
        await world.until(lambda: world.told("model.removed"))
        await world.quiet()

    assert assert_store_whole(store_path) == {by_hand.name: by_hand.digest}


async def test_pruning_spares_what_somebody_replaced(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
    newer = updated(registry)
    await pulled(mistral.name, store_path)

    async with daemon(store_path, prune=True) as world:
        await world.until(lambda: world.reconcile.first_pass_done)
        await world.quiet()

    assert assert_store_whole(store_path) == {mistral.name: newer.digest}


async def test_a_pull_that_nobody_wants_any_more_is_stopped(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    registry.throttle(MIB / 1000, digest=mistral.weights)
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "pulling")
        world.settings.put()

        await world.until(lambda: world.board.jobs()[0].view.state is JobState.CANCELLED)

        assert "settings" in str(world.board.jobs()[0].view.error)


# Failures


async def test_a_pull_of_what_is_wanted_otherwise_now_gives_way_at_once(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    slow = registry.throttle(MIB / 1000, digest=mistral.weights)
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "pulling")
        await world.until(lambda: registry.bytes_served(mistral.weights))
        newer = registry.add(build_model("mistral:7b", seed=2))
        world.settings.put(model(f"{mistral.name}@{newer.digest}"))
        await world.becomes(mistral.name, "published")
        assert found(world) == {mistral.name: newer.digest}

    slow.lift()


async def test_failures_back_off_show_why_and_end_when_the_registry_is_mended(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    registry.answer(503)
    async with daemon(store_path, model(mistral.name)) as world:
        shown = await world.becomes(mistral.name, "failing")
        assert shown.failures == 1
        assert "503" in (shown.reason or "")
        assert shown.next_check is not None
        world.forward(31)
        await world.until(lambda: world.shown(mistral.name).failures == 2)

        registry.heal()
        world.forward(61)
        shown = await world.becomes(mistral.name, "published")

    assert (shown.failures, shown.reason) == (0, None)


async def test_an_operators_pull_ends_the_failures_and_counts_as_a_check(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        checked = world.shown(mistral.name).last_check
        registry.answer(503)
        world.forward(HOUR * 24 * 8)
        await world.becomes(mistral.name, "failing")
        registry.heal()

        world.board.pull(Reference.parse(mistral.name), asked_by="an operator")

        await world.until(lambda: world.shown(mistral.name).failures == 0, seconds=15.0)
        shown = await world.becomes(mistral.name, "published")
        assert shown.reason is None
        assert (shown.last_check or "") > (checked or "")


async def test_what_was_made_good_without_the_registry_shows_no_failures(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        registry.answer(503)
        file = blob_file(mistral.weights)
        saved = (store_path / "blobs" / file).rename(store_path.parent / "saved")
        (store_path / ".syncd" / "keep" / file).unlink()
        assert (await world.becomes(mistral.name, "failing")).failures >= 1

        saved.rename(store_path / "blobs" / file)

        shown = await world.becomes(mistral.name, "published")
    assert (shown.failures, shown.reason) == (0, None)


async def test_failures_are_remembered_over_a_restart(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    registry.answer(503)
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "failing")
        await world.quiet(0.2)
    registry.forget_requests()

    async with daemon(store_path, model(mistral.name)) as world:
        shown = await world.becomes(mistral.name, "failing")
        await world.quiet(0.3)

    assert shown.failures == 1
    assert not registry.requests


async def test_new_settings_are_tried_at_once(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    registry.answer(503)
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "failing")
        registry.heal()

        world.settings.put(model(mistral.name))

        await world.becomes(mistral.name, "published")


async def test_one_model_that_fails_holds_up_no_other(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    names = [f"{registry.host}/library/none:{number}" for number in range(5)]
    async with daemon(store_path, *map(model, names), model(mistral.name)) as world:
        await world.becomes(mistral.name, "published")
        for name in names:
            await world.becomes(name, "failing")


async def test_a_cancelled_pull_is_put_off(registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path) -> None:
    registry.throttle(MIB / 1000, digest=mistral.weights)
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "pulling")
        (job,) = world.board.running(model_name(mistral.name))
        world.board.cancel(job, by="an operator")

        shown = await world.becomes(mistral.name, "failing")
        assert "cancelled by an operator" in (shown.reason or "")
        registry.heal()
        world.forward(HOUR + 1)
        await world.becomes(mistral.name, "published")


async def test_a_pull_that_a_stop_of_the_daemon_ends_goes_on_in_the_next_life(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    slow = registry.throttle(MIB / 1000, digest=mistral.weights)
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "pulling")
        world.board.close()
        await world.until(lambda: not world.board.running(model_name(mistral.name)))
        await world.quiet(0.3)
    slow.lift()

    async with daemon(store_path, model(mistral.name)) as world:
        shown = await world.becomes(mistral.name, "published")

    assert shown.failures == 0


async def test_an_operators_pull_that_a_stop_of_the_daemon_ends_goes_on_too(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    slow = registry.throttle(MIB / 10, digest=mistral.weights)
    async with daemon(store_path) as world:
        world.board.pull(Reference.parse(mistral.name), asked_by="an operator")
        await world.until(lambda: registry.bytes_served(mistral.weights))
    slow.lift()

    async with daemon(store_path) as world:
        await world.until(lambda: found(world) == {mistral.name: mistral.digest})
        assert world.board.jobs()[0].view.asked_by == "an operator"


async def test_an_update_that_an_operator_asked_for_goes_on_though_the_settings_would_wait(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    wanted = model(mistral.name, apply="notify")
    async with daemon(store_path, wanted) as world:
        await world.becomes(mistral.name, "published")
    newer = registry.add(build_model("mistral:7b", seed=2))
    slow = registry.throttle(MIB / 10, digest=newer.weights)
    async with daemon(store_path, wanted) as world:
        world.board.pull(Reference.parse(mistral.name), asked_by="an operator")
        await world.until(lambda: registry.bytes_served(newer.weights))
    slow.lift()

    async with daemon(store_path, wanted) as world:
        await world.until(lambda: found(world) == {mistral.name: newer.digest})


async def test_a_clock_that_jumps_stalls_nothing(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path
) -> None:
    clock = Clock(jumped=50 * 365 * 24 * HOUR)
    async with daemon(store_path, model(mistral.name), clock=clock) as world:
        await world.becomes(mistral.name, "published")
    newer = updated(registry)

    async with daemon(store_path, model(mistral.name)) as world:  # and back again: the next check was noted for then
        await world.until(lambda: world.reconcile.first_pass_done)
        world.forward(7 * HOUR)
        await world.until(lambda: world.shown(mistral.name).digest == newer.digest)
        # What came last by the clock is not what came last.
        await world.quiet()
        assert found(world) == {mistral.name: newer.digest}


# A daemon that died


def left_behind(path: Path, name: str, deaths: int, by: str = "an operator") -> None:
    """What a daemon leaves that dies under a pull."""
    note = f'{{"reference":"{name}","asked_by":"{by}","deaths":{deaths},"running":true,"at":0}}'
    with Store.open(path, create=True) as store:
        store.state.write("job-dead.json", note.encode())


async def test_a_job_that_brought_the_daemon_down_is_held(mistral: ModelHandle, store_path: Path) -> None:
    left_behind(store_path, mistral.name, 1)
    async with daemon(store_path, model(mistral.name)) as world:
        shown = await world.becomes(mistral.name, "held")
        assert "died" in (shown.reason or "")
        world.forward(30)
        await world.quiet(0.3)
        assert world.shown(mistral.name).state == "held"

        world.forward(31)
        await world.becomes(mistral.name, "published")
        assert [name for name in world.store.state.names() if name.startswith("job-")] == []


async def test_an_operators_own_pull_is_not_held(mistral: ModelHandle, store_path: Path) -> None:
    left_behind(store_path, mistral.name, 5)
    async with daemon(store_path, model(mistral.name)) as world:
        await world.becomes(mistral.name, "held")

        world.board.pull(Reference.parse(mistral.name), asked_by="an operator")

        await world.becomes(mistral.name, "published")


async def test_what_others_had_asked_for_is_begun_again(mistral: ModelHandle, store_path: Path) -> None:
    left_behind(store_path, mistral.name, 0)
    async with daemon(store_path) as world:
        await world.quiet(0.3)
        assert not world.board.jobs()

        world.forward(11)
        await world.until(lambda: found(world) == {mistral.name: mistral.digest})

        assert world.board.jobs()[0].view.asked_by == "an operator"


async def test_what_the_settings_do_not_ask_for_any_more_is_not(mistral: ModelHandle, store_path: Path) -> None:
    left_behind(store_path, mistral.name, 0, by="the settings")
    async with daemon(store_path) as world:
        world.forward(11)
        await world.quiet(0.3)

        assert not world.board.jobs()
        assert world.store.state.names() == []
