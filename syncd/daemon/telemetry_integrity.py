"""The metrics of scrubs, read when Prometheus asks."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from syncd.jobs.damage import DamageKind
from syncd.jobs.scrub_book import ScrubBook


class ScrubTelemetry(Collector):
    """Of the scrubs in ``book``. ``every``: seconds from one to the next; None: no schedule."""

    def __init__(self, registry: CollectorRegistry, book: ScrubBook, every: Callable[[], float | None]) -> None:
        self._book = book
        self._every = every
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """How far scrubs are, and what they found."""
        book = self._book
        yield GaugeMetricFamily(
            "syncd_scrub_interval_seconds",
            "From one scheduled scrub to the next; 0: no schedule.",
            self._every() or 0.0,
        )
        yield GaugeMetricFamily(
            "syncd_scrub_last_completed_timestamp_seconds",
            "When the last scrub of all models came to its end, in seconds since the epoch; 0: never.",
            book.state.last.ended if book.state.last else 0.0,
        )
        yield GaugeMetricFamily("syncd_scrub_in_progress", "1 while a scrub runs.", float(book.now is not None))
        yield CounterMetricFamily("syncd_scrub_bytes", "Bytes that scrubs have read.", book.read)
        faults = CounterMetricFamily("syncd_scrub_faults", "Damaged blobs that scrubs have found.", labels=("kind",))
        for kind in DamageKind:
            faults.add_metric((kind.value,), book.faults[kind])
        yield faults
