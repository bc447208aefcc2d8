"""A small Debian of the test's own, booted: systemd as process 1, the host's network, nothing of the host's files.

The tree is made by debootstrap from the mirror that this host's apt is configured with, once, and kept outside the
checkout; what a run changes lies over it in memory and goes with it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.needs import missing, needs_root_and

CACHE_VARIABLE = "SYNCD_TEST_CACHE"
DEBIAN_PYTHON = "/usr/bin/python3"
_PROGRAMS = ("debootstrap", "systemd-nspawn", "nsenter", "setpriv", "apt-get")
_PACKAGES = ("systemd", "systemd-sysv", "dbus", "procps", "python3")
_WITHOUT = "NO SERVICE WAS INSTALLED AND BOOTED"
_PATIENCE = 60.0  # seconds, for what takes one or two on an idle machine


def needs_debians_python() -> None:
    """Skip, loudly, where the interpreter is missing that the tree has too. In CI it must be there."""
    if subprocess.run((DEBIAN_PYTHON, "-c", "import ensurepip, venv"), capture_output=True, check=False).returncode:
        missing(_WITHOUT, f"{DEBIAN_PYTHON} cannot make virtual environments (Debian: apt install python3-venv)")


def needs_booted_systemd() -> None:
    """Skip, loudly, where no system can be booted. In CI it must be possible."""
    needs_root_and(_PROGRAMS, packages="systemd-container debootstrap", without=_WITHOUT)


def eventually(holds: Callable[[], object], what: str, *, seconds: float = _PATIENCE, every: float = 0.1) -> None:
    """Return once ``holds()`` is true; fail after ``seconds``. systemd's state can be asked for, not waited for."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(every)


class Machine:
    """A booted tree. ``binds``: folders of the host, by where they are seen inside; ``read_only`` ones likewise."""

    def __init__(self, tree: Path, *, binds: dict[str, Path], read_only: dict[str, Path], log: Path) -> None:
        self._command = (
            # Should the tests be killed, the machine is told to power off.
            *("setpriv", "--pdeathsig", "TERM", "systemd-nspawn", "--quiet", "--boot", "--console=pipe"),
            *("--register=no", "--keep-unit", f"--machine=syncd-test-{os.getpid()}"),
            *(f"--directory={tree}", "--volatile=overlay", "--resolv-conf=off", "--timezone=off"),
            *(f"--bind={path}:{inside}" for inside, path in binds.items()),
            *(f"--bind-ro={path}:{inside}" for inside, path in read_only.items()),
        )
        self._log = log
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            eventually(self._has_booted, "the machine has booted")
        except BaseException:
            self._end()
            print(self._log.read_text(errors="replace"))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def path(self, inside: str) -> Path:
        """An absolute path inside, as it is reached from here."""
        return Path(f"/proc/{self._leader}/root{inside}")

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside, as root; what it printed, without the newline at its end."""
        done = subprocess.run(
            ("nsenter", "-t", str(self._leader), "-a", *command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return (done.stdout + done.stderr).rstrip("\n")

    def _has_booted(self) -> bool:
        if self._nspawn is None or self._nspawn.poll() is not None:
            pytest.fail(f"systemd-nspawn has ended: {self._log.read_text(errors='replace')}")
        children = _children(self._nspawn.pid)
        if not children:
            return False
        self._leader = children[0]
        return self.run("systemctl", "is-system-running", check=False) in {"running", "degraded"}

    def _end(self) -> None:
        if self._nspawn is None:
            return
        self._nspawn.terminate()  # nspawn asks the machine to power off
        try:
            self._nspawn.wait(60)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


# The tree


@contextlib.contextmanager
def debian_tree(packages: Sequence[str] = _PACKAGES) -> Iterator[Path]:
    """A tree to boot, made if it is not there yet; held until the end: one user at a time over all processes."""
    suite = _this_debian()
    key = hashlib.sha256(" ".join((suite, *packages)).encode()).hexdigest()[:12]
    cache = _cache()
    tree = cache / f"{suite}-{key}"
    with cache.joinpath(f"{tree.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            _make(tree, suite, packages)
        yield tree


def _cache() -> Path:
    """Where trees are kept: of this user alone, since root will boot them."""
    folder = Path(os.environ.get(CACHE_VARIABLE) or Path(tempfile.gettempdir()) / "syncd-test-trees")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    assert found.st_uid == os.geteuid(), f"{folder} is another user's"
    folder.chmod(0o700)
    return folder.resolve()


def _make(tree: Path, suite: str, packages: Sequence[str]) -> None:
    making = tree.with_name(f"{tree.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    include = f"--include={','.join(packages)}"
    _run("debootstrap", "--variant=minbase", include, suite, str(making), _mirror(suite))
    shutil.rmtree(making / "var" / "cache" / "apt" / "archives", ignore_errors=True)
    making.rename(tree)


def _this_debian() -> str:
    """The host's own release: its Python is then the tree's."""
    words = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return words["VERSION_CODENAME"].strip('"')


def _mirror(suite: str) -> str:
    """Where this host's apt gets ``suite`` from."""
    for line in _run("apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)").splitlines():
        release, component, mirror = line.split(maxsplit=2)
        if (release, component) == (suite, "main"):
            return mirror
    pytest.fail(f"apt's sources on this host have no {suite} main")


def _run(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{_words(command)}: {(done.stdout + done.stderr)[-2000:]}"
    return done.stdout


def _words(command: Sequence[str]) -> str:
    return " ".join(command)
