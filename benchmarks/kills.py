"""SIGKILL at random moments of a pull, and what the next run fetches again."""

import json
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import MIB, Goal, Section, size_text
from benchmarks.registries import docker_registry, reference
from benchmarks.world import BenchmarkError, Model, World
from syncd.download.journal import claimed_bytes
from syncd.download.means import FetchSettings
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor

_TIMES = 5
_EARLIEST, _LATEST = 0.15, 0.9  # as a part of an undisturbed pull's time
_TRIES = 20


@dataclass(frozen=True, slots=True)
class _Kill:
    """Bytes. ``written``: what lay in the partial; ``held``: what the journal claimed; ``fetched``: by the next run."""

    moment: float
    written: int
    held: int
    fetched: int
    size: int

    @property
    def again(self) -> int:
        return self.written + self.fetched - self.size


def measure(world: World) -> Iterator[Section]:
    """Kill, resume, count; five times, each in a new store."""
    world.require(2 * world.size)
    chance = random.Random(world.seed)
    with world.model("big", world.size) as model, docker_registry(world, [model]) as host:
        with world.fresh("target") as store:
            undisturbed = world.timed(world.syncd("pull", reference(host, model), "--store", store, "--json"))
        kills: list[_Kill] = []
        for _ in range(_TRIES):
            with world.fresh("target") as store:
                moment = chance.uniform(_EARLIEST, _LATEST) * undisturbed
                kill = _one(world, model, host, store, moment)
            if kill is not None:
                kills.append(kill)
                world.say(f"killed after {moment:.2f} s: {kill.again / MIB:.1f} MiB were fetched again")
            if len(kills) == _TIMES:
                break
        else:
            raise BenchmarkError("the pulls end before they can be killed")
    yield _section(world, kills)


def _one(world: World, model: Model, host: str, store: Path, moment: float) -> _Kill | None:
    """None if the pull was over, or had not begun to write, by then."""
    command = world.syncd("pull", reference(host, model), "--store", store, "--json")
    process = subprocess.Popen(command, env=world.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(moment)
    finally:
        process.kill()
        process.wait()
    staged = store / ".syncd/staging" / f"sha256-{model.weights.hex}"
    journal, partial = staged.with_suffix(".journal"), staged.with_suffix(".partial")
    if not (journal.exists() and partial.exists()):
        return None
    weights = Descriptor(model.weights.media_type, Digest(model.weights.hex), model.weights.size)
    held, written = claimed_bytes(journal.read_bytes(), weights), _written(partial)
    last = json.loads(world.call(command).splitlines()[-1])
    small = model_bytes(model) - model.weights.size
    return _Kill(moment, written, held, max(last["fetched_bytes"] - small, 0), model.weights.size)


def model_bytes(model: Model) -> int:
    """Bytes of all its blobs."""
    return sum(file.stat().st_size for file in model.files.values())


def _written(partial: Path) -> int:
    """Bytes in the file: the blob is random, what was not written is zeros, and a chunk is written from its start."""
    total = 0
    with partial.open("rb") as file:
        while chunk := file.read(CHUNK_SIZE):
            total += len(chunk.rstrip(b"\0"))
    return total


def _section(world: World, kills: list[_Kill]) -> Section:
    connections = FetchSettings().connections
    worst = max(kill.again for kill in kills)
    return Section(
        title=f"SIGKILL at random moments of a pull of {size_text(world.size)}",
        goals=(
            Goal(
                "at most one chunk (16 MiB) per connection is fetched again",
                f"{worst / CHUNK_SIZE / connections:.2f} chunks per connection at worst",
                worst <= connections * CHUNK_SIZE,
            ),
        ),
        columns=(
            "killed after",
            "written",
            "in the journal",
            "fetched by the next run",
            "fetched again",
            "per connection",
        ),
        rows=[
            (
                f"{kill.moment:.2f} s",
                f"{kill.written / MIB:.1f} MiB",
                f"{kill.held / MIB:.1f} MiB",
                f"{kill.fetched / MIB:.1f} MiB",
                f"{kill.again / MIB:.1f} MiB",
                f"{kill.again / CHUNK_SIZE / connections:.2f} chunks",
            )
            for kill in kills
        ],
        notes=(
            (
                "Fetched again = written into the partial file before the kill + `fetched_bytes` of the next run - the"
                " blob's size. What was written is counted from the file itself: the blob is random, and what was not"
                " written is zeros. Up to 1 MiB per connection that was received and not yet written is not counted."
            ),
            (
                f"Of what was written, only whole chunks are in the journal; the next run has {connections} connections"
                " like the first."
            ),
        ),
    )
