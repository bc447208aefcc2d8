"""``syncd`` commands, and daemons, as processes of their own, forked from one that has all of syncd imported.

A few tests are about the interpreter too: what it imports, what it costs, what it inherits, what ends it while it
starts. For these ``INTERPRETED`` is the command, and ``interpreted`` runs it to its end.
"""

import atexit
import functools
import io
import os
import pkgutil
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import syncd
from syncd.cli import main as command_line
from tests.support.forks import ROOT, Forker, Run

INTERPRETED = (sys.executable, "-m", "syncd.cli.main")
PATIENCE = 100.0  # seconds

# stdin, stdout, stderr. None: nothing to read; a pipe that the test has the other end of.
Streams = tuple[int | None, int | None, int | None]
OWN: Streams = (None, None, None)
Text = TypeVar("Text", str, bytes)


def perform(arguments: list[str], cwd: str, user: str | None) -> None:
    """Be ``syncd ARGUMENTS``, as ``user`` for good; it ends the process."""
    time.tzset()  # the environment is another now
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # as an interpreter does at its start
    os.chdir(cwd)
    if user is not None:
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    sys.argv = [str(Path(command_line.__file__)), *arguments]
    command_line.main()


@functools.cache
def _forker() -> Forker:
    """One for this process, until it ends. A command imports what it needs; what any of them needs is all of syncd."""
    modules = [module.name for module in pkgutil.walk_packages(syncd.__path__, "syncd.")]
    forker = Forker(__name__, *modules).__enter__()
    atexit.register(forker.__exit__, None, None, None)
    return forker


def forked(
    *arguments: str,
    environ: Mapping[str, str],
    streams: tuple[int, int, int] = (0, 2, 2),
    cwd: Path = ROOT,
    user: str | None = None,
) -> Run:
    """``syncd ARGUMENTS`` once it may go, with these for stdin, stdout and stderr."""
    order = {"arguments": arguments, "cwd": str(cwd), "user": user}
    return _forker().fork(f"{__name__}:perform", order, streams=streams, environ=environ)


@dataclass(slots=True)
class Process:
    """A command that goes on by itself; a context manager: left when it has ended. Its words are subprocess's.

    ``stdout``, ``stderr``: what comes out of it, if that is a pipe. ``returncode``: None while it runs.
    """

    _run: Run
    stdout: io.TextIOWrapper | None
    stderr: io.TextIOWrapper | None
    returncode: int | None = None

    @classmethod
    def start(
        cls,
        *arguments: str,
        environ: Mapping[str, str],
        streams: Streams = OWN,
        cwd: Path = ROOT,
        user: str | None = None,
        prepare: Callable[[int], object] | None = None,
    ) -> Self:
        """``syncd ARGUMENTS``. ``prepare``: what its pid is given to before it begins."""
        stdin, *written = streams
        with ExitStack() as theirs:
            if stdin is None:
                stdin = theirs.enter_context(Path(os.devnull).open("rb")).fileno()
            (stdout, out), (stderr, errors) = ((one, None) if one is not None else _pipe(theirs) for one in written)
            run = forked(*arguments, environ=environ, streams=(stdin, stdout, stderr), cwd=cwd, user=user)
        made = cls(run, out, errors)
        try:
            if prepare is not None:
                prepare(made.pid)
        except BaseException:
            made.kill()
            made.wait()
            raise
        run.go()
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.kill()  # what was to end it may not have happened
        self._close()
        self.wait()

    @property
    def pid(self) -> int:
        return self._run.pid

    def poll(self) -> int | None:
        """Its ``returncode``, now."""
        with suppress(TimeoutError):
            self.wait(0.001)
        return self.returncode

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its ``returncode``, when it has ended. TimeoutError after ``seconds``."""
        if self.returncode is None:
            ending = self._run.wait(seconds)
            assert "unexpected" not in ending.result, f"it did not even begin: {ending.result['unexpected']}"
            self.returncode = ending.returncode
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """A signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, seconds: float = PATIENCE) -> tuple[str, str]:
        """The rest of its stdout and stderr, once it has ended. TimeoutError, and it is killed, after ``seconds``."""
        return self._ended(io.TextIOWrapper.read, "", seconds)

    def communicate_bytes(self, seconds: float = PATIENCE) -> tuple[bytes, bytes]:
        """Likewise, as they come."""
        return self._ended(lambda stream: bytes(stream.buffer.read()), b"", seconds)

    def _ended(self, read: Callable[[io.TextIOWrapper], Text], none: Text, seconds: float) -> tuple[Text, Text]:
        deadline = time.monotonic() + seconds
        reading = [stream and _beside(read, stream) for stream in (self.stdout, self.stderr)]
        try:
            out, errors = (one.result(max(deadline - time.monotonic(), 0)) if one else none for one in reading)
            self.wait(max(deadline - time.monotonic(), 1.0))
        except TimeoutError:
            self.kill()
            raise
        self._close()
        return out, errors

    def _close(self) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()


def _pipe(theirs: ExitStack) -> tuple[int, io.TextIOWrapper]:
    """The end that is written to, which is the command's, and the other one."""
    reading, writing = os.pipe()
    theirs.callback(os.close, writing)
    return writing, io.TextIOWrapper(os.fdopen(reading, "rb"), encoding="utf-8")


def _beside(read: Callable[[io.TextIOWrapper], Text], stream: io.TextIOWrapper) -> Future[Text]:
    """Read in a thread, which nobody has to wait for: whoever inherited the other end may keep it for ever."""
    future: Future[Text] = Future()

    def work() -> None:
        try:
            future.set_result(read(stream))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test has to see it
            future.set_exception(error)

    threading.Thread(target=work, name="reader", daemon=True).start()
    return future


def completed(
    *arguments: str,
    environ: Mapping[str, str],
    cwd: Path = ROOT,
    user: str | None = None,
    prepare: Callable[[int], object] | None = None,
) -> subprocess.CompletedProcess[str]:
    """``syncd ARGUMENTS`` to its end, with nothing on stdin."""
    with Process.start(*arguments, environ=environ, cwd=cwd, user=user, prepare=prepare) as process:
        out, errors = process.communicate()
        return subprocess.CompletedProcess(["syncd", *arguments], process.wait(), out, errors)


def interpreted(
    *arguments: str, environ: Mapping[str, str], cwd: Path = ROOT, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """``syncd ARGUMENTS`` to its end in an interpreter of its own. ``before``: what starts that."""
    return subprocess.run(
        [*before, *INTERPRETED, *arguments],
        env={"PYTHONPATH": str(ROOT), **environ},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
