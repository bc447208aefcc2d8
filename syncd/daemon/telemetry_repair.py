"""The metrics of damage and repairs, read when Prometheus asks."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class RepairTelemetry(Collector):
    """``corrupt``: blobs that are known to be damaged now; the others: how many there were in this life."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        corrupt: Callable[[], int],
        repaired: Callable[[], int],
        quarantined: Callable[[], int],
    ) -> None:
        self._corrupt = corrupt
        self._repaired = repaired
        self._quarantined = quarantined
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What is damaged, and what became of what was."""
        yield GaugeMetricFamily(
            "syncd_blobs_corrupt", "Blobs that are known to be damaged and are not mended.", self._corrupt()
        )
        yield CounterMetricFamily(
            "syncd_blobs_repaired", "Blobs whose damaged or missing file was replaced by a whole one.", self._repaired()
        )
        yield CounterMetricFamily(
            "syncd_blobs_quarantined",
            "Blobs that nobody could mend, so that their models were withdrawn.",
            self._quarantined(),
        )
