"""The metrics of the servers: how each stands, what probes came to, and how long they took.

Labels are bounded by the settings, by the store, and by the words of ``instances.probe``. What left them is dropped.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from syncd.instances.ollama import Reason
from syncd.instances.probe import Level, Row, Word

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 5, 15, 60, 120, 300)  # from a listing to a cold load of minutes


class InstanceTelemetry:
    """Hears of every probe, and reads how servers stand when somebody asks for the metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._seconds = Histogram(
            "syncd_instance_probe_seconds",
            "Time that probes took, failed ones too, by server and depth.",
            ("instance", "level"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._failures = Counter(
            "syncd_instance_probe_failures",
            "Probes that failed, by server, depth and reason.",
            ("instance", "level", "reason"),
            registry=registry,
        )
        self._known: set[str] = set()

    def probed(self, instance: str, level: Level, seconds: float, reason: Reason | None) -> None:
        """A probe has ended. ``reason``: why it failed, if it did."""
        if instance not in self._known:
            self._known.add(instance)
            for labels in _labels(instance):
                self._failures.labels(*labels)
        self._seconds.labels(instance, level.value).observe(seconds)
        if reason is not None:
            self._failures.labels(instance, level.value, reason.value).inc()

    def watch(self, matrix: Callable[[], tuple[Row, ...]]) -> None:
        """Read this whenever somebody asks for the metrics."""

        def read() -> tuple[Row, ...]:
            rows = matrix()
            for gone in self._known - {row.instance.name for row in rows}:
                self._forget(gone)
            return rows

        self._registry.register(_Gauges(read))

    def _forget(self, instance: str) -> None:
        self._known.discard(instance)
        for labels in _labels(instance):
            self._failures.remove(*labels)
        for level in Level:
            self._seconds.labels(instance, level.value)  # only what is there can be removed
            self._seconds.remove(instance, level.value)


def _labels(instance: str) -> list[tuple[str, str, str]]:
    return [(instance, level.value, reason.value) for level in Level for reason in Reason]


class _Gauges(Collector):
    def __init__(self, matrix: Callable[[], tuple[Row, ...]]) -> None:
        self._matrix = matrix

    def collect(self) -> Iterator[Metric]:
        """How every server, and every model on it, stands."""
        rows = self._matrix()
        up = GaugeMetricFamily("syncd_instance_up", "1 if the server answered its last probe.", labels=("instance",))
        told = GaugeMetricFamily(
            "syncd_instance_info", "Version of the server; always 1.", labels=("instance", "version")
        )
        for row in rows:
            if row.up is not None:
                up.add_metric((row.instance.name,), float(row.up))
            if row.version is not None:
                told.add_metric((row.instance.name, row.version), 1)
        yield from (up, told)
        available = GaugeMetricFamily(
            "syncd_instance_model_available",
            "1 if the server serves the published version of the model, or has proved it.",
            labels=("instance", "model"),
        )
        state = GaugeMetricFamily(
            "syncd_instance_model_state",
            "1 for the word that holds: proved, loaded, loading, served, stale, hosted, missing, failing or unknown.",
            labels=("instance", "model", "state"),
        )
        for row in rows:
            for cell in row.cells:
                labels = (row.instance.name, str(cell.model))
                available.add_metric(labels, float(cell.available))
                for word in Word:
                    state.add_metric((*labels, word.value), float(word is cell.word))
        yield from (available, state)
