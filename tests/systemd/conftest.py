"""What these tests share: syncd as `make install` leaves it, and a machine that runs it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.machine import DEBIAN_PYTHON, Machine, debian_tree, needs_booted_systemd, needs_debians_python
from tests.systemd.service import Service

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def installed() -> Iterator[Path]:
    """A folder that stands for / after `make install`. Not pytest's own: that one is closed to other users."""
    needs_debians_python()
    with tempfile.TemporaryDirectory(prefix="syncd-installed-") as name:
        root = Path(name)
        root.chmod(0o755)
        make("install", root)
        yield root


@pytest.fixture(scope="session")
def bootable() -> None:
    """Asked for first: where nothing can be booted, nothing is installed for it."""
    needs_booted_systemd()


@pytest.fixture(scope="session")
def machine(bootable: None, installed: Path) -> Iterator[Machine]:  # noqa: ARG001 - for its order
    """A booted system in which what was installed is found where it belongs."""
    with tempfile.TemporaryDirectory(prefix="syncd-machine-") as name, debian_tree() as tree:
        outside = Path(name)
        outside.chmod(0o755)
        shutil.copytree(installed / "etc" / "syncd", outside / "settings")
        (outside / "ollama").mkdir()
        with Machine(
            tree,
            binds={"/etc/syncd": outside / "settings", "/srv/ollama": outside / "ollama"},
            read_only={"/usr/local": installed / "usr" / "local"},
            log=outside / "boot.log",
        ) as booted:
            yield booted


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    """The unit as shipped: stopped, on an empty store."""
    with Service(machine) as ready:
        yield ready


def make(target: str, root: Path, **variables: str) -> str:
    """Run a target of the Makefile with ``root`` standing for /."""
    words = [f"{name}={value}" for name, value in {"DESTDIR": str(root), "PYTHON": DEBIAN_PYTHON, **variables}.items()]
    # Not what an outer make says of itself.
    environment = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    }
    done = subprocess.run(
        (shutil.which("make") or "make", "--no-print-directory", "-C", str(CHECKOUT), target, *words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
