"""Connections to servers: one that is kept open and tells of a restart by closing, and fresh ones for long calls."""

from types import SimpleNamespace

import aiohttp

from syncd.instances.connections import fresh_session, no_timeout

_KEPT = 2 * 3600.0  # seconds: longer than any interval between two looks
_CRIED_WOLF = 2  # drops in a row that are taken for restarts


class Distance:
    """Connections for long calls, each its own: none may meet one that a restart has closed. For one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        """The session that all of them share. Call it on the loop."""
        if self._session is None or self._session.closed:
            self._session = fresh_session()
        return self._session

    async def close(self) -> None:
        """Hang up."""
        if self._session is not None:
            await self._session.close()


class Line:
    """One kept-alive connection. For one caller at a time.

    Ollama itself never closes an idle connection (Go's ``http.Server`` without ``IdleTimeout``): one that is found
    closed tells of a restart that fell between two looks. What lies between may close them as it likes: after a few
    drops in a row, without a connection that lasted from one look to the next, drops tell nothing any more.
    """

    def __init__(self) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(self._made)
        trace.on_connection_reuseconn.append(self._reused)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, keepalive_timeout=_KEPT),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=no_timeout(),
            trace_configs=[trace],
        )
        self._expected = False  # a connection is open, as far as we know
        self._first = False  # the next request is the first after a pause
        self._drops = 0
        self._dropped = False

    def begin(self) -> None:
        """The next request comes after a pause."""
        self._first = True

    def broke(self) -> None:
        """A request failed: that its connection is gone tells nothing new."""
        self._expected = False

    def answered(self) -> None:
        """A request was answered, and its connection is kept."""
        self._expected = True

    def dropped(self) -> bool:
        """Whether the server has closed the connection since this was last asked."""
        found, self._dropped = self._dropped, False
        return found and self._drops <= _CRIED_WOLF

    async def close(self) -> None:
        """Hang up."""
        await self.session.close()

    async def _made(self, _session: aiohttp.ClientSession, _context: SimpleNamespace, _params: object) -> None:
        if self._expected:
            self._dropped = True
            self._drops += 1
        self._expected = self._first = False

    async def _reused(self, _session: aiohttp.ClientSession, _context: SimpleNamespace, _params: object) -> None:
        if self._first:
            self._drops = 0
        self._first = False
