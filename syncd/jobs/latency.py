"""Percentiles of however many latencies, in bounded memory; pure.

Buckets grow by 2 %, so that a percentile is at most 2 % above the true one and never below it.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

_LEAST = 1e-4  # seconds: whatever is shorter counts as this
_GROWTH = 1.02
_LAST = math.ceil(math.log(86400.0 / _LEAST, _GROWTH)) + 1  # beyond a day: of these only the longest one is known


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds within which half of them, 90 %, 99 % and all came."""

    p50: float
    p90: float
    p99: float
    max: float


class Latencies:
    """``buckets``: how many by bucket, about a thousand at most. ``longest``: seconds, exact."""

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.longest = 0.0

    @classmethod
    def together(cls, several: Iterable["Latencies"]) -> Self:
        """All of them as one."""
        whole = cls()
        for one in several:
            whole.buckets.update(one.buckets)
            whole.longest = max(whole.longest, one.longest)
        return whole

    def add(self, seconds: float) -> None:
        """One more."""
        bucket = math.ceil(math.log(seconds / _LEAST, _GROWTH)) if seconds > _LEAST else 0
        self.buckets[min(bucket, _LAST)] += 1
        self.longest = max(self.longest, seconds)

    def percentiles(self) -> Percentiles | None:
        """By nearest rank; None where there is nothing."""
        if not self.buckets:
            return None
        p50, p90, p99 = self._at((0.50, 0.90, 0.99))
        return Percentiles(p50, p90, p99, self.longest)

    def _at(self, shares: Iterable[float]) -> list[float]:
        """The upper end of the bucket that holds each share; ``shares`` ascend."""
        count = self.buckets.total()
        ranks = [math.ceil(share * count) for share in shares]
        found: list[float] = []
        seen = 0
        for bucket, number in sorted(self.buckets.items()):
            seen += number
            while len(found) < len(ranks) and seen >= ranks[len(found)]:
                end = self.longest if bucket == _LAST else _LEAST * _GROWTH**bucket
                found.append(min(end, self.longest))
        return found
