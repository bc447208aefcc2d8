"""A repair of one damaged chunk: what crosses the network for it, counted on the wire, and how long it takes."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import MIB, Goal, Sample, Section, size_text
from benchmarks.registries import docker_registry, reference
from benchmarks.world import BenchmarkError, Model, World

_AT_MOST = 32 * MIB
_PIECE = 1 << 16


@dataclass(slots=True)
class _Wire:
    """``host``: where the registry is reached through it. ``received``: bytes that came back from there so far."""

    host: str
    received: int = 0


def measure(world: World) -> Iterator[Section]:
    """Damage one byte, verify with repair, count; a few times."""
    world.require(3 * world.size)
    crossed, seconds, verified = [], [], []
    with (
        world.model("big", world.size) as model,
        docker_registry(world, [model]) as registry,
        _counted(registry) as wire,
        world.fresh("repaired") as store,
    ):
        world.call(world.syncd("pull", reference(wire.host, model), "--store", store, "--json"))
        for number in range(world.rounds):
            _damage(store / "blobs" / f"sha256-{model.weights.hex}", model, number)
            before = wire.received
            repair = world.syncd("verify", "--repair", "--json", "--store", store)
            seconds.append(_timed_repair(world, repair))
            crossed.append(float(wire.received - before))
            verified.append(world.timed(world.syncd("verify", "--json", "--store", store)))
            world.say(f"{crossed[-1] / MIB:.1f} MiB for one damaged chunk of {size_text(world.size)}")
    yield _section(world, Sample(tuple(crossed)), Sample(tuple(seconds)), Sample(tuple(verified)))


def _timed_repair(world: World, command: list[str]) -> float:
    seconds = world.timed(["sh", "-c", 'exec "$@" > "$0"', str(world.folder / "repair.json"), *command])
    told = json.loads((world.folder / "repair.json").read_text().splitlines()[-1])
    if (told["event"], told["mended"], told["later"]) != ("mended_all", 1, 0):
        raise BenchmarkError(f"that was no repair: {told}")
    return seconds


def _damage(weights: Path, model: Model, number: int) -> None:
    """A byte in the middle of the file, of another chunk each time, and of the same chunk's own bytes."""
    at = model.weights.size // 2 + number * 16 * MIB + 4242
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.seek(at % model.weights.size)
        byte = file.read(1)[0]
        file.seek(at % model.weights.size)
        file.write(bytes((byte ^ 0xFF,)))
    weights.chmod(0o444)
    subprocess.run(("sync", str(weights)), check=True)


@contextmanager
def _counted(upstream: str) -> Iterator[_Wire]:
    """A relay before a registry that counts what comes back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = _Wire(f"127.0.0.1:{listener.getsockname()[1]}")
        threading.Thread(target=_accept, args=(listener, upstream, wire), daemon=True).start()
        yield wire


def _accept(listener: socket.socket, upstream: str, wire: _Wire) -> None:
    host, _, port = upstream.partition(":")
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it was closed: the block has ended
        server = socket.create_connection((host, int(port)))
        threading.Thread(target=_copy, args=(client, server, None), daemon=True).start()
        threading.Thread(target=_copy, args=(server, client, wire), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket, wire: _Wire | None) -> None:
    try:
        while piece := source.recv(_PIECE):
            if wire is not None:
                wire.received += len(piece)
            target.sendall(piece)
    except OSError:
        pass  # either end hung up
    finally:
        target.close()


def _section(world: World, crossed: Sample, seconds: Sample, verified: Sample) -> Section:
    worst = max(crossed.values)
    return Section(
        title=f"Repairing one damaged chunk of a blob of {size_text(world.size)}",
        goals=(
            Goal(
                f"at most {_AT_MOST // MIB} MiB over the network",
                f"{worst / MIB:.1f} MiB at worst",
                worst <= _AT_MOST,
            ),
        ),
        columns=("", "median (min to max)"),
        rows=[
            ("over the network", f"{crossed.median / MIB:.1f} MiB (to {worst / MIB:.1f})"),
            ("`syncd verify --repair`", seconds.spread("s")),
            ("`syncd verify` of the whole store, for comparison", verified.spread("s")),
        ],
        notes=(
            (
                "Counted by a relay before docker-registry: everything that came back, headers included. The repair"
                " first hashes the store to find the damage; then it copies what is right, fetches the damaged chunk,"
                " and hashes the new file whole before it takes the old one's place."
            ),
        ),
    )
