"""How a blob is divided for resuming and repair: chunks of 16 MiB, the last one shorter, none for an empty blob."""

from dataclasses import dataclass

CHUNK_SIZE = 16 * 1024 * 1024
BLAKE3_BYTES = 32


@dataclass(frozen=True, slots=True)
class ChunkMap:
    """The BLAKE3 of each chunk of a blob of ``size`` bytes, in order."""

    size: int
    hashes: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.hashes) != chunk_count(self.size) or any(len(one) != BLAKE3_BYTES for one in self.hashes):
            raise ValueError(f"not a chunk map of {self.size} bytes")


def chunk_count(size: int) -> int:
    """How many chunks a blob of ``size`` bytes has."""
    return -(-size // CHUNK_SIZE)


def chunk_bounds(index: int, size: int) -> tuple[int, int]:
    """Start and end (half-open, bytes) of chunk ``index`` in a blob of ``size`` bytes."""
    return index * CHUNK_SIZE, min((index + 1) * CHUNK_SIZE, size)
