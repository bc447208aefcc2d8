"""Reading what the disk holds, and not what memory holds of it: O_DIRECT, with threads that read ahead.

Where a file system has no O_DIRECT, the read goes through the page cache, and ``DirectFile.direct`` says so. Nothing is
ever dropped from the cache: the servers read from it.
"""

import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

BLOCK_BYTES = 8 * 1024 * 1024  # a multiple of every device's block, and a divisor of a chunk
_BUFFERS = 4  # one that is hashed, two that are read into, and one that waits
_READERS = 2  # threads: on a busy machine, the disk has its next request before the last one is looked at
_PAGE = 4096


class DirectFile:
    """An open file. ``direct``: whether reads come from the disk itself, as far as is known by now."""

    def __init__(self, fd: int) -> None:
        """Turn O_DIRECT on for ``fd``, which stays the caller's."""
        self._fd = fd
        try:
            self._flag(fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
        except OSError:
            self.direct = False  # open(2): EINVAL, the file system does not support it
        else:
            self.direct = True

    def read(self, buffer: memoryview, offset: int) -> int:
        """Fill an aligned buffer from an aligned offset on; how many bytes: fewer at the end of the file only.

        Raise ``OSError`` for what the disk cannot read.
        """
        filled = 0
        while filled < len(buffer):
            count = self._read(buffer[filled:], offset + filled)
            if count == 0 or offset + filled + count >= os.fstat(self._fd).st_size:
                return filled + count
            # What ended in the middle of a page is read again from that page's beginning: the next read is aligned.
            whole = count - count % _PAGE if self.direct else count
            if whole == 0:
                self._through_the_cache()
            filled += whole
        return filled

    def _read(self, buffer: memoryview, offset: int) -> int:
        try:
            return os.preadv(self._fd, (buffer,), offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        self._through_the_cache()  # it took the flag and not the read: its blocks are larger than ours
        return os.preadv(self._fd, (buffer,), offset)

    def _through_the_cache(self) -> None:
        self._flag(fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT)
        self.direct = False

    def _flag(self, flags: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_SETFL, flags)


@dataclass(frozen=True, slots=True)
class Block:
    """What lies from ``offset`` on. ``data``: until the next is asked for. ``error``: why there is none."""

    offset: int
    data: memoryview
    error: OSError | None


class DirectReader:
    """The buffers and the threads of one scrub; a context manager that gives them back. One file at a time."""

    def __init__(self) -> None:
        self._buffers = [memoryview(_pages()) for _ in range(_BUFFERS)]
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="read-ahead")

    def blocks(self, file: DirectFile, start: int, end: int) -> Generator[Block, None, None]:
        """``file`` from ``start`` (aligned) to ``end``, in blocks, the next ones being read while one is looked at.

        A block that is shorter than it should be is the end of the file. Close it if it is not read to its end.
        """
        if end - start <= BLOCK_BYTES:  # a template or a license is read sooner than another thread wakes
            if end > start:
                yield _block(start, self._buffers[0], end, lambda: file.read(self._buffers[0], start))
            return
        free, pending = deque(self._buffers), deque[tuple[int, memoryview, Future[int]]]()
        offsets = iter(range(start, end, BLOCK_BYTES))
        try:
            while True:
                while free and (offset := next(offsets, None)) is not None:
                    buffer = free.popleft()
                    pending.append((offset, buffer, self._threads.submit(file.read, buffer, offset)))
                if not pending:
                    return
                offset, buffer, work = pending.popleft()
                yield _block(offset, buffer, end, work.result)
                free.append(buffer)
        finally:
            wait([work for _, _, work in pending if not work.cancel()])

    def close(self) -> None:
        """Give the threads back, and the memory as soon as nobody looks at a block any more."""
        self._threads.shutdown(cancel_futures=True)
        self._buffers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _pages() -> mmap.mmap:
    """Aligned memory for one block."""
    pages = mmap.mmap(-1, BLOCK_BYTES)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)  # for a read, a few pages are pinned instead of thousands
    return pages


def _block(offset: int, buffer: memoryview, end: int, read: Callable[[], int]) -> Block:
    try:
        count = read()
    except OSError as error:
        return Block(offset, buffer[:0], error)
    return Block(offset, buffer[: min(count, end - offset)], None)
