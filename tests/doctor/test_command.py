"""``syncd doctor`` as people and programs meet it: with and without a daemon, its page, its lines, its exit codes."""

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.doctor.world import Patient, patient_at
from tests.pull.world import as_root
from tests.support.daemon import RunningDaemon
from tests.support.oracle import assert_store_whole
from tests.support.registry import ScriptedRegistry


@pytest.fixture
async def host(registry: ScriptedRegistry, tmp_path: Path) -> tuple[RunningDaemon, Patient]:
    """A daemon that does not run yet, and its store."""
    host = RunningDaemon(tmp_path / "host")
    host.folder.mkdir()
    host.write_settings("")
    return host, await patient_at(registry, host.store)


def lines(host: RunningDaemon, *arguments: str, code: int) -> list[dict[str, Any]]:
    """What it says in JSON, this being its exit code."""
    done = host.command("doctor", "--offline", "--json", *arguments)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def faults(patient: Patient) -> None:
    (patient.path / "blobs/notes.txt").write_text("x")
    os.mkfifo(patient.path / "blobs/fifo")
    os.truncate(patient.tag, 0)
    patient.weights.chmod(0o400)


def test_it_tells_mends_and_is_content_then(host: tuple[RunningDaemon, Patient]) -> None:
    machine, patient = host
    faults(patient)

    told = machine.command("doctor", "--offline")
    mended = machine.command("doctor", "--offline", "--fix")
    after = machine.command("doctor", "--offline")

    assert (told.returncode, mended.returncode, after.returncode) == (6, 0, 0), mended.stderr + after.stderr
    assert f"  ✗ blobs/{patient.weights.name}: its mode is 0400, and should be 0444\n" in told.stdout
    assert "    why: containers run as other users" in told.stdout
    assert "    do:  'syncd doctor --fix' sets the mode" in told.stdout
    assert "[not-readable]" in told.stdout
    assert "error: 4 errors in the store at" in told.stderr
    assert "hint: 'syncd doctor --fix' mends" in told.stderr
    assert f"mended blobs/notes.txt: moved to {patient.path}/.syncd/quarantine\n" in mended.stdout
    assert f"{patient.path}: 3 notes, 4 mended\n" in mended.stdout
    assert f"store: {patient.path}" in mended.stderr
    assert f"{patient.path}: 3 notes\n" in after.stdout
    patient.assert_whole()


def test_with_a_daemon_it_says_the_same_and_does_the_same(host: tuple[RunningDaemon, Patient]) -> None:
    machine, patient = host
    faults(patient)
    alone = lines(machine, "--fix", "--dry-run", code=6)
    with machine:
        # A daemon puts what is published back by itself, and may have been quicker.
        through = lines(machine, "--fix", code=0)
        again = lines(machine, code=0)

    found = {(one["id"], one["subject"]) for one in alone if one["event"] == "finding"}
    there = {(one["id"], one["subject"]) for one in through if one["event"] == "finding"}
    assert {one for one in found if one[0] in {"stray-file", "special-file", "not-readable"}} <= there
    assert all(one["done"] for one in through if one["event"] == "treated")
    assert [one["id"] for one in again if one["event"] == "finding"] == ["quarantine", "never-scrubbed", "no-servers"]
    patient.assert_whole()


def test_a_plan_is_what_is_done(host: tuple[RunningDaemon, Patient]) -> None:
    machine, patient = host
    faults(patient)

    planned = lines(machine, "--fix", "--dry-run", code=6)
    done = lines(machine, "--fix", code=0)

    assert [one for one in planned if one["event"] == "remedy"] == [one for one in done if one["event"] == "remedy"]
    assert (planned[-2]["event"], planned[-2]["dry_run"], planned[-2]["mended"]) == ("doctored", True, 0)
    assert [one["event"] for one in done[-1:]] == ["doctored"]
    assert done[-1]["mended"] == 4
    patient.assert_whole()


def test_each_finding_in_json_says_what_why_and_what_to_do(host: tuple[RunningDaemon, Patient]) -> None:
    machine, patient = host
    faults(patient)

    *told, end, error = lines(machine, code=6)

    for one in told:
        assert one["event"] == "finding"
        assert one["severity"] in {"error", "warning", "note"}
        assert all(one[key] for key in ("id", "area", "subject", "what", "why", "todo"))
    assert {one["id"]: bool(one["fix"]) for one in told} == {
        "stray-file": True,
        "special-file": True,
        "empty-manifest": True,
        "not-readable": True,
        "no-servers": False,
    }
    assert (end["errors"], end["warnings"], end["notes"], end["integrity"]) == (4, 0, 1, 4)
    assert (error["event"], error["exit_code"]) == ("error", 6)


def test_what_is_no_error_of_the_store_is_exit_code_1(host: tuple[RunningDaemon, Patient]) -> None:
    machine, _ = host
    machine.write_settings('[[instances]]\nname = "gone"\nurl = "http://127.0.0.1:1"\n')

    done = machine.command("doctor", "--offline")

    assert done.returncode == 1
    assert "[server-down]" in done.stdout
    assert "0 errors and 1 warning, none of them an error of the store" in done.stderr


def test_a_daemons_own_socket_is_closed_and_one_that_was_opened_is_told(host: tuple[RunningDaemon, Patient]) -> None:
    machine, _ = host
    with machine:
        assert "open-socket" not in {one.get("id") for one in lines(machine, code=0)}
        machine.socket.chmod(0o666)

        (told,) = [one for one in lines(machine, code=1) if one.get("id") == "open-socket"]

    assert told["subject"] == str(machine.socket)
    assert told["what"] == "its mode is 0666"


def test_a_secret_of_the_settings_that_all_can_read_is_a_note(host: tuple[RunningDaemon, Patient]) -> None:
    machine, _ = host
    secret = machine.folder / "token"
    secret.write_text("hunter2-hunter2")
    secret.chmod(0o644)
    machine.write_settings(f'[registries."reg.lan"]\ntoken_file = "{secret}"\nmirrors = ["http://mirror.lan:5000"]\n')

    told = {one["id"]: one for one in lines(machine, code=0) if one["event"] == "finding"}

    assert told["secret-readable"]["subject"] == str(secret)
    assert f"{machine.config}:" in told["secret-readable"]["what"]
    assert told["plain-http"]["subject"] == "http://mirror.lan:5000"
    assert "hunter2" not in json.dumps(told)


def test_names_that_would_move_the_cursor_are_escaped(host: tuple[RunningDaemon, Patient]) -> None:
    machine, patient = host
    (patient.path / "blobs" / "\x1b[2Jevil\nname").write_text("x")

    done = machine.command("doctor", "--offline", "--fix")

    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "\\x1b[2Jevil\\nname" in done.stdout
    patient.assert_whole()


def test_many_of_a_kind_are_a_few_lines_unless_all_are_asked_for(host: tuple[RunningDaemon, Patient]) -> None:
    machine, patient = host
    for number in range(20):
        (patient.path / "blobs" / f"stray-{number:02}").write_text("x")

    few = machine.command("doctor", "--offline").stdout
    every = machine.command("doctor", "--offline", "-v").stdout

    assert few.count("blobs/stray-") == 5
    assert "and 15 more like it (-v shows all)" in few
    assert few.count("why: Ollama takes every file") == 1
    assert every.count("blobs/stray-") == 20


def test_a_dry_run_of_nothing_is_refused(host: tuple[RunningDaemon, Patient]) -> None:
    done = host[0].command("doctor", "--dry-run")

    assert done.returncode == 2
    assert "--fix" in done.stderr


def test_help_tells_the_exit_codes_and_an_example(host: tuple[RunningDaemon, Patient]) -> None:
    text = " ".join(host[0].command("doctor", "--help").stdout.split())

    assert "Exit codes: 0, nothing worse than a note remains; 6, errors remain in the store; 1, other errors" in text
    assert "syncd doctor --fix --dry-run" in text


def test_it_leaves_everything_of_its_own_as_it_was(host: tuple[RunningDaemon, Patient]) -> None:
    machine, patient = host
    own = patient.path / ".syncd"
    before = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in own.rglob("*") if path.name != "self-test"}

    assert machine.command("doctor", "--offline", "--fix").returncode == 0

    after = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in own.rglob("*") if path.name != "self-test"}
    assert after == before
    assert assert_store_whole(patient.path) == {patient.model.name: patient.model.digest}


@as_root
@pytest.mark.parametrize(
    ("shut", "mode"),
    [("manifests", 0o000), ("blobs", 0o311), ("tag", 0o000), ("tag's folder", 0o000), ("host", 0o600), ("blob", 0o000)],
)
async def test_its_owner_who_is_not_root_opens_what_is_shut(registry: ScriptedRegistry, shut: str, mode: int) -> None:
    """Root becomes the owner of the store, who may read nothing that its mode forbids."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        machine = RunningDaemon(Path(folder) / "host")
        machine.folder.mkdir()
        machine.write_settings("")
        patient = await patient_at(registry, machine.store)
        for path in (patient.path, *patient.path.rglob("*")):
            os.chown(path, 1234, 1234)
        places = {
            "manifests": patient.path / "manifests",
            "blobs": patient.path / "blobs",
            "tag": patient.tag,
            "tag's folder": patient.tag.parent,
            "host": patient.tag.parents[2],
            "blob": patient.weights,
        }
        places[shut].chmod(mode)

        told = machine.command("doctor", "--offline", "--fix")
        after = machine.command("doctor", "--offline")

        assert (told.returncode, after.returncode) == (0, 0), told.stdout + told.stderr + after.stderr
        # The two at the top are put right by whoever opens the store.
        assert shut in {"manifests", "blobs"} or f"its mode is {mode:04o}, and should be" in told.stdout
        patient.assert_whole()
