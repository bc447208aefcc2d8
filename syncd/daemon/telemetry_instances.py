"""The metrics of the servers: how each stands, what probes came to, and how long they took.

Labels are bounded by the settings, by the store, and by the words of ``instances.probe``. What left them is dropped.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from syncd.api.exposition import Exposition
from syncd.instances.ollama import Reason
from syncd.instances.probe import Level, Row, Word

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 5, 15, 60, 120, 300)  # from a listing to a cold load of minutes


class InstanceTelemetry:
    """Hears of every probe, and reads how servers stand when somebody asks for the metrics."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        registry = exposition.registry
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

        def read() -> tuple[_Standing, ...]:
            rows = matrix()
            for gone in self._known - {row.instance.name for row in rows}:
                self._forget(gone)
            return tuple(map(_Standing.of, rows))

        self._exposition.add(read, _of_each_server)

    def _forget(self, instance: str) -> None:
        self._known.discard(instance)
        for labels in _labels(instance):
            self._failures.remove(*labels)
        for level in Level:
            self._seconds.labels(instance, level.value)  # only what is there can be removed
            self._seconds.remove(instance, level.value)


def _labels(instance: str) -> list[tuple[str, str, str]]:
    return [(instance, level.value, reason.value) for level in Level for reason in Reason]


@dataclass(frozen=True, slots=True)
class _Standing:
    """A server. ``models``: the name, whether it is available, and the word that holds."""

    name: str
    up: bool | None
    version: str | None
    models: tuple[tuple[str, bool, Word], ...]

    @classmethod
    def of(cls, row: Row) -> Self:
        models = tuple((str(cell.model), cell.available, cell.word) for cell in row.cells)
        return cls(row.instance.name, row.up, row.version, models)


def _of_each_server(rows: Iterable[_Standing]) -> Iterator[Metric]:
    """How every server, and every model on it, stands."""
    up = GaugeMetricFamily("syncd_instance_up", "1 if the server answered its last probe.", labels=("instance",))
    told = GaugeMetricFamily("syncd_instance_info", "Version of the server; always 1.", labels=("instance", "version"))
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
        if row.up is not None:
            up.add_metric((row.name,), float(row.up))
        if row.version is not None:
            told.add_metric((row.name, row.version), 1)
        for model, is_available, holds in row.models:
            available.add_metric((row.name, model), float(is_available))
            for word in Word:
                state.add_metric((row.name, model, word.value), float(word is holds))
    yield from (up, told, available, state)
