"""Commands beside a daemon: what people and programs see is what they would see without one, and pulls are its own."""

import json
import re
import resource
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pull.world import as_root
from tests.support import commands
from tests.support.daemon import RunningDaemon, eventually
from tests.support.models import MIB, build_model, synthetic_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """It runs."""
    made = RunningDaemon(tmp_path / "host")
    try:
        with made:
            yield made
    finally:
        made.stop(signal.SIGKILL)


@pytest.fixture
def mistral(registry: ScriptedRegistry) -> ModelHandle:
    return registry.add(build_model("mistral:7b"))


@pytest.fixture
def slow(registry: ScriptedRegistry) -> ModelHandle:
    """The name of a model that takes eight seconds through four connections."""
    handle = registry.add(synthetic_model("slow:1b", 64 * MIB))
    registry.throttle(2 * MIB)
    return handle


def start(daemon: RunningDaemon, *arguments: str) -> commands.Process:
    return commands.Process.start(*arguments, environ=daemon.environment())


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def jobs(daemon: RunningDaemon, state: str) -> list[dict[str, Any]]:
    return [job for job in daemon.status()["jobs"] if job["state"] == state]


# The same words.


def test_what_is_shown_is_the_same_with_a_daemon_and_without(daemon: RunningDaemon, mistral: ModelHandle) -> None:
    daemon.command("pull", mistral.name)
    asked = (
        ("list", "--json"),
        ("list",),
        ("show", mistral.name),
        ("show", mistral.name, "--json"),
        ("show", "nosuch"),
        ("show", "nosuch", "--json"),
        ("verify", "nosuch"),
        ("rm", "nosuch"),
        ("rm", "--dry-run", mistral.name),
        ("rm", "--dry-run", "--json", mistral.name),
        ("gc", "--dry-run"),
        ("gc", "--dry-run", "--json"),
    )
    # What servers have loaded only a daemon knows by itself.
    differs = re.compile(r"\d+ seconds? ago|just now|\"notices\":\[[^]]*\]")

    through = [daemon.command(*arguments) for arguments in asked]
    daemon.stop()
    by_itself = [daemon.command(*arguments) for arguments in asked]

    for with_it, without in zip(through, by_itself, strict=True):
        assert with_it.returncode == without.returncode, with_it.args
        assert differs.sub("", with_it.stdout) == differs.sub("", without.stdout)
        assert without_notices(with_it.stderr) == without_notices(without.stderr)


def without_notices(errors: str) -> list[str]:
    """Without the store's path, and without what only a command that knows of no servers has to say."""
    return [line for line in errors.splitlines() if not line.startswith(("store: ", "note: no daemon runs"))]


def test_a_pull_says_the_same(daemon: RunningDaemon, mistral: ModelHandle, tmp_path: Path) -> None:
    through = daemon.command("pull", mistral.name)
    assert daemon.process is not None
    pid = daemon.process.pid
    daemon.stop()
    elsewhere = daemon.command("pull", mistral.name, "--store", str(tmp_path / "other"))

    figures = re.compile(r"[\d.]+ s \([\d.]+ .?B/s\)")
    assert through.returncode == elsewhere.returncode == 0, through.stderr
    assert figures.sub("", through.stdout) == figures.sub("", elsewhere.stdout)
    assert through.stderr.startswith(f"store: {daemon.store} ({daemon.config}), through the daemon (pid {pid})\n")
    # A follower sees moments: a phase that is over at once may not be among them.
    assert set(without_notices(through.stderr)) <= set(without_notices(elsewhere.stderr))


def test_a_pull_tells_programs_the_same(daemon: RunningDaemon, mistral: ModelHandle, tmp_path: Path) -> None:
    through = objects(daemon.command("pull", "--json", mistral.name).stdout)
    again = objects(daemon.command("pull", "--json", mistral.name).stdout)
    bad = daemon.command("pull", "--json", mistral.name.replace("mistral", "nosuch"))
    daemon.stop()
    elsewhere = objects(daemon.command("pull", "--json", mistral.name, "--store", str(tmp_path / "other")).stdout)

    assert [event["event"] for event in through if event["event"] != "progress"][-1] == "published"
    assert {key: value for key, value in through[-1].items() if key != "seconds"} == {
        key: value for key, value in elsewhere[-1].items() if key != "seconds"
    }
    assert again[-1]["event"] == "current"
    assert (bad.returncode, objects(bad.stdout)[-1]["exit_code"]) == (3, 3)


def test_a_verification_says_the_same_and_so_do_its_faults(daemon: RunningDaemon, mistral: ModelHandle) -> None:
    daemon.command("pull", mistral.name)
    assert daemon.command("verify", mistral.name).stdout.startswith("1 model, 5 blobs, 1.1 MB: every byte is right, ")
    weights = max((daemon.store / "blobs").iterdir(), key=lambda file: file.stat().st_size)
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.write(b"x")

    through = daemon.command("verify", "--json")

    assert through.returncode == 6
    assert [event["event"] for event in objects(through.stdout) if event["event"] != "progress"] == [
        "fault",
        "verified",
        "error",
    ]


def test_a_removal_through_the_daemon_is_one(daemon: RunningDaemon, mistral: ModelHandle) -> None:
    daemon.command("pull", mistral.name)
    done = daemon.command("rm", mistral.name)
    assert done.stdout == f"{mistral.name} removed, 1.1 MB in 5 blobs for 'syncd gc'\n"
    assert assert_store_whole(daemon.store) == {}


def test_a_list_through_the_daemon_takes_no_time(daemon: RunningDaemon) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert commands.interpreted("list", environ=daemon.environment()).returncode == 0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The processor's, of processes that have ended: the clock sees what else the machine does.
    assert used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime < 2


# Whose the pulls are.


def test_eight_commands_are_one_download(daemon: RunningDaemon, registry: ScriptedRegistry) -> None:
    handle = registry.add(synthetic_model("shared:1b", 16 * MIB))
    registry.throttle(8 * MIB)
    pulls = [start(daemon, "pull", "--json", handle.name) for _ in range(8)]

    ends = [pull.communicate() for pull in pulls]

    assert [pull.returncode for pull in pulls] == [0] * 8, ends
    assert {objects(told)[-1]["event"] for told, _ in ends} <= {"published", "current"}
    assert registry.bytes_served() < 1.2 * 16 * MIB
    assert set(assert_store_whole(daemon.store)) == {handle.name}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_who_goes_away_leaves_a_pull_that_goes_on_and_can_be_joined(
    daemon: RunningDaemon, registry: ScriptedRegistry, slow: ModelHandle, number: signal.Signals
) -> None:
    first = start(daemon, "pull", slow.name)
    registry.wait_until(lambda it: it.bytes_served() >= MIB)
    first.send_signal(number)
    shown, errors = first.communicate()

    assert (first.returncode, shown) == (128 + number, "")
    assert f"\ninterrupted; the daemon goes on; 'syncd cancel {slow.name}' stops it, " in errors
    (job,) = jobs(daemon, "running")
    second = start(daemon, "pull", "--json", slow.name)
    assert second.stdout is not None
    assert json.loads(second.stdout.readline())["name"] == slow.name
    told, _ = second.communicate()
    assert objects(told)[-1]["event"] == "published"
    assert [one["id"] for one in jobs(daemon, "done")] == [job["id"]]


def test_a_cancelled_pull_ends_for_all_who_watch_it(
    daemon: RunningDaemon, registry: ScriptedRegistry, slow: ModelHandle
) -> None:
    watching = [start(daemon, "pull", "--json", slow.name) for _ in range(2)]
    registry.wait_until(lambda it: it.bytes_served() >= MIB)
    assert all(one.stdout and one.stdout.readline() for one in watching), "each has heard of it"

    done = daemon.command("cancel", slow.name)
    ends = [one.communicate() for one in watching]

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{slow.name}: cancelled (job ")
    assert [one.returncode for one in watching] == [1, 1]
    assert all(f"{slow.name} was cancelled by " in objects(told)[-1]["message"] for told, _ in ends)
    eventually(lambda: not jobs(daemon, "running"))
    assert daemon.command("cancel", slow.name).returncode == 3


def test_a_job_is_cancelled_by_its_id(daemon: RunningDaemon, registry: ScriptedRegistry, slow: ModelHandle) -> None:
    watching = start(daemon, "pull", "-q", slow.name)
    registry.wait_until(lambda it: it.bytes_served() >= MIB)
    (job,) = jobs(daemon, "running")

    (told,) = objects(daemon.command("cancel", "--json", job["id"]).stdout)

    assert [one["id"] for one in told["cancelled"]] == [job["id"]]
    watching.communicate()
    assert watching.returncode == 1


def test_a_daemon_that_dies_is_told_of_and_not_replaced(
    daemon: RunningDaemon, registry: ScriptedRegistry, slow: ModelHandle
) -> None:
    watching = start(daemon, "pull", slow.name)
    registry.wait_until(lambda it: it.bytes_served() >= MIB)
    daemon.kill()
    _, errors = watching.communicate()

    assert watching.returncode == 1
    assert f"the daemon at {daemon.socket} went away\nhint: " in errors
    # Its socket is still there, and nobody listens: the command does the work itself.
    registry.heal()
    done = daemon.command("pull", slow.name)
    assert done.returncode == 0, done.stderr
    assert set(assert_store_whole(daemon.store)) == {slow.name}


def test_a_frozen_daemon_is_an_error(daemon: RunningDaemon) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        done = daemon.command("list")
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert done.returncode == 1
    assert "has not answered for 5 s\nhint: " in done.stderr


# Which daemon, and who may ask it.


def test_a_daemon_on_another_store_is_an_error(daemon: RunningDaemon, tmp_path: Path) -> None:
    done = daemon.command("list", "--store", str(tmp_path / "mine"))
    assert done.returncode == 2
    assert f"is not the store of the daemon (pid {daemon.process and daemon.process.pid})" in done.stderr
    assert daemon.command("init").returncode == 8


@as_root
def test_a_socket_that_refuses_this_user_is_an_error() -> None:
    with tempfile.TemporaryDirectory() as reachable, RunningDaemon(Path(reachable)) as daemon:
        Path(reachable).chmod(0o755)
        done = commands.completed("list", environ=daemon.environment(), cwd=Path("/"), user="nobody")
    assert done.returncode == 4, done.stderr
    assert "this user may not speak to the daemon" in done.stderr


# Status.


def test_the_status_tells_of_everything(daemon: RunningDaemon, mistral: ModelHandle, slow: ModelHandle) -> None:
    daemon.write_settings(f'[[models]]\nname = "{slow.name}"\n')
    eventually(lambda: jobs(daemon, "running"))
    daemon.command("cancel", "x")

    plain = daemon.command("status")
    (told,) = objects(daemon.command("status", "--json").stdout)

    assert plain.returncode == 0
    assert re.search(rf"^daemon +syncd .*, pid {told['daemon']['pid']}, started ", plain.stdout)
    assert re.search(rf"^{re.escape(slow.name)} +pulling +", plain.stdout, re.MULTILINE)
    assert [one["name"] for one in told["models"]] == [slow.name]
    assert str(mistral.name) not in plain.stdout


def test_a_check_says_whether_all_is_well(daemon: RunningDaemon, mistral: ModelHandle) -> None:
    daemon.write_settings(f'[[models]]\nname = "{mistral.name}"\n')
    eventually(lambda: daemon.model(mistral.name)["state"] == "published")
    well = daemon.command("status", "--check")
    assert (well.returncode, well.stdout, well.stderr) == (0, "ok\n", "")

    missing = mistral.name.replace("mistral", "nosuch")
    daemon.write_settings(f'[[models]]\nname = "{missing}"\n')
    eventually(lambda: daemon.model(missing)["state"] == "failing")
    ill = daemon.command("status", "--check")
    assert ill.returncode == 1
    assert ill.stdout.startswith(f"failing: {missing}: ")
    assert len(ill.stdout.splitlines()) == 1

    daemon.stop()
    gone = daemon.command("status", "--check")
    assert (gone.returncode, gone.stderr) == (1, "")
    assert gone.stdout.startswith("failing: ")
    assert len(gone.stdout.splitlines()) == 1


def test_broken_settings_are_shown_loudly_and_status_works_on(daemon: RunningDaemon) -> None:
    environ = {"SYNCD_SOCKET": str(daemon.socket), "SYNCD_STORE": str(daemon.store)}
    daemon.write_settings("[download]\nconections = 4")
    eventually(lambda: daemon.status()["settings"]["fault"])

    shown = daemon.command("status", **environ)

    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^FAULT +the new settings are not in force: .*conections", shown.stdout, re.MULTILINE)
    assert daemon.command("status", "--check", **environ).returncode == 1


def test_a_watch_shows_one_status_after_another(daemon: RunningDaemon) -> None:
    watching = start(daemon, "status", "--watch", "--json")
    assert watching.stdout is not None
    first, second = (json.loads(watching.stdout.readline()) for _ in range(2))
    daemon.kill()
    without = json.loads(watching.stdout.readline())
    watching.send_signal(signal.SIGINT)
    watching.communicate()

    assert first["daemon"] == second["daemon"] != without.get("daemon")
    assert watching.returncode == 130


def test_a_model_of_the_settings_is_not_removed(daemon: RunningDaemon, mistral: ModelHandle) -> None:
    daemon.write_settings(f'[[models]]\nname = "{mistral.name}"\n')
    eventually(lambda: daemon.model(mistral.name)["state"] == "published")

    through = daemon.command("rm", mistral.name)
    daemon.stop()
    by_itself = daemon.command("rm", mistral.name)

    assert through.returncode == by_itself.returncode == 8
    assert f"{daemon.config}:" in through.stderr
    assert without_notices(through.stderr) == without_notices(by_itself.stderr)
    assert assert_store_whole(daemon.store)


def test_what_the_settings_pin_is_not_replaced_by_a_pull(
    daemon: RunningDaemon, registry: ScriptedRegistry, mistral: ModelHandle
) -> None:
    pinned = f"{mistral.name}@{mistral.digest}"
    daemon.write_settings(f'[[models]]\nname = "{pinned}"\n')
    eventually(lambda: [one["state"] for one in daemon.status()["models"]] == ["published"])
    newer = registry.add(build_model("mistral:7b", seed=2))
    asked = (mistral.name, f"{mistral.name}@{newer.digest}", pinned)

    through = [daemon.command("pull", name) for name in asked]
    with daemon.connection() as connection:
        body = json.dumps({"model": mistral.name, "stream": False})
        connection.request("POST", "/api/pull", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 409
    daemon.stop()
    by_itself = [daemon.command("pull", name) for name in asked]

    assert [one.returncode for one in through] == [one.returncode for one in by_itself] == [8, 8, 0]
    for with_it, without in zip(through[:2], by_itself[:2], strict=True):
        assert f"is pinned by the settings at {daemon.config}:" in with_it.stderr
        assert without_notices(with_it.stderr) == without_notices(without.stderr)
    assert registry.bytes_served(newer.weights) == 0
