"""Whether ``syncd smoke`` holds a rate, and what that costs."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Goal, Sample, Section
from benchmarks.world import BenchmarkError, World
from tests.support.models import five_models

_RATE = 200  # requests a second
_SECONDS = 15
_SERVERS = 4
_CORES = 1.0
_HELD = 0.99  # of the rate: the last request is due one interval before the end
_WEIGHTS = 64 * 1024  # bytes of each model: what a stand-in reads is not measured here
_READY_SECONDS = 20.0
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class _Run:
    """``cores``: processor time of the process over the time that it ran; ``report``: what it wrote."""

    cores: float
    report: Mapping[str, Any]

    @property
    def rate(self) -> float:
        """Requests a second that were sent and answered, by its own clock."""
        return float(self.report["succeeded"]) / max(_SECONDS, float(self.report["seconds"]))


def measure(world: World) -> Iterator[Section]:
    """Against stand-ins on the same machine, which take their share of it."""
    with world.fresh("models") as store, ExitStack() as stack:
        _place(store)
        urls = [stack.enter_context(_stand_in(store)) for _ in range(_SERVERS)]
        runs = []
        for number in range(world.rounds):
            run = _smoke(world, urls)
            world.say(f"round {number + 1}: {run.rate:.1f} requests a second, {run.cores:.2f} cores")
            runs.append(run)
    yield _section(runs)


def _smoke(world: World, urls: Sequence[str]) -> _Run:
    named = [part for url in urls for part in ("--instance", url)]
    load = ("--rps", str(_RATE), "--duration", f"{_SECONDS}s", "--json")
    started = time.perf_counter()
    process = subprocess.Popen(world.syncd("smoke", *named, *load), env=world.environ, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as output:
        events = [json.loads(line) for line in output]
    _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise BenchmarkError(f"syncd smoke left {process.returncode}: {events[-1]}")
    return _Run((used.ru_utime + used.ru_stime) / took, events[-1])


def _place(store: Path) -> None:
    """Five models, as Ollama lays them out."""
    (store / "blobs").mkdir(parents=True)
    for model in five_models(_WEIGHTS):
        for digest, blob in model.blobs.items():
            (store / "blobs" / digest.replace(":", "-")).write_bytes(blob.read(0, blob.size))
        name, _, tag = model.name.partition(":")
        manifest = store / "manifests" / "registry.ollama.ai" / "library" / name / tag
        manifest.parent.mkdir(parents=True)
        manifest.write_bytes(model.manifest)


@contextmanager
def _stand_in(store: Path) -> Iterator[str]:
    """A stand-in for an Ollama server, in a process of its own; its URL."""
    command = [sys.executable, "-m", "tests.support.standin", "--models", str(store), "--port", "0", "--no-prune"]
    process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    impatience = threading.Timer(_READY_SECONDS, process.kill)
    impatience.start()
    try:
        announced = process.stdout.readline()
        impatience.cancel()
        if not announced:
            raise BenchmarkError("a stand-in did not say where it listens")
        yield json.loads(announced)["url"]
    finally:
        impatience.cancel()
        process.terminate()
        process.wait(20)
        process.stdout.close()


def _section(runs: Sequence[_Run]) -> Section:
    rate, cores = Sample(tuple(run.rate for run in runs)), Sample(tuple(run.cores for run in runs))
    waits = Sample(tuple(run.report["since_due"]["p99"] * 1000 for run in runs))
    return Section(
        title="Smoke test",
        goals=(
            Goal(f"holds {_RATE} requests a second", rate.spread("a second", 1), min(rate.values) >= _HELD * _RATE),
            Goal(f"with less than {_CORES:.0f} core", cores.spread("cores"), max(cores.values) < _CORES),
        ),
        columns=("what", "found"),
        rows=(("99 % of the answers came, since their request was due, within", waits.spread("ms", 1)),),
        notes=(
            (
                f"{_SECONDS} s against {_SERVERS} stand-ins with five models each, in processes of their own on the"
                " same machine; chat, generate and embed, a new connection for each request."
            ),
            (
                "Cores: processor time of the process, its start included, over the time that it ran. A run in"
                " which a request failed or could not be sent would not count."
            ),
        ),
    )
