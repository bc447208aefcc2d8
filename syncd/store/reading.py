"""Cursors over what holds an archive: a regular file, where skipping costs nothing, and a pipe, where it is reading."""

import os
import select
from collections.abc import Callable
from pathlib import Path

from syncd.store.archive import ArchiveError
from syncd.store.copying import read_exactly
from syncd.store.os_errors import translated

_PART = 1024 * 1024  # bytes
_PATIENCE = 200  # milliseconds between two looks at whether it was cancelled
_MAX_TAIL = 1024 * 1024  # bytes behind an archive's end that are read so that its writer can finish


class StoppedError(Exception):
    """The caller told it to stop."""


class FileCursor:
    """Over a regular file."""

    def __init__(self, fd: int, origin: Path) -> None:
        self._fd = fd
        self._origin = origin
        with translated(origin):
            self._size = os.fstat(fd).st_size
        self.position = 0

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        start = self.position
        self.skip(size)
        content = bytearray(size)
        read_exactly(self._fd, memoryview(content), start, self._origin)
        return bytes(content)

    def skip(self, size: int) -> None:
        """Go on so many bytes."""
        if size > self._size - self.position:
            raise ArchiveError(_CUT, hint=_CUT_HINT)
        self.position += size


class StreamCursor:
    """Over a pipe, a socket or a terminal. ``cancelled``: asked while nothing comes; then ``StoppedError`` is raised.

    ``on_bytes``: gets the size of each step.
    """

    def __init__(
        self, fd: int, origin: Path, *, on_bytes: Callable[[int], object], cancelled: Callable[[], bool]
    ) -> None:
        self._fd = fd
        self._origin = origin
        self._on_bytes = on_bytes
        self._cancelled = cancelled
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self.position = 0

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        content = bytearray(size)
        self.read_into(memoryview(content))
        return bytes(content)

    def read_into(self, buffer: memoryview) -> None:
        """Fill it."""
        done = 0
        while done < len(buffer):
            count = self._some(buffer[done:])
            if count == 0:
                raise ArchiveError(_CUT, hint=_CUT_HINT)
            done += count

    def skip(self, size: int) -> None:
        """Read so many bytes, and forget them."""
        buffer = memoryview(bytearray(min(size, _PART)))
        while size:
            part = buffer[: min(size, len(buffer))]
            self.read_into(part)
            size -= len(part)

    def finish(self) -> None:
        """Read what stands behind the end, up to a bound: whoever writes it would die of a closed pipe."""
        buffer = memoryview(bytearray(64 * 1024))
        rest = _MAX_TAIL
        while rest > 0 and (count := self._some(buffer)):
            rest -= count

    def _some(self, buffer: memoryview) -> int:
        while not self._poll.poll(_PATIENCE):
            self._heed()
        self._heed()
        with translated(self._origin):
            count = os.readv(self._fd, (buffer,))
        self.position += count
        self._on_bytes(count)
        return count

    def _heed(self) -> None:
        if self._cancelled():
            raise StoppedError


_CUT = "it is cut off: it ends before its end"
_CUT_HINT = "it was not written, or not copied, to its end: make it, or copy it, once more"
