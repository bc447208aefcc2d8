"""On what it was measured."""

import datetime as dt
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import GIB
from syncd import __version__

_PROGRAMS = (
    ("docker-registry", "--version"),
    ("aria2c", "--version"),
    ("curl", "--version"),
    ("openssl", "version"),
    ("nginx", "-v"),
)


def facts(now: dt.datetime) -> list[tuple[str, str]]:
    """What a reader needs to compare: names and values."""
    return [
        ("date", now.strftime("%Y-%m-%d %H:%M UTC")),
        ("syncd", f"{__version__}, commit {_first_line(('git', 'describe', '--always', '--dirty'))}"),
        ("cores", f"{os.cpu_count()} x {_cpu()}"),
        ("load when it began", f"{os.getloadavg()[0]:.1f}"),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.1f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        *((command[0], _version(command)) for command in _PROGRAMS),
    ]


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(command: Sequence[str]) -> str:
    match = re.search(r"\d+(\.\d+)+[\w+~-]*", _first_line(command))
    return match[0] if match else "unknown"


def _first_line(command: Sequence[str]) -> str:
    environ = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"}
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0] if lines else "unknown"
