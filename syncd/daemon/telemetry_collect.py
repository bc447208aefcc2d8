"""The metrics of collections, read when Prometheus asks."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from syncd.daemon.collecting import Known


class CollectionTelemetry(Collector):
    """``known``: as of the last look."""

    def __init__(self, registry: CollectorRegistry, known: Callable[[], Known]) -> None:
        self._known = known
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What collections came to, and what they have not taken yet."""
        known = self._known()
        yield CounterMetricFamily(
            "syncd_collected_bytes", "Bytes that collections gave back, since the store was made.", known.note.total
        )
        yield GaugeMetricFamily(
            "syncd_collection_last_completed_timestamp_seconds",
            "When a collection last ended that nothing held back, in seconds since the epoch; 0: never.",
            known.note.completed,
        )
        yield GaugeMetricFamily("syncd_quarantine_bytes", "Bytes on the disk that are in quarantine.", known.quarantine)
