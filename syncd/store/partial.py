"""A blob that is being fetched: a file of its full size in ``staging/``, and the journal beside it."""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from syncd.errors import StoreError, SyncdError
from syncd.oci.manifest import Descriptor
from syncd.store import layout
from syncd.store.descriptors import write_all
from syncd.store.files import Folder, fdatasync_file, fsync_file
from syncd.store.os_errors import translated
from syncd.store.remains import Remains


class Partial:
    """An open partial. Its opener holds the digest's lock until it is committed, discarded or closed.

    ``fresh``: it was made just now and holds nothing. ``preallocated``: its blocks are reserved, so that writing them
    cannot fail for want of space. ``remains``: files that may hold chunks of it, closed with it; None: nobody knows of
    any. Methods may run in threads, on regions that do not overlap.
    """

    remains: Remains | None = None

    def __init__(self, blob: Descriptor, fd: int, staging: Folder, *, fresh: bool, preallocated: bool) -> None:
        self.blob = blob
        self.fresh = fresh
        self.preallocated = preallocated
        self.path = staging.path / layout.partial_file(blob.digest)
        self._fd = fd
        self._staging = staging
        self._poisoned = False

    @property
    def fd(self) -> int:
        """The open file. Raise ``StoreError`` once it was closed, or once an fsync failed."""
        if self._fd < 0:
            raise StoreError(f"{self.path} is closed")
        if self._poisoned:
            raise StoreError(f"{self.path}: an earlier fsync failed, so nothing in it can be trusted")
        return self._fd

    @property
    def poisoned(self) -> bool:
        """Whether an fsync failed: the kernel may have dropped what it covered, and nothing here can be trusted."""
        return self._poisoned

    def write(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        """Write all parts behind each other from ``offset`` (bytes) on."""
        if offset < 0 or offset + sum(len(part) for part in parts) > self.blob.size:
            raise ValueError(f"bytes at {offset} do not fit into a blob of {self.blob.size}")
        write_all(self.fd, parts, offset, self.path)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` from ``offset`` on; how many bytes it got (fewer only at the end)."""
        done = 0
        with translated(self.path):
            while done < len(buffer) and (count := os.preadv(self.fd, (buffer[done:],), offset + done)):
                done += count
        return done

    def sync(self) -> None:
        """Make what was written durable. After a failure nothing in it counts: the caller discards it."""
        fd = self.fd
        try:
            fdatasync_file(fd, self.path)
        except BaseException:
            self._poisoned = True
            raise

    def settle(self) -> None:
        """Make it durable, as a blob is: its time, its mode, its bytes. A failure throws it away."""
        try:
            with translated(self.path):
                os.utime(self.fd)
            fsync_file(self.fd, self.path, mode=layout.BLOB_MODE)
        except SyncdError:
            with suppress(SyncdError):
                self.discard()
            raise

    def drop_cache(self) -> None:
        """Forget its pages, as far as they are clean, so that the next read shows what the disk holds."""
        with translated(self.path):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def open_journal(self) -> int:
        """A descriptor of its journal, made if it is not there, that appends. The caller closes it."""
        return self._staging.create_file(layout.journal_file(self.blob.digest), os.O_APPEND)

    def discard(self) -> None:
        """Throw it away with its journal."""
        self.close()
        self._staging.unlink(layout.journal_file(self.blob.digest), missing_ok=True)
        self._staging.unlink(layout.partial_file(self.blob.digest), missing_ok=True)

    def close(self) -> None:
        """Leave it for later; calling it again does nothing."""
        if self.remains is not None:
            self.remains.close()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
