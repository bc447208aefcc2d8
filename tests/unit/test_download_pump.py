import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from syncd.download.pace import Connection
from syncd.download.pump import pump
from syncd.errors import RegistryUnavailableError
from syncd.registry.raw import RawBody


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.settimeout(0.05)
    with near, far:
        yield near, far


def connection() -> Connection:
    return Connection(started=0.0, waiting_since=None)


class Sink:
    def __init__(self) -> None:
        self.content = b""
        self.told: list[tuple[int, int]] = []

    def write(self, parts: list[bytes | memoryview]) -> int:
        self.content += b"".join(parts)
        return sum(map(len, parts))

    def tell(self, received: int, written: int) -> None:
        self.told.append((received, written))


def test_what_came_with_the_headers_and_what_comes_after_is_written_in_order(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    sink = Sink()
    far.sendall(b"world and more")

    with RawBody(near, b"hello ", 5, what="a blob") as raw:
        pump(raw, sink.write, connection(), time.monotonic, tell=sink.tell, stopped=lambda: False)

    assert sink.content == b"hello world"
    assert sum(received for received, _ in sink.told) == 11


def test_a_connection_that_ends_early_keeps_what_came(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    sink = Sink()
    far.sendall(b"abc")
    far.close()

    with (
        RawBody(near, b"", 10, what="a blob") as raw,
        pytest.raises(RegistryUnavailableError, match="7 bytes early"),
    ):
        pump(raw, sink.write, connection(), time.monotonic, tell=sink.tell, stopped=lambda: False)

    assert sink.content == b"abc"


def test_it_stops_soon_when_it_is_told_to_though_nothing_comes(ends: tuple[socket.socket, socket.socket]) -> None:
    near, _ = ends
    stop = threading.Event()
    waiting = connection()
    with RawBody(near, b"", 10, what="a blob") as raw:
        thread = threading.Thread(
            target=lambda: pump(raw, Sink().write, waiting, time.monotonic, tell=lambda *_: None, stopped=stop.is_set)
        )
        thread.start()
        time.sleep(0.1)
        assert waiting.waiting_since is not None  # so that the watch can see it stall
        stop.set()
        thread.join(20)

    assert not thread.is_alive()


async def test_a_reset_is_a_broken_connection() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.transport.abort(), "127.0.0.1", 0)
    async with server:
        peer = socket.create_connection(server.sockets[0].getsockname())
        peer.settimeout(20)
        with RawBody(peer, b"", 10, what="a blob") as raw, pytest.raises(RegistryUnavailableError, match="a blob"):
            await asyncio.to_thread(raw.read_into, memoryview(bytearray(10)))
