"""strace: attach it to a process, inject faults, read what it saw."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.forks import Ending, Run

_LINE = re.compile(r"(?P<pid>\d+)\s+(?P<name>\w+)\((?P<args>.*)\)\s+= (?P<result>-?\d+|\?)(?P<rest>.*)")
_BEGUN = re.compile(r"(?P<pid>\d+)\s+(?P<call>\w+\(.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"(?P<pid>\d+)\s+<\.\.\. \w+ resumed>(?P<rest>.*)")
_DESCRIPTOR = re.compile(r"^(?:\d+|AT_FDCWD)<(?P<path>[^>]*)>")
_AT = re.compile(r"(?:(?:\d+|AT_FDCWD)<(?P<folder>[^>]*)>, )?\"(?P<name>[^\"]*)\"")

# Every call that changes a file, a folder or what the disk holds of it.
CHANGING = (
    "?open,openat,?openat2,?creat,?mkdir,mkdirat,?mknod,mknodat,?symlink,symlinkat,?link,linkat,?rename,?renameat,renameat2,"
    "?unlink,unlinkat,?rmdir,write,writev,pwrite64,pwritev,pwritev2,copy_file_range,sendfile,fallocate,truncate,ftruncate,"
    "fsync,fdatasync,sync_file_range,sync,syncfs,msync,?chmod,fchmod,fchmodat,?fchmodat2,?chown,fchown,fchownat,?lchown,"
    "?utime,?utimes,utimensat,?futimesat,setxattr,fsetxattr"
)


@dataclass(frozen=True, slots=True)
class Call:
    """One system call. ``paths``: what it is about, whole paths, in the order of its arguments."""

    name: str
    args: str
    ok: bool
    injected: bool
    paths: tuple[str, ...]

    @property
    def creates(self) -> bool:
        return "O_CREAT" in self.args

    def below(self, folder: Path) -> bool:
        """Whether it is about something in ``folder``, or about that itself."""
        return any(path == str(folder) or path.startswith(f"{folder}/") for path in self.paths)


@dataclass(frozen=True, slots=True)
class TracedEnding(Ending):
    """How a run under strace ended. ``calls``: the trace."""

    calls: tuple[Call, ...]

    @property
    def hit(self) -> bool:
        """Whether the fault that was to be injected was."""
        return self.killed or any(call.injected for call in self.calls)


def needs_strace() -> None:
    """Skip where it is not installed; fail in CI."""
    if shutil.which("strace") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("strace is not installed: no fault was injected")


@contextmanager
def attached(pid: int, output: Path, *options: str) -> Iterator[None]:
    """Trace ``pid`` and all its threads from here on; at the end, wait until the trace is complete."""
    command = ("strace", "-f", "-y", "-s", "0", "-p", str(pid), "-o", str(output), *options)
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert "attached" in first, f"strace: {first}{process.stderr.read()}"
        yield
        process.wait(timeout=60)


def traced(run: Run, trace: Path, *options: str) -> TracedEnding:
    """The whole of ``run``, which waits until it may go. ``trace``: the file to trace into."""
    with attached(run.pid, trace, *options):
        ending = run.go().wait()
    return TracedEnding(ending.returncode, ending.result, tuple(read(trace)))


def read(trace: Path) -> list[Call]:
    """The calls of a trace in the order in which they ended."""
    begun: dict[str, str] = {}
    calls = []
    for line in trace.read_text(errors="replace").splitlines():
        whole = line
        if match := _BEGUN.fullmatch(line):
            begun[match["pid"]] = match["call"]
            continue
        if (match := _ENDED.fullmatch(line)) and match["pid"] in begun:
            whole = f"{match['pid']} {begun.pop(match['pid'])}{match['rest']}"
        if match := _LINE.fullmatch(whole):
            calls.append(_call(match))
    return calls


def _call(match: re.Match[str]) -> Call:
    args = match["args"]
    paths = [str(Path(at["folder"] or "", at["name"])) for at in _AT.finditer(args)]
    if not paths and (descriptor := _DESCRIPTOR.match(args)):
        paths = [descriptor["path"]]
    return Call(
        name=match["name"],
        args=args,
        ok=match["result"] not in {"-1", "?"},
        injected="(INJECTED)" in match["rest"],
        paths=tuple(paths),
    )
