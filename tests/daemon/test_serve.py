"""``syncd serve`` as a process: what it tells systemd, what it shows, how it ends, and what it does after a bad end."""

import hashlib
import http.client
import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.daemon import RunningDaemon, eventually
from tests.support.models import MIB, build_model, synthetic_model
from tests.support.registry import ModelHandle, ScriptedRegistry


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """Not started yet; ended afterwards whatever happened."""
    made = RunningDaemon(tmp_path / "host")
    yield made
    made.stop(signal.SIGKILL)


@pytest.fixture
def unprivileged() -> Iterator[RunningDaemon]:
    """One whose store belongs to a user who may not write everywhere: root, who starts it, becomes that user."""
    with tempfile.TemporaryDirectory() as folder:
        made = RunningDaemon(Path(folder))
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            Path(folder).chmod(0o755)
            made.write_settings("")
            made.socket.parent.mkdir()
            os.chown(made.socket.parent, nobody.pw_uid, nobody.pw_gid)
            assert made.command("init", "--owner", "nobody").returncode == 0
        yield made
        made.stop(signal.SIGKILL)


def wanted(*models: ModelHandle, more: str = "") -> str:
    return "".join(f'[[models]]\nname = "{model.name}"\n{more}\n' for model in models)


def published(daemon: RunningDaemon, model: ModelHandle) -> bool:
    return bool(daemon.model(model.name)["state"] == "published")


# What it does


def test_what_the_settings_name_is_pulled_and_said_to_be(daemon: RunningDaemon, registry: ScriptedRegistry) -> None:
    model = registry.add(build_model("mistral:7b"))
    daemon.settings = wanted(model)
    with daemon:
        eventually(lambda: published(daemon, model))
        eventually(lambda: daemon.status()["store"]["models"] == 1)  # the store is counted a moment later
        status = daemon.status()

    assert status["models"][0]["digest"] == f"sha256:{hashlib.sha256(model.manifest).hexdigest()}"
    assert status["settings"]["fault"] is None


def test_one_id_goes_through_a_whole_pull(daemon: RunningDaemon, registry: ScriptedRegistry) -> None:
    model = registry.add(build_model("mistral:7b"))
    daemon.settings = wanted(model)
    with daemon:
        eventually(lambda: published(daemon, model))
        (job,) = (one for one in daemon.status()["jobs"] if one["name"] == model.name)

    events = [json.loads(line) for line in daemon.log().splitlines() if line.startswith("{")]
    of_the_pull = {event["job"] for event in events if event["event"] in {"blob.stored", "pull.published"}}
    assert of_the_pull == {job["id"]}


def test_an_update_of_the_tag_is_found_and_published(daemon: RunningDaemon, registry: ScriptedRegistry) -> None:
    model = registry.add(build_model("mistral:7b", seed=1))
    daemon.settings = wanted(model)
    with daemon:
        eventually(lambda: published(daemon, model))
        first = daemon.model(model.name)["digest"]
        registry.add(build_model("mistral:7b", seed=2))
        daemon.command("pull", "--quiet", model.name)
        eventually(lambda: daemon.model(model.name)["digest"] != first)

        assert published(daemon, model)


# What it tells systemd


def test_systemd_hears_what_goes_on(daemon: RunningDaemon, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model("mistral:7b", 24 * MIB))
    registry.throttle(8 * MIB)
    daemon.settings = wanted(model)
    with daemon:
        line = daemon.hear(f"STATUS=pulling {model.name} ")
        daemon.hear("STATUS=1 of 1 models published")
        assert daemon.stop() == 0

    assert re.search(r" \d+ %$", line)


def test_stopping_is_said(daemon: RunningDaemon) -> None:
    with daemon:
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        daemon.hear("STOPPING=1")


def test_the_watchdog_is_fed_by_the_loop(daemon: RunningDaemon) -> None:
    daemon.environ["WATCHDOG_USEC"] = "600000"
    with daemon:
        for _ in range(5):
            daemon.hear("WATCHDOG=1")


def test_a_frozen_process_feeds_nobody(daemon: RunningDaemon) -> None:
    daemon.environ["WATCHDOG_USEC"] = "600000"
    with daemon:
        daemon.hear("WATCHDOG=1")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        daemon.drain()
        with pytest.raises(AssertionError, match="never told"):
            daemon.hear("WATCHDOG=1", seconds=1.5)
        daemon.process.send_signal(signal.SIGCONT)
        daemon.hear("WATCHDOG=1")


def test_a_hangup_reads_the_settings_anew_and_says_when_that_is_through(
    daemon: RunningDaemon, registry: ScriptedRegistry
) -> None:
    model = registry.add(build_model("mistral:7b"))
    with daemon:
        daemon.write_settings(wanted(model))
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        daemon.hear("RELOADING=1")
        daemon.hear("READY=1")

        assert [one["name"] for one in daemon.status()["models"]] == [model.name]


# Settings


def test_a_changed_file_is_applied_without_a_signal(daemon: RunningDaemon, registry: ScriptedRegistry) -> None:
    model = registry.add(build_model("mistral:7b"))
    with daemon:
        daemon.write_settings(wanted(model))

        eventually(lambda: published(daemon, model))


def test_a_broken_file_changes_nothing_and_is_seen_in_status_log_and_metric(
    daemon: RunningDaemon, registry: ScriptedRegistry
) -> None:
    model = registry.add(build_model("mistral:7b"))
    daemon.settings = wanted(model)
    with daemon:
        eventually(lambda: published(daemon, model))
        daemon.write_settings('[[models]]\nnaem = "mistral:7b"')
        eventually(lambda: daemon.metric("syncd_settings_rejected") == 1)
        fault = daemon.status()["settings"]["fault"]
        still = published(daemon, model)
        daemon.write_settings(wanted(model))
        eventually(lambda: daemon.metric("syncd_settings_rejected") == 0)
        mended = daemon.status()["settings"]["fault"]

    assert "unknown key 'naem'" in fault
    assert still
    assert mended is None
    assert daemon.events("settings.refused")


def test_the_ops_listener_moves_with_its_setting(daemon: RunningDaemon) -> None:
    with daemon:
        assert daemon.ops("/healthz")[0] == 200
        before = daemon.ops_port
        daemon.ops_port = RunningDaemon(daemon.folder).ops_port
        daemon.write_settings("")

        eventually(lambda: daemon.ops("/healthz")[0] == 200)
        daemon.ops_port = before
        with pytest.raises(OSError, match="refused"):
            daemon.ops("/healthz")


def test_what_only_a_restart_changes_is_said_to_need_one(daemon: RunningDaemon) -> None:
    with daemon:
        text = daemon.config.read_text().replace(str(daemon.store), str(daemon.folder / "elsewhere"))
        daemon.config.write_text(text)

        eventually(lambda: daemon.status()["settings"]["needs_restart"] == ["store"])


# The ops listener


def test_metrics_are_clean_and_true(daemon: RunningDaemon, registry: ScriptedRegistry) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert not os.environ.get("CI"), "promtool is not installed (Debian: apt install prometheus)"
        pytest.skip("NOT RUN: promtool is not installed")
    model = registry.add(build_model("mistral:7b"))
    daemon.settings = wanted(model)
    with daemon:
        eventually(lambda: published(daemon, model))
        eventually(lambda: daemon.metric("syncd_store_models") == 1)
        _, text = daemon.ops("/metrics")
        fetched = daemon.metric("syncd_pull_bytes_total")
        assert daemon.metric(f'syncd_model_present{{model="{model.name}"}}') == 1
        assert daemon.metric('syncd_pulls_total{result="published"}') == 1
        assert daemon.metric("syncd_models_desired") == 1
        assert daemon.metric("syncd_models_published") == 1
        assert daemon.metric("syncd_store_bytes") > MIB

    done = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert fetched == registry.bytes_served()


def test_readiness_waits_for_the_first_look_and_health_does_not(
    daemon: RunningDaemon, registry: ScriptedRegistry
) -> None:
    model = registry.add(build_model("mistral:7b"))
    daemon.settings = wanted(model)
    with daemon:
        assert daemon.ops("/healthz") == (200, '{"ok":true,"reasons":[]}\n')
        status, body = eventually(lambda: (found := daemon.ops("/readyz"))[0] == 200 and found)

    assert json.loads(body) == {"ok": True, "reasons": []}
    assert status == 200


def test_a_store_that_turns_read_only_is_not_ready(unprivileged: RunningDaemon) -> None:
    with unprivileged as daemon:
        eventually(lambda: daemon.ops("/readyz")[0] == 200)
        staging = daemon.store / ".syncd" / "staging"
        staging.chmod(0o500)
        status, body = eventually(lambda: (found := daemon.ops("/readyz"))[0] == 503 and found)
        staging.chmod(0o700)

    assert "cannot be written to: Permission denied" in body
    assert str(daemon.folder) not in body  # it may be a stranger who asks
    assert str(daemon.store) in daemon.events("store.unwritable")[0]["error"]
    assert status == 503


def test_root_becomes_the_owner_of_the_store(unprivileged: RunningDaemon) -> None:
    with unprivileged as daemon:
        assert daemon.ask("GET", "/syncd/v1/daemon")["uid"] == daemon.store.stat().st_uid


def test_a_lost_lock_is_no_health(daemon: RunningDaemon) -> None:
    with daemon:
        (daemon.store / ".syncd" / "locks" / "daemon").unlink()

        status, body = daemon.ops("/healthz")

    assert status == 503
    assert "lock is lost" in body


# Who may come in


def test_the_socket_is_for_its_group_and_nobody_else(daemon: RunningDaemon) -> None:
    with daemon:
        mode = stat.S_IMODE(daemon.socket.stat().st_mode)
        folder = stat.S_IMODE(daemon.socket.parent.stat().st_mode)

    assert (oct(mode), oct(folder)) == ("0o660", "0o750")
    assert not daemon.socket.exists()


def test_a_second_daemon_leaves_and_says_who_holds_the_store(daemon: RunningDaemon) -> None:
    with daemon:
        assert daemon.process is not None
        second = daemon.command("serve")
        health = daemon.ops("/healthz")[0]

    assert second.returncode == 8
    assert f"pid {daemon.process.pid if daemon.process else ''}" in second.stderr
    assert health == 200


def test_a_port_that_is_taken_is_told_before_anything_is_ready(daemon: RunningDaemon) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", daemon.ops_port))
        taken.listen()
        daemon.start()
        assert daemon.process is not None
        assert daemon.process.wait(60) == 8

    assert "listens on" in daemon.log()
    assert not any("READY" in message for message in daemon.told)


# How it ends


@pytest.mark.parametrize("phase", ["resolving", "fetching", "verifying", "idle"])
def test_a_stop_in_every_phase_of_a_pull_is_quick_and_loses_nothing(
    daemon: RunningDaemon, registry: ScriptedRegistry, phase: str
) -> None:
    model = registry.add(synthetic_model("mistral:7b", 48 * MIB))
    rule = {
        "resolving": lambda: registry.stall(kind="manifest"),
        "fetching": lambda: registry.stall(17 * MIB),
        "verifying": lambda: None,
        "idle": lambda: None,
    }[phase]()
    daemon.settings = wanted(model) + "[download]\nconnections = 1\n"
    with daemon:
        if phase == "fetching":
            eventually(lambda: daemon.model(model.name)["done"] >= 16 * MIB)
        elif phase == "resolving":
            eventually(lambda: daemon.model(model.name)["state"] == "pulling")
        elif phase == "idle":
            eventually(lambda: published(daemon, model))
        assert daemon.stop() == 0
    assert not daemon.events("daemon.end_forced")  # which it would have been after 9 s
    if rule is not None:
        rule.lift()
    served = registry.bytes_served(model.weights)
    with daemon:
        eventually(lambda: published(daemon, model))

    if phase == "fetching":  # what was whole of it is not fetched again
        assert registry.bytes_served(model.weights) - served <= 32 * MIB + MIB


def test_a_kill_in_mid_pull_is_finished_by_the_next_life_but_not_at_once(
    daemon: RunningDaemon, registry: ScriptedRegistry
) -> None:
    model = registry.add(synthetic_model("mistral:7b", 48 * MIB))
    rule = registry.stall(17 * MIB)
    daemon.settings = wanted(model) + "[download]\nconnections = 1\n"
    with daemon:
        eventually(lambda: daemon.model(model.name)["done"] >= 16 * MIB)
        daemon.kill()
    rule.lift()
    with daemon:
        held = eventually(lambda: (found := daemon.model(model.name))["state"] == "held" and found)
        eventually(lambda: published(daemon, model), seconds=60)

    assert "died" in held["reason"]
    assert held["next_check"] is not None


def test_a_pull_that_somebody_asked_for_is_resumed_after_a_stop(
    daemon: RunningDaemon, registry: ScriptedRegistry
) -> None:
    model = registry.add(synthetic_model("mistral:7b", 48 * MIB))
    rule = registry.stall(17 * MIB)
    with daemon:
        with daemon.connection() as connection:
            body = json.dumps({"name": model.name})
            connection.request("POST", "/syncd/v1/pull", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.readline()
        eventually(lambda: daemon.status()["jobs"][0]["done"] >= 16 * MIB)
        assert daemon.stop() == 0
    rule.lift()
    with daemon:
        eventually(lambda: [one["name"] for one in daemon.status()["unmanaged"]] == [model.name])


# What nobody may see


def test_no_secret_and_no_signed_url_is_logged(daemon: RunningDaemon, registry: ScriptedRegistry) -> None:
    registry.require_token(login=("alice", "canary-password"))
    registry.serve_blobs_from_cdn()
    model = registry.add(build_model("mistral:7b"))
    password = daemon.folder.parent / "password"
    password.write_text("canary-password")
    password.chmod(0o600)
    daemon.settings = f'[registries."{registry.host}"]\nusername = "alice"\npassword_file = "{password}"\n' + wanted(
        model
    )
    daemon.arguments = ("-v",)
    with daemon:
        eventually(lambda: published(daemon, model))
        shown = daemon.log() + json.dumps(daemon.status()) + daemon.ops("/metrics")[1] + "".join(daemon.told)

    assert registry.secrets
    assert not [secret for secret in (*registry.secrets, "canary-password") if secret in shown]


def test_a_model_that_appears_from_outside_is_counted(daemon: RunningDaemon, registry: ScriptedRegistry) -> None:
    model = registry.add(build_model("mistral:7b"))
    with daemon:
        alone = daemon.command("pull", model.name, SYNCD_SOCKET=str(daemon.folder / "nobody"))

        eventually(lambda: daemon.status()["store"]["models"] == 1)

    assert alone.returncode == 0


def test_what_is_put_back_is_counted(daemon: RunningDaemon, registry: ScriptedRegistry) -> None:
    model = registry.add(build_model("mistral:7b"))
    daemon.settings = wanted(model)
    with daemon:
        eventually(lambda: published(daemon, model))
        (tag,) = (daemon.store / "manifests").rglob("7b")
        tag.unlink()

        eventually(lambda: daemon.metric("syncd_models_restored_total") == 1)


# What comes at an awkward moment


@pytest.mark.parametrize("order", [(signal.SIGHUP, signal.SIGTERM), (signal.SIGTERM, signal.SIGHUP)])
def test_a_stop_beside_a_reload_is_as_quick_as_any(daemon: RunningDaemon, order: tuple[signal.Signals, ...]) -> None:
    with daemon:
        process = daemon.process
        assert process is not None
        for number in order:
            process.send_signal(number)

        assert process.wait(45) == 0

    assert "Traceback" not in daemon.log()
    assert not daemon.events("daemon.end_forced")


def test_an_engine_that_is_not_there_is_told_of_in_the_status(daemon: RunningDaemon) -> None:
    socket = daemon.folder / "docker.sock"
    daemon.settings = f'[docker]\nurl = "unix://{socket}"\ndiscover = true\n'
    with daemon:
        told = eventually(lambda: daemon.status()["docker"])

        assert told == [f"Docker at unix://{socket}: there is no such socket"]
        assert f"DOCKER    {told[0]}\n" in daemon.command("status").stdout


def test_a_storm_of_hangups_ends_in_one_that_is_ready(daemon: RunningDaemon) -> None:
    with daemon:
        assert daemon.process is not None
        for _ in range(200):
            daemon.process.send_signal(signal.SIGHUP)
            time.sleep(0.001)
        before = len(daemon.told)
        with pytest.raises(AssertionError, match="never told"):
            daemon.hear("nothing like that", seconds=2)
        said = [line for line in daemon.told[before:] if "RELOADING" in line or "READY" in line]

        assert "READY=1" in said[-1]
        assert daemon.stop() == 0


@pytest.mark.parametrize("stream", ["full", "closed"])
def test_a_log_that_cannot_be_written_ends_nothing(daemon: RunningDaemon, stream: str) -> None:
    daemon.folder.mkdir()
    daemon.write_settings("")
    reading, writing = os.pipe()
    with Path("/dev/full").open("wb") as full, Path(os.devnull).open("wb") as nothing:
        streams = (None, nothing.fileno(), full.fileno() if stream == "full" else writing)
        process = commands.Process.start("serve", environ=daemon.environment(), streams=streams)
    os.close(writing)
    try:
        eventually(lambda: daemon.ops("/healthz")[0] == 200)
        os.close(reading)
        process.send_signal(signal.SIGHUP)  # which is logged
        daemon.write_settings('[[models]]\nname = "127.0.0.1:1/none/mistral:7b"\n')
        eventually(lambda: daemon.status()["models"])
        process.send_signal(signal.SIGTERM)

        assert process.wait(45) == 0
    finally:
        process.kill()
        process.wait()


def test_what_new_settings_ask_for_and_cannot_have_is_told_and_tried_again(daemon: RunningDaemon) -> None:
    with daemon, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        before, daemon.ops_port = daemon.ops_port, taken.getsockname()[1]
        daemon.write_settings("")
        fault = eventually(lambda: daemon.status()["settings"]["fault"])
        daemon.ops_port = before
        rejected = daemon.metric("syncd_settings_rejected")
        taken.close()
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: daemon.status()["settings"]["fault"] is None)

    assert "listens on" in fault
    assert rejected == 1


def test_a_folder_that_nobody_may_read_does_not_keep_the_daemon_from_starting(unprivileged: RunningDaemon) -> None:
    with unprivileged:
        pass
    closed = unprivileged.store / "manifests" / "registry.ollama.ai"
    closed.mkdir(mode=0)
    if os.geteuid() == 0:
        os.chown(closed, pwd.getpwnam("nobody").pw_uid, -1)
    try:
        with unprivileged:
            assert unprivileged.ops("/healthz")[0] == 200
    finally:
        closed.chmod(0o700)

    assert unprivileged.events("inventory.failed")


def test_a_crowd_of_pulls_is_bounded(daemon: RunningDaemon, registry: ScriptedRegistry) -> None:
    model = registry.add(build_model("mistral:7b"))
    registry.stall(kind="manifest")
    with daemon, ExitStack() as stack:
        statuses = []
        for number in range(70):
            connection = stack.enter_context(daemon.connection())
            body = json.dumps({"name": registry.put_manifest(model.manifest, f"library/model{number}")})
            connection.request("POST", "/syncd/v1/pull", body, {"Content-Type": "application/json"})
            statuses.append(connection.getresponse().status)
        running = [job for job in daemon.status()["jobs"] if job["state"] == "running"]

    assert statuses == [200] * 64 + [409] * 6
    assert len(running) == 64


def test_a_page_that_rebinds_its_name_to_us_reads_no_metrics(daemon: RunningDaemon) -> None:
    def status(host: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", daemon.ops_port, timeout=20)
        try:
            connection.request("GET", "/metrics", headers={"Host": host})
            return connection.getresponse().status
        finally:
            connection.close()

    with daemon:
        found = {host: status(host) for host in ("evil.example", "127.0.0.1.evil.example", "localhost", "[::1]:9811")}

    assert found == {"evil.example": 403, "127.0.0.1.evil.example": 403, "localhost": 200, "[::1]:9811": 200}
