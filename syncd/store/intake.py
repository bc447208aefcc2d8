"""Files of another store on their way into this one: by another name, by reflink, or by copy; hashed in any case.

They become partials, which ``BlobStore.commit`` makes blobs, as it does with what was fetched.
"""

import fcntl
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from syncd.errors import SyncdError
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.manifest import Descriptor
from syncd.store import layout
from syncd.store.blobs import BlobStore
from syncd.store.copying import BAD_MEDIUM, NO_CLONE, SpoiltError, copy_range, read_exactly
from syncd.store.descriptors import same_file
from syncd.store.files import Folder
from syncd.store.hashing import Hashed, hash_file
from syncd.store.os_errors import error_of, translated
from syncd.store.partial import Partial

__all__ = ["Intake", "Intakes", "SpoiltError", "Way", "check_source"]

_FICLONE = 0x40049409  # linux/fs.h; fcntl.FICLONE is new in Python 3.12


class Way(StrEnum):
    """How a file comes into the store."""

    LINK = "link"  # its inode gets another name: nothing is written
    REFLINK = "reflink"  # its blocks are shared until somebody writes
    COPY = "copy"


class Intake(Partial):
    """A partial that is filled from another store's file. Owns that one's descriptor.

    ``undo``: what gives a linked file back to its owner, called if it is closed before it was committed.
    """

    def __init__(
        self,
        blob: Descriptor,
        fd: int,
        staging: Folder,
        *,
        source: int,
        origin: Path,
        way: Way,
        preallocated: bool,
        undo: Callable[[], None],
    ) -> None:
        super().__init__(blob, fd, staging, fresh=True, preallocated=preallocated)
        self.way = way
        self.origin = origin
        self._source = source
        self._folder = staging
        self._undo = undo
        self._copied = 0

    def take(self, *, on_bytes: Callable[[int], object], cancelled: Callable[[], bool]) -> Hashed:
        """Bring the bytes in, and hash what lies in the partial then. Raise ``SpoiltError`` if they are others.

        Blocks. Raise ``HashingStoppedError`` soon after ``cancelled`` says so.
        """
        hashed = hash_file(self._fill, self.blob.size, on_bytes=on_bytes, cancelled=cancelled)
        if hashed.digest != self.blob.digest:
            raise SpoiltError(f"{self.origin} holds other bytes: they hash to {hashed.digest}")
        return hashed

    def _fill(self, buffer: memoryview, offset: int) -> None:
        end = offset + len(buffer)
        if self.way is Way.COPY and self._copied < end:
            size = min(CHUNK_SIZE, self.blob.size - self._copied)
            copy_range(self._source, self.fd, self._copied, size, self.origin, self.path)
            self._copied += size
        try:
            count = self.read_into(buffer, offset)
        except SyncdError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in BAD_MEDIUM:
                raise SpoiltError(f"{self.origin} cannot be read: {error.message}") from error
            raise
        if count < len(buffer):
            raise SpoiltError(f"{self.origin} was cut while it was being read")

    def close(self) -> None:
        """Give both descriptors back. A linked file that was not committed loses its name in ``staging/``."""
        try:
            if self._source >= 0 and self.way is Way.LINK and not self._committed():
                self._folder.unlink(self.path.name, missing_ok=True)
                self._undo()
        finally:
            if self._source >= 0:
                source, self._source = self._source, -1
                os.close(source)
            super().close()

    def _committed(self) -> bool:
        return not same_file(os.fstat(self._source), self._folder.stat(self.path.name))


class Intakes:
    """Opens the partials of one store that are filled from elsewhere. Whoever does holds the digest's lock."""

    def __init__(self, blobs: BlobStore, staging: Folder) -> None:
        self._blobs = blobs
        self._staging = staging

    @property
    def fd(self) -> int:
        """The folder that files are linked into."""
        return self._staging.fd

    def can_reflink(self, fd: int) -> bool:
        """Whether the file behind ``fd`` can share its blocks with one of this store. Leaves nothing behind."""
        try:
            nameless = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._staging.fd)
        except OSError:
            return False  # a copy, then: what forbids to make a file here forbids that too, and is told of there
        try:
            return _clone(fd, nameless)
        finally:
            os.close(nameless)

    def link(self, blob: Descriptor, source: int, origin: Path, undo: Callable[[], None]) -> Intake | None:
        """Give the file behind ``source`` a name in ``staging/``; None where that cannot be, or is not safe.

        The file belongs to this user and is read-only by now, so that nobody but root can open it to write from now on;
        whoever has it open to write already is found out. ``undo``: see ``Intake``.
        """
        name = layout.partial_file(blob.digest)
        if _has_writers(source):
            return None
        with translated(origin):
            if os.fstat(source).st_size != blob.size:
                raise SpoiltError(f"{origin} has {os.fstat(source).st_size} bytes, not {blob.size}")
        fd = os.dup(source)
        try:
            self._blobs.partials.discard(blob.digest)
            # Not by its path, under which another file may lie by now. AT_EMPTY_PATH is for root alone.
            os.link(f"/proc/self/fd/{source}", name, dst_dir_fd=self._staging.fd, follow_symlinks=True)
        except OSError:
            os.close(fd)
            return None  # another mount, a file system without links, too many of them
        except BaseException:
            os.close(fd)
            raise
        return Intake(blob, fd, self._staging, source=source, origin=origin, way=Way.LINK, preallocated=True, undo=undo)

    def copy(self, blob: Descriptor, source: int, origin: Path, *, reflink: bool) -> Intake:
        """A partial that shares the blocks of ``source`` (``reflink``, where that works) or gets a copy of them."""
        if reflink and (made := self._reflinked(blob, source, origin)) is not None:
            return made
        staged = self._blobs.partials.stage(blob)
        try:
            fd = os.dup(staged.fd)
        finally:
            staged.close()
        return Intake(
            blob,
            fd,
            self._staging,
            source=source,
            origin=origin,
            way=Way.COPY,
            preallocated=staged.preallocated,
            undo=_nothing,
        )

    def _reflinked(self, blob: Descriptor, source: int, origin: Path) -> Intake | None:
        self._blobs.partials.discard(blob.digest)
        name = layout.partial_file(blob.digest)
        fd = self._staging.create_file(name)
        try:
            cloned = _clone(source, fd) and os.fstat(fd).st_size == blob.size
        except BaseException:
            os.close(fd)
            raise
        if not cloned:
            os.close(fd)
            self._staging.unlink(name)
            return None
        return Intake(
            blob, fd, self._staging, source=source, origin=origin, way=Way.REFLINK, preallocated=True, undo=_nothing
        )


def check_source(
    blob: Descriptor,
    source: int,
    origin: Path,
    *,
    on_bytes: Callable[[int], object],
    cancelled: Callable[[], bool],
) -> None:
    """Raise ``SpoiltError`` unless the file behind ``source`` is ``blob``. Blocks; it may change afterwards."""

    def read(buffer: memoryview, offset: int) -> None:
        read_exactly(source, buffer, offset, origin)

    hashed = hash_file(read, blob.size, on_bytes=on_bytes, cancelled=cancelled)
    if hashed.digest != blob.digest:
        raise SpoiltError(f"{origin} holds other bytes: they hash to {hashed.digest}")


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in NO_CLONE:
            return False
        raise error_of(error, Path(f"/proc/self/fd/{target}")) from error
    return True


def _has_writers(fd: int) -> bool:
    """Whether somebody has the file open to write, or it cannot be told: a read lease is refused then (fcntl(2))."""
    try:
        # Should somebody open it to write in between, the signal for that is one that is ignored, not SIGIO.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return True
    with suppress(OSError):  # the lease ends with the descriptor at the latest
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _nothing() -> None:
    """A copy changed nothing that would have to be undone."""
