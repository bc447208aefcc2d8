"""HTTP servers of tests: aiohttp's, in an event loop of a thread's own, and their end with nothing left open."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aiohttp import web

_PATIENCE = 60.0  # seconds for a call into the loop


class LoopThread:
    """An event loop that runs in a thread, from ``start()`` to ``end()``."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it there, and wait for it. Raise what it raises."""
        asyncio.run_coroutine_threadsafe(work, self.loop).result(_PATIENCE)

    def end(self) -> None:
        """What still runs there is cancelled first, and ends."""
        self.call(_end_tasks())
        self.call(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_PATIENCE)
        self.loop.close()


class HttpServer:
    """Handlers on sockets. Lives in one event loop; every method is called there."""

    def __init__(self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        self._web = web.Server(handle, handler_cancellation=True, access_log=None)
        self._listening: list[asyncio.Server] = []
        self._vanished: asyncio.Task[None] | None = None

    async def listen(self, bound: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """From now on, on this socket too."""
        loop = asyncio.get_running_loop()
        self._listening.append(await loop.create_server(self._web, sock=bound, ssl=tls, backlog=256))

    def drop_connections(self) -> None:
        """Break every connection at once."""
        for connection in self._web.connections:
            if connection.transport is not None:
                connection.transport.abort()

    def vanish(self) -> None:
        """As SIGKILL: connecting is refused, then every connection breaks; both in the next turns of the loop."""
        if self._vanished is None:
            loop = asyncio.get_running_loop()
            for listening in self._listening:
                for bound in listening.sockets:
                    loop.remove_reader(bound.fileno())
            self._vanished = loop.create_task(self._refuse(), name="refuse connections")

    async def close(self) -> None:
        """Vanish, and wait until nothing of it is left."""
        self.vanish()
        assert self._vanished is not None
        await self._vanished
        await self._web.shutdown(0.1)

    async def _refuse(self) -> None:
        # A connection accepted in the last turn of the loop becomes a transport in this one. Where its server is closed
        # by then, asyncio leaves it open and unknown (CPython's issue 109564); in the next turn aiohttp knows it too.
        await asyncio.sleep(0)
        for listening in self._listening:
            listening.close()
        await asyncio.sleep(0)
        self.drop_connections()


async def _end_tasks() -> None:
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
