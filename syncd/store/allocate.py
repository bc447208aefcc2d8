"""Real preallocation: fallocate(2) itself, and not glibc's posix_fallocate.

The latter writes a zero into every block where the file system has no fallocate, which costs as much as the download.
"""

import ctypes
import errno
import os
from pathlib import Path

from syncd.store.os_errors import error_of, translated


def allocate(fd: int, size: int, path: Path) -> bool:
    """Give the file ``size`` bytes and reserve their blocks; False if this file system cannot reserve.

    In that case the file has its size and a full disk shows only when it is written. Raise ``NoSpaceError`` when there
    is no room: what the call took by then goes back with the file, which the caller removes.
    """
    if size == 0:
        return True
    # Found at the first call: loading the C library is not what `syncd --version` should wait for.
    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(libc, "fallocate64", None) or libc.fallocate  # musl has one name, with 64-bit offsets
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while fallocate(fd, 0, 0, size) != 0:
        number = ctypes.get_errno()
        if number == errno.EINTR:
            continue
        if number in {errno.EOPNOTSUPP, errno.ENOSYS}:
            with translated(path):
                os.ftruncate(fd, size)
            return False
        failure = OSError(number, os.strerror(number))
        raise error_of(failure, path) from failure
    return True
