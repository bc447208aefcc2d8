"""What the tests of rollouts share: a store, real pulls into it, and stand-ins for Ollama that read it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
from prometheus_client import CollectorRegistry

from syncd.api.v1 import Event
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.fleet import Fleet
from syncd.daemon.loaded import Loaded
from syncd.daemon.memory import Memory
from syncd.daemon.rollout import Rollouts
from syncd.daemon.server_settings import (
    InstanceSettings,
    ProbeInterval,
    ProbeSettings,
    ProbeTimeout,
    ProofTimeout,
    ReloadSettings,
    ServerUrl,
    Settle,
)
from syncd.daemon.settings import ModelSettings, Settings
from syncd.daemon.telemetry_rollout import RolloutTelemetry
from syncd.instances.model import Prove, ReloadWay
from syncd.jobs.board import Board, JobState, JobView
from syncd.jobs.pull import pull
from syncd.jobs.rollout import Rollout, State
from syncd.oci.name import ModelName, Reference
from syncd.store.root import Store
from tests.daemon.world import Given
from tests.pull.world import means, model_name
from tests.support.models import Model, model_from
from tests.support.standin import StandIn

SETTLE = 0.2


def variant(model: Model, template: str) -> Model:
    """The same weights with another template."""
    weights = model.blobs[model.weights]
    return model_from(model.name, [("model", weights), ("template", template.encode())])


@dataclass
class Containers:
    """An Engine whose containers are stand-ins, by name."""

    servers: dict[str, StandIn]
    restarted: list[str] = field(default_factory=list)
    signalled: list[tuple[str, str]] = field(default_factory=list)

    async def restart(self, container: str, timeout: float) -> None:  # noqa: ARG002 - as the Engine has it
        self.restarted.append(container)
        self.servers[container].restart()

    async def signal(self, container: str, name: str) -> None:
        self.signalled.append((container, name))
        self.servers[container].restart()


def instance(
    name: str,
    server: StandIn,
    *,
    reload: ReloadWay = ReloadWay.AUTO,
    prove: Prove = Prove.IDLE,
    prewarm: bool = False,
    exec_: tuple[str, ...] | None = None,
) -> InstanceSettings:
    return InstanceSettings(
        name=name, url=ServerUrl(server.url), container=name, reload=reload, prove=prove, prewarm=prewarm, exec=exec_
    )


def settings(
    *instances: InstanceSettings,
    models: Sequence[ModelSettings] = (),
    at_once: int = 1,
    settle: float = SETTLE,
    timeout: float = 10.0,
    proof_timeout: float = 30.0,
) -> Settings:
    return Settings(
        models=tuple(models),
        instances=instances,
        probes=ProbeSettings(
            every=ProbeInterval(1.0), timeout=ProbeTimeout(timeout), proof_timeout=ProofTimeout(proof_timeout)
        ),
        reload=ReloadSettings(max_unavailable=at_once, settle=Settle(settle)),
    )


@dataclass
class World:
    """One life of what brings models to servers."""

    store: Store
    board: Board
    fleet: Fleet
    rollouts: Rollouts
    given: Given
    telemetry: CollectorRegistry
    events: list[Event] = field(default_factory=list)

    async def pulled(self, name: str, *, by: str = "a test") -> None:
        job = self.board.pull(Reference.parse(name), asked_by=by)
        view = job.view
        async with asyncio.timeout(60):
            while view.state is JobState.RUNNING:
                view = await job.changed(view.revision)
        assert view.state is JobState.DONE, view.error

    def rollout(self, name: str) -> Rollout | None:
        return self.rollouts.book.of(model_name(name))

    def passed(self, name: str) -> list[str]:
        found = self.rollout(name)
        return list(found.passed) if found else []

    async def ends(self, name: str, state: State, *, seconds: float = 60.0) -> Rollout:
        """The model's rollout comes to this end."""
        await self.until(lambda: (one := self.rollout(name)) is not None and one.state is state, seconds=seconds)
        found = self.rollout(name)
        assert found is not None
        return found

    async def rolled_out(self, name: str) -> Rollout:
        """Pull, and wait until all servers have it."""
        await self.pulled(name)
        return await self.ends(name, State.DONE)

    async def until(self, condition: Callable[[], object], *, seconds: float = 60.0) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"it did not happen: {self.rollouts.book.all()} {self.told()}") from None

    def told(self, event: str = "rollout") -> list[tuple[str, str | None]]:
        return [(one.event, one.detail) for one in self.events if one.event.startswith(event)]

    def metric(self, name: str, **labels: str) -> float:
        return self.telemetry.get_sample_value(name, labels) or 0.0

    def name(self, name: str) -> ModelName:
        return model_name(name)


@asynccontextmanager
async def life(path: Path, wanted: Settings, *, engine: Containers | None = None) -> AsyncIterator[World]:
    """One life of the daemon's part that brings models to servers, over the store at ``path``."""
    with Store.open(path, create=True) as store:
        async with means(store) as everything:
            given = Given(Loaded(wanted))
            chronicle = Chronicle(time.time)
            registry = CollectorRegistry()
            parts: list[Rollouts] = []
            fleet = Fleet(
                store=store,
                settings=given,
                chronicle=chronicle,
                on_start=lambda one: parts[0].server_started(one),  # noqa: PLW0108 - it is made below
                held=lambda instance, model: parts[0].held(instance, model),  # noqa: PLW0108 - likewise
            )
            rollouts = Rollouts(
                store=store,
                servers=fleet,
                engine=lambda: engine,
                settings=given,
                chronicle=chronicle,
                telemetry=RolloutTelemetry(registry),
                clock=time.time,
            )
            parts.append(rollouts)
            telling = replace(everything, before_publish=rollouts.before_publish)

            def changed(view: JobView) -> None:
                rollouts.job_changed(view)
                if view.state is not JobState.RUNNING:
                    fleet.published(view.reference.name)

            async with asyncio.TaskGroup() as jobs, asyncio.TaskGroup() as services:
                board = Board(
                    lambda reference, report: pull(reference, telling, report),
                    jobs,
                    clock=time.time,
                    new_id=lambda: secrets.token_hex(4),
                    notes=Memory(store.state, clock=time.time).jobs,
                    on_change=changed,
                )
                world = World(store, board, fleet, rollouts, given, registry)
                tasks = [
                    services.create_task(fleet.run()),
                    services.create_task(rollouts.run()),
                    services.create_task(_listen(chronicle, world.events)),
                ]
                try:
                    yield world
                finally:
                    board.close()
                    for task in tasks:
                        task.cancel()


async def _listen(chronicle: Chronicle, events: list[Event]) -> None:
    async for event in chronicle.follow():
        events.append(event)  # noqa: PERF401 - it has no end


@dataclass
class Traffic:
    """Requests that come in all the time. ``statuses``: of the answers, 0 for a broken connection."""

    statuses: list[int] = field(default_factory=list)

    @property
    def failed(self) -> list[int]:
        return [status for status in self.statuses if status != 200]


@asynccontextmanager
async def traffic(servers: Sequence[StandIn], name: str) -> AsyncIterator[Traffic]:
    """One request after another to each of these servers, for as long as it is entered."""
    seen = Traffic()

    async def ask(session: aiohttp.ClientSession, server: StandIn) -> None:
        body = {"model": name, "prompt": "hello", "stream": False}
        while True:
            try:
                async with session.post(f"{server.url}/api/generate", json=body) as answer:
                    await answer.read()
                    seen.statuses.append(answer.status)
            except aiohttp.ClientError:
                seen.statuses.append(0)
            await asyncio.sleep(0.01)

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(session, server)) for server in servers]
        try:
            yield seen
        finally:
            for task in tasks:
                task.cancel()


@contextmanager
def stand_ins(path: Path, number: int) -> Iterator[list[StandIn]]:
    """So many servers over one store."""
    with ExitStack() as stack:
        yield [stack.enter_context(StandIn(path, prune=False)) for _ in range(number)]
