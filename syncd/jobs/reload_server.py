"""Reloading one server: the steps of its plan, and whether it serves the new version then."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

import structlog

from syncd.errors import ConfigurationError, SyncdError
from syncd.instances.model import Instance, ReloadWay
from syncd.instances.ollama import Loaded, OllamaServer, ProbeError, Reason
from syncd.instances.probe import Cell, Word
from syncd.jobs import commands
from syncd.jobs.reload import ModelSteps, ServerPlan, Step, Update, holds, lists, plan
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
    gone. ``blames_version``: the server was well and listed this version, and could not serve it. ``absent``: the
    server did not answer before anything was done to it.
    """

    result: Result
    reason: str | None = None
    stale_until: float | None = None
    blames_version: bool = False
    absent: bool = False

    @property
    def good(self) -> bool:
        """Whether the next server may follow."""
        return self.result is not Result.FAILED


class Servers(Protocol):
    """The servers, as far as reloading needs them (``daemon.fleet.Fleet``)."""

    def instances(self) -> tuple[Instance, ...]:
        """All of them, in the order of the settings."""

    def server(self, instance: str) -> OllamaServer:
        """The API of one. Raise ``NotFoundError`` where there is none of that name."""

    def turn(self, instance: str) -> AbstractAsyncContextManager[None]:
        """Its turn to be warmed, proved or restarted: only so many have it at once."""

    def loading(self, instance: str, model: ModelName) -> AbstractContextManager[None]:
        """While it is entered, the server is said to load this model. Raise ``NotFoundError``."""

    async def prove(self, instance: str, model: ModelName, *, insist: bool = False, in_turn: bool = False) -> Cell:
        """Have it prove a model, as far as it may be asked to; how the model stands there then.

        ``insist``: also where an earlier proof still holds. Raise ``NotFoundError``.
        """

    def published(self, name: ModelName) -> None:
        """Something was published under this name."""

    def restarted(self, instance: str) -> None:
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
    ) -> None:
        """``engine``: None where the settings name none. ``patience``: seconds that a server has to come back."""
        self._servers = servers
        self._engine = engine
        self._patience = patience
        self._count = count

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
        async with self._servers.turn(instance.name):
            for name in names:
                if not holds(name, await server.ps()):
                    await self._counted(Step.LOAD, self._load(instance, server, name))
                    warmed.append(name)
        return tuple(warmed)

    async def fit(self, instances: Sequence[Instance], updates: Sequence[Update]) -> frozenset[str]:
        """The servers that answer, and list all of these versions."""

        async def look(instance: Instance) -> bool:
            try:
                tags = [(one.name, one.digest) for one in await self._servers.server(instance.name).tags()]
            except SyncdError:
                return False  # what ails it, the looks at it tell
            return all(lists(update, tags) for update in updates)

        async with asyncio.TaskGroup() as group:
            looks = {one.name: group.create_task(look(one), name=f"tags {one.name}") for one in instances}
        return frozenset(name for name, well in looks.items() if well.result())

    async def reload(self, instance: Instance, updates: Sequence[Update]) -> Mapping[ModelName, Verdict]:
        """Bring the server to serve ``updates``; how each of them stands there then. Every failure is a verdict."""
        async with self._servers.turn(instance.name):
            found = await self._reload(instance, updates)
        return {name: _briefly(verdict, instance) for name, verdict in found.items()}

    async def _reload(self, instance: Instance, updates: Sequence[Update]) -> Mapping[ModelName, Verdict]:
        try:
            server = self._servers.server(instance.name)
            well = await self.fit((instance,), updates)
            loaded = await server.ps()
        except SyncdError as error:
            return {update.name: Verdict(Result.FAILED, error.message, absent=True) for update in updates}
        todo = plan(instance, updates, loaded)
        try:
            await self._begin_anew(instance, server, todo)
        except SyncdError as error:
            return {update.name: Verdict(Result.FAILED, error.message) for update in updates}
        return {one.update.name: await self._bring(instance, server, one, bool(well)) for one in todo.models}

    async def _begin_anew(self, instance: Instance, server: OllamaServer, todo: ServerPlan) -> None:
        if todo.restart is None:
            return
        log.info("server.restart", instance=instance.name, way=instance.reload.value)
        await self._counted(todo.restart, self._restart(instance))
        await self._until_it_answers(server)
        self._servers.restarted(instance.name)

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
                await self._counted(Step.LOAD, self._load(instance, server, update.name))
            cell = await self._servers.prove(instance.name, update.name, insist=update.only_prove, in_turn=True)
        except SyncdError as error:
            return Verdict(Result.FAILED, error.message, blames_version=well)
        verdict = judged(cell, update, well=well)
        self._count(Step.PROVE, verdict.good)
        return verdict

    async def _load(self, instance: Instance, server: OllamaServer, name: ModelName) -> None:
        shown = await server.show(name)
        if not shown.hosted:
            with self._servers.loading(instance.name, name):
                await server.load(name, embeds_only=shown.embeds_only)

    async def _counted(self, step: Step, work: Awaitable[None]) -> None:
        try:
            await work
        except SyncdError:
            self._count(step, False)  # noqa: FBT003 - the signature of Count
            raise
        self._count(step, True)  # noqa: FBT003 - the signature of Count


def judged(cell: Cell, update: Update, *, well: bool) -> Verdict:
    """What it means that a model stands on a server like this. ``well``: it was seen to list this version before."""
    if cell.digest != update.digest.hex:
        return Verdict(Result.FAILED, "another version has been published meanwhile")
    until = None
    if cell.stale:
        until = float("inf") if cell.stale_until is None else cell.stale_until
    if cell.word is Word.FAILING or not cell.available:
        reason = cell.fault.message if cell.fault else f"it is {cell.word.value} there"
        listed = cell.word is Word.FAILING and not (cell.fault and cell.fault.reason is Reason.WRONG_DIGEST)
        return Verdict(Result.FAILED, reason, until, blames_version=well and listed)
    return Verdict(Result.PROVED if cell.proved else Result.SERVED, stale_until=until)


def _briefly(verdict: Verdict, instance: Instance) -> Verdict:
    """Whoever tells of a verdict names the server: its errors need not."""
    reason = None if verdict.reason is None else verdict.reason.removeprefix(f"{instance.name}: ")
    return replace(verdict, reason=reason)


async def _unload(server: OllamaServer, name: ModelName) -> None:
    shown = await server.show(name)
    if not shown.hosted:
        await server.unload(name, embeds_only=shown.embeds_only)
