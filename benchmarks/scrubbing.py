"""A scrub of a store on a real disk, by the daemon: beside dd over the same files, and beside a SHA-256 pass."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import GIB, MB, MIB, Goal, Sample, Section, size_text
from benchmarks.running import Daemon, daemon
from benchmarks.world import BenchmarkError, Model, World
from syncd.store.mounts import file_system_of

_DISK = Path("/var/tmp")
_WARM = 512 * MIB  # of the blob, that lies in the page cache before: a scrub must neither add to it nor drop it
_SPEED = 0.9  # of dd's
_PROCESSOR = 1 / 3  # of the SHA-256 pass's
_MEMORY = 64 * MB
_CACHE = 64 * MB
_SHA256 = """
import hashlib, os, sys
begun = sum(os.times()[:2])
with open(sys.argv[1], "rb") as file:
    hashlib.file_digest(file, "sha256")
print(sum(os.times()[:2]) - begun)
"""


@dataclass(frozen=True, slots=True)
class _Found:
    """Seconds, and for memory and cache bytes, a figure a round."""

    dd: Sample
    scrub: Sample
    sha256: Sample
    processor: Sample
    memory: Sample
    cache: Sample


def measure(world: World) -> Iterator[Section]:
    """On ``/var/tmp``: scrub and dd in turns, and the SHA-256 pass once a round."""
    kind = file_system_of(_DISK, Path("/proc/self/mountinfo").read_text().splitlines())
    if kind == "tmpfs":
        raise BenchmarkError(f"{_DISK} lies in memory: there is no disk to read from")
    size = 2 * world.size
    with TemporaryDirectory(prefix="syncd-bench-", dir=_DISK) as folder:
        disk = replace(world, folder=Path(folder))
        with (
            disk.model("big", size) as model,
            _adopted(disk, model) as weights,
            daemon(disk, [], store=disk.folder / "models") as running,
        ):
            found = _rounds(disk, running, weights, size)
    yield _section(size, str(kind), found)


@contextmanager
def _adopted(world: World, model: Model) -> Iterator[Path]:
    """The model in the daemon's store; the path of its weights."""
    store = world.folder / "models"
    source = world.folder / "source"
    tag = source / "manifests/registry.ollama.ai/library" / model.name / "latest"
    tag.parent.mkdir(parents=True)
    tag.write_bytes(model.manifest)
    (source / "blobs").mkdir()
    for hex_digest, file in model.files.items():
        file.rename(source / "blobs" / f"sha256-{hex_digest}")
    world.call(world.syncd("adopt", "--delete-source", source, "--store", store))
    yield store / "blobs" / f"sha256-{model.weights.hex}"


def _rounds(world: World, running: Daemon, weights: Path, size: int) -> _Found:
    found: dict[str, list[float]] = {key: [] for key in ("dd", "scrub", "sha256", "processor", "memory", "cache")}
    for number in range(world.rounds):
        _cool(weights)
        _dd(world, weights, "bs=4M", f"count={_WARM // (4 * MIB)}")
        direct = ("dd", f"if={weights}", "of=/dev/null", "iflag=direct", "bs=4M")
        if number % 2:  # whoever comes first may find the disk still at what was written before
            one, dd = _scrub(running, weights, size), world.timed(direct)
        else:
            dd, one = world.timed(direct), _scrub(running, weights, size)
        _cool(weights)  # a scrub reads from the disk: so does this
        sha256 = float(world.call((sys.executable, "-c", _SHA256, str(weights))))
        for key, value in (("dd", dd), ("sha256", sha256), *one.items()):
            found[key].append(value)
        world.say(
            f"round {number}: dd {dd:.2f} s, scrub {one['scrub']:.2f} s,"
            f" {one['processor']:.2f} s of processor, SHA-256 {sha256:.2f} s"
        )
    return _Found(**{key: Sample(tuple(values)) for key, values in found.items()})


def _scrub(running: Daemon, weights: Path, size: int) -> dict[str, float]:
    proc = Path(f"/proc/{running.process.pid}")
    idle, cached, before = running.resident(), _cached(weights), _processor(proc)
    (proc / "clear_refs").write_text("5")  # the peak begins anew (proc(5))
    told = running.operate("scrub", {"anew": True})
    if told["event"] != "scrubbed" or told["size"] < size or told["damaged"] or not told["direct"]:
        raise BenchmarkError(f"that was no whole scrub past the cache: {told}")
    return {
        "scrub": told["seconds"],
        "processor": _processor(proc) - before,
        "memory": _peak(proc) - idle,
        "cache": abs(_cached(weights) - cached),
    }


def _processor(proc: Path) -> float:
    """Seconds of all its threads, of those that have ended too (proc(5), stat)."""
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak(proc: Path) -> int:
    """The highest resident size, in bytes."""
    for line in (proc / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError("the daemon has no VmHWM")


def _cool(path: Path) -> None:
    """Take the file out of the page cache (dd(1), ``nocache``)."""
    subprocess.run(("dd", f"if={path}", "of=/dev/null", "iflag=nocache", "count=0"), check=True, capture_output=True)


def _dd(world: World, path: Path, *options: str) -> None:
    world.call(("dd", f"if={path}", "of=/dev/null", *options))


def _cached(path: Path) -> int:
    """Bytes of the file in the page cache."""
    done = subprocess.run(
        ("fincore", "--bytes", "--noheadings", "--output", "RES", path), check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def _section(size: int, kind: str, found: _Found) -> Section:
    speed = found.dd.median / found.scrub.median
    share = found.processor.median / found.sha256.median
    memory, cache = max(found.memory.values), max(found.cache.values)
    rows: Sequence[Sequence[str]] = [
        ("dd iflag=direct bs=4M", found.dd.spread("s"), f"{size / found.dd.median / GIB:.2f}", "-"),
        (
            "syncd scrub",
            found.scrub.spread("s"),
            f"{size / found.scrub.median / GIB:.2f}",
            found.processor.spread("s"),
        ),
        ("hashlib SHA-256", "-", "-", found.sha256.spread("s")),
    ]
    return Section(
        title=f"Scrubbing a store of {size_text(size)} on {kind}",
        goals=[
            Goal(
                f"at least {_SPEED} of the speed of `dd iflag=direct bs=4M` over the same file",
                f"{speed:.2f}",
                speed >= _SPEED,
            ),
            Goal(
                "at most a third of the processor time of a SHA-256 pass by hashlib",
                f"{share:.2f}",
                share <= _PROCESSOR,
            ),
            Goal(
                f"at most {_MEMORY // MB} MB of memory beyond the idle daemon",
                f"{memory / MB:.1f} MB",
                memory <= _MEMORY,
            ),
            Goal(f"the page cache not changed by more than {_CACHE // MB} MB", f"{cache / MB:.1f} MB", cache <= _CACHE),
        ],
        columns=("what", "seconds", "GiB/s", "processor seconds"),
        rows=rows,
        notes=(
            f"On the disk below `{_DISK}`; in turns, so that a disk whose speed moves does so for both.",
            "Processor time: all of the daemon's, in the kernel too. hashlib.file_digest begins with a cold cache.",
            "Memory: the daemon's highest resident size while it scrubs, less that before.",
            f"Cache: what fincore(1) finds of the file, of which {size_text(_WARM)} were in the cache before.",
        ),
    )
