"""The daemon mends by itself, and the servers that had the old file loaded load and prove the new one."""

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncd.store.root import Store
from tests.daemon.servers import stand_ins
from tests.pull.world import blob_file, write_as_ollama
from tests.repair.world import flipped, unseen
from tests.support.daemon import RunningDaemon, eventually
from tests.support.models import build_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry
from tests.support.standin import StandIn


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[StandIn]]:
    with Store.open(tmp_path / "models", create=True):
        pass
    with stand_ins(tmp_path / "models", 2) as running:
        yield running


def settings(servers: list[StandIn], *more: str) -> str:
    """The first server may be proved, the others are left alone."""
    proves = ["idle", *["never"] * (len(servers) - 1)]
    tables = [
        f'[[instances]]\nname = "gpu-{at}"\nurl = "{server.url}"\nprove = "{prove}"'
        for at, (server, prove) in enumerate(zip(servers, proves, strict=True))
    ]
    return "\n".join((*more, *tables, '[probes]\nevery = "1s"\n[reload]\nsettle = "0s"'))


def load(server: StandIn, model: str) -> None:
    """As a user does who wants it to stay."""
    body = json.dumps({"model": model, "prompt": "hi", "stream": False, "keep_alive": -1}).encode()
    with urllib.request.urlopen(f"{server.url}/api/generate", body, timeout=10) as answer:
        assert answer.status == 200


def weights_of(daemon: RunningDaemon, model: ModelHandle) -> Path:
    return daemon.store / "blobs" / blob_file(model.weights)


def is_right(path: Path) -> bool:
    return f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()}" == path.name


def stands(daemon: RunningDaemon, server: str) -> dict[str, Any]:
    """How the only model stands there."""
    found: dict[str, Any] = next(one for one in daemon.status()["instances"] if one["name"] == server)["models"][0]
    return found


def test_what_a_verification_finds_is_mended_and_who_has_it_loaded_loads_it_anew(
    registry: ScriptedRegistry, servers: list[StandIn], tmp_path: Path
) -> None:
    mistral = registry.add(build_model("mistral:7b"))
    with RunningDaemon(tmp_path, settings(servers)) as daemon:
        assert daemon.command("pull", mistral.name).returncode == 0
        eventually(lambda: stands(daemon, "gpu-0")["state"] == "proved")
        load(servers[0], mistral.name)
        loads = len(servers[0].loads)
        proved = stands(daemon, "gpu-0")["proved"]
        # Told in whole seconds: a later proof shows by its time from the next one on.
        eventually(lambda: datetime.now(UTC) >= datetime.fromisoformat(proved) + timedelta(seconds=1))
        unseen(flipped(5000))(weights_of(daemon, mistral))

        found = daemon.command("verify")

        assert found.returncode == 6, found.stderr
        eventually(lambda: is_right(weights_of(daemon, mistral)))
        eventually(lambda: len(servers[0].loads) > loads)
        eventually(lambda: (stands(daemon, "gpu-0")["proved"] or "") > proved)
        assert servers[0].unloads == [blob_file(mistral.weights)]
        assert servers[1].loads == []
        eventually(lambda: daemon.metric("syncd_blobs_corrupt") == 0)
        assert daemon.metric("syncd_blobs_repaired_total") == 1
        assert assert_store_whole(daemon.store) == {mistral.name: mistral.digest}
        state = daemon.store / ".syncd" / "state"
        eventually(lambda: not [one for one in state.iterdir() if one.name.startswith("renewed")])


def test_a_registry_that_is_away_takes_nothing_out_of_sight_and_is_asked_again(
    registry: ScriptedRegistry, tmp_path: Path
) -> None:
    mistral = registry.add(build_model("mistral:7b"))
    with RunningDaemon(tmp_path) as daemon:
        assert daemon.command("pull", mistral.name).returncode == 0
        flipped(5000)(weights_of(daemon, mistral))
        registry.stop()
        assert daemon.command("verify").returncode == 6
        waiting = eventually(lambda: [one for one in daemon.status()["repairs"] if one["reason"]], seconds=150)
        assert [one["models"] for one in waiting] == [[mistral.name]]
        assert waiting[0]["next_try"]
        assert daemon.metric("syncd_blobs_corrupt") == 1
        assert daemon.command("status", "--check").returncode == 6
        assert mistral.name in daemon.command("list").stdout
        daemon.kill()
    registry.start()

    with RunningDaemon(tmp_path) as daemon:  # what was found outlives the daemon
        eventually(lambda: is_right(weights_of(daemon, mistral)))
        eventually(lambda: daemon.status()["repairs"] == [])
        assert daemon.command("status", "--check").returncode == 0
        assert assert_store_whole(daemon.store) == {mistral.name: mistral.digest}


@pytest.mark.parametrize("unrepairable", ["quarantine", "keep"])
def test_what_nobody_has_any_more_is_loud_and_goes_or_stays_as_the_settings_say(
    registry: ScriptedRegistry, tmp_path: Path, unrepairable: str
) -> None:
    mistral = registry.add(build_model("mistral:7b"))
    with RunningDaemon(tmp_path, f'[scrub]\nunrepairable = "{unrepairable}"') as daemon:
        assert daemon.command("pull", mistral.name).returncode == 0
        flipped(5000)(weights_of(daemon, mistral))
        registry.remove_blob(mistral.weights)

        assert daemon.command("verify").returncode == 6
        eventually(lambda: daemon.events("blob.unmendable"))

        if unrepairable == "keep":
            eventually(lambda: daemon.status()["repairs"][0]["reason"])
            assert daemon.metric("syncd_blobs_corrupt") == 1
            assert mistral.name in daemon.command("list").stdout
            assert daemon.command("status", "--check").returncode == 6
        else:
            eventually(lambda: daemon.metric("syncd_blobs_quarantined_total") == 1)
            assert daemon.events("model.quarantined")
            assert mistral.name not in daemon.command("list").stdout
            assert assert_store_whole(daemon.store) == {}


def test_a_daemon_that_is_not_to_repair_waits_for_the_command(registry: ScriptedRegistry, tmp_path: Path) -> None:
    mistral = registry.add(build_model("mistral:7b"))
    with RunningDaemon(tmp_path, "[scrub]\nrepair = false") as daemon:
        assert daemon.command("pull", mistral.name).returncode == 0
        flipped(5000)(weights_of(daemon, mistral))
        assert daemon.command("verify").returncode == 6
        (waiting,) = eventually(lambda: daemon.status()["repairs"])
        assert waiting["next_try"] is None

        mended = daemon.command("verify", "--repair")

        assert mended.returncode == 0, mended.stderr
        assert "1 blob was damaged and is mended" in mended.stdout
        assert assert_store_whole(daemon.store) == {mistral.name: mistral.digest}
        eventually(lambda: daemon.status()["repairs"] == [])


def test_a_damaged_model_of_the_settings_is_mended_once(registry: ScriptedRegistry, tmp_path: Path) -> None:
    mistral = registry.add(build_model("mistral:7b"))
    with RunningDaemon(tmp_path, f'[[models]]\nname = "{mistral.name}"') as daemon:
        eventually(lambda: daemon.model(mistral.name)["state"] == "published")
        registry.forget_requests()
        flipped(5000)(weights_of(daemon, mistral))

        daemon.command("verify")  # the reconcile, which sees the file change, may have mended it by then

        eventually(lambda: is_right(weights_of(daemon, mistral)))
        eventually(lambda: daemon.model(mistral.name)["state"] == "published")
        assert registry.bytes_served(mistral.weights) == mistral.weights_size  # one chunk; once
        assert assert_store_whole(daemon.store) == {mistral.name: mistral.digest}


def test_a_manifest_that_lies_about_a_size_keeps_nobody_from_mending_the_others(
    registry: ScriptedRegistry, tmp_path: Path
) -> None:
    mistral = registry.add(build_model("mistral:7b"))
    with RunningDaemon(tmp_path) as daemon:
        assert daemon.command("pull", mistral.name).returncode == 0
        lie = json.loads(mistral.manifest)
        for layer in lie["layers"]:
            layer["size"] -= layer["digest"] == mistral.weights
        write_as_ollama(daemon.store, f"{registry.host}/library/zeppelin:7b", json.dumps(lie).encode())
        flipped(5000)(weights_of(daemon, mistral))

        assert daemon.command("verify").returncode == 6

        eventually(lambda: is_right(weights_of(daemon, mistral)))
        assert mistral.name in daemon.command("list").stdout
