"""SHA-256 and the BLAKE3 of each chunk in one pass, at the speed of SHA-256: all else is a second thread's work."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import blake3

from syncd.oci.chunks import CHUNK_SIZE, ChunkMap
from syncd.oci.digest import Digest, Hasher

_BLOCK = 1024 * 1024  # bytes; divides a chunk, so that no block lies in two
_AHEAD = 4  # blocks that may be read before they are hashed


class HashingStoppedError(Exception):
    """The caller told it to stop."""


ReadInto = Callable[[memoryview, int], None]
"""Fill the buffer with what lies from an offset on, or raise."""


@dataclass(frozen=True, slots=True)
class Hashed:
    """What a file is: ``digest`` decides, ``chunks`` is its map."""

    digest: Digest
    chunks: ChunkMap


def hash_file(read: ReadInto, size: int, *, on_bytes: Callable[[int], object], cancelled: Callable[[], bool]) -> Hashed:
    """Hash ``size`` bytes. ``on_bytes`` gets the size of each step. Blocks.

    Raise what ``read`` raises, and ``HashingStoppedError`` soon after ``cancelled`` says so.
    """
    sha256 = Hasher()
    if size <= _BLOCK:  # a template or a license is hashed sooner than a thread starts
        buffer = memoryview(bytearray(size))
        if size:
            read(buffer, 0)
        sha256.update(buffer)
        on_bytes(size)
        return Hashed(sha256.digest(), ChunkMap(size, (blake3.blake3(buffer).digest(),) if size else ()))
    ahead = _Ahead(read, size)
    with ThreadPoolExecutor(1, thread_name_prefix="blake3") as thread:
        chunks = thread.submit(ahead.run)
        try:
            while (block := ahead.filled.get()) is not None:
                sha256.update(block)
                on_bytes(len(block))
                if cancelled():
                    raise HashingStoppedError
                ahead.free.put(block.obj)
        finally:
            ahead.free.put(None)  # ends it, should it be waiting for a buffer
        return Hashed(sha256.digest(), ChunkMap(size, chunks.result()))


class _Ahead:
    """Reads and hashes chunks, a few blocks ahead of whoever takes them from ``filled``; None is the end."""

    def __init__(self, read: ReadInto, size: int) -> None:
        self._read = read
        self._size = size
        self.filled: SimpleQueue[memoryview | None] = SimpleQueue()
        self.free: SimpleQueue[object] = SimpleQueue()
        for _ in range(_AHEAD):
            self.free.put(bytearray(_BLOCK))

    def run(self) -> tuple[bytes, ...]:
        try:
            return self._run()
        finally:
            self.filled.put(None)

    def _run(self) -> tuple[bytes, ...]:
        hashes: list[bytes] = []
        chunk = blake3.blake3()
        for start in range(0, self._size, _BLOCK):
            buffer = self.free.get()
            if not isinstance(buffer, bytearray):
                break
            end = min(start + _BLOCK, self._size)
            block = memoryview(buffer)[: end - start]
            self._read(block, start)
            chunk.update(block)
            if end % CHUNK_SIZE == 0 or end == self._size:
                hashes.append(chunk.digest())
                chunk = blake3.blake3()
            self.filled.put(block)
        return tuple(hashes)
