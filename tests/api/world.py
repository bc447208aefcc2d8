"""A small honest daemon in this process: a real store, a real board, real pulls, and the API on real sockets."""

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from syncd.aio import in_thread, only_error
from syncd.api import pulls, v1
from syncd.api.connections import Limits
from syncd.api.listeners import Listeners, TcpDoor
from syncd.daemon.loaded import Loaded
from syncd.daemon.rules import rules_of
from syncd.jobs import remove, verify
from syncd.jobs.board import Board, Job, JobView, Work
from syncd.jobs.progress import PullOutcome, PullProgress
from syncd.jobs.pull import PullMeans, pull
from syncd.jobs.remove import Removal
from syncd.jobs.rules import Rules
from syncd.jobs.scrub_book import ScrubBook
from syncd.jobs.verify import Verification, VerifyProgress
from syncd.oci.name import ModelName, Reference
from syncd.registry.hosts import RegistryConfig
from syncd.store.root import Store
from tests.pull.world import means

VERSION = "0.0.test"
STARTED = "2026-01-01T00:00:00Z"


class NoNotes:
    """This daemon has no next life."""

    def begun(self, job: JobView) -> None:
        pass

    def ended(self, job: JobView) -> None:
        pass

    def parked(self, job: JobView) -> None:
        pass


@dataclass(frozen=True)
class SmallDesk:
    """What operations work with (``api.operation.Desk``), without settings; it reaches this machine alone."""

    store: Store
    by: str
    servers: None = None
    rules: Rules = field(default_factory=lambda: rules_of(Loaded()))
    told: list[ModelName] = field(default_factory=list)

    def now(self) -> float:
        return time.time()

    @property
    def scrubs(self) -> ScrubBook:
        return ScrubBook(self.store, clock=time.time, monotonic=time.monotonic)

    def wanted(self, name: ModelName) -> str | None:
        del name
        return None

    def pulling(self) -> AbstractAsyncContextManager[PullMeans]:
        return means(self.store)

    def changed(self, *names: ModelName) -> None:
        self.told.extend(names)


@dataclass
class SmallService:
    """What the API asks of a daemon (``api.ports.Service``), without settings. ``asked``: what, and by whom."""

    store: Store
    board: Board
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    insecure: list[bool] = field(default_factory=list)
    happening: list[asyncio.Queue[v1.Event]] = field(default_factory=list)
    pulls: int = 0

    def info(self) -> v1.DaemonInfo:
        return v1.DaemonInfo(
            version=VERSION, pid=os.getpid(), uid=os.geteuid(), store=str(self.store.path), started=STARTED
        )

    def status(self) -> v1.Status:
        settings = v1.SettingsInfo(files=(), loaded=STARTED, fault=None, needs_restart=())
        store = v1.StoreInfo(
            path=str(self.store.path), models=0, blobs=0, size=0, saved=0, free=0, broken=0, as_of=STARTED
        )
        jobs = tuple(pulls.job_info(job.view) for job in self.board.jobs())
        return v1.Status(daemon=self.info(), settings=settings, store=store, models=(), unmanaged=(), jobs=jobs)

    def pull(self, reference: Reference, *, by: str, insecure: bool = False) -> tuple[Job, bool]:
        self.asked.append(("pull", str(reference), by))
        self.insecure.append(insecure)
        before = {job.view.id for job in self.board.jobs()}
        job = self.board.pull(reference, asked_by=by)
        return job, job.view.id not in before

    async def remove(self, name: ModelName, *, by: str, dry_run: bool) -> Removal:
        self.asked.append(("remove", str(name), by))
        if dry_run:
            return await in_thread(remove.plan, self.store, name, time.time())
        return await remove.remove(self.store, name, now=time.time())

    async def verify(
        self, names: tuple[ModelName, ...] | None, *, by: str, on_progress: Callable[[VerifyProgress], None]
    ) -> Verification:
        self.asked.append(("verify", " ".join(map(str, names or ())), by))
        return await verify.verify(self.store, names, on_progress=on_progress)

    async def reload(self, asked: v1.ReloadRequest, *, by: str) -> AsyncIterator[v1.ReloadTried | v1.ReloadEnded]:
        self.asked.append(("reload", " ".join(asked.models or ()), by))
        for model in asked.models or ():
            ModelName.parse(model)

        async def lines() -> AsyncIterator[v1.ReloadTried | v1.ReloadEnded]:
            for model in asked.models or ():
                yield v1.ReloadTried(
                    "gpu-0", str(ModelName.parse(model)), "served", None, stale=False, stale_until=None
                )
            yield v1.ReloadEnded(())

        return lines()

    def desk(self, by: str) -> SmallDesk:
        self.asked.append(("desk", "", by))
        return SmallDesk(self.store, by)

    async def events(self) -> AsyncIterator[v1.Event]:
        queue: asyncio.Queue[v1.Event] = asyncio.Queue()
        self.happening.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.happening.remove(queue)

    def announce(self, event: str) -> None:
        for queue in self.happening:
            queue.put_nowait(v1.Event(event=event, time=STARTED))


@dataclass
class World:
    """A running daemon. ``socket``: its control socket; ``address``: ``127.0.0.1:PORT`` of its TCP listener."""

    service: SmallService
    listeners: Listeners
    socket: Path

    @property
    def address(self) -> str:
        assert self.listeners.tcp_address is not None
        host, port = self.listeners.tcp_address
        return f"{host}:{port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"


@asynccontextmanager
async def over_unix(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the control socket."""
    connector = aiohttp.UnixConnector(path=str(world.socket), limit=0)
    async with aiohttp.ClientSession("http://syncd", connector=connector) as session:
        yield session


@asynccontextmanager
async def over_tcp(world: World, **headers: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the TCP listener."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession(world.url, headers=named) as session:
        yield session


async def lines(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """All lines of a stream."""
    return [json.loads(line) async for line in response.content]


def loopback(token: str | None = None, allowed_hosts: tuple[str, ...] = ()) -> TcpDoor:
    return TcpDoor("127.0.0.1", 0, token, allowed_hosts)


@contextmanager
def unwrapped() -> Iterator[None]:
    """A test's own failure, out of the task group around it."""
    try:
        yield
    except BaseExceptionGroup as errors:
        raise only_error(errors, ()) from None


@asynccontextmanager
async def daemon(
    folder: Path,
    *,
    door: TcpDoor | None = None,
    limits: Limits | None = None,
    configs: dict[str, RegistryConfig] | None = None,
    work: Work | None = None,
) -> AsyncIterator[World]:
    """A daemon with its store and its socket in ``folder``. ``work``: what a pull is; None: what it really is."""
    with unwrapped(), Store.open(folder / "models", create=True) as store:
        async with means(store, configs=configs) as everything, asyncio.TaskGroup() as group:

            async def really(reference: Reference, report: Callable[[PullProgress], None]) -> PullOutcome:
                return await pull(reference, everything, report)

            numbers = itertools.count(1)
            board = Board(
                work or really,
                group,
                clock=time.time,
                new_id=lambda: f"job{next(numbers)}",
                notes=NoNotes(),
                on_change=lambda _: None,
            )
            service = SmallService(store, board)
            socket = folder / "run" / "syncd.sock"
            async with Listeners(service, socket=socket, group=None, limits=limits) as listeners:
                await listeners.listen(loopback() if door is None else door)
                try:
                    yield World(service, listeners, socket)
                finally:
                    board.close()
