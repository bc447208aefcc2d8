"""The metrics of reloads and rollouts. Labels are bounded: steps, results, states, and models that were rolled out."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from syncd.jobs.reload import Step
from syncd.jobs.rollout import Rollout, State

_SHOWN = (State.RUNNING, State.HALTED, State.DONE, State.REVERTING, State.REVERTED)


class RolloutTelemetry:
    """Counters that are told of steps, and gauges that are read when Prometheus asks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._steps = Counter(
            "syncd_reloads",
            "Steps that reloaded or proved a server, by result.",
            ("action", "result"),
            registry=registry,
        )
        for step in Step:
            for result in ("done", "failed"):
                self._steps.labels(step.value, result)

    def stepped(self, step: Step, well: bool) -> None:
        """A step was done, or could not be."""
        self._steps.labels(step.value, "done" if well else "failed").inc()

    def watch(self, rollouts: Callable[[], Iterable[Rollout]]) -> None:
        """Read these whenever somebody asks for the metrics."""
        self._registry.register(_Gauges(rollouts))


class _Gauges(Collector):
    def __init__(self, rollouts: Callable[[], Iterable[Rollout]]) -> None:
        self._rollouts = rollouts

    def collect(self) -> Iterator[Metric]:
        """Where the latest rollout of each model stands."""
        state = GaugeMetricFamily(
            "syncd_rollout_state", "1 for the state of the model's latest rollout.", labels=("model", "state")
        )
        waiting = GaugeMetricFamily(
            "syncd_rollout_servers_left", "Servers that the model's latest rollout has not passed.", labels=("model",)
        )
        for one in self._rollouts():
            for shown in _SHOWN:
                state.add_metric((str(one.name), shown.value), float(one.state is shown))
            waiting.add_metric((str(one.name),), len(one.waiting) + len(one.failed))
        yield from (state, waiting)
