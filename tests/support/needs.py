"""What tests need of the machine: where it is missing they are skipped, loudly; in CI they fail."""

import os
import shutil
from collections.abc import Iterable

import pytest


def missing(without: str, why: str) -> None:
    """End the test. ``without``: what did not take place, in capitals."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{without}: {why}")


def needs_root_and(programs: Iterable[str], *, packages: str, without: str) -> None:
    """Go on where this is root and all ``programs`` are installed. ``packages``: of Debian, which have them."""
    absent = [program for program in programs if shutil.which(program) is None]
    if os.geteuid() != 0:
        missing(without, "that needs root")
    if absent:
        missing(without, f"missing are {', '.join(absent)} (Debian: apt install {packages})")
