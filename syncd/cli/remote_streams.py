"""The client's other half: answers that come line by line, for as long as the work takes; asyncio, for the signals."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec

from syncd.aio import in_thread
from syncd.cli.remote import (
    ANSWER_SECONDS,
    GREETING_SECONDS,
    MAX_BODY,
    decoded,
    failure,
    gone,
    greet,
    unintelligible,
)

MAX_LINE = 16 * 2**20
SILENCE_SECONDS = 30.0
"""After these the daemon is asked whether it is still there: a pull that waits has nothing to tell."""
_ATTEMPTS = 5
_CHUNK = 2**16
_OK = 200


class _Tagged(msgspec.Struct):
    event: str


class LineSplitter:
    """Cuts a stream into lines, none longer than ``limit`` bytes."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._length = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` ends. Raise ``ValueError`` for one that is too long."""
        *ended, rest = chunk.split(b"\n")
        lines = []
        for part in ended:
            self._add(part)
            lines.append(b"".join(self._parts))
            self._parts, self._length = [], 0
        self._add(rest)
        return lines

    def _add(self, part: bytes) -> None:
        self._length += len(part)
        if self._length > self._limit:
            raise ValueError(f"a line of more than {self._limit} bytes")
        if part:
            self._parts.append(part)


@asynccontextmanager
async def following(
    path: Path,
    target: str,
    asked: msgspec.Struct,
    kinds: Mapping[str, type[msgspec.Struct]],
) -> AsyncIterator[AsyncIterator[msgspec.Struct]]:
    """Post ``asked`` and read the lines of the answer: structs by their ``event``; what nobody knows is skipped.

    Who reads on past the last line meets ``DaemonGoneError``: a stream says itself when it is at its end. Raise
    ``SyncdError``.
    """
    limits = aiohttp.ClientTimeout(total=None, sock_connect=GREETING_SECONDS)
    async with aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(path)),
        timeout=limits,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept-Encoding", "User-Agent"),
    ) as session:
        answer = await _posted(session, path, target, asked)
        lines = _lines(answer, path, kinds)
        try:
            yield lines
        finally:
            await lines.aclose()
            answer.close()  # not released: whoever leaves early hangs up


async def _posted(
    session: aiohttp.ClientSession, path: Path, target: str, asked: msgspec.Struct
) -> aiohttp.ClientResponse:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await _sent(session, path, target, msgspec.json.encode(asked))
            if answer.status == _OK:
                return answer
            try:
                content = await _bounded(answer)
            finally:
                answer.close()
    except (aiohttp.ClientError, OSError, ValueError) as error:  # OSError: TimeoutError too
        raise gone(path) from error
    raise failure(path, target, answer.status, content)


async def _sent(session: aiohttp.ClientSession, path: Path, target: str, body: bytes) -> aiohttp.ClientResponse:
    """The answer's beginning. Asking twice does no harm: it is joining what runs."""
    for attempt in range(_ATTEMPTS):
        try:
            return await session.post(
                f"http://localhost{target}",
                data=body,
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
            )
        except aiohttp.ClientConnectionError:
            # asyncio takes a full queue, where connect(2) on a unix socket says EAGAIN, for a connection: a greeting
            # waits for its turn.
            if attempt + 1 == _ATTEMPTS or await in_thread(greet, path) is None:
                raise
    raise AssertionError("the last attempt returns or raises")


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    while chunk := await answer.content.read(_CHUNK):
        content += chunk
        if len(content) > MAX_BODY:
            raise ValueError("more than anybody asked for")
    return bytes(content)


async def _lines(
    answer: aiohttp.ClientResponse, path: Path, kinds: Mapping[str, type[msgspec.Struct]]
) -> AsyncGenerator[msgspec.Struct, None]:
    splitter = LineSplitter()
    while chunk := await _chunk(answer, path):
        try:
            lines = splitter.feed(chunk)
        except ValueError as error:
            raise unintelligible(path) from error
        for line in lines:
            if line.strip():
                kind = kinds.get(decoded(path, line, _Tagged).event)
                if kind is not None:
                    yield decoded(path, line, kind)
    raise gone(path)


async def _chunk(answer: aiohttp.ClientResponse, path: Path) -> bytes:
    """What comes next, b"" at the end; while nothing comes, see now and then whether somebody is still there."""
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                return await answer.content.readany()
        except TimeoutError:
            if await in_thread(greet, path) is None:
                raise gone(path) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise gone(path) from error
