"""Bytes from one file to another, in the kernel where it can: it shares blocks between files where it can, too."""

import errno
import os
from pathlib import Path

from syncd.errors import IntegrityError
from syncd.store.descriptors import write_all
from syncd.store.os_errors import error_of

NO_CLONE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM})
BAD_MEDIUM = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})
_NO_COPY = frozenset({*NO_CLONE, errno.EBADF, errno.ETXTBSY})  # overlayfs, old kernels, odd file systems
_PART = 1024 * 1024  # bytes


class SpoiltError(IntegrityError):
    """A source's file is not what its name says, or cannot be read."""


def copy_range(source: int, target: int, offset: int, size: int, origin: Path, path: Path) -> None:
    """Copy ``size`` bytes at ``offset`` with copy_file_range(2), which reflinks where both lie on XFS or Btrfs.

    Raise ``SpoiltError`` for what ``source`` (at ``origin``) does not give, else ``SyncdError``.
    """
    end = offset + size
    while offset < end:
        try:
            count = os.copy_file_range(source, target, end - offset, offset, offset)
        except OSError as error:
            if error.errno in BAD_MEDIUM:
                raise SpoiltError(f"{origin} cannot be read: {os.strerror(error.errno)}") from error
            if error.errno not in _NO_COPY:
                raise error_of(error, path) from error
            _copy_by_hand(source, target, offset, end, origin, path)
            return
        if count == 0:
            raise SpoiltError(f"{origin} was cut while it was being read")
        offset += count


def read_exactly(source: int, buffer: memoryview, offset: int, origin: Path) -> None:
    """Fill ``buffer`` with what lies from ``offset`` on. Raise ``SpoiltError`` where that cannot be read, or ends."""
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(source, (buffer[done:],), offset + done)
        except OSError as error:
            raise SpoiltError(f"{origin} cannot be read: {os.strerror(error.errno or errno.EIO)}") from error
        if count == 0:
            raise SpoiltError(f"{origin} was cut while it was being read")
        done += count


def _copy_by_hand(source: int, target: int, offset: int, end: int, origin: Path, path: Path) -> None:
    buffer = memoryview(bytearray(_PART))
    while offset < end:
        part = buffer[: min(_PART, end - offset)]
        read_exactly(source, part, offset, origin)
        write_all(target, (part,), offset, path)
        offset += len(part)
