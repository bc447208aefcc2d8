"""Where the API listens: the control socket, and TCP where the settings ask for it.

Every listener runs an app of its own, with the door that it has: who may come in is a value, fixed for as long as the
listener lives. New settings make a new listener.
"""

import asyncio
import errno
import socket as sockets
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from aiohttp import web

from syncd.aio import in_thread
from syncd.api import unix_socket
from syncd.api.connections import Connections, Limits, aiohttp_logger
from syncd.api.control import control_app
from syncd.api.guard import TcpDoor, UnixDoor
from syncd.api.ports import Service
from syncd.errors import BusyError, ConfigurationError, SyncdError

__all__ = ["Limits", "Listeners", "Site", "TcpDoor", "tcp_site", "unix_site"]

log = structlog.get_logger()

_BACKLOG = 128
_LINGER = 1.0  # seconds for the rest of a body that nobody wants


class Site:
    """An app that listens."""

    def __init__(self, runner: web.AppRunner, connections: Connections, server: asyncio.Server) -> None:
        self._runner = runner
        self._connections = connections
        self._server = server
        self.address: tuple[str, int] = ("", 0)
        for listening in server.sockets:
            if listening.family in {sockets.AF_INET, sockets.AF_INET6}:
                self.address = listening.getsockname()[:2]
                break

    async def close(self) -> None:
        """Take no more connections, end the streams, wait for what runs, for about a second at most."""
        for listening in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        # What was accepted in the last turn of the loop becomes a transport in this one. asyncio would forget it, open,
        # if its server was closed by then (CPython's issue 109564).
        await asyncio.sleep(0)
        self._server.close()
        self._connections.stop()
        await self._runner.cleanup()


async def tcp_site(app: web.Application, host: str, port: int, *, limits: Limits | None = None) -> Site:
    """``app`` on ``host`` (a name or an address) and ``port`` (0: any; see ``Site.address``).

    Raise ``BusyError`` if somebody listens there, ``ConfigurationError`` for an address that is not this host's.
    """
    runner, connections = await _prepared(app, limits or Limits())
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(connections.accept, host, port, backlog=_BACKLOG, reuse_address=True)
    except OSError as error:
        connections.stop()
        await runner.cleanup()
        if error.errno == errno.EADDRINUSE:
            raise BusyError(
                f"somebody listens on {host}:{port} already", hint="stop that program, or set another port"
            ) from error
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return Site(runner, connections, server)


async def unix_site(app: web.Application, listening: sockets.socket, *, limits: Limits | None = None) -> Site:
    """``app`` on a unix socket that listens already."""
    runner, connections = await _prepared(app, limits or Limits())
    server = await asyncio.get_running_loop().create_unix_server(connections.accept, sock=listening)
    return Site(runner, connections, server)


async def _prepared(app: web.Application, limits: Limits) -> tuple[web.AppRunner, Connections]:
    connections = Connections(limits)
    app.middlewares.insert(0, connections.middleware)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=aiohttp_logger(),
        shutdown_timeout=limits.closing,
        keepalive_timeout=limits.idle,
        max_line_size=limits.head_line,
        max_field_size=limits.head_field,
        max_headers=limits.head_fields,
        lingering_time=_LINGER,
        auto_decompress=False,
        handler_cancellation=True,
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - it is after setup()
    connections.start(runner.server)
    return runner, connections


class Listeners:
    """The control socket, for as long as the context lasts, and a TCP listener that comes, changes and goes."""

    def __init__(self, service: Service, *, socket: Path, group: str | None, limits: Limits | None = None) -> None:
        """``socket``: where the control socket is to be. ``group``: of the socket; None: "syncd", if there is one."""
        self._service = service
        self._socket = socket
        self._group = group
        self._limits = limits or Limits()
        self._unix: tuple[Site, unix_socket.UnixListener] | None = None
        self._tcp: tuple[Site, TcpDoor] | None = None

    async def __aenter__(self) -> Self:
        """Raise as ``unix_socket.listen`` does."""
        listener = await in_thread(unix_socket.listen, self._socket, self._group)
        try:
            site = await unix_site(
                control_app(self._service, UnixDoor(), limits=self._limits), listener.socket, limits=self._limits
            )
        except BaseException:
            listener.close()
            raise
        self._unix = (site, listener)
        log.info("control.listening", socket=str(self._socket))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with asyncio.TaskGroup() as group:
            for one in (self._unix, self._tcp):
                if one is not None:
                    group.create_task(one[0].close(), name="close a listener")
        if self._unix is not None:
            self._unix[1].close()
        self._unix = self._tcp = None

    @property
    def tcp_address(self) -> tuple[str, int] | None:
        """Where the TCP listener listens."""
        return self._tcp[0].address if self._tcp else None

    async def listen(self, door: TcpDoor | None) -> None:
        """Listen on TCP as ``door`` says, or no more; nothing happens if it says what it said before.

        Raise ``ConfigurationError`` or ``BusyError``: then the old listener stays.
        """
        old = self._tcp
        if old is not None and old[1] == door:
            return
        if door is not None:
            door.require_safe()
        if old is not None and (door is None or door.port == old[0].address[1]):
            await self._close_tcp(old)
            self._tcp = None
        if door is None:
            return
        try:
            self._tcp = (await self._open_tcp(door), door)
        except SyncdError:
            if old is not None and self._tcp is None:
                with suppress(SyncdError):  # the first error is the one to tell of
                    self._tcp = (await self._open_tcp(old[1]), old[1])
            raise
        if old is not None and door.port != old[0].address[1]:
            await self._close_tcp(old)

    async def _open_tcp(self, door: TcpDoor) -> Site:
        site = await tcp_site(
            control_app(self._service, door, limits=self._limits), door.host, door.port, limits=self._limits
        )
        log.info("control.tcp_listening", host=door.host, port=site.address[1], token=door.token is not None)
        return site

    async def _close_tcp(self, listener: tuple[Site, TcpDoor]) -> None:
        site, door = listener
        await site.close()
        log.info("control.tcp_closed", host=door.host, port=site.address[1])
