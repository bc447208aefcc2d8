"""What these tests share: sdist and wheel as `make dist` leaves them, and virtual environments that hold that wheel."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.packaging.bare import Environment, environ
from tests.packaging.lowest import constraints, dependencies
from tests.packaging.pythons import pythons

CHECKOUT = Path(__file__).parents[2]
EPOCH = "1700000000"


def tracked() -> list[str]:
    """Every file of the checkout that git knows, and that is there."""
    listed = subprocess.run(("git", "-C", CHECKOUT, "ls-files", "-z"), capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"NOTHING WAS BUILT: {CHECKOUT} is no clone, and what belongs into an archive is what git knows")
    return [file for file in listed.stdout.split("\0") if file and (CHECKOUT / file).is_file()]


def dist(folder: Path, **variables: str) -> Mapping[str, Path]:
    """What `make dist` makes in this folder: "sdist" and "wheel"."""
    if importlib.util.find_spec("build") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("NOTHING WAS BUILT: no 'build' (pip install build)")
    done = subprocess.run(
        ("make", "--no-print-directory", "-C", folder, "dist", f"BUILD={sys.executable} -m build"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**environ(), "SOURCE_DATE_EPOCH": EPOCH, **variables},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The archives of what git knows of this checkout, beside which lies what nobody should see."""
    clone = tmp_path_factory.mktemp("clone")
    for file in tracked():
        (clone / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / file, clone / file)
    for stray in ("secret.key", ".env", "syncd/__pycache__/errors.cpython-311.pyc", ".venv/pyvenv.cfg"):
        (clone / stray).parent.mkdir(exist_ok=True)
        (clone / stray).write_text("canary")
    return dist(clone)


@pytest.fixture(scope="session")
def bare(built: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Environment]:
    """A virtual environment of this Python that holds the wheel and what it asked for, made when first asked for.

    That of the oldest Python with the pip that comes with it, the oldest that has to understand the wheel.
    """
    made: dict[str, Environment] = {}

    def of(version: str) -> Environment:
        if version not in made:
            folder, found = tmp_path_factory.mktemp(f"bare-{version}"), pythons()
            made[version] = Environment.make(folder, found[version], own_pip=version == next(iter(found)))
            made[version].install(str(built["wheel"]))
        return made[version]

    return of


@pytest.fixture(scope="session")
def lowest(built: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Environment]:
    """As ``bare``, with the oldest dependencies that syncd allows."""
    made: dict[str, Environment] = {}

    def of(version: str) -> Environment:
        if version not in made:
            folder = tmp_path_factory.mktemp(f"lowest-{version}")
            pinned = folder / "constraints.txt"
            pinned.write_text("\n".join(constraints(dependencies(CHECKOUT / "pyproject.toml"))))
            made[version] = Environment.make(folder, pythons()[version], own_pip=False)
            made[version].install("--constraint", str(pinned), str(built["wheel"]))
        return made[version]

    return of
