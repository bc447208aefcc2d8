"""Bytes through an open descriptor, however short the single calls turn out, and whether two are one file."""

import os
from collections.abc import Iterable
from pathlib import Path

from syncd.errors import StoreError
from syncd.store.os_errors import translated

_IOV_MAX = 1024  # UIO_MAXIOV, linux/uio.h


def same_file(one: os.stat_result, other: os.stat_result | None) -> bool:
    """Whether both are the same file, under whatever names."""
    return other is not None and (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def read_all(fd: int, limit: int, path: Path) -> bytes:
    """The whole content; ``StoreError`` if that is more than ``limit`` bytes."""
    parts: list[bytes] = []
    size = 0
    with translated(path):
        while part := os.pread(fd, min(1 << 20, limit + 1 - size), size):
            parts.append(part)
            size += len(part)
            if size > limit:
                raise StoreError(f"{path} is larger than {limit} bytes: that is not what belongs there")
    return b"".join(parts)


def write_all(fd: int, parts: Iterable[bytes | memoryview], offset: int, path: Path) -> None:
    """Write all parts behind each other from ``offset`` on, however short the single writes turn out."""
    rest = [memoryview(part).cast("B") for part in parts if len(part)]
    with translated(path):
        while rest:
            written = os.pwritev(fd, rest[:_IOV_MAX], offset)
            offset += written
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if written:
                rest[0] = rest[0][written:]
