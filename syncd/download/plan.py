"""Which bytes of a blob to ask for, in which order and in what portions. Pure; ranges are half-open, sizes bytes."""

import heapq
from collections.abc import Collection
from dataclasses import dataclass

from syncd.oci.chunks import CHUNK_SIZE, chunk_bounds, chunk_count

MAX_SEGMENT = 256 * 1024 * 1024
WINDOW = 128 * 1024 * 1024
_SEGMENTS_PER_CONNECTION = 4


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """Bytes ``start`` up to, not including, ``end``."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"not a range: {self.start}-{self.end}")

    @property
    def size(self) -> int:
        """How many bytes."""
        return self.end - self.start


def missing(size: int, held: Collection[int]) -> tuple[ByteRange, ...]:
    """The longest runs of a blob of ``size`` bytes that none of the chunks ``held`` (indices) covers, ascending."""
    runs: list[ByteRange] = []
    for index in range(chunk_count(size)):
        if index in held:
            continue
        start, end = chunk_bounds(index, size)
        if runs and runs[-1].end == start:
            runs[-1] = ByteRange(runs[-1].start, end)
        else:
            runs.append(ByteRange(start, end))
    return tuple(runs)


def window(connections: int) -> int:
    """How far, in bytes, fetching may run ahead of the hash: 128 MiB, or a chunk for every connection."""
    return max(WINDOW, connections * CHUNK_SIZE)


def segment_size(rest: int, connections: int) -> int:
    """The size of the next segment, in bytes, a whole number of chunks, when ``rest`` bytes are not handed out yet.

    Large at first, small at the end, so that all connections end together; and never so large that the connections
    together outrun the window (docs/adr/0002).
    """
    fair = rest // (_SEGMENTS_PER_CONNECTION * connections)
    bounded = min(fair, MAX_SEGMENT, window(connections) // connections)
    return max(bounded // CHUNK_SIZE, 1) * CHUNK_SIZE


class RangeQueue:
    """Ranges still to fetch, lowest first. A range that was cut off in mid-chunk comes back as its unaligned rest."""

    def __init__(self, ranges: Collection[ByteRange]) -> None:
        self._ranges = sorted(ranges)
        self._rest = sum(one.size for one in ranges)

    def __bool__(self) -> bool:
        return bool(self._ranges)

    @property
    def rest(self) -> int:
        """How many bytes are in the queue."""
        return self._rest

    @property
    def lowest(self) -> int | None:
        """Where the lowest range starts; None if there is none."""
        return self._ranges[0].start if self._ranges else None

    def take(self, *, before: int, connections: int) -> ByteRange | None:
        """The next segment for one of so many connections, if one starts below ``before`` (the end of the window)."""
        if not self._ranges or self._ranges[0].start >= before:
            return None
        first = heapq.heappop(self._ranges)
        portion = segment_size(self._rest, connections)
        end = min(first.end, first.start - first.start % CHUNK_SIZE + portion)
        if end < first.end:
            heapq.heappush(self._ranges, ByteRange(end, first.end))
        self._rest -= end - first.start
        return ByteRange(first.start, end)

    def drain(self) -> tuple[ByteRange, ...]:
        """Everything, ascending: the queue is empty then."""
        drained = tuple(sorted(self._ranges))
        self._ranges.clear()
        self._rest = 0
        return drained

    def give_back(self, rest: ByteRange) -> None:
        """What a connection that was dropped did not fetch."""
        heapq.heappush(self._ranges, rest)
        self._rest += rest.size
