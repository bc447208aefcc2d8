"""One region of a partial file: a single writer, who hashes each chunk on its way to the disk."""

from collections.abc import Sequence
from typing import Protocol

from blake3 import blake3

from syncd.download.plan import ByteRange
from syncd.oci.chunks import CHUNK_SIZE


class Sink(Protocol):
    """Where the bytes of a segment go: a partial file (``store.blobs.Partial``)."""

    def write(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        """Write all of them at ``offset``, or raise ``SyncdError``."""


class ChunkLog(Protocol):
    """Where finished chunks are noted (``Journal``)."""

    def claim(self, index: int, blake3: bytes) -> None:
        """Chunk ``index`` has been written."""


class Chunks:
    """The BLAKE3 of every chunk of a blob that is in place, and of those that are half done, by where they stand."""

    def __init__(self, size: int, held: dict[int, bytes]) -> None:
        self.size = size
        self.done = dict(held)
        self._half: dict[int, blake3] = {}

    def resume(self, position: int) -> blake3:
        """The hash of the chunk around ``position``, of what lies below it."""
        return blake3() if position % CHUNK_SIZE == 0 else self._half.pop(position)

    def suspend(self, position: int, hasher: blake3) -> None:
        """Keep a half-done chunk for the next writer."""
        if position % CHUNK_SIZE:
            self._half[position] = hasher


class Segment:
    """Bytes ``position`` to ``end`` of a blob, still to come. ``write`` blocks; one call at a time."""

    def __init__(self, part: ByteRange, chunks: Chunks, sink: Sink, log: ChunkLog) -> None:
        self.position = part.start
        self.end = part.end
        self._chunks = chunks
        self._sink = sink
        self._log = log
        self._hasher = chunks.resume(part.start)

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        """The next bytes, in order; how many. What an error leaves unwritten does not count as written."""
        start = self.position
        self._sink.write(parts, start)
        for part in parts:
            self._hash(memoryview(part))
        return self.position - start

    def close(self) -> ByteRange | None:
        """End the writing: what is left for somebody else, if anything is."""
        if self.position == self.end:
            return None
        self._chunks.suspend(self.position, self._hasher)
        return ByteRange(self.position, self.end)

    def _hash(self, view: memoryview) -> None:
        while view:
            index = self.position // CHUNK_SIZE
            chunk_end = min((index + 1) * CHUNK_SIZE, self._chunks.size)
            piece = view[: chunk_end - self.position]
            self._hasher.update(piece)
            if self.position + len(piece) == chunk_end:
                blake = self._hasher.digest()
                self._log.claim(index, blake)
                self._chunks.done[index] = blake
                self._hasher = blake3()
            self.position += len(piece)
            view = view[len(piece) :]
