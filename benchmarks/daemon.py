"""What the daemon costs: idle, when Prometheus asks, and when fifty clients follow one pull."""

import http.client
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.figures import MB, Goal, Sample, Section, size_text
from benchmarks.registries import docker_registry, reference
from benchmarks.running import Daemon, daemon, pull
from benchmarks.world import BenchmarkError, Blob, Model, World, manifest, small_blob

_IDLE_MODELS = 100
_IDLE_SECONDS = 60.0
_IDLE_SHARE = 0.002  # of one core
_IDLE_BYTES = 80 * MB
_METRICS_MODELS = 1000
_METRICS_SECONDS = 0.050
_METRICS_ROUNDS = 50
_FOLLOWERS = 50
_FOLLOWED_SHARE = 0.10
_PATIENCE = 300.0


def measure(world: World) -> Iterator[Section]:
    """Each in a world of its own."""
    with _small_models(world, _IDLE_MODELS) as names, daemon(world, names) as running:
        running.wait_until_published(_IDLE_MODELS)
        idle = _idle(running)
    world.say(f"idle: {idle[0] * 100:.3f} % of a core, {idle[1] / MB:.0f} MB")
    with _small_models(world, _METRICS_MODELS) as names, daemon(world, names) as running:
        running.wait_until_published(_METRICS_MODELS)
        metrics = Sample(tuple(_metrics_seconds(running) * 1000 for _ in range(_METRICS_ROUNDS)))
    world.say(f"/metrics: {metrics.spread('ms', 1)}")
    with world.model("big", world.size) as model:
        world.require(world.size)
        with docker_registry(world, [model]) as host:
            alone, followed = _followed(world, reference(host, model))
    yield _section(world, idle, metrics, alone, followed)


def _idle(running: Daemon) -> tuple[float, int]:
    time.sleep(10.0)  # what the start left to do
    before, started = running.processor_seconds(), time.monotonic()
    time.sleep(_IDLE_SECONDS)
    return (running.processor_seconds() - before) / (time.monotonic() - started), running.resident()


def _metrics_seconds(running: Daemon) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", running.ops_port, timeout=10)
    started = time.perf_counter()
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK or body.count(b"syncd_model_present{") != _METRICS_MODELS:
        raise BenchmarkError("/metrics does not tell of every model")
    return time.perf_counter() - started


def _followed(world: World, name: str) -> tuple[Sample, Sample]:
    """Seconds that one pull took with one client, and with fifty; in turns."""
    seconds: dict[int, list[float]] = {1: [], _FOLLOWERS: []}
    for number in range(world.rounds + 1):
        for clients, found in seconds.items():
            world.touch_memory(world.size)
            with daemon(world, []) as running:
                took = pull(running, name, clients)
            world.say(f"{'warm-up' if number == 0 else f'round {number}'}: {clients} clients {took:.2f} s")
            if number:
                found.append(took)
    return Sample(tuple(seconds[1])), Sample(tuple(seconds[_FOLLOWERS]))


@contextmanager
def _small_models(world: World, number: int) -> Iterator[Sequence[str]]:
    """The names of so many small models in a registry."""
    with world.fresh("small") as folder, ExitStack() as stack:
        folder.mkdir()
        models = [_small_model(folder, index) for index in range(number)]
        host = stack.enter_context(docker_registry(world, models))
        yield [reference(host, model) for model in models]


def _small_model(folder: Path, index: int) -> Model:
    contents = {
        "config": f'{{"model_format":"gguf","model_family":"llama","number":{index}}}'.encode(),
        "model": f"weights of {index}".encode() * 64,
    }
    blobs = {kind: small_blob(kind, content) for kind, content in contents.items()}
    files: dict[str, Path] = {}
    for kind, content in contents.items():
        file = folder / blobs[kind].hex
        file.write_bytes(content)
        files[blobs[kind].hex] = file
    weights: Blob = blobs["model"]
    return Model(f"small{index}", manifest(blobs["config"], (weights,)), weights, blobs["config"], files)


def _section(world: World, idle: tuple[float, int], metrics: Sample, alone: Sample, followed: Sample) -> Section:
    slower = followed.median / alone.median - 1
    return Section(
        title="The daemon",
        goals=(
            Goal(
                f"idle with {_IDLE_MODELS} models: at most {_IDLE_SHARE:.1%} of one core",
                f"{idle[0]:.3%}",
                idle[0] <= _IDLE_SHARE,
            ),
            Goal(
                f"idle with {_IDLE_MODELS} models: at most {_IDLE_BYTES // MB} MB",
                f"{idle[1] / MB:.1f} MB",
                idle[1] <= _IDLE_BYTES,
            ),
            Goal(
                f"`/metrics` within {_METRICS_SECONDS * 1000:.0f} ms with {_METRICS_MODELS:,} models",
                metrics.spread("ms", 1),
                metrics.median <= _METRICS_SECONDS * 1000,
            ),
            Goal(
                f"{_FOLLOWERS} clients slow one pull by less than {_FOLLOWED_SHARE:.0%}",
                f"{slower:+.1%}",
                slower < _FOLLOWED_SHARE,
            ),
        ),
        columns=("clients of one pull", "seconds: median (min to max)"),
        rows=(("1", alone.spread("s")), (str(_FOLLOWERS), followed.spread("s"))),
        notes=(
            f"Idle: processor time of all threads over {_IDLE_SECONDS:.0f} s, every model published; memory is VmRSS.",
            f"A pull of {size_text(world.size)} through the daemon; the clients run on the same cores.",
        ),
    )
