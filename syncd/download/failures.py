"""One connection's bad luck: how long to wait, and when to give up."""

from collections.abc import Callable

from syncd.download.counters import Counters
from syncd.download.means import Means
from syncd.download.pace import delay
from syncd.errors import RegistryUnavailableError, SyncdError


class Failures:
    """Those of one connection, in a row."""

    def __init__(self, means: Means, counters: Counters, written: Callable[[], int]) -> None:
        """``written``: bytes of the blob that found their place so far; any more of them is progress."""
        self._means = means
        self._counters = counters
        self._in_a_row = 0
        self._progress = written
        self._written = written()

    def wait_after(self, error: SyncdError) -> float:
        """Seconds until the next try; raises ``error`` where another makes no sense."""
        if not error.transient:
            raise error
        if self._progress() > self._written:
            self._in_a_row = 0
        self._written = self._progress()
        self._in_a_row += 1
        self._counters.retries += 1
        self._counters.trouble = error.message
        settings = self._means.settings
        if self._in_a_row >= settings.attempts:
            raise error
        return delay(
            self._in_a_row,
            base=settings.backoff,
            cap=settings.longest_backoff,
            asked=error.retry_after if isinstance(error, RegistryUnavailableError) else None,
            random=self._means.random,
        )
