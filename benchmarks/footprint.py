"""What must not grow with the blob: the peak of memory, and the time from the last byte to the published model."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import MB, Goal, Sample, Section, size_text
from benchmarks.registries import docker_registry, reference
from benchmarks.world import BenchmarkError, World

_MOST_MEMORY = 120 * MB
_SAME = 0.1  # how far the two peaks may be apart, as a part of the lower one
_LONGEST = 0.150  # seconds
_POLL = 0.01  # seconds


@dataclass(frozen=True, slots=True)
class _Found:
    size: int
    peak: int
    after: Sample  # milliseconds besides fsync
    fsync: Sample  # milliseconds


def measure(world: World) -> Iterator[Section]:
    """Both, for both sizes; the small one ``rounds`` times, the large one once (peak) and three times at most."""
    found = [_one(world, "big", world.size, world.rounds), _one(world, "huge", world.large, min(world.rounds, 3))]
    yield _memory(found)
    yield _publishing(found)


def _one(world: World, name: str, size: int, rounds: int) -> _Found:
    world.require(2 * size)
    with world.model(name, size) as model, docker_registry(world, [model]) as host:
        with world.fresh("target") as store:
            peak = _peak(world, world.syncd("pull", reference(host, model), "--store", store, "--json"))
        world.say(f"{size_text(size)}: peak memory {peak / MB:.1f} MB")
        after: list[float] = []
        fsync: list[float] = []
        for _ in range(rounds):
            with world.fresh("target") as store:
                one = _watched(world, reference(host, model), store)
            after.append((one["seconds"] - one["fsync"]) * 1000)
            fsync.append(one["fsync"] * 1000)
            world.say(f"{size_text(size)}: published {after[-1]:.0f} ms after the last byte, besides fsync")
    return _Found(size, peak, Sample(tuple(after)), Sample(tuple(fsync)))


def _watched(world: World, name: str, store: Path) -> dict[str, float]:
    answer: dict[str, float] = json.loads(world.call([sys.executable, "-m", "benchmarks.watched", name, str(store)]))
    return answer


def _peak(world: World, command: list[str]) -> int:
    """The highest VmHWM of the process, in bytes: not ru_maxrss, which a child inherits from who forked it."""
    process = subprocess.Popen(command, env=world.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    peak = 0
    while process.poll() is None:
        peak = max(peak, _high_water(status))
        time.sleep(_POLL)
    if process.returncode != 0:
        raise BenchmarkError(f"{command} left {process.returncode}")
    return peak


def _high_water(status: Path) -> int:
    try:
        text = status.read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM:")), 0)


def _memory(found: list[_Found]) -> Section:
    peaks = [one.peak for one in found]
    apart = max(peaks) / min(peaks) - 1
    sizes = " and ".join(size_text(one.size) for one in found)
    return Section(
        title="Peak memory of a pull",
        goals=(
            *(
                Goal(
                    f"at most {_MOST_MEMORY // MB} MB for {size_text(one.size)}",
                    f"{one.peak / MB:.1f} MB",
                    one.peak <= _MOST_MEMORY,
                )
                for one in found
            ),
            Goal(f"the same for {sizes} (within {_SAME:.0%})", f"{apart:.1%} apart", apart <= _SAME),
        ),
        notes=(
            (
                "VmHWM of the `syncd pull` process, read every 10 ms until it ends. The page cache, and here the"
                " RAM-backed store, is not in it."
            ),
        ),
    )


def _publishing(found: list[_Found]) -> Section:
    return Section(
        title="From the last byte to published",
        goals=[
            Goal(
                f"at most {_LONGEST * 1000:.0f} ms besides fsync, for {size_text(one.size)}",
                one.after.spread("ms", 0),
                one.after.median <= _LONGEST * 1000,
            )
            for one in found
        ],
        columns=("blob", "rounds", "besides fsync: median (min to max)", "in fsync: median (min to max)"),
        rows=[
            (size_text(one.size), str(len(one.after.values)), one.after.spread("ms", 0), one.fsync.spread("ms", 1))
            for one in found
        ],
        notes=(
            (
                "From the moment when the last byte of any blob was handed over by the HTTP client to the moment when"
                " the pull returned: the rest of the hash, the commit, the manifest and the history, minus the time in"
                " which an fsync or fdatasync ran. On RAM these cost next to nothing; on a disk they are what is left"
                " to write."
            ),
        ),
    )
