"""Reloading one server: the steps of its plan, and whether it serves the new version then."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import structlog

from syncd.errors import ConfigurationError, SyncdError
from syncd.instances.model import Instance, ReloadWay
from syncd.instances.ollama import Loaded, OllamaServer, ProbeError
from syncd.jobs import commands
from syncd.jobs.reload import ModelSteps, ServerPlan, Step, Update, holds, lists, plan, stale
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName

log = structlog.get_logger()

_ASK_AGAIN = 0.25  # seconds between two looks at whether a server answers again
_STOP_SECONDS = 30.0  # that a container has to end in good order


class Result(StrEnum):
    """What a server was seen to do (design, "Promises")."""

    PROVED = "proved"  # it made a token, or an embedding
    SERVED = "served"  # it lists this digest and can show it; more was not allowed, or not due
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a model stands on a server. ``reason``: of the failure.

    ``stale_until``: when the old weights leave its memory, in seconds since the epoch; infinity: never; None: they are
    gone. ``blames_version``: the server was well and listed this version, and could not serve it.
    """

    result: Result
    reason: str | None = None
    stale_until: float | None = None
    blames_version: bool = False

    @property
    def good(self) -> bool:
        """Whether the next server may follow."""
        return self.result is not Result.FAILED


class Servers(Protocol):
    """The servers, as far as reloading needs them."""

    def instances(self) -> tuple[Instance, ...]:
        """All of them, in the order of the settings."""

    def server(self, name: str) -> OllamaServer:
        """The API of one. Raise ``NotFoundError`` where there is none of that name."""

    async def prove(self, name: str, model: ModelName, digest: Digest, *, insist: bool) -> bool:
        """See that it serves this version, and make a token of it where that is allowed: whether one was made.

        ``insist``: also where an earlier proof still holds. Raise ``SyncdError``: it does not serve it.
        """

    def restarted(self, name: str) -> None:
        """It has begun anew: nothing that was seen of it before counts any more."""


class Engine(Protocol):
    """The Docker Engine."""

    async def restart(self, container: str, timeout: float) -> None:  # noqa: ASYNC109 - the Engine's own word
        """Begin it anew; it has ``timeout`` seconds to end in good order."""

    async def signal(self, container: str, name: str) -> None:
        """Send its first process a signal."""


Count = Callable[[Step, bool], None]
"""Hears of each step: which, and whether it went well."""


class Reloader:
    """Does what a plan says. ``count`` hears of each step."""

    def __init__(
        self,
        servers: Servers,
        engine: Callable[[], Engine | None],
        *,
        patience: Callable[[], float],
        count: Count,
        on_restart: Callable[[str], None],
    ) -> None:
        """``engine``: None where the settings name none. ``patience``: seconds that a server has to come back.

        ``on_restart`` hears of each server that has come back.
        """
        self._servers = servers
        self._engine = engine
        self._patience = patience
        self._count = count
        self._on_restart = on_restart
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def unload(self, instance: Instance, name: ModelName) -> None:
        """Have the server let go of what ``name`` means now; what it is at ends undisturbed. Raise ``SyncdError``."""
        server = self._servers.server(instance.name)
        await self._counted(Step.UNLOAD, _unload(server, name))

    async def loaded(self, instance: Instance) -> tuple[Loaded, ...]:
        """What the server has loaded. Raise ``SyncdError``."""
        return await self._servers.server(instance.name).ps()

    async def warm(self, instance: Instance, names: Sequence[ModelName]) -> tuple[ModelName, ...]:
        """Have the server load those that it has not loaded, one after another; which those were.

        Raise ``SyncdError``.
        """
        server = self._servers.server(instance.name)
        warmed = []
        async with self._turns[instance.name]:
            for name in names:
                if not holds(name, await server.ps()):
                    await self._counted(Step.LOAD, _load(server, name))
                    warmed.append(name)
        return tuple(warmed)

    async def fit(self, instances: Sequence[Instance], updates: Sequence[Update]) -> frozenset[str]:
        """The servers that answer, and list all of these versions."""

        async def look(instance: Instance) -> bool:
            try:
                tags = [(one.name, one.digest) for one in await self._servers.server(instance.name).tags()]
            except SyncdError:
                return False
            return all(lists(update, tags) for update in updates)

        found = await asyncio.gather(*map(look, instances))
        return frozenset(one.name for one, well in zip(instances, found, strict=True) if well)

    async def reload(self, instance: Instance, updates: Sequence[Update]) -> Mapping[ModelName, Verdict]:
        """Bring the server to serve ``updates``; how each of them stands there then. Every failure is a verdict."""
        async with self._turns[instance.name]:
            return await self._reload(instance, updates)

    async def _reload(self, instance: Instance, updates: Sequence[Update]) -> Mapping[ModelName, Verdict]:
        try:
            server = self._servers.server(instance.name)
            well = await self.fit((instance,), updates)
            todo = plan(instance, updates, await server.ps())
            await self._begin_anew(instance, server, todo)
        except SyncdError as error:
            return {update.name: Verdict(Result.FAILED, error.message) for update in updates}
        return {one.update.name: await self._bring(instance, server, one, bool(well)) for one in todo.models}

    async def _begin_anew(self, instance: Instance, server: OllamaServer, todo: ServerPlan) -> None:
        if todo.restart is None:
            return
        log.info("server.restart", instance=instance.name, way=instance.reload.value)
        await self._counted(todo.restart, self._restart(instance))
        self._servers.restarted(instance.name)
        await self._until_it_answers(server)
        self._on_restart(instance.name)

    async def _restart(self, instance: Instance) -> None:
        if instance.reload is ReloadWay.EXEC:
            await commands.run(instance.command, within=self._patience())
            return
        engine = self._engine()
        if engine is None or instance.container is None:
            raise ConfigurationError(
                f"{instance.name} is to be reloaded through the Docker Engine, and the settings name none",
                hint="set [docker] url, and the instance's container",
            )
        if instance.reload is ReloadWay.RESTART:
            await engine.restart(instance.container, _STOP_SECONDS)
        else:
            await engine.signal(instance.container, instance.signal)

    async def _until_it_answers(self, server: OllamaServer) -> None:
        deadline = asyncio.get_running_loop().time() + self._patience()
        while True:
            try:
                await server.version()
            except ProbeError:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
                await asyncio.sleep(_ASK_AGAIN)
            else:
                return

    async def _bring(self, instance: Instance, server: OllamaServer, todo: ModelSteps, well: bool) -> Verdict:
        update = todo.update
        try:
            if todo.unload:
                await self._counted(Step.UNLOAD, _unload(server, update.name))
            if todo.load:
                await self._counted(Step.LOAD, _load(server, update.name))
            insist = update.only_prove
            proof = self._servers.prove(instance.name, update.name, update.digest, insist=insist)
            proved = await self._counted(Step.PROVE, proof)
            old = stale(update, await server.ps())
        except SyncdError as error:
            return Verdict(Result.FAILED, error.message, blames_version=well)
        until = None if old is None else (float("inf") if old.expires is None else old.expires)
        return Verdict(Result.PROVED if proved else Result.SERVED, stale_until=until)

    async def _counted(self, step: Step, work: Awaitable[bool] | Awaitable[None]) -> bool:
        try:
            done = await work
        except SyncdError:
            self._count(step, False)  # noqa: FBT003 - the signature of Count
            raise
        self._count(step, True)  # noqa: FBT003 - the signature of Count
        return bool(done)


async def _load(server: OllamaServer, name: ModelName) -> None:
    shown = await server.show(name)
    if not shown.hosted:
        await server.load(name, embeds_only=shown.embeds_only)


async def _unload(server: OllamaServer, name: ModelName) -> None:
    shown = await server.show(name)
    if not shown.hosted:
        await server.unload(name, embeds_only=shown.embeds_only)
