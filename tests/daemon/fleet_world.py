"""What the tests of the fleet share: a store, stand-ins that read it, and the fleet that watches them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from syncd.api.v1 import Event
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.fleet import Fleet
from syncd.daemon.loaded import Loaded
from syncd.daemon.server_settings import (
    DeepProbeInterval,
    InstanceSettings,
    ProbeInterval,
    ProbeSettings,
    ProbeTimeout,
    ProofTimeout,
    ReloadSettings,
    ServerUrl,
)
from syncd.daemon.settings import Settings
from syncd.instances.model import Instance, Prove
from syncd.instances.ollama import Reason
from syncd.instances.probe import Cell, Level, Row, Word
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.root import Store
from tests.daemon.world import Given
from tests.support import ollama_store
from tests.support.models import Model, build_model
from tests.support.standin import StandIn

WEIGHTS = 64 * 1024  # bytes
MISTRAL = build_model("mistral:7b", WEIGHTS)
LLAMA = build_model("llama3.2:3b", WEIGHTS)
EMBED = build_model("nomic-embed-text:v1.5", WEIGHTS)


def instance(name: str, url: str, *, prove: Prove = Prove.IDLE) -> InstanceSettings:
    return InstanceSettings(name=name, url=ServerUrl.parse(url), prove=prove)


def probes(
    *, every: float = 0.1, deep_every: float = 30.0, timeout: float = 10.0, proof_timeout: float = 30.0
) -> ProbeSettings:
    """Looks faster than settings may ask for; servers have the time that they take on a busy machine."""
    return ProbeSettings(
        every=ProbeInterval(every),
        deep_every=DeepProbeInterval(deep_every),
        timeout=ProbeTimeout(timeout),
        proof_timeout=ProofTimeout(proof_timeout),
    )


def hex_of(model: Model) -> str:
    return model.digest.removeprefix("sha256:")


@dataclass
class FleetWorld:
    """A fleet that runs, and what it was heard to do."""

    store: Store
    fleet: Fleet
    settings: Given
    probed: list[tuple[str, Level, Reason | None]]
    started: list[str]
    events: list[Event]

    def put(self, *instances: InstanceSettings, probing: ProbeSettings | None = None) -> None:
        before = self.settings.current.settings
        now = msgspec.structs.replace(before, instances=instances, probes=probing or before.probes)
        self.settings.current = Loaded(now)
        self.settings.revision += 1
        self.settings._news.set()

    def publish(self, model: Model, name: str | None = None) -> None:
        """As a pull does: the manifest, its history, and the news."""
        known = ModelName.parse(name or model.name)
        publish(self.store, model, name)
        self.fleet.published(known)

    def row(self, name: str = "one") -> Row:
        return next(row for row in self.fleet.matrix() if row.instance.name == name)

    def cell(self, model: Model | str = MISTRAL, server: str = "one") -> Cell:
        wanted = ModelName.parse(model if isinstance(model, str) else model.name)
        return next(one for one in self.row(server).cells if one.model == wanted)

    def word(self, model: Model | str = MISTRAL, server: str = "one") -> Word | None:
        try:
            return self.cell(model, server).word
        except StopIteration:
            return None

    def served(self, model: Model | str = MISTRAL, server: str = "one") -> bool:
        return self.word(model, server) is not None and self.cell(model, server).served

    async def becomes(self, word: Word, model: Model | str = MISTRAL, server: str = "one") -> Cell:
        await self.until(lambda: self.word(model, server) is word)
        return self.cell(model, server)

    async def until(self, is_so: Callable[[], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, self.fleet.matrix()
            await asyncio.sleep(0.01)

    async def looks(self, server: str = "one", count: int = 2) -> None:
        """Wait for so many more looks, the first of which may have begun already."""
        before = self.count(Level.LOOK, server)
        await self.until(lambda: self.count(Level.LOOK, server) >= before + count)

    def count(self, level: Level, server: str = "one") -> int:
        return sum((name, kind) == (server, level) for name, kind, _ in self.probed)


def publish(store: Store, model: Model, name: str | None = None) -> None:
    known = ModelName.parse(name or model.name)
    ollama_store.put(store.path, model, name)
    store.models.remember(known, Manifest.parse(model.manifest), "a test", time.time())


@asynccontextmanager
async def fleet(
    path: Path,
    *instances: InstanceSettings,
    models: tuple[Model, ...] = (MISTRAL,),
    probing: ProbeSettings | None = None,
    held: Callable[[str, ModelName], bool] = lambda _instance, _model: False,
) -> AsyncIterator[FleetWorld]:
    with Store.open(path, create=True) as store:
        for model in models:
            publish(store, model)
        reload = ReloadSettings(max_unavailable=1)
        settings = Given(Loaded(Settings(instances=instances, probes=probing or probes(), reload=reload)))
        probed: list[tuple[str, Level, Reason | None]] = []
        started: list[str] = []
        events: list[Event] = []
        chronicle = Chronicle(time.time)

        def heard(instance: str, level: Level, seconds: float, reason: Reason | None) -> None:
            assert seconds >= 0
            probed.append((instance, level, reason))

        def greeted(instance: Instance) -> None:
            started.append(instance.name)

        fleet = Fleet(store=store, settings=settings, chronicle=chronicle, on_probe=heard, on_start=greeted, held=held)
        world = FleetWorld(store, fleet, settings, probed, started, events)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fleet.run()), group.create_task(_listen(chronicle, events))]
            try:
                yield world
            finally:
                for task in tasks:
                    task.cancel()


@asynccontextmanager
async def one_server(
    path: Path,
    *,
    models: tuple[Model, ...] = (MISTRAL,),
    prove: Prove = Prove.IDLE,
    probing: ProbeSettings | None = None,
    held: Callable[[str, ModelName], bool] = lambda _instance, _model: False,
    **settings: object,
) -> AsyncIterator[tuple[FleetWorld, StandIn]]:
    with Store.open(path, create=True):
        pass
    with StandIn(path, **settings) as server:
        named = instance("one", server.url, prove=prove)
        async with fleet(path, named, models=models, probing=probing, held=held) as world:
            yield world, server


async def _listen(chronicle: Chronicle, events: list[Event]) -> None:
    async for event in chronicle.follow():
        events.append(event)  # noqa: PERF401 - it has no end
