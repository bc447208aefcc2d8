"""New versions reach the servers one after another: real stores, real pulls, stand-ins for Ollama on real sockets."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncd.api import v1
from syncd.daemon.server_settings import InstanceSettings
from syncd.daemon.settings import ModelSettings
from syncd.errors import NotFoundError
from syncd.instances.model import Prove, ReloadWay
from syncd.jobs.rollout import State
from syncd.oci.digest import Digest
from syncd.oci.name import Reference
from syncd.store.root import Store
from tests.daemon.servers import Containers, instance, life, settings, stand_ins, traffic, variant
from tests.pull.world import blob_file, model_name
from tests.support.models import build_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry
from tests.support.standin import StandIn


@pytest.fixture
def mistral(registry: ScriptedRegistry) -> ModelHandle:
    return registry.add(build_model("mistral:7b"))


@pytest.fixture
def servers(store_path: Path) -> Iterator[list[StandIn]]:
    with Store.open(store_path, create=True):
        pass
    with stand_ins(store_path, 3) as running:
        yield running


def instances(servers: list[StandIn], **more: Any) -> list[InstanceSettings]:
    return [instance(f"gpu-{at}", server, **more) for at, server in enumerate(servers)]


def weights(handle: ModelHandle) -> str:
    return blob_file(handle.weights)


def load_of(server: StandIn) -> str:
    return server.loads[-1].weights


async def test_a_new_model_is_proved_on_every_server(
    mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    wanted = settings(*instances(servers))
    async with life(store_path, wanted) as world:
        rollout = await world.rolled_out(mistral.name)

    assert dict(rollout.passed) == {"gpu-0": "proved", "gpu-1": "proved", "gpu-2": "proved"}
    assert all(server.requests("/api/generate", mistral.name) for server in servers)


async def test_changed_weights_go_from_server_to_server_and_nobody_meets_a_missing_model(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    wanted = settings(*instances(servers))
    async with life(store_path, wanted) as world:
        await world.rolled_out(mistral.name)
        newer = registry.add(build_model("mistral:7b", seed=2))
        async with traffic(servers, mistral.name) as seen:
            await world.until(lambda: len(seen.statuses) > 10)
            rollout = await world.rolled_out(newer.name)
            await world.until(lambda: all(load_of(server) == weights(newer) for server in servers))

    assert not seen.failed
    assert set(rollout.passed.values()) == {"proved"}
    assert all(weights(mistral) in server.unloads for server in servers)


# A failure


async def test_the_first_servers_failure_brings_the_old_version_back_and_refuses_the_new_one(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    async with life(store_path, settings(*instances(servers))) as world:
        await world.rolled_out(mistral.name)
        newer = registry.add(build_model("mistral:7b", seed=2))
        servers[0].empty_answers(mistral.name)
        await world.pulled(newer.name)

        rollout = await world.ends(newer.name, State.REVERTED)
        servers[0].heal()
        await world.until(lambda: load_of(servers[1]) == weights(mistral))

        assert list(rollout.failed) == ["gpu-0"]
        assert assert_store_whole(store_path) == {mistral.name: mistral.digest}
        assert world.rollouts.refused(model_name(newer.name), Digest.parse(newer.digest))
        assert world.rollouts.refused(model_name(newer.name), Digest.parse(mistral.digest)) is None
        assert weights(newer) not in [load.weights for server in servers[1:] for load in server.loads]

        await world.rolled_out(newer.name)  # an operator insists

    assert assert_store_whole(store_path) == {newer.name: newer.digest}


async def test_what_is_refused_stays_so_in_the_next_life(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    newest = build_model("mistral:7b", seed=2)
    async with life(store_path, settings(*instances(servers))) as world:
        await world.rolled_out(mistral.name)
        servers[0].fail_load(mistral.name)
        newer = registry.add(newest)
        await world.pulled(newer.name)
        await world.ends(newer.name, State.REVERTED)

    async with life(store_path, settings(*instances(servers))) as world:
        assert world.rollouts.refused(model_name(newer.name), Digest.parse(newer.digest))


async def test_a_failure_in_the_middle_halts_there_and_is_gone_on_with(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    async with life(store_path, settings(*instances(servers))) as world:
        await world.rolled_out(mistral.name)
        newer = registry.add(build_model("mistral:7b", seed=2))
        servers[1].fail_load(mistral.name)
        await world.pulled(newer.name)

        rollout = await world.ends(newer.name, State.HALTED)
        assert (list(rollout.passed), list(rollout.failed), rollout.waiting) == (["gpu-0"], ["gpu-1"], ("gpu-2",))
        assert "gpu-1: " in (rollout.reason or "")
        assert assert_store_whole(store_path) == {newer.name: newer.digest}, "others serve it"

        servers[1].heal()
        servers[0].forget()
        lines = [line async for line in await world.rollouts.ask(v1.ReloadRequest(resume=True), by="a test")]
        await world.ends(newer.name, State.DONE)

    assert [(line.instance, line.result) for line in lines if isinstance(line, v1.ReloadTried)] == [
        ("gpu-1", "proved"),
        ("gpu-2", "proved"),
    ]
    assert not servers[0].loads, "who had passed is left alone"


async def test_the_next_life_goes_on_with_a_rollout(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    async with life(store_path, settings(*instances(servers))) as world:
        await world.rolled_out(mistral.name)
        newer = registry.add(build_model("mistral:7b", seed=2))
        servers[1].slow_load(30.0, mistral.name, times=1)
        await world.pulled(newer.name)
        await world.until(lambda: world.passed(newer.name) == ["gpu-0"])
        await world.until(lambda: servers[1].requests("/api/generate", mistral.name)[-1].status == 0)

    servers[1].restart()
    async with life(store_path, settings(*instances(servers))) as world:
        await world.ends(newer.name, State.DONE)

    assert all(load_of(server) == weights(newer) for server in servers)


async def test_a_server_that_hangs_halts_the_rollout_and_speaks_not_against_the_version(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    async with life(store_path, settings(*instances(servers), timeout=2.0, proof_timeout=5.0)) as world:
        await world.rolled_out(mistral.name)
        newer = registry.add(build_model("mistral:7b", seed=2))
        servers[0].hang()
        await world.pulled(newer.name)

        rollout = await world.ends(newer.name, State.HALTED)

    assert (list(rollout.passed), list(rollout.failed)) == (["gpu-1", "gpu-2"], ["gpu-0"]), "who is well goes first"
    assert assert_store_whole(store_path) == {newer.name: newer.digest}


async def test_a_new_model_that_no_server_can_serve_halts_and_stays(
    mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    servers[0].fail_load()
    async with life(store_path, settings(*instances(servers))) as world:
        await world.pulled(mistral.name)
        await world.ends(mistral.name, State.HALTED)

    assert assert_store_whole(store_path) == {mistral.name: mistral.digest}


async def test_a_new_model_waits_for_no_server_that_is_down_and_is_proved_there_when_it_comes_up(
    mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    for server in servers[1:]:
        server.stop()
    async with life(store_path, settings(*instances(servers))) as world:
        await world.pulled(mistral.name)
        rollout = await world.ends(mistral.name, State.DONE)
        assert (list(rollout.passed), dict(rollout.failed), rollout.waiting) == (["gpu-0"], {}, ())

        for server in servers[1:]:
            server.start()
        await world.until(lambda: all(server.requests("/api/generate", mistral.name) for server in servers))


async def test_an_update_halts_at_a_server_that_is_down(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    async with life(store_path, settings(*instances(servers))) as world:
        await world.rolled_out(mistral.name)
        servers[1].stop()
        newer = registry.add(build_model("mistral:7b", seed=2))
        await world.pulled(newer.name)

        rollout = await world.ends(newer.name, State.HALTED)

    assert (list(rollout.passed), list(rollout.failed)) == (["gpu-0", "gpu-2"], ["gpu-1"]), "who is well goes first"


async def test_a_newer_version_overtakes_the_one_that_is_on_its_way(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    async with life(store_path, settings(*instances(servers))) as world:
        await world.rolled_out(mistral.name)
        second = registry.add(build_model("mistral:7b", seed=2))
        servers[1].slow_load(1.5, mistral.name, times=1)
        await world.pulled(second.name)
        await world.until(lambda: world.passed(second.name) == ["gpu-0"])
        third = registry.add(build_model("mistral:7b", seed=3))
        await world.pulled(third.name)

        rollout = await world.ends(third.name, State.DONE)

    assert rollout.digest == Digest.parse(third.digest)
    assert not [event for event in world.told() if event[0] in {"rollout.halted", "rollout.reverted"}]
    assert all(load_of(server) == weights(third) for server in servers)


# What changed, and how


async def test_a_change_of_the_template_alone_reloads_nothing(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    async with life(store_path, settings(*instances(servers))) as world:
        await world.rolled_out(mistral.name)
        for server in servers:
            server.forget()
        newer = registry.add(variant(build_model("mistral:7b"), "{{ .Prompt }}!"))
        rollout = await world.rolled_out(newer.name)

    assert (rollout.change, set(rollout.passed.values())) == ("text", {"proved"})
    assert not any(server.loads or server.unloads for server in servers)


async def test_several_updates_make_one_rollout(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    nomic = registry.add(build_model("nomic-embed-text:v1.5"))
    engine = Containers({f"gpu-{at}": server for at, server in enumerate(servers)})
    wanted = settings(*instances(servers, reload=ReloadWay.RESTART, prove=Prove.ALWAYS), settle=1.5)
    async with life(store_path, wanted, engine=engine) as world:
        await asyncio.gather(world.rolled_out(mistral.name), world.rolled_out(nomic.name))
        assert not engine.restarted, "what is new needs no restart"
        newer = [registry.add(build_model(name, seed=2)) for name in ("mistral:7b", "nomic-embed-text:v1.5")]
        await asyncio.gather(*(world.pulled(one.name) for one in newer))
        for one in newer:
            await world.ends(one.name, State.DONE)

    assert engine.restarted == ["gpu-0", "gpu-1", "gpu-2"], "once each, one after another"
    for server in servers:
        assert {weights(one) for one in newer} <= {load.weights for load in server.loads}


async def test_a_signal_makes_a_server_begin_anew(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    engine = Containers({"gpu-0": servers[0]})
    async with life(store_path, settings(*instances(servers[:1], reload=ReloadWay.SIGNAL)), engine=engine) as world:
        await world.rolled_out(mistral.name)
        await world.rolled_out(registry.add(build_model("mistral:7b", seed=2)).name)

    assert engine.signalled == [("gpu-0", "SIGHUP")]


async def test_a_command_makes_a_server_begin_anew(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn], tmp_path: Path
) -> None:
    script = (sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'a').write('x')")
    one = instance("gpu-0", servers[0], reload=ReloadWay.EXEC, exec_=script)
    async with life(store_path, settings(one)) as world:
        await world.rolled_out(mistral.name)
        await world.rolled_out(registry.add(build_model("mistral:7b", seed=2)).name)

    assert (tmp_path / "ran").read_text() == "x"


async def test_a_command_that_fails_halts_and_its_words_are_told(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    script = (sys.executable, "-c", "import sys; sys.exit('no such unit')")
    one = instance("gpu-0", servers[0], reload=ReloadWay.EXEC, exec_=script)
    async with life(store_path, settings(one)) as world:
        await world.rolled_out(mistral.name)
        newer = registry.add(build_model("mistral:7b", seed=2))
        await world.pulled(newer.name)
        rollout = await world.ends(newer.name, State.HALTED)

    assert "exit code 1: no such unit" in (rollout.reason or "")
    assert assert_store_whole(store_path) == {newer.name: newer.digest}, "that is not the version's fault"


async def test_where_proofs_are_forbidden_serving_it_is_enough(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    async with life(store_path, settings(*instances(servers, prove=Prove.NEVER))) as world:
        await world.rolled_out(mistral.name)
        rollout = await world.rolled_out(registry.add(build_model("mistral:7b", seed=2)).name)

    assert set(rollout.passed.values()) == {"served"}
    assert not any(server.requests("/api/generate") for server in servers)


async def test_a_preloading_server_keeps_the_old_weights_until_they_expire(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    async with life(store_path, settings(*instances(servers[:1], reload=ReloadWay.PRELOAD))) as world:
        await world.rolled_out(mistral.name)
        newer = registry.add(build_model("mistral:7b", seed=2))
        await world.rolled_out(newer.name)

    assert load_of(servers[0]) == weights(newer)
    assert weights(mistral) not in servers[0].unloads


# Kept warm


async def test_what_is_kept_warm_is_loaded_after_the_start_and_after_a_restart(
    mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    kept = ModelSettings(name=Reference.parse(mistral.name), prewarm=True)
    wanted = settings(*instances(servers[:1], prove=Prove.NEVER), models=[kept])
    async with life(store_path, wanted) as world:
        await world.rolled_out(mistral.name)
        assert [load.weights for load in servers[0].loads] == [weights(mistral)]

        servers[0].restart()
        await world.until(lambda: len(servers[0].loads) == 2)

    servers[0].restart()
    async with life(store_path, wanted) as world:
        await world.until(lambda: world.told("server.prewarmed"))
        assert len(servers[0].loads) == 3


# An operator


async def test_an_operator_has_one_server_load_a_model_anew(
    mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    async with life(store_path, settings(*instances(servers))) as world:
        await world.rolled_out(mistral.name)
        for server in servers:
            server.forget()
        asked = v1.ReloadRequest(models=(mistral.name,), instances=("gpu-1",))
        lines = [line async for line in await world.rollouts.ask(asked, by="a test")]

    tried, ended = lines
    assert isinstance(tried, v1.ReloadTried)
    assert isinstance(ended, v1.ReloadEnded)
    assert (tried.instance, tried.result, ended.rollouts[0].state) == ("gpu-1", "proved", "done")
    assert [bool(server.unloads) for server in servers] == [False, True, False]
    assert len(servers[1].loads) == 1


async def test_an_operator_has_models_proved_again(
    mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    async with life(store_path, settings(*instances(servers))) as world:
        await world.rolled_out(mistral.name)
        for server in servers:
            server.forget()
        lines = [line async for line in await world.rollouts.ask(v1.ReloadRequest(prove=True), by="a test")]
        assert world.metric("syncd_reloads_total", action="prove", result="done") == 6

    assert [line.result for line in lines if isinstance(line, v1.ReloadTried)] == ["proved"] * 3
    assert all(server.requests("/api/generate") and not server.loads for server in servers)


@pytest.mark.parametrize(
    "asked",
    [
        v1.ReloadRequest(models=("nobody:1",)),
        v1.ReloadRequest(instances=("nobody",)),
        v1.ReloadRequest(resume=True),
    ],
)
async def test_what_is_not_there_cannot_be_reloaded(
    asked: v1.ReloadRequest, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    async with life(store_path, settings(*instances(servers[:1]))) as world:
        await world.rolled_out(mistral.name)
        with pytest.raises(NotFoundError):
            await world.rollouts.ask(asked, by="a test")
