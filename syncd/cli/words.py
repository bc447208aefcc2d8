"""Rates, times and kinds as people read them; pure."""

from collections import deque

from syncd.jobs.progress import PullOutcome, Totals
from syncd.text import printable, size

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def took(seconds: float) -> str:
    """A span of time, in full: ``41.2 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


def left(seconds: float) -> str:
    """A span of time, in brief: ``12s``, ``3m20s``, ``2h05m``, ``3d``."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < 2 * _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d"


def ago(seconds: float) -> str:
    """How long ago, in one unit, as ``ollama list`` shows it: ``3 hours ago``."""
    if seconds < 1:
        return "just now"
    for length, unit in ((365 * _DAY, "year"), (30 * _DAY, "month"), (7 * _DAY, "week"), (_DAY, "day")):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}s ago"
    for length, unit in ((_HOUR, "hour"), (_MINUTE, "minute")):
        if seconds >= length:
            return count(int(seconds // length), unit) + " ago"
    return count(int(seconds), "second") + " ago"


def outcome(ended: PullOutcome) -> str:
    """What a pull did, where from the bytes came, how long it took."""
    name = printable(str(ended.reference.name))
    if ended.current:
        return f"{name} is current ({ended.digest}), checked in {took(ended.seconds)}"
    parts = []
    if ended.fetched_blobs:
        parts.append(f"fetched {size(ended.fetched_bytes)} for {ended.fetched_blobs} of {count(ended.blobs, 'blob')}")
    if ended.found_bytes:
        parts.append(f"{size(ended.found_bytes)} were already here")
    back = ""
    if ended.moved_back is not None:
        back = "; the registry's tag has moved back: this version was published here before"
    rate = f" ({size(ended.fetched_bytes / ended.seconds)}/s)" if ended.fetched_bytes and ended.seconds > 0 else ""
    return f"{name}: {', '.join(parts)}, {took(ended.seconds)}{rate}, published {ended.digest}{back}"


def count(number: int, thing: str) -> str:
    """``1 blob``, ``2 blobs``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


class Meter:
    """Bytes a second over the last ``span`` seconds: from the network, or, while others fetch, of what gets done."""

    def __init__(self, span: float = 8.0) -> None:
        self._span = span
        self._seen: deque[tuple[float, Totals]] = deque()

    def see(self, now: float, totals: Totals) -> None:
        """Take in one moment. ``now``: monotonic seconds, never less than before."""
        self._seen.append((now, totals))
        while len(self._seen) > 2 and now - self._seen[1][0] >= self._span:  # noqa: PLR2004 - a span needs two ends
            self._seen.popleft()

    def rate(self, now: float) -> float:
        """Bytes a second; 0 until there is something to measure."""
        if not self._seen:
            return 0.0
        (start, first), (_, last) = self._seen[0], self._seen[-1]
        if now - start <= 0:
            return 0.0
        moved = last.fetched - first.fetched or last.done - first.done
        return max(0, moved) / (now - start)

    def seconds_left(self, now: float) -> float | None:
        """Until all is done, at this rate; None where there is no rate."""
        rate = self.rate(now)
        if not self._seen or rate <= 0:
            return None
        last = self._seen[-1][1]
        return (last.size - last.done) / rate
