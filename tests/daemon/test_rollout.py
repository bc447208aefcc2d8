"""New versions reach the servers one after another: real stores, real pulls, stand-ins for Ollama on real sockets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.store.root import Store
from tests.daemon.servers import instance, life, settings, stand_ins, traffic
from tests.pull.world import blob_file
from tests.support.models import build_model
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


def weights(handle: ModelHandle) -> str:
    return blob_file(handle.weights)


async def test_a_new_model_is_proved_on_every_server(
    mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    wanted = settings(*(instance(f"gpu-{at}", server) for at, server in enumerate(servers)))
    async with life(store_path, wanted) as world:
        rollout = await world.rolled_out(mistral.name)

    assert dict(rollout.passed) == {"gpu-0": "proved", "gpu-1": "proved", "gpu-2": "proved"}
    assert all(server.requests("/api/generate", mistral.name) for server in servers)


async def test_changed_weights_go_from_server_to_server_and_nobody_meets_a_missing_model(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, servers: list[StandIn]
) -> None:
    wanted = settings(*(instance(f"gpu-{at}", server) for at, server in enumerate(servers)))
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


def load_of(server: StandIn) -> str:
    return server.loads[-1].weights
