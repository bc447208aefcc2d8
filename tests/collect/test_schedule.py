"""Collections by themselves, beside servers: real stores and pulls, stand-ins for Ollama on real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from syncd.daemon.collecting import Collecting
from syncd.daemon.integrity_settings import CollectInterval, CollectSettings
from syncd.daemon.servers_desk import DaemonServers
from syncd.instances.model import Prove, ReloadWay
from syncd.oci.digest import Digest
from syncd.store.root import Store
from tests.daemon.servers import World, instance, life, settings, stand_ins
from tests.pull.world import blob_file
from tests.support.models import build_model
from tests.support.ollama_servers import ask
from tests.support.registry import ModelHandle, ScriptedRegistry
from tests.support.standin import StandIn
from tests.unit.store_world import commit

pytestmark = pytest.mark.timeout(120)

HOUR = 3600.0
_PATIENCE = 40.0  # seconds


@pytest.fixture
def mistral(registry: ScriptedRegistry) -> ModelHandle:
    return registry.add(build_model("mistral:7b"))


@pytest.fixture
def server(store_path: Path) -> Iterator[StandIn]:
    with Store.open(store_path, create=True):
        pass
    with stand_ins(store_path, 1) as running:
        yield running[0]


@dataclass
class Scheduled:
    """``ahead``: seconds by which the collections' clock is ahead of the others'."""

    world: World
    servers: DaemonServers
    collecting: Collecting
    ahead: float = 2 * HOUR

    def pass_time(self, seconds: float) -> None:
        self.ahead += seconds
        self.collecting.poke()

    async def until(self, condition: object) -> None:
        assert callable(condition)
        await self.world.until(condition, seconds=_PATIENCE)

    @property
    def completed(self) -> float:
        return self.collecting.known.note.completed


@asynccontextmanager
async def scheduled(
    path: Path, server: StandIn, *, every: float | None = HOUR, patience: float = 10.0
) -> AsyncIterator[Scheduled]:
    """The daemon's parts that matter here. The server is never told to unload anything.

    ``patience``: seconds until it counts as one that does not answer.
    """
    wanted = settings(instance("gpu-0", server, reload=ReloadWay.NONE, prove=Prove.NEVER), timeout=patience)
    schedule = CollectSettings(every=None if every is None else CollectInterval(every))
    wanted = msgspec.structs.replace(wanted, collect=schedule)
    async with life(path, wanted) as world:
        servers = DaemonServers(world.fleet, world.rollouts)
        made: list[Scheduled] = []
        collecting = Collecting(
            world.store, world.given, servers, clock=lambda: time.time() + made[0].ahead, try_again=0.2
        )
        made.append(Scheduled(world, servers, collecting))
        async with asyncio.TaskGroup() as group:
            service = group.create_task(collecting.run(), name="collections")
            try:
                yield made[0]
            finally:
                service.cancel()


async def test_a_replaced_version_stays_until_no_server_has_it_loaded(
    registry: ScriptedRegistry, mistral: ModelHandle, store_path: Path, server: StandIn
) -> None:
    old = store_path / "blobs" / blob_file(mistral.weights)
    async with scheduled(store_path, server) as life:
        life.ahead = 0.0  # else a collection takes a running pull's temporary files for old ones
        await life.world.rolled_out(mistral.name)
        answer = await asyncio.to_thread(ask, server, "/api/generate", {"model": mistral.name, "keep_alive": -1})
        assert answer.status == 200
        newer = registry.add(build_model("mistral:7b", seed=2))
        await life.world.rolled_out(newer.name)
        await life.until(lambda: life.servers.loaded() == {Digest.parse(mistral.digest)})
        before = life.completed
        life.pass_time(2 * HOUR)
        await life.until(lambda: life.completed > before)
        assert old.exists()

        server.restart()
        await life.until(lambda: not life.servers.loaded() and not life.servers.busy())
        life.pass_time(2 * HOUR)

        await life.until(lambda: not old.exists())
        await life.until(lambda: life.collecting.info().freed >= mistral.blobs[mistral.weights].size)


async def test_a_server_that_starts_puts_a_collection_off(store_path: Path, server: StandIn) -> None:
    with Store.open(store_path, create=False) as store:
        orphan = store.path / "blobs" / blob_file(str(commit(store, b"orphan").digest))
    server.stop()
    async with scheduled(store_path, server) as life:
        await life.until(lambda: any("about to start" in why for why in life.collecting.info().waiting))
        assert orphan.exists()
        assert life.completed == 0

        server.start()

        await life.until(lambda: not orphan.exists())
        await life.until(lambda: life.completed > 0)
        assert life.collecting.info().waiting == ()


async def test_while_a_server_does_not_answer_no_blob_goes(store_path: Path, server: StandIn) -> None:
    with Store.open(store_path, create=False) as store:
        orphan = store.path / "blobs" / blob_file(str(commit(store, b"orphan").digest))
    server.hang()
    async with scheduled(store_path, server, patience=2.0) as life:
        await life.until(lambda: any("nobody knows what gpu-0" in why for why in life.collecting.info().waiting))
        assert orphan.exists()

        server.heal()

        await life.until(lambda: not orphan.exists())


async def test_what_a_server_had_loaded_before_it_hung_counts_as_loaded(
    mistral: ModelHandle, store_path: Path, server: StandIn
) -> None:
    async with scheduled(store_path, server, every=None, patience=2.0) as life:
        await life.world.rolled_out(mistral.name)
        await asyncio.to_thread(ask, server, "/api/generate", {"model": mistral.name, "keep_alive": -1})
        await life.until(life.servers.loaded)
        server.hang()

        await life.until(life.servers.busy)

        assert life.servers.loaded() == {Digest.parse(mistral.digest)}


async def test_while_a_model_is_brought_to_the_servers_they_are_busy(
    mistral: ModelHandle, store_path: Path, server: StandIn
) -> None:
    async with scheduled(store_path, server, every=None) as life:
        await life.until(lambda: not life.servers.busy())
        await life.world.pulled(mistral.name)

        assert any("is being brought to the servers" in why for why in life.servers.busy())

        await life.until(lambda: not life.servers.busy())


async def test_without_a_schedule_nothing_goes_and_status_says_what_would(store_path: Path, server: StandIn) -> None:
    with Store.open(store_path, create=False) as store:
        orphan = store.path / "blobs" / blob_file(str(commit(store, b"orphan").digest))
    async with scheduled(store_path, server, every=None) as life:
        await life.until(lambda: life.collecting.info().reclaimable == len(b"orphan"))

    assert orphan.exists()
    assert life.collecting.info().every is None


async def test_a_clock_that_was_set_back_by_years_stops_no_collection(store_path: Path, server: StandIn) -> None:
    async with scheduled(store_path, server) as life:
        life.ahead = 10 * 365 * 24 * HOUR
        life.collecting.poke()
        await life.until(lambda: life.completed > time.time() + 365 * 24 * HOUR)

        life.ahead = 2 * HOUR
        life.collecting.poke()
        await life.until(lambda: 0 < life.completed < time.time() + 3 * HOUR)
