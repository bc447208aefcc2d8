"""The body of one range of a blob as it comes in: never more than was announced, and all that came before a break."""

from collections.abc import AsyncIterator

import aiohttp

from syncd.errors import IntegrityError, RegistryUnavailableError
from syncd.registry.raw import RawBody, detach
from syncd.registry.transport import Answer, broken


class RangeBody:
    """What the server sends: bytes ``start`` to ``end`` (half-open) of the blob.

    ``whole``: the server answered with the whole blob, whatever it was asked for. ``source``: the endpoint, as
    ``host[:port]``; never the signed address that the bytes may come from.
    """

    __slots__ = ("_answer", "_what", "end", "source", "start", "whole")

    def __init__(self, answer: Answer, start: int, end: int, whole: bool, *, source: str, what: str) -> None:
        """``what``: the blob, in words for errors."""
        self._answer, self._what = answer, what
        self.start, self.end, self.whole, self.source = start, end, whole, source

    def __repr__(self) -> str:
        return f"<RangeBody {self.start}-{self.end} of {self._what} from {self.source}>"

    def detach(self) -> RawBody | None:
        """The socket under this body, in place of ``parts``; None where only those will do. The caller closes it."""
        what = f"{self._what} from {self.source}"
        return detach(self._answer, self.end - self.start, what=what)

    def parts(self) -> AsyncIterator[bytes]:
        """The bytes, as they come; once.

        Raise ``RegistryUnavailableError`` where the connection breaks or ends early, after everything that came was
        given out, and ``IntegrityError`` where one byte more comes than the range has.
        """
        return _Parts(self._answer.content, self.end - self.start, source=self.source, what=self._what)


class _Parts:
    """An object, not a generator: one that is left early has nothing that would have to be closed."""

    __slots__ = ("_broke", "_content", "_excess", "_over", "_rest", "_source", "_what")

    def __init__(self, content: aiohttp.StreamReader, size: int, *, source: str, what: str) -> None:
        self._content, self._rest = content, size
        self._source, self._what = source, what
        self._over = self._excess = False
        self._broke: Exception | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        part = b"" if self._over else await self._next()
        if len(part) > self._rest:
            self._over = self._excess = True
            part = part[: self._rest]
        self._rest -= len(part)
        if part:
            return part
        raise self._end() from self._broke

    async def _next(self) -> bytes:
        try:
            # readchunk, for all its name, hands out what a recv brought, as it is: readany would join it, which copies.
            part, at_end_of_chunk = await self._content.readchunk()
            while at_end_of_chunk and not part:
                part, at_end_of_chunk = await self._content.readchunk()
        except (aiohttp.ClientError, OSError) as error:
            self._over, self._broke = True, error
            # aiohttp puts the error before what it still holds, and has no public way to that: keep what came.
            return self._content._read_nowait(-1)  # noqa: SLF001 - see above
        self._over = not part
        return part

    def _end(self) -> Exception:
        if self._excess:
            return IntegrityError(f"{self._source} sends more bytes of {self._what} than it has")
        if self._rest:
            why = broken(self._broke) if self._broke else "the answer ended early"
            return RegistryUnavailableError(f"{self._source}: {why}, {self._rest} bytes before the end of {self._what}")
        return StopAsyncIteration()
