"""`make dist`: what is in the sdist and in the wheel."""

import ast
import email
import os
import shutil
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from syncd import __version__
from tests.packaging.conftest import CHECKOUT, EPOCH, dist, tracked
from tests.packaging.lowest import constraints, dependencies

pytestmark = pytest.mark.timeout(300)

_PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
_MODULES = {"prometheus-client": "prometheus_client"}  # where a distribution and its module differ


def test_the_wheel_holds_the_package_its_licence_and_nothing_else(built: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = set(wheel.namelist())

    information = f"syncd-{__version__}.dist-info"
    described = {f"{information}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    assert names == {
        *(name for name in tracked() if name.startswith("syncd/")),
        *described,
        f"{information}/licenses/LICENSE",
    }
    assert "syncd/py.typed" in names


def test_the_sdist_holds_what_the_clone_holds_and_nothing_that_lay_beside_it(built: Mapping[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}

    left_out = set(tracked()) - names
    assert names - set(tracked()) == {"PKG-INFO"}
    assert left_out == set(), "name them in pyproject.toml's [tool.hatch.build.targets.sdist]"


def test_what_was_built_says_the_version_of_the_package(built: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        said = email.message_from_bytes(wheel.read(f"syncd-{__version__}.dist-info/METADATA"))

    assert said["Version"] == __version__
    assert said["License-Expression"] == "MIT"
    assert built["sdist"].name == f"syncd-{__version__}.tar.gz"
    assert "version" not in _PROJECT["project"]


def test_whoever_has_the_same_files_makes_the_same_archives(built: Mapping[str, Path], tmp_path: Path) -> None:
    shutil.unpack_archive(built["sdist"], tmp_path, filter="data")
    elsewhere = tmp_path / f"syncd-{__version__}"
    for file in elsewhere.rglob("*"):
        os.utime(file, (1, 1))
    before = os.umask(0o077)
    try:
        again = dist(elsewhere, TZ="Asia/Kathmandu")
    finally:
        os.umask(before)

    assert {kind: path.read_bytes() for kind, path in again.items()} == {
        kind: path.read_bytes() for kind, path in built.items()
    }


def test_the_archives_are_as_old_as_the_caller_says(built: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as wheel, tarfile.open(built["sdist"]) as sdist:
        told = {datetime(*entry.date_time, tzinfo=UTC).timestamp() for entry in wheel.infolist()}
        told |= {float(member.mtime) for member in sdist.getmembers()}

    assert told == {float(EPOCH)}


def test_what_is_declared_is_what_is_imported() -> None:
    declared = {one.partition("==")[0] for one in constraints(dependencies(CHECKOUT / "pyproject.toml"))}

    assert {_MODULES.get(name, name) for name in declared} == set(_imported())


def _imported() -> Iterator[str]:
    """The foreign packages that modules of syncd import, wherever in them."""
    for file in (CHECKOUT / "syncd").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            tops = {name.partition(".")[0] for name in names}
            yield from tops - set(sys.stdlib_module_names) - {"syncd"}


@pytest.mark.parametrize("declared", ["click", "click>8", "click>=8,<9", "click>=8; python_version<'3.12'"])
def test_a_dependency_whose_oldest_version_is_not_said_is_refused(declared: str) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        constraints([declared])
