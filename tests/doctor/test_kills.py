"""``syncd doctor --fix`` is killed at calls by which it changes the store; nothing is lost, the next one ends it."""

import os
from pathlib import Path

import pytest

from tests.crash import strace
from tests.doctor.world import Patient, visit
from tests.support import commands
from tests.support.models import build_model

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

_WORK = "an afternoon's work"
# Which call, and from which on: every third until one run ends by itself.
_CALLS = ("renameat", "fsync", "chmod", "unlinkat", "linkat")
_EVERY, _MOST = 3, 40


def make_faults(patient: Patient) -> None:
    (patient.path / "blobs/notes.txt").write_text(_WORK)
    (patient.path / "blobs/sub").mkdir()
    (patient.path / "blobs/sub/file").write_text(_WORK * 2)
    (patient.path / "manifests/hf.co/me").mkdir(parents=True)
    os.mkfifo(patient.path / "blobs/fifo")
    os.truncate(patient.tag, 0)
    patient.weights.chmod(0o600)
    twin = build_model("llama3.2:3b")
    config = twin.blobs[twin.config]
    (patient.path / "blobs" / twin.config).write_bytes(config.read(0, config.size))


def fixed(store: Path, call: str, number: int) -> bool:
    """Whether a doctor comes to its end that is killed at its ``number``-th call of that kind, if there are so many."""
    environ = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(store.parent), "LANG": "C.UTF-8"}
    run = commands.forked("doctor", "--fix", "--offline", "--store", str(store), environ=environ)
    kill = f"inject={call}:signal=KILL:when={number}"
    ending = strace.traced(run, store.parent / "trace", "-e", f"trace={call}", "-e", kill)
    assert ending.killed or ending.done, ending
    return ending.done


def contents(store: Path) -> list[str]:
    """What lies in the store of the work that is no model's."""
    files = [
        path for path in store.rglob("*") if path.is_file() and path.stat().st_size in {len(_WORK), 2 * len(_WORK)}
    ]
    return sorted(text for path in files if _WORK in (text := path.read_text(errors="replace")))


@pytest.mark.parametrize("call", _CALLS)
async def test_a_doctor_that_is_killed_loses_nothing(patient: Patient, call: str) -> None:
    strace.needs_strace()
    kills = 0
    for number in range(1, _MOST, _EVERY):
        make_faults(patient)
        before = contents(patient.path)

        killed = not fixed(patient.path, call, number)

        kills += killed
        assert contents(patient.path) == before
        again = await visit(patient.path, fix=True)
        assert not again.left
        assert contents(patient.path) == before
        patient.assert_whole()
        if not killed:
            break
    assert kills
