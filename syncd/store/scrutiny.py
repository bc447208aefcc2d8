"""One pass over a blob's file as the disk has it: against the map of its chunks, or whole against SHA-256."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

import blake3

from syncd.oci.chunks import CHUNK_SIZE, ChunkMap, chunk_bounds, chunk_count
from syncd.oci.digest import Hasher
from syncd.oci.manifest import Descriptor
from syncd.store.check import Verdict
from syncd.store.copying import BAD_MEDIUM
from syncd.store.direct import BLOCK_BYTES, DirectFile, DirectReader
from syncd.store.os_errors import translated
from syncd.store.records import Identity, Record

_BAD_MEDIUM = BAD_MEDIUM | {errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO}
"""What a direct read says of bad sectors (Linux ``blk_errors``); a buffered one says EIO."""


class Scrutiny:
    """A pass that is cut into steps. Owns its descriptor; one at a time has the ``reader``.

    Where the record speaks of this very file, its map is all that is asked (``by_map``), and the pass ends at the first
    chunk that differs (``suspect``): another pass then asks SHA-256, which decides. That one takes note of all chunks.
    """

    def __init__(
        self, blob: Descriptor, fd: int, path: Path, record: Record | None, reader: DirectReader, *, whole: bool
    ) -> None:
        """``whole``: ask SHA-256 in any case."""
        self.blob = blob
        self.fd = fd
        self.path = path
        self.before = Identity.of(os.fstat(fd))
        known = record is not None and record.chunks.size == blob.size and record.has_map
        self.map = record.chunks if record is not None and known else None
        self.by_map = not whole and self.map is not None and record is not None and record.identity == self.before
        self.done = 0
        self.bad: list[int] = []
        self.hashes: list[bytes] = []
        self.unreadable: OSError | None = None
        self._file = DirectFile(fd)
        self._sha256 = None if self.by_map or self.before.size != blob.size else Hasher()
        self._chunk = blake3.blake3()
        self._spoilt = False
        self._reader = reader
        self._blocks = reader.blocks(self._file, 0, self._end())

    @property
    def direct(self) -> bool:
        """Whether what was read came from the disk itself."""
        return self._file.direct

    @property
    def suspect(self) -> bool:
        """Whether the map and the file disagree, so that SHA-256 has to be asked."""
        return self.by_map and bool(self.bad)

    def skip_to(self, chunk: int) -> None:
        """Begin there: what lies before was seen to be right in this very file. Only ``by_map``, before any step.

        A place that the blob does not have is none: then it begins at its beginning.
        """
        start = chunk_bounds(chunk, self.blob.size)[0]
        if not 0 <= start <= self.blob.size:
            return
        self.done = start
        self._blocks = self._reader.blocks(self._file, self.done, self._end())

    def step(self, limit: int, stopped: Callable[[], bool]) -> int:
        """Read about ``limit`` bytes more, fewer once ``stopped`` says so; how many: 0 at the end."""
        start = self.done
        while self.done - start < limit and not stopped() and self._read():
            pass
        return self.done - start

    def verdict(self) -> Verdict:
        """What it found, once ``step`` has returned 0 without being stopped."""
        if self.by_map and self.right:
            return Verdict.RIGHT  # whoever gave it a fresh mtime meanwhile changed none of its bytes
        with translated(self.path):
            after = Identity.of(os.fstat(self.fd))
        if after != self.before:
            return Verdict.CHANGED
        if self.unreadable is not None:
            return Verdict.UNREADABLE
        if self.before.size != self.blob.size:
            return Verdict.WRONG_SIZE
        return Verdict.RIGHT if self.right else Verdict.WRONG_BYTES

    @property
    def right(self) -> bool:
        """Whether the bytes that were read are those of the blob, all of them."""
        if self.before.size != self.blob.size or self.done != self.blob.size:
            return False
        if self.by_map:
            return not self.bad
        return self._sha256 is not None and self._sha256.digest() == self.blob.digest

    def chunks(self) -> ChunkMap:
        """The map of what was read; only of a right one that was read whole."""
        return ChunkMap(self.blob.size, tuple(self.hashes))

    def damaged(self) -> tuple[int, ...] | None:
        """The chunks that are wrong; None where that is not known: no map, or one that SHA-256 gives the lie."""
        if self.map is None:
            return None
        held = self._end()
        cut = [one for one in range(chunk_count(self.blob.size)) if chunk_bounds(one, self.blob.size)[1] > held]
        wrong = tuple(sorted({*self.bad, *cut}))
        return wrong if wrong or self.before.size != self.blob.size else None

    def _end(self) -> int:
        """Where reading stops. Of a file of another size only what a map can judge is of interest."""
        if self.before.size == self.blob.size:
            return self.blob.size
        return min(self.before.size, self.blob.size) if self.map is not None else 0

    def _read(self) -> bool:
        if self.suspect or (self.unreadable is not None and self.map is None):
            return False
        block = next(self._blocks, None)
        if block is None:
            return False
        length = min(self._end() - block.offset, BLOCK_BYTES)
        if block.error is not None:
            if block.error.errno not in _BAD_MEDIUM:  # no memory, a network that is away: that says nothing of the blob
                with translated(self.path):
                    raise block.error
            self.unreadable, self._spoilt, self._sha256 = block.error, True, None
        elif len(block.data) < length:
            return False  # cut while it was read: its identity has changed
        else:
            self._chunk.update(block.data)
            if self._sha256 is not None:
                self._sha256.update(block.data)
        self.done = block.offset + length
        if self.done % CHUNK_SIZE == 0 or self.done == self.blob.size:
            self._end_chunk((self.done - 1) // CHUNK_SIZE)
        return True

    def _end_chunk(self, index: int) -> None:
        found = self._chunk.digest()
        self.hashes.append(found)
        if self._spoilt or (self.map is not None and self.map.hashes[index] != found):
            self.bad.append(index)
        self._chunk, self._spoilt = blake3.blake3(), False

    def close(self) -> None:
        """Give the descriptor back; calling it again does nothing."""
        if self.fd >= 0:
            self._blocks.close()
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
