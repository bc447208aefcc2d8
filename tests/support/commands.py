"""``syncd`` commands as processes of their own, forked from one that has all of syncd imported."""

import atexit
import functools
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import syncd
from syncd.cli import main as command_line
from tests.support.forks import Forker, Run

_PATIENCE = 100.0  # seconds


def perform(arguments: list[str]) -> None:
    """Be ``syncd ARGUMENTS``; it ends the process."""
    time.tzset()  # the environment is another now
    sys.argv = [str(Path(command_line.__file__)), *arguments]
    command_line.main()


@functools.cache
def _forker() -> Forker:
    """One for this process, until it ends. A command imports what it needs; what any of them needs is all of syncd."""
    modules = [module.name for module in pkgutil.walk_packages(syncd.__path__, "syncd.")]
    forker = Forker(__name__, *modules).__enter__()
    atexit.register(forker.__exit__, None, None, None)
    return forker


def forked(*arguments: str, environ: Mapping[str, str], streams: tuple[int, int, int] = (0, 2, 2)) -> Run:
    """``syncd ARGUMENTS`` once it may go, with these for stdin, stdout and stderr."""
    return _forker().fork(f"{__name__}:perform", {"arguments": arguments}, streams=streams, environ=environ)


def completed(
    *arguments: str, environ: Mapping[str, str], seconds: float = _PATIENCE
) -> subprocess.CompletedProcess[str]:
    """``syncd ARGUMENTS`` to its end, with nothing on stdin."""
    with (
        Path(os.devnull).open("rb") as nothing,
        os.fdopen(os.memfd_create("stdout"), "w+", encoding="utf-8") as out,
        os.fdopen(os.memfd_create("stderr"), "w+", encoding="utf-8") as errors,
    ):
        run = forked(*arguments, environ=environ, streams=(nothing.fileno(), out.fileno(), errors.fileno()))
        try:
            ending = run.go().wait(seconds)
        except TimeoutError:
            run.kill()
            raise
        for stream in (out, errors):
            stream.seek(0)
        return subprocess.CompletedProcess(["syncd", *arguments], ending.returncode, out.read(), errors.read())
