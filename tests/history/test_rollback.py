"""Rolling back: what was published once is published again, fetched only as far as it is gone, and stays."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from syncd.errors import BusyError, NotFoundError, SyncdError, UsageError
from syncd.jobs.policy import NO_POLICY, MaxSize, Policy, PolicyError
from syncd.jobs.progress import Phase, PullProgress
from syncd.jobs.rollback import plan, roll_back
from syncd.store.holds import Hold
from syncd.store.root import Store
from tests.adopt.world import photograph
from tests.history.world import forget, held, refused, rolled_back, run, told, version, versions, visible
from tests.pull.world import means, model_name, pulled
from tests.support.daemon import RunningDaemon, eventually
from tests.support.registry import ScriptedRegistry


async def test_the_version_before_is_back_without_the_network(registry: ScriptedRegistry, store_path: Path) -> None:
    _, second, third = await versions(registry, store_path)
    registry.stop()

    outcome = await rolled_back(store_path, third.name)

    assert visible(store_path) == {second.name: second.digest}
    assert (outcome.fetched_bytes, str(outcome.digest)) == (0, second.digest)


async def test_only_what_is_gone_is_fetched_and_by_its_digest(
    ollama_registry: ScriptedRegistry, store_path: Path
) -> None:
    first, second = await versions(ollama_registry, store_path, 2)
    forget(store_path, first.weights)
    ollama_registry.forget_requests()

    outcome = await rolled_back(store_path, second.name)

    assert visible(store_path) == {first.name: first.digest}
    assert outcome.fetched_bytes == first.weights_size == ollama_registry.bytes_served()
    assert not ollama_registry.manifest_requests(), "this registry has none by digest, and the tag has moved on"


async def test_a_version_is_named_by_the_beginning_of_its_digest(registry: ScriptedRegistry, store_path: Path) -> None:
    first, _, third = await versions(registry, store_path)

    await rolled_back(store_path, third.name, first.digest.removeprefix("sha256:")[:6])

    assert visible(store_path) == {first.name: first.digest}


@pytest.mark.parametrize(
    ("wanted", "error"), [("abc", UsageError), ("mistral", UsageError), ("0" * 12, NotFoundError), ("", UsageError)]
)
async def test_what_names_no_version_is_refused(
    registry: ScriptedRegistry, store_path: Path, wanted: str, error: type[SyncdError]
) -> None:
    _, second = await versions(registry, store_path, 2)

    with pytest.raises(error):
        await rolled_back(store_path, second.name, wanted)

    assert visible(store_path) == {second.name: second.digest}


async def test_where_there_is_no_other_version_there_is_nothing_to_go_back_to(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    (only,) = await versions(registry, store_path, 1)

    with pytest.raises(NotFoundError, match="no other version"):
        await rolled_back(store_path, only.name)


async def test_the_tag_stays_until_it_is_released(registry: ScriptedRegistry, store_path: Path) -> None:
    first, second = await versions(registry, store_path, 2)
    await rolled_back(store_path, second.name)

    with pytest.raises(BusyError, match="is pinned to") as refusal:
        await pulled(second.name, store_path)
    assert "syncd unpin" in (refusal.value.hint or "")
    assert visible(store_path) == {first.name: first.digest}

    with Store.open(store_path, create=False) as store:
        store.holds.drop(model_name(second.name))
    await pulled(second.name, store_path)
    assert visible(store_path) == {second.name: second.digest}


async def test_another_rollback_replaces_the_pin_of_the_first(registry: ScriptedRegistry, store_path: Path) -> None:
    first, second, third = await versions(registry, store_path)
    await rolled_back(store_path, third.name)

    await rolled_back(store_path, third.name, first.digest)

    assert held(store_path, third.name) == first.digest == visible(store_path)[first.name]
    assert second.digest != first.digest


async def test_a_rollback_that_fails_leaves_the_tag_and_its_pin_as_they_were(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    first, second, third = await versions(registry, store_path)
    await rolled_back(store_path, third.name)
    forget(store_path, first.weights)
    registry.remove_blob(first.weights)

    with pytest.raises(SyncdError):
        await rolled_back(store_path, third.name, first.digest)

    assert visible(store_path) == {second.name: second.digest}
    assert held(store_path, third.name) == second.digest


async def test_a_rollback_that_is_given_up_while_it_waits_leaves_the_pin_of_the_one_that_it_waited_for(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    first, second, third = await versions(registry, store_path)
    name, waits = model_name(third.name), asyncio.Event()

    def watched(moment: PullProgress) -> None:
        if moment.phase is Phase.WAITING:
            waits.set()

    with Store.open(store_path, create=False) as store:
        async with means(store) as everything, asyncio.timeout(60):
            plans = [plan(store, name, one.digest, NO_POLICY) for one in (first, second)]
            ahead = store.locks.try_name(name)
            assert ahead is not None
            with ahead:
                waiting = asyncio.create_task(roll_back(plans[0], everything, "a test", watched))
                await waits.wait()
                store.holds.put(Hold(name, plans[1].target.manifest, 1.0, "the one ahead", "a test"))
                waiting.cancel()
                await asyncio.wait([waiting])

    assert held(store_path, third.name) == second.digest


async def test_a_rollback_that_is_given_up_right_before_it_publishes_leaves_the_tag_and_its_pin_as_they_were(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    first, second, third = await versions(registry, store_path)
    await rolled_back(store_path, third.name)
    asked = asyncio.Event()

    async def hold_up(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    with Store.open(store_path, create=False) as store:
        async with means(store) as everything, asyncio.timeout(60):
            planned = plan(store, model_name(third.name), first.digest, NO_POLICY)
            slow = replace(everything, before_publish=hold_up)
            rolling = asyncio.create_task(roll_back(planned, slow, "a test", lambda _: None))
            await asked.wait()
            assert held(store_path, third.name) == first.digest
            rolling.cancel()
            await asyncio.wait([rolling])

    assert visible(store_path) == {second.name: second.digest}
    assert held(store_path, third.name) == second.digest


async def test_a_pin_that_cannot_be_read_is_written_anew_by_a_rollback_and_left_by_one_that_fails(
    registry: ScriptedRegistry, host: RunningDaemon
) -> None:
    first, second = await versions(registry, host.store, 2)
    run(host, "rollback", second.name)
    (hold,) = (host.store / ".syncd" / "state").glob("hold-*.json")
    hold.write_bytes(b"{")
    forget(host.store, second.weights)
    registry.remove_blob(second.weights)

    assert "cannot be read" in refused(host, "unpin", code=6), "of which model it is, nobody knows"
    refused(host, "rollback", second.name, second.digest, code=3)
    assert hold.read_bytes() == b"{"
    run(host, "rollback", second.name, first.digest)
    assert held(host.store, second.name) == first.digest


async def test_the_size_limit_holds_for_a_rollback_too(registry: ScriptedRegistry, store_path: Path) -> None:
    _, second = await versions(registry, store_path, 2)

    with Store.open(store_path, create=False) as store, pytest.raises(PolicyError, match="max_size"):
        plan(store, model_name(second.name), None, Policy(max_size=MaxSize(1)))


async def test_a_plan_changes_nothing_and_names_what_is_to_be_fetched(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    first, second = await versions(registry, store_path, 2)
    forget(store_path, first.weights)
    before = photograph(store_path / "manifests")

    with Store.open(store_path, create=False) as store:
        planned = plan(store, model_name(second.name), None, NO_POLICY)

    assert [str(blob.digest) for blob in planned.missing] == [first.weights]
    assert photograph(store_path / "manifests") == before
    assert held(store_path, second.name) is None


async def test_removing_a_model_releases_it(registry: ScriptedRegistry, host: RunningDaemon) -> None:
    _, second = await versions(registry, host.store, 2)
    await rolled_back(host.store, second.name)

    run(host, "rm", second.name)
    run(host, "pull", second.name)

    assert visible(host.store) == {second.name: second.digest}


async def test_the_commands_say_what_they_do_in_words_and_in_json(
    registry: ScriptedRegistry, host: RunningDaemon
) -> None:
    first, second = await versions(registry, host.store, 2)

    dry = told(host, "rollback", second.name, "--dry-run")
    assert (dry["dry_run"], dry["digest"], visible(host.store)[second.name]) == (True, first.digest, second.digest)
    done = told(host, "rollback", second.name.upper().replace("LIBRARY", "library"))
    assert (done["name"], done["digest"], done["previous"]) == (second.name, first.digest, second.digest)
    error = refused(host, "pull", second.name, code=8)
    assert f"hint: 'syncd unpin {second.name}'" in error
    assert "released from a rollback by this command" in run(host, "unpin", second.name)
    assert "neither pinned by a rollback nor by a pins file" in refused(host, "unpin", second.name, code=3)


async def test_what_the_settings_pin_is_not_rolled_back(registry: ScriptedRegistry, host: RunningDaemon) -> None:
    _, second = await versions(registry, host.store, 2)
    host.write_settings(f'[[models]]\nname = "{second.name}@{second.digest}"')

    error = refused(host, "rollback", second.name, code=8)

    assert f"is pinned by the settings at {host.config}:" in error
    assert visible(host.store) == {second.name: second.digest}


async def test_a_tag_that_moves_back_is_told_of(registry: ScriptedRegistry, host: RunningDaemon) -> None:
    first, second = await versions(registry, host.store, 2)
    version(registry, 1)

    ended = told(host, "pull", first.name)
    assert ended["moved_back"] is not None
    version(registry, 2)
    assert "tag has moved back" in run(host, "pull", second.name)
    version(registry, 3)
    assert told(host, "pull", second.name)["moved_back"] is None


async def test_a_tag_that_stood_still_under_a_rollback_has_not_moved_back(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    _, second = await versions(registry, store_path, 2)
    await rolled_back(store_path, second.name)
    with Store.open(store_path, create=False) as store:
        store.holds.drop(model_name(second.name))

    outcome = await pulled(second.name, store_path)

    assert (str(outcome.digest), outcome.moved_back) == (second.digest, None)


async def test_settings_that_pin_something_else_later_do_not_win_silently(
    registry: ScriptedRegistry, host: RunningDaemon
) -> None:
    first, second = await versions(registry, host.store, 2)
    run(host, "rollback", second.name)
    host.write_settings(f'[[models]]\nname = "{second.name}@{second.digest}"')

    with host:
        eventually(lambda: host.model(f"{second.name}@{second.digest}")["state"] == "failing")
        assert f"is pinned to {first.digest} by a rollback" in host.model(f"{second.name}@{second.digest}")["reason"]
        assert visible(host.store) == {first.name: first.digest}
        run(host, "unpin", second.name)
        eventually(lambda: visible(host.store) == {second.name: second.digest})


async def test_a_pin_that_cannot_be_read_keeps_the_model_as_it_is_until_it_is_released(
    registry: ScriptedRegistry, host: RunningDaemon
) -> None:
    first, second = await versions(registry, host.store, 2)
    run(host, "rollback", second.name)
    (hold,) = (host.store / ".syncd" / "state").glob("hold-*.json")
    hold.write_bytes(b"{")

    assert "cannot be read" in refused(host, "pull", second.name, code=6)
    assert visible(host.store) == {first.name: first.digest}
    assert told(host, "unpin", second.name)["released"][0]["digest"] is None
    run(host, "pull", second.name)
    assert visible(host.store) == {second.name: second.digest}
