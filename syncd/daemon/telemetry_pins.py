"""The metrics of pins, and of tags that moved back."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from syncd.api.pinned import PinsInfo


class PinTelemetry(Collector):
    """A counter that is told, and a gauge that is read when Prometheus asks."""

    def __init__(self, registry: CollectorRegistry, pins: Callable[[], PinsInfo | None]) -> None:
        self._pins = pins
        self._moved_back = Counter(
            "syncd_tag_moved_back",
            "Publications of a version to which a registry's tag had moved back.",
            registry=registry,
        )
        registry.register(self)

    def tag_moved_back(self) -> None:
        """A registry's tag holds again what it held before."""
        self._moved_back.inc()

    def collect(self) -> Iterator[Metric]:
        """How many models are not what they are pinned to."""
        pins = self._pins()
        yield GaugeMetricFamily(
            "syncd_pin_drift",
            "Models that are not the version to which the pins file or a rollback has them pinned.",
            len(pins.drift) if pins else 0,
        )
