"""What a registry serves under one digest: bytes in memory, a file, or bytes made on demand from a seed."""

import hashlib
import os
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

# Odd, so that every 16 MiB chunk begins at another phase of the block and no two chunks are alike.
_BLOCK = (1 << 20) + 7
_PIECE = 1 << 20


@lru_cache(maxsize=32)
def _block(seed: int) -> memoryview:
    # Twice, so that any piece of up to one block is one slice.
    return memoryview(random.Random(seed).randbytes(_BLOCK) * 2)


@lru_cache(maxsize=64)
def _generated_digest(size: int, seed: int) -> str:
    hasher = hashlib.sha256()
    source = Generated(size, seed)
    for offset in range(0, size, _PIECE):
        hasher.update(source.read(offset, _PIECE))
    return f"sha256:{hasher.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Generated:
    """``size`` bytes that follow from ``seed``: big blobs that cost neither memory nor disk."""

    size: int
    seed: int = 1

    def read(self, offset: int, length: int) -> memoryview:
        """Bytes from ``offset``; as a file read, at most ``length`` of them, and none past the end."""
        start = offset % _BLOCK
        return _block(self.seed)[start : start + max(0, min(length, self.size - offset, _BLOCK))]

    @property
    def digest(self) -> str:
        return _generated_digest(self.size, self.seed)

    def write_to(self, path: Path) -> None:
        """Put the whole content into a file."""
        with path.open("wb") as file:
            for offset in range(0, self.size, _PIECE):
                file.write(self.read(offset, _PIECE))


@dataclass(frozen=True, slots=True)
class InMemory:
    """Bytes as they are."""

    raw: bytes

    @property
    def size(self) -> int:
        return len(self.raw)

    def read(self, offset: int, length: int) -> memoryview:
        return memoryview(self.raw)[offset : offset + length]

    @property
    def digest(self) -> str:
        return digest_of(self.raw)


@dataclass(frozen=True, slots=True)
class OnDisk:
    """The content of a file."""

    path: Path
    size: int

    def read(self, offset: int, length: int) -> memoryview:
        with self.path.open("rb") as file:
            return memoryview(os.pread(file.fileno(), length, offset))

    @property
    def digest(self) -> str:
        with self.path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


Content = Generated | InMemory | OnDisk


def content(blob: bytes | Path | Content) -> Content:
    """``blob`` as content."""
    match blob:
        case bytes():
            return InMemory(blob)
        case Path():
            return OnDisk(blob, blob.stat().st_size)
        case _:
            return blob


def whole(blob: Content) -> bytes:
    """All of it, for small ones."""
    return b"".join(bytes(blob.read(offset, _PIECE)) for offset in range(0, blob.size, _PIECE))


def digest_of(raw: bytes) -> str:
    """``sha256:`` and 64 hex digits."""
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"
