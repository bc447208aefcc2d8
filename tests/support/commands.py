"""``syncd`` commands, and daemons, as processes of their own, forked from one that has all of syncd imported."""

import atexit
import functools
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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


@dataclass(slots=True)
class Process:
    """A command that goes on by itself. ``returncode``: None while it runs, as subprocess has it."""

    _run: Run
    returncode: int | None = None

    @classmethod
    def start(cls, *arguments: str, environ: Mapping[str, str], streams: tuple[int, int, int]) -> Self:
        """``syncd ARGUMENTS``, with these for stdin, stdout and stderr."""
        return cls(forked(*arguments, environ=environ, streams=streams).go())

    @property
    def pid(self) -> int:
        return self._run.pid

    def poll(self) -> int | None:
        """Its ``returncode``, now."""
        with suppress(TimeoutError):
            self.wait(0.001)
        return self.returncode

    def wait(self, seconds: float) -> int:
        """Its ``returncode``, when it has ended. TimeoutError after ``seconds``."""
        if self.returncode is None:
            self.returncode = self._run.wait(seconds).returncode
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """A signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


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
