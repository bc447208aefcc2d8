"""The metrics: counters that are told of what happens, and gauges that are read when Prometheus asks.

Labels are bounded: models are those of the settings, reasons those of the exit codes.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from syncd import __version__
from syncd.api.exposition import Exposition
from syncd.api.v1 import DesiredModel
from syncd.daemon.inventory import Count
from syncd.errors import ExitCode
from syncd.jobs.board import Board, JobState, JobView
from syncd.jobs.progress import Totals

_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600)  # from a config blob to hundreds of gigabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsState:
    """The settings in force. ``loaded``: seconds since the epoch; ``rejected``: newer ones are there and refused."""

    loaded: float
    rejected: bool


class Telemetry:
    """Every metric of the daemon, in a registry that is handed in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.exposition = Exposition(registry)
        self._seconds = Histogram(
            "syncd_pull_seconds",
            "Wall time of pulls that published something.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._pulls = Counter("syncd_pulls", "Pulls that ended, by result.", ("result",), registry=registry)
        self._failures = Counter("syncd_pull_failures", "Pulls that failed, by reason.", ("reason",), registry=registry)
        self._reloads = Counter(
            "syncd_settings_reloads", "Settings files read anew, by result.", ("result",), registry=registry
        )
        self._restored = Counter(
            "syncd_models_restored",
            "Desired models that were deleted, replaced or damaged from outside and put back.",
            registry=registry,
        )
        self._ended_bytes = 0
        for result in ("published", "current", "failed", "cancelled"):
            self._pulls.labels(result)
        # From the beginning, since Prometheus cannot tell a series that begins with 1 from one that has always been so.
        for reason in set(ExitCode) - {ExitCode.DONE}:
            self._failures.labels(reason.name.lower())
        for result in ("applied", "refused"):
            self._reloads.labels(result)
        ProcessCollector(registry=registry)

    def job_ended(self, job: JobView) -> None:
        """A job has come to its end."""
        self._ended_bytes += _fetched(job)
        if job.outcome is not None:
            self._pulls.labels("current" if job.outcome.current else "published").inc()
            if not job.outcome.current:
                self._seconds.observe(job.outcome.seconds)
        elif job.state is JobState.CANCELLED:
            self._pulls.labels("cancelled").inc()
        else:
            self._pulls.labels("failed").inc()
            reason = job.error.exit_code.name.lower() if job.error else "failed"
            self._failures.labels(reason).inc()

    def settings_read(self, *, applied: bool) -> None:
        """The settings files were read anew."""
        self._reloads.labels("applied" if applied else "refused").inc()

    def model_restored(self) -> None:
        """A model was put back."""
        self._restored.inc()

    def watch(
        self,
        *,
        board: Board,
        count: Callable[[], Count],
        desired: Callable[[], Iterable[DesiredModel]],
        settings: Callable[[], SettingsState],
    ) -> None:
        """Read these whenever somebody asks for the metrics."""
        self.registry.register(_Gauges(board, count, settings, lambda: self._ended_bytes))
        self.exposition.add(lambda: tuple(map(_Standing.of, desired())), _of_models)


@dataclass(frozen=True, slots=True)
class _Standing:
    """What metrics tell of a desired model."""

    name: str
    state: str
    present: bool
    pending: bool

    @classmethod
    def of(cls, one: DesiredModel) -> Self:
        return cls(one.name, one.state, one.digest is not None, one.pending is not None)


def _of_models(desired: tuple[_Standing, ...]) -> Iterator[Metric]:
    yield GaugeMetricFamily("syncd_models_desired", "Models that the settings want.", len(desired))
    for state, words in (
        ("published", "are whole and current, as far as the last check knows"),
        ("pinned", "are held at a version by a rollback"),
        ("pulling", "are being pulled"),
        ("pending", "wait for an update or their first pull"),
        ("failing", "fail, and are tried again"),
    ):
        number = sum(one.state == state for one in desired)
        yield GaugeMetricFamily(f"syncd_models_{state}", f"Desired models that {words}.", number)
    present = GaugeMetricFamily(
        "syncd_model_present", "1 if the desired model is published, in whatever version.", labels=("model",)
    )
    failing = GaugeMetricFamily(
        "syncd_model_failing", "1 while the desired model's last check or pull failed.", labels=("model",)
    )
    pending = GaugeMetricFamily(
        "syncd_model_pending", "1 while an update of the desired model waits.", labels=("model",)
    )
    for one in desired:
        present.add_metric((one.name,), float(one.present))
        failing.add_metric((one.name,), float(one.state == "failing"))
        pending.add_metric((one.name,), float(one.pending))
    yield from (present, failing, pending)


def _fetched(job: JobView) -> int:
    if job.outcome is not None:
        return job.outcome.fetched_bytes
    return Totals.of(job.progress).fetched if job.progress else 0


class _Gauges(Collector):
    def __init__(
        self,
        board: Board,
        count: Callable[[], Count],
        settings: Callable[[], SettingsState],
        ended_bytes: Callable[[], int],
    ) -> None:
        self._board = board
        self._count = count
        self._settings = settings
        self._ended_bytes = ended_bytes

    def collect(self) -> Iterator[Metric]:
        """Everything that is read and not counted."""
        yield from self._pulls()
        yield from self._store(self._count())
        settings = self._settings()
        yield GaugeMetricFamily(
            "syncd_settings_rejected", "1 while newer settings are there and refused.", float(settings.rejected)
        )
        yield GaugeMetricFamily(
            "syncd_settings_loaded_timestamp_seconds", "When the settings in force were read.", settings.loaded
        )
        build = GaugeMetricFamily(
            "syncd_build_info", "Version of syncd and of its Python; always 1.", labels=("version", "python")
        )
        build.add_metric((__version__, platform.python_version()), 1)
        yield build

    def _pulls(self) -> Iterator[Metric]:
        running = [job.view for job in self._board.jobs() if job.view.state is JobState.RUNNING]
        yield GaugeMetricFamily("syncd_pulls_in_progress", "Pulls that run now.", len(running))
        yield CounterMetricFamily(
            "syncd_pull_bytes",
            "Bytes that pulls took from the network, retries included.",
            self._ended_bytes() + sum(_fetched(view) for view in running),
        )

    def _store(self, count: Count) -> Iterator[Metric]:
        yield GaugeMetricFamily("syncd_store_models", "Models that are published.", len(count.models))
        yield GaugeMetricFamily("syncd_store_blobs", "Blobs that published models name.", count.blobs)
        yield GaugeMetricFamily("syncd_store_bytes", "Bytes of the blobs that published models name.", count.size)
        yield GaugeMetricFamily(
            "syncd_store_shared_saved_bytes", "Bytes that sharing blobs between models saves.", count.saved
        )
        yield GaugeMetricFamily("syncd_store_free_bytes", "Bytes free on the store's file system.", count.free)
        yield GaugeMetricFamily(
            "syncd_store_broken_manifests", "Files that Ollama takes for models and that are none.", count.broken
        )
        yield GaugeMetricFamily(
            "syncd_store_counted_timestamp_seconds", "When the store's figures were counted.", count.taken
        )
