"""A cold pull from docker-registry, side by side with what people use instead, and with the floor."""

import resource
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.figures import MB, Goal, Sample, Section, size_text
from benchmarks.registries import blob_path, docker_registry, reference
from benchmarks.world import BenchmarkError, Model, World

_SPEED_UP = 1.5
_OF_THE_FLOOR = 0.9
_ARIA2 = ("aria2c", "-x16", "-s16", "-k16M")

Contestant = Callable[[World, Model, str, Path], float]


def measure(world: World) -> Iterator[Section]:
    """Every contestant in every round, one after another, after a round that does not count."""
    with world.model("big", world.size) as model:
        world.require(world.size)
        with docker_registry(world, [model]) as host:
            seconds: dict[str, list[float]] = {name: [] for name in _CONTESTANTS}
            processor: dict[str, list[float]] = {name: [] for name in _CONTESTANTS}
            for number in range(world.rounds + 1):
                for name, contestant in _CONTESTANTS.items():
                    world.touch_memory(world.size)
                    with world.fresh("target") as target:
                        target.mkdir()
                        before = _processor_seconds()
                        took = contestant(world, model, host, target)
                        used = _processor_seconds() - before
                    world.say(f"{'warm-up' if number == 0 else f'round {number}'}: {name} {took:.2f} s")
                    if number:
                        seconds[name].append(took)
                        processor[name].append(used)
    yield _section(world, _samples(seconds), _samples(processor))


def _samples(measured: Mapping[str, list[float]]) -> Mapping[str, Sample]:
    return {name: Sample(tuple(values)) for name, values in measured.items()}


def _processor_seconds() -> float:
    """What all children that have ended used, user and system: less moved by what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _syncd(world: World, model: Model, host: str, target: Path) -> float:
    """The whole process, from start to exit: verified and published."""
    store = target / "store"
    took = world.timed(world.syncd("pull", reference(host, model), "--store", store, "--json"))
    blob = store / "blobs" / f"sha256-{model.weights.hex}"
    tag = store / "manifests" / host / model.repository / "latest"
    if blob.stat().st_size != model.weights.size or tag.read_bytes() != model.manifest:
        raise BenchmarkError("the pull said that it was done, and the model is not there")
    return took


def _aria2(world: World, model: Model, host: str, target: Path) -> float:
    return _aria2_with(world, model, host, target)


def _aria2_sparse(world: World, model: Model, host: str, target: Path) -> float:
    return _aria2_with(world, model, host, target, "--file-allocation=none")


def _aria2_with(world: World, model: Model, host: str, target: Path, *more: str) -> float:
    url = f"http://{host}{blob_path(model)}"
    checksum = f"--checksum=sha-256={model.weights.hex}"
    return world.timed([*_ARIA2, checksum, *more, "--no-conf=true", "--quiet=true", "-d", str(target), "-o", "b", url])


def _curl(world: World, model: Model, host: str, target: Path) -> float:
    url = f"http://{host}{blob_path(model)}"
    script = f"set -o pipefail; curl -sSf {shlex.quote(url)} | tee {shlex.quote(str(target / 'b'))} | openssl sha256"
    started_with: list[str] = ["bash", "-c", f"{script} | grep -q {model.weights.hex}"]
    return world.timed(started_with)


def floor(world: World, model: Model, host: str, target: Path) -> float:
    """The bare loop of ``benchmarks/floor.py``."""
    arguments = [host, blob_path(model), str(target / "b"), str(model.weights.size), model.weights.hex]
    return world.timed([sys.executable, "-m", "benchmarks.floor", *arguments])


_CONTESTANTS: Mapping[str, Contestant] = {
    "syncd pull": _syncd,
    "aria2c": _aria2,
    "curl, tee, openssl": _curl,
    "floor": floor,
    "aria2c, no preallocation": _aria2_sparse,
}


def _section(world: World, samples: Mapping[str, Sample], processor: Mapping[str, Sample]) -> Section:
    own = samples["syncd pull"].median
    aria2, curl, floor = (samples[name].median / own for name in ("aria2c", "curl, tee, openssl", "floor"))
    sparse = samples["aria2c, no preallocation"].median / own
    return Section(
        title=f"Cold pull of {size_text(world.size)} from docker-registry",
        goals=(
            Goal(f"at least {_SPEED_UP} times as fast as aria2c", f"{aria2:.2f} times", aria2 >= _SPEED_UP),
            Goal(f"at least {_SPEED_UP} times as fast as curl, tee, openssl", f"{curl:.2f} times", curl >= _SPEED_UP),
            Goal(f"{_OF_THE_FLOOR} of the floor's speed (an aim)", f"{floor:.2f}", floor >= _OF_THE_FLOOR),
            Goal("as fast as aria2c without its preallocation", f"{sparse:.2f} times", None),
        ),
        columns=("contestant", "median s", "min s", "max s", "MB/s", "processor s"),
        rows=[
            (
                name,
                f"{sample.median:.2f}",
                f"{min(sample.values):.2f}",
                f"{max(sample.values):.2f}",
                f"{world.size / MB / sample.median:.0f}",
                f"{processor[name].median:.2f}",
            )
            for name, sample in samples.items()
        ],
        notes=(
            (
                "Wall time of whole processes, from start to exit, each into an empty folder; all take turns in every"
                " round, after one round that does not count."
            ),
            (
                "syncd: `syncd pull NAME --store DIR --json`: reserved, fetched, verified by SHA-256, mapped by BLAKE3,"
                " fsynced, published."
            ),
            f"aria2c: `{' '.join(_ARIA2)} --checksum=sha-256=…`, its own default being to preallocate.",
            (
                "Before each, as much memory is written and freed again: else whoever comes after a pause pays for"
                " what a virtual machine gave back to its host."
            ),
            "curl: `curl URL | tee FILE | openssl sha256`.",
            "floor: `benchmarks/floor.py`, a bare loop of recv_into, pwrite and SHA-256 in threads, preallocated.",
            (
                "The registry runs on the same cores and needs a good part of them in every contestant's time."
                " 'Processor s' (median) is what the contestant itself used, user and system, on all cores."
            ),
        ),
    )
