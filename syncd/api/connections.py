"""The connections of one listener: how many there may be, and for how long one may hold its place without a request.

aiohttp bounds a connection that is idle between requests; a head that never ends, an answer that nobody reads and a
crowd of silent connections are bounded here.
"""

import asyncio
import logging
from dataclasses import dataclass

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener grants. Times in seconds, sizes in bytes.

    ``head``: until the first request of a connection has come whole; ``idle``: between two requests, the reading of the
    first one's answer included; ``body``: for a request's body to come; ``unread``: for which the reader of a stream
    may take nothing; ``closing``: for what runs when the listener closes.
    """

    connections: int = 200
    head: float = 10.0
    idle: float = 75.0
    body: float = 10.0
    unread: float = 60.0
    closing: float = 0.4
    head_line: int = 8 * 1024
    head_field: int = 8 * 1024
    head_fields: int = 64
    sweep_every: float = 0.5


@dataclass(slots=True)
class _Connection:
    since: float  # opened, or the end of its last request
    running: int = 0
    served: bool = False


class Connections:
    """Makes a protocol for each connection, and drops those that hold a place for nothing."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._server: web.Server | None = None
        self._known: dict[asyncio.Protocol, _Connection] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, server: web.Server) -> None:
        """Begin to make connections for ``server``, and to sweep."""
        self._server = server
        self._again()

    def stop(self) -> None:
        """Sweep no more."""
        if self._timer is not None:
            self._timer.cancel()

    def accept(self) -> asyncio.Protocol:
        """The protocol of a new connection: aiohttp's, or one that hangs up where there is no room."""
        assert self._server is not None  # noqa: S101 - the listening socket is opened after start()
        self._forget_closed()
        if len(self._known) >= self._limits.connections and not self._give_up_the_idlest():
            log.warning("http.too_many_connections", limit=self._limits.connections)
            return _HangUp()
        protocol = self._server()
        self._known[protocol] = _Connection(_now())
        return protocol

    @property
    def middleware(self) -> Middleware:
        """Notes which connections a request runs on; it goes before every other middleware."""

        @web.middleware
        async def track(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = self._known.setdefault(request.protocol, _Connection(_now()))
            connection.running += 1
            connection.served = True
            try:
                return await handler(request)
            finally:
                connection.running -= 1
                connection.since = _now()

        return track

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._limits.sweep_every, self._sweep)

    def _sweep(self) -> None:
        self._forget_closed()
        now = _now()
        for protocol, connection in list(self._known.items()):
            allowed = self._limits.idle if connection.served else self._limits.head
            if not connection.running and now - connection.since > allowed:
                self._drop(protocol)
        self._again()

    def _forget_closed(self) -> None:
        assert self._server is not None  # noqa: S101 - as above
        alive = set(self._server.connections)
        now = _now()
        for protocol, connection in list(self._known.items()):
            # One that accept() has just made is not connected yet.
            if protocol not in alive and now - connection.since > self._limits.sweep_every:
                del self._known[protocol]

    def _give_up_the_idlest(self) -> bool:
        idle = [(one.since, protocol) for protocol, one in self._known.items() if not one.running]
        if not idle:
            return False
        self._drop(min(idle, key=lambda found: found[0])[1])
        return True

    def _drop(self, protocol: asyncio.Protocol) -> None:
        del self._known[protocol]
        transport = getattr(protocol, "transport", None)
        if transport is not None:
            transport.abort()  # close() would wait for the answer to be read


class _HangUp(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream socket
        transport.abort()


def _now() -> float:
    return asyncio.get_running_loop().time()


class _ToEvents(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            # Its text quotes what a stranger sent.
            log.info("http.malformed", error=type(error).__name__)
        else:
            log.error("http.crashed", error=record.getMessage(), exc_info=error)


def aiohttp_logger() -> logging.Logger:
    """Where aiohttp tells of requests that it cannot make sense of: into our log, without their bytes."""
    logger = logging.Logger("syncd.api", logging.WARNING)  # noqa: LOG001 - one that no other code can get at
    logger.addHandler(_ToEvents())
    return logger
