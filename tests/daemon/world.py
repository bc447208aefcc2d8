"""What the tests of the reconcile share: a store, a board, a registry and the reconcile over them, as in a daemon."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from syncd.api.v1 import DesiredModel, Event
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.followed import Times
from syncd.daemon.loaded import Loaded
from syncd.daemon.memory import Memory
from syncd.daemon.reconcile import Reconcile
from syncd.daemon.settings import ModelSettings, Settings, UpdateInterval, UpdateSettings
from syncd.daemon.units import Window
from syncd.jobs.board import Board
from syncd.jobs.known import KnownManifests
from syncd.jobs.pins import Pins
from syncd.jobs.pull import pull
from syncd.oci.name import Reference
from syncd.store.root import Store
from tests.pull.world import means

HOUR = 3600.0


def model(name: str, *, every: float = 6 * HOUR, window: Window | None = None, apply: str = "auto") -> ModelSettings:
    update = msgspec.convert({"apply": apply}, UpdateSettings)
    update = msgspec.structs.replace(update, every=UpdateInterval(every), window=window)
    return ModelSettings(name=Reference.parse(name), update=update)


@dataclass
class Given:
    """Settings that a test puts in force."""

    current: Loaded
    revision: int = 1
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def changed(self, after: int) -> int:
        while self.revision <= after:
            self._news.clear()
            await self._news.wait()
        return self.revision

    def put(self, *models: ModelSettings, prune: bool = False) -> None:
        self.current = loaded(models, prune=prune)
        self.revision += 1
        self._news.set()


def loaded(models: Iterable[ModelSettings], *, prune: bool = False) -> Loaded:
    return Loaded(Settings(models=tuple(models), prune=prune))


@dataclass
class Clock:
    """Real time, that a test sets forward; ``second``: of the day, which stands still."""

    ahead: float = 0.0
    jumped: float = 0.0
    second: float = 12 * HOUR

    def times(self) -> Times:
        return Times(
            monotonic=lambda: time.monotonic() + self.ahead,
            wall=lambda: time.time() + self.ahead + self.jumped,
            second=lambda _: self.second,
            random=lambda: 0.5,
        )


@dataclass
class World:
    """One life of a daemon's core."""

    store: Store
    board: Board
    reconcile: Reconcile
    settings: Given
    clock: Clock
    events: list[Event]

    def shown(self, name: str) -> DesiredModel:
        return next(one for one in self.reconcile.desired() if one.name.startswith(name))

    def forward(self, seconds: float) -> None:
        self.clock.ahead += seconds
        self.reconcile.poke()

    def told(self, event: str) -> list[Event]:
        return [one for one in self.events if one.event == event]

    async def becomes(self, name: str, state: str, *, seconds: float = 60.0) -> DesiredModel:
        await self.until(lambda: self.shown(name).state == state, seconds=seconds)
        return self.shown(name)

    async def until(self, condition: Callable[[], object], *, seconds: float = 60.0) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"it did not happen: {self.reconcile.desired()}") from None

    async def quiet(self, seconds: float = 0.7) -> None:
        """Long enough for anything that should not happen to happen."""
        await asyncio.sleep(seconds)


@asynccontextmanager
async def daemon(
    path: Path, *models: ModelSettings, clock: Clock | None = None, prune: bool = False
) -> AsyncIterator[World]:
    """The daemon's core over the store at ``path``."""
    clock = clock or Clock()
    times = clock.times()
    with Store.open(path, create=True) as store:
        async with means(store) as found:
            everything = replace(found, registry=KnownManifests(found.registry, store, Pins()))
            settings = Given(loaded(models, prune=prune))
            chronicle = Chronicle(times.wall)
            memory = Memory(store.state, clock=times.wall)
            parts: list[Reconcile] = []
            async with asyncio.TaskGroup() as jobs, asyncio.TaskGroup() as services:
                board = Board(
                    lambda reference, report: pull(reference, everything, report),
                    jobs,
                    clock=times.wall,
                    new_id=lambda: secrets.token_hex(4),
                    notes=memory.jobs,
                    on_change=lambda view: parts[0].job_changed(view),  # noqa: PLW0108 - it is made below
                )
                reconcile = Reconcile(
                    store=store,
                    board=board,
                    settings=settings,
                    memory=memory,
                    resolve=everything.registry.manifest,
                    chronicle=chronicle,
                    times=times,
                )
                parts.append(reconcile)
                world = World(store, board, reconcile, settings, clock, [])
                tasks = [services.create_task(reconcile.run()), services.create_task(_listen(chronicle, world.events))]
                try:
                    yield world
                finally:
                    board.close()
                    await asyncio.sleep(0)  # jobs may have ended before their followers are told to
                    for task in tasks:
                        task.cancel()


async def _listen(chronicle: Chronicle, events: list[Event]) -> None:
    async for event in chronicle.follow():
        events.append(event)  # noqa: PERF401 - it has no end
