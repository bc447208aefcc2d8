"""The discovery over a real Engine, and what it tells."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from syncd.daemon.discovery import Discovery
from syncd.daemon.loaded import Loaded
from syncd.daemon.settings import Settings
from tests.docker.engine import DockerEngine


@dataclass
class Given:
    """Settings that a test puts in force."""

    current: Loaded
    revision: int = 1
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def changed(self, after: int) -> int:
        async with self._news:
            await self._news.wait_for(lambda: self.revision > after)
        return self.revision

    async def put(self, now: Settings) -> None:
        async with self._news:
            self.current, self.revision = Loaded(now), self.revision + 1
            self._news.notify_all()


def settings(url: str | None, *, discover: bool = True, instances: tuple[dict[str, str], ...] = ()) -> Settings:
    """As a file would say it."""
    told = {"docker": {"url": url, "discover": discover}, "instances": instances}
    return msgspec.convert(told, Settings, dec_hook=lambda kind, value: kind.parse(value))


@dataclass
class Watcher:
    """Listens."""

    given: Given
    names: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    restarts: list[str] = field(default_factory=list)
    told: int = 0
    discovery: Discovery | None = None

    def discovered(self, instances: tuple[object, ...]) -> None:
        self.names = tuple(one.name for one in instances)  # type: ignore[attr-defined]  # instances, as a tuple
        self.urls = tuple(one.url for one in instances)  # type: ignore[attr-defined]  # likewise
        self.told += 1

    def restarted(self, name: str) -> None:
        self.restarts.append(name)

    @property
    def fault(self) -> str:
        assert self.discovery is not None
        return "" if self.discovery.fault is None else self.discovery.fault.message

    @property
    def faults(self) -> tuple[str, ...]:
        assert self.discovery is not None
        return self.discovery.faults

    async def until(self, holds: Callable[[], object], *, seconds: float = 60.0) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"never so: {self}, {self.fault}") from None

    async def looked(self) -> None:
        """Return when it has opened its stream, and looked once."""
        await self.until(lambda: self.discovery is not None and self.discovery.following)


@asynccontextmanager
async def watching(
    docker: DockerEngine | None, *, store: Path = Path("/nowhere"), **asked: object
) -> AsyncIterator[Watcher]:
    """Follow ``docker``, until left. ``store``: what containers should see."""
    given = Given(Loaded(settings(docker.url if docker else None, **asked)))  # type: ignore[arg-type]  # handed through
    watcher = Watcher(given)
    watcher.discovery = Discovery(given, watcher, store, random=lambda: 0.0)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(watcher.discovery.run())
        try:
            yield watcher
        finally:
            running.cancel()
