"""From published to served: how long eight servers take to be seen to serve a model that is new."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.figures import MIB, Goal, Sample, Section
from benchmarks.running import Daemon, daemon, pull
from benchmarks.world import BenchmarkError, World, free_port
from tests.support.models import build_model
from tests.support.registry import ScriptedRegistry

_SERVERS = 8
_SECONDS = 1.0
_ROUNDS = 5
_PATIENCE = 60.0
_AVAILABLE = {"served", "proved", "loaded"}


def measure(world: World) -> Iterator[Section]:
    """One model after another is pulled; each time from its tag's mtime to the eighth server's word."""
    found = []
    with ExitStack() as stack:
        registry = stack.enter_context(ScriptedRegistry())
        names = [_add(registry, number) for number in range(_ROUNDS + 1)]
        store = world.folder / "daemon" / "store"
        ports: set[int] = set()
        while len(ports) < _SERVERS:
            ports.add(free_port())
        instances = "".join(
            f'[[instances]]\nname = "s{port}"\nurl = "http://127.0.0.1:{port}"\nprove = "never"\n' for port in ports
        )
        running = stack.enter_context(daemon(world, [], more=instances))
        stack.enter_context(_stand_ins(world, store, ports))
        world.say("waiting until every server was seen up")
        _wait(running, lambda status: all(one["up"] for one in status["instances"]))
        for name in names:
            pull(running, name, 1)
            seen = _wait(running, lambda status, name=name: _served(status, name))
            found.append(seen - store.joinpath("manifests", *name.replace(":v", "/v").split("/")).stat().st_mtime)
            world.say(f"published to served on {_SERVERS}: {found[-1]:.3f} s")
    sample = Sample(tuple(found[1:]))
    yield Section(
        title="The servers",
        goals=(
            Goal(
                f"published to seen served (level 2) on {_SERVERS} servers within {_SECONDS:g} s",
                sample.spread("s"),
                sample.median <= _SECONDS,
            ),
        ),
        notes=(
            (
                f"From the mtime of the model's tag to the status in which the last of {_SERVERS} stand-ins for Ollama"
                " has shown the published digest; looked at every 10 ms, on the same cores."
            ),
        ),
    )


def _add(registry: ScriptedRegistry, number: int) -> str:
    """Another version of a real model, under a tag of its own; its name."""
    model = registry.add(build_model("mistral:7b", 4 * MIB, seed=number))
    return registry.put_manifest(model.manifest, "library/mistral", f"v{number}")


def _served(status: Any, name: str) -> bool:
    """Whether every server was seen to show the digest that is published under ``name``."""
    rows = [model for one in status["instances"] for model in one["models"] if model["name"] == name]
    return len(rows) == _SERVERS and all(model["state"] in _AVAILABLE for model in rows)


def _wait(running: Daemon, true: Callable[[Any], bool]) -> float:
    """Wait for a status of which something is true; when that was, in seconds since the epoch."""
    deadline = time.time() + _PATIENCE
    while time.time() < deadline:
        status = running.status()
        if true(status):
            return time.time()
        time.sleep(0.01)
    raise BenchmarkError("the servers did not come to serve it")


@contextmanager
def _stand_ins(world: World, store: Path, ports: Iterable[int]) -> Iterator[None]:
    environ = {**world.environ, "OLLAMA_NOPRUNE": "1"}
    command = [sys.executable, "-m", "tests.support.standin", "--models", str(store), "--port"]
    processes = [
        subprocess.Popen([*command, str(port)], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for port in ports
    ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)
