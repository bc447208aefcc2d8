"""`pip install` of the built wheel alone: every Python of this machine, the newest and the oldest dependencies."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from syncd import __version__
from tests.packaging.bare import Environment, environ
from tests.packaging.conftest import CHECKOUT, tracked
from tests.packaging.lowest import constraints, dependencies
from tests.packaging.pythons import pythons

pytestmark = pytest.mark.timeout(600)  # most of it pip's: a virtual environment for each

_PYTHONS = list(pythons())
_IMPORT_ALL = """
import importlib, pkgutil, syncd
names = [module.name for module in pkgutil.walk_packages(syncd.__path__, "syncd.")]
for name in names:
    importlib.import_module(name)
print(syncd.__file__, len(names))
"""
_USERS_SCRIPT = """
from syncd.oci.name import ModelName
shown: str = str(ModelName.parse("mistral:7b"))
wrong: int = str(ModelName.parse(7))
"""


@pytest.fixture(params=_PYTHONS)
def newest(request: pytest.FixtureRequest, bare: Callable[[str], Environment]) -> Environment:
    """The wheel with the newest dependencies, on each Python."""
    return bare(request.param)


@pytest.fixture(params=[_PYTHONS[0], *_PYTHONS[1:][-1:]])
def oldest(request: pytest.FixtureRequest, lowest: Callable[[str], Environment]) -> Environment:
    """The wheel with the oldest dependencies, on the oldest and the newest Python."""
    return lowest(request.param)


def test_with_the_newest_dependencies_it_works(newest: Environment, tmp_path: Path) -> None:
    works(newest, tmp_path / "models")


def test_with_the_oldest_dependencies_it_works(oldest: Environment, tmp_path: Path) -> None:
    held = oldest.pip("list", "--format=freeze").splitlines()
    declared = constraints(dependencies(CHECKOUT / "pyproject.toml"))

    assert {same(pin) for pin in declared} <= {same(pin) for pin in held}
    works(oldest, tmp_path / "models")


def same(pin: str) -> str:
    """A pin in one of the spellings that mean the same to pip: 3.14 is 3.14.0."""
    return re.sub(r"(\.0)+$", "", pin.lower().replace("_", "-"))


def works(environment: Environment, store: Path) -> None:
    """What anybody does first, and every import."""
    assert environment.pip("check") == "No broken requirements found.\n"
    assert environment.run("syncd", "--version") == f"syncd {__version__}\n"
    assert environment.run("syncd", "--help").startswith("Usage: syncd ")
    environment.run("syncd", "init", "--store", str(store))
    assert json.loads(environment.run("syncd", "list", "--store", str(store), "--json"))["models"] == []
    where, modules = environment.run("python", "-c", _IMPORT_ALL).split()
    assert Path(where).is_relative_to(environment.folder)
    assert int(modules) + 1 == sum(name.startswith("syncd/") and name.endswith(".py") for name in tracked())


def test_whoever_uses_it_gets_its_types(bare: Callable[[str], Environment], tmp_path: Path) -> None:
    if find_spec("mypy") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("NO TYPES WERE CHECKED: no mypy (pip install mypy)")
    script = tmp_path / "script.py"
    script.write_text(_USERS_SCRIPT)
    python = bare(_PYTHONS[0]).bin / "python"

    checked = subprocess.run(
        (sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--python-executable={python}", str(script)),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environ(),
        check=False,
    )

    errors = [line.partition(": error: ")[2] for line in checked.stdout.splitlines() if ": error: " in line]
    assert sorted(error.rpartition("[")[2] for error in errors) == ["arg-type]", "assignment]"], checked.stdout


def test_the_pythons_that_it_claims_to_run_on_are_those_that_are_tested() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    claimed = {one.rpartition(" :: ")[2] for one in project["classifiers"] if "Python :: 3." in one}

    assert set(_PYTHONS) <= claimed, "a newer Python works, as this file says: add its classifier"
    assert project["requires-python"] == ">=" + min(claimed)
