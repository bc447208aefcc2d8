"""The kinds of findings: their ids stay, each explains itself, and docs/doctor.md has all of them."""

import re

import pytest

from syncd.jobs.doctor import KINDS
from syncd.jobs.doctor_fix import plan
from syncd.jobs.doctor_kind import Kind
from syncd.jobs.doctor_store import case_conflicts
from tests.doctor.described import FILE, page
from tests.pull.world import model_name

# Programs go by these. One more is added here; none goes, and none is renamed.
IDS = [
    "stray-file",
    "stray-folder",
    "empty-folder",
    "unfinished-file",
    "special-file",
    "dead-link",
    "link",
    "colon-in-name",
    "empty-manifest",
    "broken-manifest",
    "manifest-list",
    "not-readable",
    "writable-by-others",
    "case-conflict",
    "missing-blob",
    "damaged-blob",
    "foreign-owner",
    "shared-store",
    "closed-store",
    "other-mount",
    "locks-do-not-exclude",
    "network-file-system",
    "file-system-lacks",
    "no-preallocation",
    "little-space",
    "quarantine",
    "interrupted-pulls",
    "expired-leases",
    "trash",
    "pin-conflict",
    "scrub-overdue",
    "never-scrubbed",
    "server-can-write",
    "server-prunes",
    "server-sees-another-folder",
    "server-lacks-models",
    "server-too-old",
    "server-versions-differ",
    "server-down",
    "engine-unreachable",
    "container-missing",
    "open-socket",
    "clock-off",
    "daemon-not-running",
    "unit-of-another-store",
    "secret-readable",
    "plain-http",
    "no-servers",
]


def test_ids_stay() -> None:
    assert [kind.id for kind in KINDS] == IDS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.id)
def test_a_kind_explains_itself(kind: Kind) -> None:
    for text in (kind.title, kind.why, kind.todo, kind.fix or "nothing"):
        assert len(text) > 5
        assert not text.endswith(".")
        assert text == text.strip()
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.id)
    # What the doctor mends is said to be so, and nothing else is.
    assert ("'syncd doctor --fix'" in kind.todo) == (kind.fix is not None)


def test_the_page_has_every_kind() -> None:
    assert FILE.read_text() == page(), "python -m tests.doctor.described writes it anew"


def test_nothing_found_is_nothing_planned() -> None:
    assert plan(()) == ()


def test_of_a_hundred_spellings_each_other_one_is_told_once() -> None:
    names = [model_name(f"x/{word}:7b") for word in ("model", "Model", "MODEL", "other")]

    found = list(case_conflicts([*names, *names]))

    assert len(found) == 2
    assert all("in case only" in one.what for one in found)
    assert list(case_conflicts([model_name("a:latest"), model_name("b:latest"), model_name("A2:latest")])) == []
