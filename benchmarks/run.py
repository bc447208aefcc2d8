"""``make bench``: measures what docs/benchmarks.md says, and writes it.

A run of everything takes about twenty minutes, 20 GB of memory-backed space and 5 GB below /var/tmp. A whole run alone
writes the page; ``--quick`` and ``--only`` print theirs.
"""

import argparse
import datetime as dt
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from benchmarks import (
    adopting,
    cold,
    collecting,
    commands,
    daemon,
    footprint,
    kills,
    repairing,
    scrubbing,
    servers,
    smoking,
    throttled,
)
from benchmarks.figures import GIB, MIB, Section, summary, table, verdict
from benchmarks.machine import facts
from benchmarks.world import BenchmarkError, World

_PAGE = Path("docs/benchmarks.md")
_MEMORY = Path("/dev/shm")
_MEASUREMENTS: Mapping[str, Callable[[World], Iterator[Section]]] = {
    "cold": cold.measure,
    "footprint": footprint.measure,
    "kills": kills.measure,
    "throttled": throttled.measure,
    "commands": commands.measure,
    "collecting": collecting.measure,
    "daemon": daemon.measure,
    "servers": servers.measure,
    "adopting": adopting.measure,
    "smoking": smoking.measure,
    "scrubbing": scrubbing.measure,
    "repairing": repairing.measure,
}
_PROGRAMS = ("docker-registry", "aria2c", "curl", "openssl", "nginx", "bash", "tee")
_NOISE = (
    "Everything shares the machine's cores: registry, contestant, and whatever else runs there. Ratios within one run"
    " hold better than seconds; between runs on a virtual machine seconds move by 10 to 20 %, and a busy neighbour"
    " widens min to max. The folder is RAM-backed, so the disk is left out: on a real one fsync adds what the disk"
    " still has to write, for whoever calls it (aria2c and curl do not)."
)


def main() -> int:
    """Measure, print, write. 0 even where a goal is missed; 1 where something could not be measured."""
    options = _options()
    missing = [name for name in _PROGRAMS if not shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")]
    if missing:
        sys.stderr.write(f"not installed: {', '.join(missing)}\n")
        return 1
    signal.signal(signal.SIGTERM, _stop)
    started, about = time.monotonic(), facts(dt.datetime.now(dt.UTC))

    def say(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - started:6.1f} s] {text}\n")
        sys.stderr.flush()

    with tempfile.TemporaryDirectory(prefix="syncd-bench-", dir=options.folder) as folder:
        world = World(
            folder=Path(folder),
            size=256 * MIB if options.quick else 2 * GIB,
            large=GIB if options.quick else 8 * GIB,
            rounds=options.rounds or (2 if options.quick else 5),
            seed=options.seed,
            say=say,
        )
        sections, failed = _measured(world, options.only or list(_MEASUREMENTS))
    page = _page(sections, _command(options), about)
    if options.quick or options.only or failed:
        sys.stdout.write(page)
    else:
        _PAGE.write_text(page)
        say(f"wrote {_PAGE}")
    sys.stdout.write(summary(sections) + "\n")
    return 1 if failed else 0


def _measured(world: World, names: Iterable[str]) -> tuple[list[Section], bool]:
    sections: list[Section] = []
    failed = False
    for name in names:
        world.say(name)
        try:
            sections.extend(_MEASUREMENTS[name](world))
        except BenchmarkError as error:
            failed = True
            sys.stderr.write(f"{name}: {error}\n")
    return sections, failed


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="256 MiB and 1 GiB instead of 2 and 8 GiB, 2 rounds")
    parser.add_argument("--only", action="append", choices=list(_MEASUREMENTS), help="this one; may be repeated")
    parser.add_argument("--rounds", type=int, help="of each measurement that has rounds (default: 5)")
    parser.add_argument("--seed", type=int, default=1, help="of the random bytes and moments (default: 1)")
    parser.add_argument("--folder", type=Path, default=_MEMORY, help=f"a memory-backed one (default: {_MEMORY})")
    return parser.parse_args()


def _command(options: argparse.Namespace) -> str:
    whole = not (options.quick or options.only or options.rounds)
    return "make bench" if whole and options.folder == _MEMORY else f"python -m benchmarks.run {' '.join(sys.argv[1:])}"


def _stop(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C: servers end, the folder goes."""
    raise KeyboardInterrupt


def _page(sections: Iterable[Section], command: str, about: Iterable[tuple[str, str]]) -> str:
    sections = list(sections)
    goals = table(
        ("measurement", "goal", "found", ""),
        [(section.title, goal.wanted, goal.found, verdict(goal)) for section in sections for goal in section.goals],
    )
    parts = [
        "# Benchmarks\n",
        f"Written by `{command}`; no figure here is typed by hand.\n\n**{summary(sections)}.**\n",
        goals,
        *(_details(section) for section in sections if section.rows or section.notes),
        "## What is noisy\n",
        _NOISE + "\n",
        "## The machine\n",
        table(("what", "value"), about),
    ]
    return "\n".join(parts)


def _details(section: Section) -> str:
    parts = [f"## {section.title}\n"]
    if section.rows:
        parts.append(table(section.columns, section.rows))
    parts.extend(f"- {note}" for note in section.notes)
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
