"""What the operating system's errors mean to a user: an ``OSError`` at a path as a ``SyncdError`` that names it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from syncd.errors import NoSpaceError, NotAuthorisedError, StoreError, SyncdError


class NotAFileError(StoreError):
    """A link, a FIFO, a device or a folder where a regular file should be."""


def error_of(error: OSError, path: Path) -> SyncdError:
    """What an ``OSError`` at ``path`` means to a user."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return NoSpaceError(f"{path}: {reason}", hint="free some space or raise the quota, then run it again")
        case errno.EROFS:
            return StoreError(f"{path} cannot be changed", hint="its file system is mounted read-only")
        case errno.EACCES | errno.EPERM:
            return NotAuthorisedError(
                f"{path}: {reason}",
                hint="run it as the store's owner or with sudo; 'sudo syncd init --owner USER' takes a store over",
            )
        case errno.ELOOP | errno.EISDIR:
            what = "folder" if error.errno == errno.EISDIR else "symbolic link"
            return NotAFileError(f"{path}: a {what} where a file should be", hint=f"remove the {what}")
        case errno.EXDEV:
            return StoreError(
                f"{path} lies on another mount than the rest of the store",
                hint="the store's manifests/, blobs/ and .syncd/ must lie under one mount: mount their parent",
            )
    return StoreError(f"{path}: {reason}")


def error_of_file(error: OSError, path: Path) -> SyncdError:
    """What it means where a regular file was to be opened at ``path``."""
    if error.errno == errno.ELOOP:
        return NotAFileError(f"{path}: a symbolic link where a file should be", hint="remove the link")
    if error.errno in {errno.EISDIR, errno.ENXIO}:
        return NotAFileError(f"{path} is no regular file", hint="remove it: nothing of syncd's lies there")
    return error_of(error, path)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` from inside into a ``SyncdError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise error_of(error, path) from error
