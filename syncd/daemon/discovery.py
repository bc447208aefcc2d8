"""The containers of the servers, followed: which there are by their labels, and when one was started anew.

The Engine's events say when to look and never what is so. When their stream breaks it is opened again, and everything
is looked at anew; until then what was known stays: servers may go on while their Engine is restarted.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol, Self

import structlog

from syncd.aio import in_thread, only_error
from syncd.daemon.reconcile import InForce
from syncd.daemon.settings import Settings
from syncd.daemon.sightings import Seen, seen
from syncd.errors import NotFoundError, SyncdError
from syncd.instances.containers import Container
from syncd.instances.docker import ContainerEvent, Engine, EngineUnavailableError
from syncd.instances.model import Instance

log = structlog.get_logger()

_SETTLE = 0.2  # seconds in which several events make one look
_LOOK_AGAIN = 1.0  # seconds after the first look, at which the stream of events may not have been listened to yet
_LOOK_EVERY = 60.0  # seconds: should an event have been missed
_BACKOFF = (0.5, 30.0)  # seconds until the stream is opened again: at first, and at most


class Listener(Protocol):
    """Who wants to know. Neither call may raise or wait."""

    def discovered(self, instances: tuple[Instance, ...]) -> None:
        """These are all that labels make now, in order of their names."""

    def restarted(self, name: str) -> None:
        """The container of this instance, configured or labelled, was started anew: what was proved counts no more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings want followed. ``configured``: instances that name a container."""

    url: str | None
    discover: bool
    configured: tuple[Instance, ...]

    @property
    def is_local(self) -> bool:
        """Whether the Engine's paths are those of this host."""
        return self.url is not None and self.url.startswith("unix:")

    @classmethod
    def by(cls, settings: Settings) -> Self:
        """As these settings say."""
        instances = (one.instance() for one in settings.instances)
        return cls(settings.docker.url, settings.docker.discover, tuple(one for one in instances if one.container))


class Discovery:
    """The service. ``store``: its folder, which the containers should see, for reading only.

    ``random``: from 0 to 1, so that not all come back to an Engine at the same moment.

    ``following``: the stream of events is open, and what was there before it has been looked at.
    """

    def __init__(
        self,
        settings: InForce,
        listener: Listener,
        store: Path,
        *,
        random: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._store = store
        self._random = random
        self._monotonic = monotonic
        self._seen = Seen()
        self._told: tuple[Instance, ...] = ()
        self._stopped: set[str] = set()  # ids
        self._poked = asyncio.Event()
        self._fault: SyncdError | None = None
        self.following = False

    @property
    def fault(self) -> SyncdError | None:
        """Why the Engine cannot be followed right now."""
        return self._fault

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with labels, with containers that the settings name, and with how they see the store."""
        return self._seen.faults

    async def run(self) -> None:
        """Follow until cancelled, whatever the settings name meanwhile."""
        wanted = Wanted.by(self._settings.current.settings)
        while True:
            async with asyncio.TaskGroup() as group:
                following = group.create_task(self._follow(wanted), name="docker")
                fresh = await self._other(wanted)
                following.cancel()
            self.following = False
            if fresh.url != wanted.url:
                self._seen, self._fault = Seen(), None
                self._stopped.clear()
            wanted = fresh

    async def _other(self, wanted: Wanted) -> Wanted:
        revision = self._settings.revision
        while (fresh := Wanted.by(self._settings.current.settings)) == wanted:
            revision = await self._settings.changed(revision)
        return fresh

    async def _follow(self, wanted: Wanted) -> None:
        """Until cancelled, however often the stream breaks."""
        if wanted.url is None or not (wanted.discover or wanted.configured):
            self._take(Seen())
            return
        engine = Engine(wanted.url)
        shortest, longest = _BACKOFF
        pause = shortest
        while True:
            began = self._monotonic()
            try:
                await self._attend(engine, wanted)
            except SyncdError as error:
                lasted = self._monotonic() - began
                pause = shortest if lasted > longest else min(pause * 2, longest)
                self._broken(error)
            await asyncio.sleep(pause * (0.5 + self._random() / 2))

    async def _attend(self, engine: Engine, wanted: Wanted) -> None:
        """Raise ``SyncdError`` when the stream of events breaks, or cannot be opened."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_looking(engine, wanted), name="docker looks")
                await engine.follow(lambda event: self._hear(event, wanted))
                raise EngineUnavailableError(f"Docker at {wanted.url}: the stream of its events ended")
        except BaseExceptionGroup as errors:
            raise only_error(errors, (SyncdError,)) from errors

    def _hear(self, event: ContainerEvent, wanted: Wanted) -> None:
        named = any(event.name == instance.container for instance in wanted.configured)
        if not (event.marked or named or self._seen.knows(event.container)):
            return
        if event.action == "stop":
            self._stopped.add(event.container)
        elif event.action in ("start", "destroy"):
            self._stopped.discard(event.container)
        self._poked.set()

    async def _keep_looking(self, engine: Engine, wanted: Wanted) -> None:
        longest = _LOOK_AGAIN
        while True:
            self._poked.clear()
            await self._look(engine, wanted)
            if longest == _LOOK_EVERY and not self.following:
                self.following, self._fault = True, None
                log.info("docker.followed", url=wanted.url)
            leave = self._seen.next_leave
            patience = longest if leave is None else min(longest, max(leave - self._monotonic(), 0.0))
            longest = _LOOK_EVERY
            try:
                async with asyncio.timeout(patience):
                    await self._poked.wait()
                    await asyncio.sleep(_SETTLE)
            except TimeoutError:
                continue

    async def _look(self, engine: Engine, wanted: Wanted) -> None:
        marked: Iterable[Container] = await engine.containers() if wanted.discover else ()
        configured = [(one, await _container(engine, one)) for one in wanted.configured]
        stopped = frozenset(self._stopped)
        store = None
        if wanted.is_local:
            store, marked, configured = await in_thread(_resolved, self._store, marked, configured)
        self._take(seen(self._seen, marked, configured, stopped=stopped, now=self._monotonic(), store=store))

    def _take(self, now: Seen) -> None:
        for fault in now.faults:
            if fault not in self._seen.faults:
                log.warning("docker.fault", fault=fault)
        self._seen = now
        if now.instances != self._told:
            self._told = now.instances
            log.info("docker.instances", names=[one.name for one in now.instances])
            self._listener.discovered(now.instances)
        for name in now.restarted:
            log.info("docker.restarted", instance=name)
            self._listener.restarted(name)

    def _broken(self, error: SyncdError) -> None:
        if self._fault is None or self._fault.message != error.message:
            log.warning("docker.unreachable", error=error.message, hint=error.hint)
        self.following, self._fault = False, error
        # An Engine that ends stops its containers, which nobody wanted gone for that.
        self._stopped.clear()
        self._seen = replace(self._seen, leaving={})


async def _container(engine: Engine, instance: Instance) -> Container | None:
    try:
        return await engine.inspect(instance.container or "")
    except NotFoundError:
        return None


def _resolved(
    store: Path, marked: Iterable[Container], configured: Iterable[tuple[Instance, Container | None]]
) -> tuple[PurePosixPath, list[Container], list[tuple[Instance, Container | None]]]:
    """The same, and no symbolic link of this host on the way to the store, or to what containers see of the host."""
    resolved = [(instance, None if container is None else _real(container)) for instance, container in configured]
    return PurePosixPath(os.path.realpath(store)), [_real(container) for container in marked], resolved


def _real(container: Container) -> Container:
    mounts = (replace(one, source=PurePosixPath(os.path.realpath(one.source))) for one in container.mounts)
    return replace(container, mounts=tuple(mounts))
