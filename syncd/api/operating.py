"""Operations over HTTP: each a POST whose answer is its lines, as they come, and its last one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from syncd.aio import only_error
from syncd.api.answers import line, told
from syncd.api.guard import Door, body, peer
from syncd.api.operation import Desk, Operation
from syncd.api.operations import OPERATIONS
from syncd.api.streams import Stream, Streams
from syncd.errors import SyncdError

log = structlog.get_logger()

T = TypeVar("T")

_STOPPING = SyncdError("the daemon is stopping", hint="nothing is lost: run the same command again when it is back")
_PAUSE = 0.1  # seconds between two batches of lines


class Operating:
    """The routes of ``OPERATIONS``. ``desk``: what they work with, for whoever asks."""

    def __init__(self, desk: Callable[[str], Desk], door: Door, streams: Streams, *, body_seconds: float) -> None:
        self._desk = desk
        self._door = door
        self._streams = streams
        self._body_seconds = body_seconds

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [web.post(f"/syncd/v1/{one.path}", self._handler(one)) for one in OPERATIONS]

    def _handler(self, operation: Operation[Any, Any]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            asked = await body(request, operation.asked, seconds=self._body_seconds)
            desk = self._desk((await peer(request)).words)
            return await self._streams.run(
                request, lambda stream: self._tell(operation, desk, asked, stream), farewell=self._failed(_STOPPING)
            )

        return handle

    async def _tell(self, operation: Operation[Any, Any], desk: Desk, asked: msgspec.Struct, stream: Stream) -> None:
        outbox = Outbox(operation.moments)

        async def work() -> bytes:
            try:
                return line(await operation.run(desk, asked, outbox.put))
            except SyncdError as error:
                log.info("operation.failed", path=operation.path, by=desk.by, error=error.message)
                return self._failed(error)
            finally:
                outbox.news.set()

        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(work(), name=f"{operation.path} for a client")
                while not task.done():
                    await outbox.news.wait()
                    if lines := outbox.take():
                        await stream.send(lines)
                    await asyncio.wait((task,), timeout=_PAUSE)
        except BaseExceptionGroup as errors:
            raise only_error(errors, (ConnectionError,)) from errors
        await stream.send(outbox.take() + task.result())

    def _failed(self, error: SyncdError) -> bytes:
        return line(told(error, open_to_strangers=self._door.open_to_strangers))


class Outbox:
    """Lines that wait to be sent. Of ``moments``, the newest of a kind takes the place of an earlier one."""

    def __init__(self, moments: tuple[type[msgspec.Struct], ...]) -> None:
        self.news = asyncio.Event()
        self._moments = moments
        self._lines: deque[msgspec.Struct] = deque()

    def put(self, told_of: msgspec.Struct) -> None:
        """One more line."""
        if self._lines and isinstance(told_of, self._moments) and type(self._lines[-1]) is type(told_of):
            self._lines.pop()
        self._lines.append(told_of)
        self.news.set()

    def take(self) -> bytes:
        """All that wait."""
        self.news.clear()
        lines = b"".join(line(one) for one in self._lines)
        self._lines.clear()
        return lines
