"""One pass over a blob's file: SHA-256, which decides, and on the way the BLAKE3 of each chunk."""

import errno
import os
from enum import StrEnum
from pathlib import Path
from typing import Protocol, Self

import blake3

from syncd.oci.chunks import CHUNK_SIZE, ChunkMap
from syncd.oci.digest import Hasher
from syncd.oci.manifest import Descriptor
from syncd.store.os_errors import translated
from syncd.store.records import Identity

READ_BYTES = 1024 * 1024
_BAD_MEDIUM = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})


class Verdict(StrEnum):
    """What a pass over a blob's file found."""

    RIGHT = "right"
    WRONG_SIZE = "wrong size"
    WRONG_BYTES = "wrong bytes"
    UNREADABLE = "unreadable"
    CHANGED = "changed while it was read"


class Passed(Protocol):
    """A pass over a whole blob's file that has come to its end, however it read the file."""

    @property
    def blob(self) -> Descriptor:
        """What the file should be."""

    @property
    def fd(self) -> int:
        """The file itself."""

    @property
    def path(self) -> Path:
        """Where it was opened."""

    @property
    def before(self) -> Identity:
        """What it was when the pass began."""

    @property
    def unreadable(self) -> OSError | None:
        """What a read failed with, if one did."""

    def verdict(self) -> Verdict:
        """What was found."""

    def chunks(self) -> ChunkMap:
        """The map of what was read; only for a right one."""


class BlobCheck:
    """A pass that is cut into steps, so that whoever drives it can stop between two. Owns its descriptor."""

    def __init__(self, blob: Descriptor, fd: int, path: Path) -> None:
        self.blob = blob
        self.path = path
        self.fd = fd
        self.before = Identity.of(os.fstat(fd))
        self.done = 0
        self.unreadable: OSError | None = None
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._sha256 = Hasher()
        self._chunk = blake3.blake3()
        self._hashes: list[bytes] = []

    def step(self, limit: int) -> int:
        """Hash up to ``limit`` bytes more; how many that were: 0 at the end. A bad medium ends it: see ``verdict``."""
        start = self.done
        while self.done - start < limit and self._read():
            pass
        return self.done - start

    def _read(self) -> bool:
        if self.before.size != self.blob.size or self.unreadable is not None:
            return False
        # READ_BYTES divides CHUNK_SIZE, so that a full read ends on a chunk's end; a short one may end anywhere.
        room = min(READ_BYTES, CHUNK_SIZE - self.done % CHUNK_SIZE, self.blob.size - self.done)
        if room == 0:
            return False
        try:
            count = os.preadv(self.fd, (self._buffer[:room],), self.done)
        except OSError as error:
            if error.errno not in _BAD_MEDIUM:
                with translated(self.path):
                    raise
            self.unreadable = error
            return False
        part = self._buffer[:count]
        self._sha256.update(part)
        self._chunk.update(part)
        self.done += count
        if count and (self.done % CHUNK_SIZE == 0 or self.done == self.blob.size):
            self._hashes.append(self._chunk.digest())
            self._chunk = blake3.blake3()
        return count > 0

    def verdict(self) -> Verdict:
        """What it found, once ``step`` has returned 0."""
        if self.unreadable is not None:
            return Verdict.UNREADABLE
        if self.before.size != self.blob.size:
            return Verdict.WRONG_SIZE
        with translated(self.path):
            after = Identity.of(os.fstat(self.fd))
        if after != self.before:
            return Verdict.CHANGED
        return Verdict.RIGHT if self._sha256.digest() == self.blob.digest else Verdict.WRONG_BYTES

    def chunks(self) -> ChunkMap:
        """The map of what was read; only for a right one."""
        return ChunkMap(self.blob.size, tuple(self._hashes))

    def close(self) -> None:
        """Give the descriptor back; calling it again does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
