"""Blobs that come before it is known who needs them: files without a name, which vanish with whoever holds them."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from syncd.errors import StoreError
from syncd.oci.chunks import ChunkMap
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.store import layout
from syncd.store.allocate import allocate
from syncd.store.blobs import BlobStore
from syncd.store.copying import read_exactly
from syncd.store.descriptors import write_all
from syncd.store.files import Folder
from syncd.store.hashing import Hashed, hash_file
from syncd.store.os_errors import error_of, translated
from syncd.store.partial import Partial

_NO_NAMELESS = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT})


@dataclass(frozen=True, slots=True)
class Spooled:
    """A file without a name that holds a whole blob, hashed. Whoever has it closes it."""

    digest: Digest
    chunks: ChunkMap
    fd: int

    def close(self) -> None:
        """Let it go: unless it got a name, its space is free again."""
        os.close(self.fd)


class Spool:
    """Receives them, in ``staging/`` of one store."""

    def __init__(self, blobs: BlobStore, staging: Folder) -> None:
        self._blobs = blobs
        self._staging = staging

    def receive(
        self,
        size: int,
        fill: Callable[[memoryview], None],
        *,
        on_bytes: Callable[[int], object],
        cancelled: Callable[[], bool],
    ) -> Spooled:
        """Take in ``size`` bytes, which ``fill`` brings one after another, and hash what lies in the file then.

        Blocks. Raise what ``fill`` raises, ``NoSpaceError``, and ``HashingStoppedError`` soon after ``cancelled``.
        """
        fd, path = self._nameless(), self._staging.path
        try:
            allocate(fd, size, path)

            def read(buffer: memoryview, offset: int) -> None:
                fill(buffer)
                write_all(fd, (buffer,), offset, path)
                read_exactly(fd, buffer, offset, path)

            hashed: Hashed = hash_file(read, size, on_bytes=on_bytes, cancelled=cancelled)
        except BaseException:
            os.close(fd)
            raise
        return Spooled(hashed.digest, hashed.chunks, fd)

    def partial(self, blob: Descriptor, spooled: Spooled) -> Partial:
        """Give it its name in ``staging/``; what lay there goes. The caller holds the digest's lock."""
        if spooled.digest != blob.digest or spooled.chunks.size != blob.size:
            raise ValueError(f"another blob than {blob.digest}")
        self._blobs.partials.discard(blob.digest)
        fd = os.dup(spooled.fd)
        try:
            with translated(self._staging.path / layout.partial_file(blob.digest)):
                # Not AT_EMPTY_PATH, which is for root alone (open(2), O_TMPFILE).
                os.link(
                    f"/proc/self/fd/{fd}",
                    layout.partial_file(blob.digest),
                    dst_dir_fd=self._staging.fd,
                    follow_symlinks=True,
                )
        except BaseException:
            os.close(fd)
            raise
        return Partial(blob, fd, self._staging, fresh=True, preallocated=True)

    def _nameless(self) -> int:
        try:
            return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, layout.OWN_FILE_MODE, dir_fd=self._staging.fd)
        except OSError as error:
            if error.errno in _NO_NAMELESS:
                raise StoreError(
                    f"{self._staging.path}: this file system knows no files without a name",
                    hint="save the bundle as a file, and import that",
                ) from error
            raise error_of(error, Path(self._staging.path)) from error
