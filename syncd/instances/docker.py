"""The Docker Engine, as far as syncd uses it: its containers, their events, restarts and signals.

Whoever may speak to an Engine is root on its host: this is off unless the settings name one. A proxy that lets through
only containers, events and version (and ``restart`` and ``kill``, where those are wanted) is enough.
"""

import asyncio
import errno
import json
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import aiohttp
from aiodocker import Docker
from aiodocker.exceptions import DockerError

from syncd.aio import only_error
from syncd.errors import ExitCode, NotAuthorisedError, NotFoundError, SyncdError
from syncd.instances.containers import Container
from syncd.instances.labels import MARK
from syncd.text import printable

_PATIENCE = 15.0  # seconds for an answer, beyond what was asked for takes by itself
_NOT_CONNECTED = 900  # aiodocker's own status
_FORBIDDEN, _NOT_FOUND, _CONFLICT = 403, 404, 409
# What Docker calls containers (moby, "names.RestrictedNamePattern"): nothing else gets into a URL.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# "connect" and "disconnect" are a network's: a container gets another address.
_ACTIONS = ("start", "die", "stop", "rename", "destroy", "health_status", "connect", "disconnect")

T = TypeVar("T")


class EngineError(SyncdError):
    """A Docker Engine that did not do what it was asked."""

    exit_code = ExitCode.SERVER_FAILED


class EngineUnavailableError(EngineError):
    """A Docker Engine that cannot be reached, or that went away."""

    transient: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """Something happened to a container. ``action``: the Engine's word; ``name``: of the container, if it was told."""

    action: str
    container: str
    name: str
    marked: bool


class Engine:
    """A Docker Engine at ``unix:///PATH`` or ``tcp://HOST:PORT``.

    Each call has a connection of its own: there is nothing to close, and an Engine that was restarted, or replaced by
    another version, is met afresh. Methods raise ``EngineUnavailableError``, ``NotAuthorisedError``, ``EngineError``,
    and ``NotFoundError`` for a container that is not there. A container is named by its name or its id.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._shown = printable(url, limit=200)

    async def containers(self) -> tuple[Container, ...]:
        """Every container that is marked as an instance, running or not."""
        return await self._ask(self._marked)

    async def inspect(self, container: str) -> Container:
        """One container."""
        return await self._ask(lambda docker: self._inspect(docker, container), f"container {container}")

    async def restart(self, container: str, timeout: float) -> None:  # noqa: ASYNC109 - the Engine's own word
        """Stop and start it. ``timeout``: seconds that its processes get to end, before they are killed."""
        grace = math.ceil(timeout)
        await self._ask(
            lambda docker: docker.containers.container(_named(container)).restart(t=grace),
            f"container {container}",
            patience=grace + 2 * _PATIENCE,
        )

    async def signal(self, container: str, name: str) -> None:
        """Send the signal ``name`` (``SIGHUP``) to its first process."""
        await self._ask(
            lambda docker: docker.containers.container(_named(container)).kill(signal=name), f"container {container}"
        )

    async def follow(self, hear: Callable[[ContainerEvent], None]) -> None:
        """Tell ``hear`` what happens to containers, until the Engine ends the stream.

        It may take a moment until it is listened to, of which neither the Engine nor aiodocker tells.
        """
        filters = json.dumps({"type": ["container", "network"], "event": list(_ACTIONS)})
        async with self._docker(patience=None) as docker:
            heard = docker.events.subscribe(create_task=False)  # type: ignore[no-untyped-call]  # aiodocker's
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_tell(heard.get, hear), name="docker events")
                    await self._translated(docker.events.run(filters=filters))
            except BaseExceptionGroup as errors:
                raise only_error(errors, (SyncdError,)) from errors

    # The edge to aiodocker

    def _docker(self, patience: float | None) -> Docker:
        limits = aiohttp.ClientTimeout(total=patience, sock_connect=_PATIENCE)
        try:
            return Docker(url=self.url, timeout=limits)
        except ValueError as error:
            raise EngineError(f"{self._shown} is no address of a Docker Engine: {error}") from error

    async def _ask(self, work: Callable[[Docker], Awaitable[T]], what: str = "", *, patience: float = _PATIENCE) -> T:
        async with self._docker(patience) as docker:
            return await self._translated(work(docker), what)

    async def _translated(self, work: Awaitable[T], what: str = "") -> T:
        try:
            return await work
        except DockerError as error:
            raise self._refusal(error, what) from error
        except TimeoutError as error:
            raise EngineUnavailableError(f"Docker at {self._shown}: no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineUnavailableError(f"Docker at {self._shown}: the connection broke: {error}") from error
        except (ValueError, TypeError, KeyError) as error:  # aiodocker's, for an answer that is not the Engine's JSON
            raise self._nonsense(error) from error

    async def _marked(self, docker: Docker) -> tuple[Container, ...]:
        filters = json.dumps({"label": [MARK]})
        found = [one.id for one in await docker.containers.list(all=True, filters=filters)]
        containers: list[Container] = []
        for identity in found:
            try:
                containers.append(await self._inspect(docker, identity))
            except DockerError as error:
                if error.status != _NOT_FOUND:  # else it was removed meanwhile
                    raise
        return tuple(containers)

    async def _inspect(self, docker: Docker, container: str) -> Container:
        return Container.of(await docker.containers.container(_named(container)).show())

    def _refusal(self, error: DockerError, what: str) -> SyncdError:
        told = printable(error.message, limit=300)
        if error.status == _NOT_CONNECTED:
            return self._unreachable(error)
        if error.status == _NOT_FOUND and what:
            return NotFoundError(
                f"Docker at {self._shown} has no {printable(what, limit=100)}",
                hint=f"'docker {what.partition(' ')[0]} ls' lists what there is",
            )
        if error.status == _FORBIDDEN:
            return NotAuthorisedError(
                f"Docker at {self._shown} does not allow that: {told}",
                hint="a proxy before the Engine must let this request through",
            )
        kind = EngineError if error.status < 500 else EngineUnavailableError  # noqa: PLR2004 - its own failures
        return kind(f"Docker at {self._shown}: {error.status} {told}")

    def _unreachable(self, error: DockerError) -> SyncdError:
        cause = error.__context__
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.EACCES, errno.EPERM):
            return NotAuthorisedError(
                f"Docker at {self._shown}: permission denied",
                hint="the user of syncd must be in the socket's group; that makes it root-equal",
            )
        if number == errno.ENOENT:
            return EngineUnavailableError(
                f"Docker at {self._shown}: there is no such socket", hint="is the Engine running? see [docker] url"
            )
        if number == errno.ECONNREFUSED:
            return EngineUnavailableError(
                f"Docker at {self._shown}: nobody listens there", hint="is the Engine running? see [docker] url"
            )
        return EngineUnavailableError(f"Docker at {self._shown} cannot be reached: {cause or error.message}")

    def _nonsense(self, error: Exception) -> EngineError:
        return EngineError(
            f"Docker at {self._shown}: the answer is not what an Engine sends: {printable(str(error), limit=200)}",
            hint="does [docker] url lead to a Docker Engine?",
        )


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise NotFoundError(f"{printable(name, limit=100)!r} is no name that Docker gives")
    return name


async def _tell(get: Callable[[], Awaitable[dict[str, Any] | None]], hear: Callable[[ContainerEvent], None]) -> None:
    while (told := await get()) is not None:  # None: the stream has ended
        actor = told.get("Actor") or {}
        attributes = actor.get("Attributes") or {}
        of_network = told.get("Type") == "network"
        event = ContainerEvent(
            action=str(told.get("Action", "")),
            container=str(attributes.get("container", "") if of_network else actor.get("ID", "")),
            name="" if of_network else str(attributes.get("name", "")),
            marked=MARK in attributes,
        )
        hear(event)
