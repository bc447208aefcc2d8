"""Connections to servers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp


def fresh_session() -> aiohttp.ClientSession:
    """A session with a new connection for each request, as many as are asked for, and no patience of its own.

    A connection that is kept may be closed by the server just when a request goes out: a failure of nobody's. No proxy
    is used: these are the host's own servers.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=no_timeout(),
        trust_env=False,
    )


@asynccontextmanager
async def fresh_connections() -> AsyncIterator[aiohttp.ClientSession]:
    """A ``fresh_session``, closed in the end."""
    async with fresh_session() as session:
        yield session


def no_timeout() -> aiohttp.ClientTimeout:
    """Each call has a time of its own."""
    return aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
