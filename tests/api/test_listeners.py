"""TCP listeners come, change and go while the daemon runs."""

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from syncd.api.listeners import TcpDoor, tcp_site
from syncd.errors import BusyError, ConfigurationError
from tests.api.world import daemon, loopback, over_tcp


async def answered(address: str, token: str | None = None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"http://{address}/api/version", headers=headers) as response,
    ):
        return response.status


async def test_a_new_address_replaces_the_old_one(tmp_path: Path) -> None:
    async with daemon(tmp_path) as world:
        old = world.address
        await world.listeners.listen(TcpDoor("localhost", 0))
        new = world.address
        assert old != new
        assert await answered(new) == 200
        with pytest.raises(aiohttp.ClientConnectorError):
            await answered(old)
        await world.listeners.listen(None)
        assert world.listeners.tcp_address is None
        with pytest.raises(aiohttp.ClientConnectorError):
            await answered(new)


async def test_a_new_token_is_in_force_at_the_same_address(tmp_path: Path) -> None:
    async with daemon(tmp_path) as world:
        port = int(world.address.rpartition(":")[2])
        await world.listeners.listen(TcpDoor("127.0.0.1", port, "first"))
        assert await answered(world.address, "first") == 200
        await world.listeners.listen(TcpDoor("127.0.0.1", port, "second"))
        assert await answered(world.address, "first") == 401
        assert await answered(world.address, "second") == 200


async def test_the_same_door_again_changes_nothing(tmp_path: Path) -> None:
    async with daemon(tmp_path) as world, over_tcp(world) as client:
        async with client.get("/syncd/v1/nothing"):
            pass
        before = world.address
        await world.listeners.listen(loopback())
        assert world.address == before


async def test_an_address_that_cannot_be_had_leaves_the_old_listener(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    async with daemon(tmp_path) as world:
        with pytest.raises(BusyError, match="somebody listens"):
            await world.listeners.listen(TcpDoor("127.0.0.1", port))
        with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1"):
            await world.listeners.listen(TcpDoor("192.0.2.1", 0, "token"))
        with pytest.raises(ConfigurationError, match="cannot listen on no-such-host"):
            await world.listeners.listen(TcpDoor("no-such-host.invalid", 0, "token"))
        assert await answered(world.address) == 200
    taken.close()
    await taken.wait_closed()


async def test_any_app_can_have_a_site() -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    site = await tcp_site(app, "::1", 0)
    async with aiohttp.ClientSession() as client, client.get(f"http://[::1]:{site.address[1]}/") as response:
        assert await response.text() == "hello"
    await site.close()
