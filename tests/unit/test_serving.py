"""What listens, the daemon or a server of the tests, ends with nothing left open, whenever a connection comes."""

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from aiohttp import web

from syncd.api.listeners import tcp_site
from tests.support.serving import HttpServer

Close = Callable[[], Awaitable[None]]


async def _site() -> tuple[int, Close]:
    site = await tcp_site(web.Application(), "127.0.0.1", 0)
    return site.address[1], site.close


async def _tests_server() -> tuple[int, Close]:
    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response()

    server = HttpServer(handle)
    bound = socket.create_server(("127.0.0.1", 0))
    await server.listen(bound)
    return bound.getsockname()[1], server.close


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("listen", [_site, _tests_server])
async def test_a_connection_that_comes_while_a_server_closes_ends_with_it(
    listen: Callable[[], Awaitable[tuple[int, Close]]], turns: int
) -> None:
    port, close = await listen()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for _ in range(turns):  # of the event loop: accepted, made, connected
            await asyncio.sleep(0)

        await close()

        client.setblocking(False)  # noqa: FBT003 - the socket's own signature
        async with asyncio.timeout(10):
            with suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    gc.collect()  # what was left open would be told of here
