"""What is left of a damaged blob: the chunks of its file, or of another one, that are what the blob's map says."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Self

from blake3 import blake3

from syncd.oci.chunks import ChunkMap, chunk_bounds
from syncd.oci.manifest import Descriptor
from syncd.store.copying import SpoiltError, copy_range, read_exactly
from syncd.store.hashing import HashingStoppedError, hash_file

_READ = 1024 * 1024  # bytes


class Remains:
    """Files that may still hold chunks of a blob. ``known``: its map. Owns the descriptors that it is given.

    A chunk is hashed before it is copied. That saves copying what is wrong; it proves nothing of the copy, which
    whoever goes by it hashes again.
    """

    def __init__(self, known: ChunkMap) -> None:
        self.known = known
        self._files: list[tuple[int, Path]] = []
        self._buffer = memoryview(bytearray(_READ))

    def __bool__(self) -> bool:
        """Whether there is any file."""
        return bool(self._files)

    def add(self, fd: int, path: Path) -> None:
        """One more file, asked after those before it."""
        self._files.append((fd, path))

    def bring(self, index: int, target: int, path: Path) -> bool:
        """Copy chunk ``index`` into ``target`` (at ``path``) from the first file that has it; False: none has. Blocks.

        Raise ``SyncdError`` where the target cannot be written.
        """
        start, end = chunk_bounds(index, self.known.size)
        for fd, origin in self._files:
            try:
                if self._hash(fd, origin, start, end) == self.known.hashes[index]:
                    copy_range(fd, target, start, end - start, origin, path)
                    return True
            except SpoiltError:
                continue  # cut, or on a bad sector: the next file may have it
        return False

    def _hash(self, fd: int, path: Path, start: int, end: int) -> bytes:
        hasher = blake3()
        while start < end:
            part = self._buffer[: min(_READ, end - start)]
            read_exactly(fd, part, start, path)
            hasher.update(part)
            start += len(part)
        return hasher.digest()

    def close(self) -> None:
        """Give the descriptors back; calling it again does nothing."""
        while self._files:
            os.close(self._files.pop()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_elsewhere(path: Path) -> int | None:
    """A descriptor of a regular file of somebody else's; None where there is none that this user may read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return fd


def learn(blob: Descriptor, path: Path, stopped: Callable[[], bool]) -> ChunkMap | None:
    """The map of ``blob``, if the file at ``path`` is it by SHA-256; None if not, or if ``stopped`` said so. Blocks."""
    fd = open_elsewhere(path)
    if fd is None:
        return None

    def read(buffer: memoryview, offset: int) -> None:
        read_exactly(fd, buffer, offset, path)

    try:
        if os.fstat(fd).st_size != blob.size:
            return None
        hashed = hash_file(read, blob.size, on_bytes=lambda _count: None, cancelled=stopped)
    except (SpoiltError, HashingStoppedError):
        return None
    finally:
        os.close(fd)
    return hashed.chunks if hashed.digest == blob.digest else None
