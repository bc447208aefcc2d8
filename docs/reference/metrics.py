"""docs/metrics.md, from the metrics of a daemon that is put together as ``syncd serve`` does it."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import Metric

from docs.reference.words import cell, code, table
from syncd.daemon.loaded import Loaded
from syncd.daemon.serving import Serving
from syncd.daemon.settings import ControlSettings, OpsSettings, Settings
from syncd.store.root import Store

_HEAD = """# Metrics

Made from a daemon's own registry by `make docs`; a test holds both to each other. They are at `/metrics` of the ops
listener (`[ops] listen`, by default `127.0.0.1:9811`), in Prometheus' text format or as OpenMetrics, as the scraper
asks for. Times are seconds, sizes bytes. Models are labelled by the names that `syncd list` shows, servers by their
names in the settings. A counter or a histogram also has a series that ends with `_created`: when it began.

What to make of them is in [monitoring/](../monitoring/): alerts, recording rules, a dashboard; and in the
[runbook](runbook.md).
"""

_GROUPS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("Models of the settings", ("syncd_model", "syncd_pin", "syncd_tag")),
    ("Pulls", ("syncd_pull",)),
    ("The store", ("syncd_store", "syncd_collect", "syncd_quarantine")),
    ("Integrity", ("syncd_scrub", "syncd_blob")),
    ("Servers", ("syncd_instance", "syncd_reload", "syncd_rollout")),
    ("The daemon", ("",)),
)


@dataclass(frozen=True, slots=True, order=True)
class Family:
    """A metric. ``labels``: each with the values that it has from the beginning."""

    name: str
    type: str
    labels: tuple[tuple[str, tuple[str, ...]], ...]
    meaning: str


def page() -> str:
    """The whole page."""
    left = sorted(asyncio.run(_of_a_daemon()))
    parts = [_HEAD]
    for title, prefixes in _GROUPS:
        here = [one for one in left if one.name.startswith(prefixes)]
        left = [one for one in left if one not in here]
        rows = [(code(one.name), one.type, _labels(one), cell(one.meaning)) for one in here]
        parts.append(f"## {title}\n\n{table(('metric', 'type', 'labels', 'meaning'), rows)}")
    return "\n".join(parts)


def _labels(family: Family) -> str:
    return "; ".join(
        code(name) + (f": {', '.join(values)}" if values else "") for name, values in family.labels if name != "le"
    )


async def _of_a_daemon() -> list[Family]:
    """The metrics of a daemon with an empty store and no settings. It opens its socket, and then ends."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            control=ControlSettings(socket=Path(folder) / "run" / "syncd.sock"), ops=OpsSettings(listen=None)
        )
        with Store.open(Path(folder) / "models", create=True) as store, store.locks.daemon("docs") as lock:
            async with AsyncExitStack() as stack, asyncio.TaskGroup() as jobs:
                serving = Serving(Loaded(settings), store, lock, {"HOME": folder}, None, jobs)
                await serving.begin(stack)
                return list(_families(serving))


def _families(serving: Serving) -> Iterator[Family]:
    exposition = serving._telemetry.exposition  # noqa: SLF001 - the composition hands it to nobody but its listener
    for part in exposition._parts:  # noqa: SLF001 - likewise: an exposition is for being rendered
        yield from map(_family, part.told(part.read()))
    for collector in exposition.registry._collector_to_names:  # noqa: SLF001 - only a collector knows labels without series
        for metric in collector.collect():
            yield _family(metric, getattr(collector, "_labelnames", ()))


def _family(metric: Metric, labelled: Sequence[str] = ()) -> Family:
    shown = f"{metric.name}_total" if metric.type == "counter" else metric.name
    samples = [one for one in metric.samples if not one.name.endswith("_created")]
    names = (
        labelled or getattr(metric, "_labelnames", ()) or dict.fromkeys(name for one in samples for name in one.labels)
    )
    fixed = not shown.endswith("_info")  # what an info tells is another thing on each host
    labels = tuple(
        (name, tuple(sorted({one.labels[name] for one in samples if name in one.labels})) if fixed else ())
        for name in names
    )
    return Family(shown, metric.type, labels, metric.documentation)
