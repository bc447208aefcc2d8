"""What the daemon costs: idle, when Prometheus asks, and when fifty clients follow one pull."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import MB, Goal, Sample, Section, size_text
from benchmarks.registries import docker_registry, reference
from benchmarks.world import BenchmarkError, Blob, Model, World, free_port, manifest, small_blob

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


@dataclass(frozen=True, slots=True)
class _Daemon:
    """A running ``syncd serve``."""

    process: subprocess.Popen[bytes]
    socket: Path
    ops_port: int

    def status(self) -> Any:
        connection = _connection(self.socket)
        try:
            connection.request("GET", "/syncd/v1/status")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def processor_seconds(self) -> float:
        """Of all its threads, to the nanosecond (proc(5), schedstat)."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9

    def resident(self) -> int:
        """Bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise BenchmarkError("the daemon has no VmRSS")

    def wait_until_published(self, number: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while sum(one["state"] == "published" for one in self.status()["models"]) < number:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise BenchmarkError(f"the daemon did not publish {number} models")
            time.sleep(0.5)


def measure(world: World) -> Iterator[Section]:
    """Each in a world of its own."""
    with _small_models(world, _IDLE_MODELS) as names, _daemon(world, names) as daemon:
        daemon.wait_until_published(_IDLE_MODELS)
        idle = _idle(daemon)
    world.say(f"idle: {idle[0] * 100:.3f} % of a core, {idle[1] / MB:.0f} MB")
    with _small_models(world, _METRICS_MODELS) as names, _daemon(world, names) as daemon:
        daemon.wait_until_published(_METRICS_MODELS)
        metrics = Sample(tuple(_metrics_seconds(daemon) * 1000 for _ in range(_METRICS_ROUNDS)))
    world.say(f"/metrics: {metrics.spread('ms', 1)}")
    with world.model("big", world.size) as model:
        world.require(world.size)
        with docker_registry(world, [model]) as host:
            alone, followed = _followed(world, reference(host, model))
    yield _section(world, idle, metrics, alone, followed)


def _idle(daemon: _Daemon) -> tuple[float, int]:
    time.sleep(10.0)  # what the start left to do
    before, started = daemon.processor_seconds(), time.monotonic()
    time.sleep(_IDLE_SECONDS)
    return (daemon.processor_seconds() - before) / (time.monotonic() - started), daemon.resident()


def _metrics_seconds(daemon: _Daemon) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.ops_port, timeout=10)
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
            with _daemon(world, []) as daemon:
                took = _pull(daemon, name, clients)
            world.say(f"{'warm-up' if number == 0 else f'round {number}'}: {clients} clients {took:.2f} s")
            if number:
                found.append(took)
    return Sample(tuple(seconds[1])), Sample(tuple(seconds[_FOLLOWERS]))


def _pull(daemon: _Daemon, name: str, clients: int) -> float:
    """Seconds from the first client's request to its last line; every client must see the end."""
    ends: list[str] = []

    def follow() -> None:
        connection = _connection(daemon.socket)
        try:
            body = json.dumps({"name": name})
            connection.request("POST", "/syncd/v1/pull", body, {"Content-Type": "application/json"})
            last = b""
            for line in connection.getresponse():
                last = line
            ends.append(json.loads(last)["event"])
        finally:
            connection.close()

    started = time.perf_counter()
    threads = [threading.Thread(target=follow, name=f"client {number}") for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    if ends != ["ended"] * clients:
        raise BenchmarkError(f"not every client saw the end: {ends}")
    return took


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


@contextmanager
def _daemon(world: World, names: Sequence[str]) -> Iterator[_Daemon]:
    """A daemon on an empty store that is to hold these models."""
    with world.fresh("daemon") as folder:
        folder.mkdir()
        control, port = folder / "run" / "syncd.sock", free_port()
        settings = folder / "syncd.toml"
        settings.write_text(
            f'store = "{folder / "store"}"\n'
            + "".join(f'[[models]]\nname = "{name}"\n' for name in names)
            + f'[ops]\nlisten = "127.0.0.1:{port}"\n'
        )
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(folder / "notify"))
        notify.settimeout(30)
        environ = {
            **world.environ,
            "SYNCD_CONFIG": str(settings),
            "SYNCD_SOCKET": str(control),
            "NOTIFY_SOCKET": str(folder / "notify"),
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "syncd.cli.main", "serve"], env=environ, stdout=log, stderr=log
            )
        try:
            _wait_until_ready(notify, folder / "log")
            yield _Daemon(process, control, port)
        finally:
            notify.close()
            process.terminate()
            process.wait(20)


def _wait_until_ready(notify: socket.socket, log: Path) -> None:
    try:
        while b"READY=1" not in notify.recv(4096):
            pass
    except TimeoutError as error:
        raise BenchmarkError(f"the daemon does not get ready: {log.read_text()[-2000:]}") from error


def _connection(path: Path) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("syncd", timeout=_PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(_PATIENCE)
    connection.sock.connect(os.fspath(path))
    return connection


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
