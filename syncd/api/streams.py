"""Answers that take their time: a line of JSON for each moment, until thing, reader or listener ends; or a large one.

A reader gets the newest moment each time, never a backlog: one who reads slowly misses moments, one who does not read
at all is dropped. Nothing here slows what is being followed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from aiohttp import web

from syncd.api.answers import RefusedError
from syncd.jobs.board import Job, JobState, JobView
from syncd.text import printable

log = structlog.get_logger()

PAUSE = 0.25
"""Seconds between two moments that a follower gets, at least."""

_FAREWELL_SECONDS = 0.2
_SMALL = 256 * 1024  # bytes
_MAX_ANSWER = 32 * 1024 * 1024  # bytes: twice what the largest vocabularies come to
_LARGE_AT_ONCE = 8


class Stream:
    """One open answer."""

    def __init__(self, request: web.Request, response: web.StreamResponse, unread: float) -> None:
        self._request = request
        self._response = response
        self._unread = unread

    async def send(self, lines: bytes, *, within: float | None = None) -> None:
        """Write; raise ``ConnectionError`` if the reader is gone, or has taken nothing for too long.

        ``within``: seconds; None: as long as a reader may take nothing.
        """
        seconds = self._unread if within is None else within
        try:
            async with asyncio.timeout(seconds) as patience:
                await self._response.write(lines)
        except TimeoutError as error:
            if not patience.expired():
                raise
            log.info("http.reader_dropped", seconds=seconds)
            raise self.cut("the reader takes nothing") from error

    def cut(self, why: str) -> ConnectionResetError:
        """Hang up in the middle: the reader must not take what it has for the whole. What is to be raised then."""
        if self._request.transport is not None:
            self._request.transport.abort()
        return ConnectionResetError(why)


class Streams:
    """The open streams of one app."""

    def __init__(self, *, unread: float) -> None:
        """``unread``: seconds for which a reader may take nothing."""
        self.unread = unread
        self._open: set[asyncio.Timeout] = set()
        self._closing = False

    async def close(self, _app: web.Application) -> None:
        """End every stream now, each with its farewell."""
        self._closing = True
        now = asyncio.get_running_loop().time()
        for deadline in self._open:
            deadline.reschedule(now)

    async def run(
        self, request: web.Request, produce: Callable[[Stream], Awaitable[None]], *, farewell: bytes
    ) -> web.StreamResponse:
        """Answer with what ``produce`` sends; with ``farewell`` as the last line where the listener closes first."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        await response.prepare(request)
        if request.method == "HEAD":  # it asks what a GET would begin with, and there is nothing to wait for
            return response
        stream = Stream(request, response, self.unread)
        deadline = asyncio.timeout(0 if self._closing else None)
        try:
            async with deadline:
                self._open.add(deadline)
                await produce(stream)
        except ConnectionError:
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                await stream.send(farewell, within=_FAREWELL_SECONDS)
                return response
            # The answer has begun: there is no status left to tell it by.
            log.exception("http.crashed", path=printable(request.path, limit=200))
            raise stream.cut("the stream has failed") from error
        finally:
            self._open.discard(deadline)
        return response


class LargeAnswers:
    """JSON that is written piece by piece, few at once: what nobody takes must not pile up in memory."""

    def __init__(self, *, unread: float) -> None:
        """``unread``: seconds within which a reader has to take the whole."""
        self._unread = unread
        self._open = 0

    async def answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """``body`` as the answer. Raise ``RefusedError`` where it is too large, or too many are open."""
        if len(body) <= _SMALL:
            return web.Response(body=body, content_type="application/json")
        if len(body) > _MAX_ANSWER:
            raise RefusedError(500, f"there is more to tell than {_MAX_ANSWER} bytes", hint="ask without verbose")
        if self._open >= _LARGE_AT_ONCE:
            raise RefusedError(503, "too many large answers are being read", hint="try again")
        self._open += 1
        try:
            return await self._written(request, body)
        finally:
            self._open -= 1

    async def _written(self, request: web.Request, body: bytes) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
        await response.prepare(request)
        stream = Stream(request, response, self._unread)
        until = loop.time() + self._unread
        for start in range(0, len(body), _SMALL):
            await stream.send(body[start : start + _SMALL], within=max(0.0, until - loop.time()))
        return response


async def follow(job: Job, send: Callable[[JobView], Awaitable[None]]) -> JobView:
    """Hand each newest moment of a running job to ``send``, at most one in ``PAUSE``; return its end."""
    view = job.view
    while view.state is JobState.RUNNING:
        await send(view)
        # What comes meanwhile wakes nobody but the end: with many followers that would cost the pull its speed.
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE):
                await job.ended()
        view = await job.changed(view.revision)
    return view
