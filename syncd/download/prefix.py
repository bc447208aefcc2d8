"""SHA-256 over what the disk holds, following the contiguous prefix of a blob while the rest still downloads."""

from collections.abc import Callable
from typing import Protocol

from blake3 import blake3

from syncd.errors import StoreError
from syncd.oci.chunks import CHUNK_SIZE, chunk_bounds
from syncd.oci.digest import Digest, Hasher

_READ = 1024 * 1024  # bytes


class Source(Protocol):
    """What is hashed: a partial file (``store.blobs.Partial``)."""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read at ``offset``; how many bytes came, 0 at the end."""


def read_through(
    source: Source, start: int, end: int, take: Callable[[memoryview], object], buffer: memoryview
) -> None:
    """Hand bytes ``start`` to ``end`` to ``take``, a ``buffer`` at a time. Raise ``StoreError`` if some are missing."""
    while start < end:
        count = source.read_into(buffer[: min(len(buffer), end - start)], start)
        if count == 0:
            raise StoreError(f"a partial file ends at byte {start}, {end - start} bytes early")
        take(buffer[:count])
        start += count


class PrefixHash:
    """The digest of bytes 0 to ``position``. ``advance`` blocks; one call at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._hasher = Hasher()
        self._buffer = memoryview(bytearray(_READ))
        self.position = 0

    def advance(self, frontier: int) -> None:
        """Hash on towards ``frontier``, a chunk at most, so that a caller who wants to stop can."""
        end = min(frontier, self.position + CHUNK_SIZE)
        read_through(self._source, self.position, end, self._hasher.update, self._buffer)
        self.position = end

    def digest(self) -> Digest:
        """The digest so far."""
        return self._hasher.digest()


def chunk_blake3(source: Source, index: int, size: int) -> bytes:
    """The BLAKE3 of chunk ``index`` as the source holds it, of a blob of ``size`` bytes."""
    hasher = blake3()
    read_through(source, *chunk_bounds(index, size), hasher.update, memoryview(bytearray(_READ)))
    return hasher.digest()
