"""What the image is made of is pinned: what pyproject.toml asks for and what that needs, by hash, and nothing else."""

import re
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.image.world import LOCKS
from tests.support.daemon import ROOT

_PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+) \\$", re.MULTILINE)


def test_the_lock_holds_every_dependency_in_a_version_that_is_allowed() -> None:
    wanted = [Requirement(text) for text in project()["dependencies"]]

    locked = pinned("requirements.lock")

    assert {one.name: locked.get(canonicalize_name(one.name)) for one in wanted if not meets(one, locked)} == {}


def test_the_lock_holds_nothing_that_nobody_asks_for() -> None:
    wanted = {canonicalize_name(Requirement(text).name) for text in project()["dependencies"]}

    reasons = needed_by("requirements.lock")

    asked_for = {name for name, by in reasons.items() if "syncd (pyproject.toml)" in by}
    assert asked_for == wanted
    assert all(set(by) & reasons.keys() for name, by in reasons.items() if name not in wanted)


def test_the_build_backend_is_the_one_of_the_project() -> None:
    wanted = [Requirement(text) for text in tomllib.loads(read("pyproject.toml"))["build-system"]["requires"]]

    locked = pinned("requirements-image.lock")

    assert [one.name for one in wanted if not meets(one, locked)] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_its_hashes_and_no_place_to_come_from(lock: str) -> None:
    lines = [line.strip() for line in read(lock).splitlines() if line.strip() and not line.strip().startswith("#")]

    packages = [line for line in lines if not line.startswith("--")]
    hashes = [line for line in lines if re.fullmatch(r"--hash=sha256:[0-9a-f]{64}( \\)?", line)]

    assert len(packages) == len(pinned(lock))
    assert len(hashes) + len(packages) == len(lines)  # no option among them: no index, no link
    entries = re.split(_PINNED, read(lock))[3::3]
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in read(lock)


def read(name: str) -> str:
    return (ROOT / name).read_text()


def project() -> Any:
    return tomllib.loads(read("pyproject.toml"))["project"]


def pinned(lock: str) -> Mapping[str, Version]:
    return {canonicalize_name(name): Version(version) for name, version in _PINNED.findall(read(lock))}


def meets(wanted: Requirement, locked: Mapping[str, Version]) -> bool:
    found = locked.get(canonicalize_name(wanted.name))
    return found is not None and wanted.specifier.contains(found)


def needed_by(lock: str) -> dict[str, list[str]]:
    """Of each package, which others are said to need it."""
    _, *parts = re.split(_PINNED, read(lock))
    told = zip(parts[::3], parts[2::3], strict=True)
    return {
        canonicalize_name(name): [
            line.removeprefix("via").strip()
            for raw in entry.splitlines()
            if (line := raw.strip().removeprefix("#").strip()) and raw.strip().startswith("#") and line != "via"
        ]
        for name, entry in told
    }
