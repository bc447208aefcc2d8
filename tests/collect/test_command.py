"""``syncd gc`` as a process, with and without a daemon, beside stand-ins for Ollama."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncd.store.root import Store
from tests.support.daemon import RunningDaemon, eventually
from tests.support.models import build_model
from tests.support.ollama_servers import ask
from tests.support.registry import ScriptedRegistry
from tests.support.standin import StandIn
from tests.unit.store_world import blob_path, commit, descriptor

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RunningDaemon]:
    """Not started yet; ended afterwards whatever happened."""
    made = RunningDaemon(tmp_path / "host")
    made.folder.mkdir()
    made.write_settings("")
    assert made.command("init").returncode == 0
    yield made
    made.stop(signal.SIGKILL)


def settings(server: StandIn) -> str:
    return f'[[instances]]\nname = "gpu-0"\nurl = "{server.url}"\n[probes]\nevery = "1s"\ntimeout = "1s"\n'


def free_blob(store: Path, content: bytes = b"free") -> Path:
    """A blob that nobody has needed for two hours."""
    with Store.open(store, create=False) as opened:
        blob = commit(opened, content)
        paths = [blob_path(opened, blob, folder) for folder in ("blobs", ".syncd/records")]
    before = time.time() - 2 * 3600
    for path in paths:
        os.utime(path, (before, before))
    return paths[0]


def event(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.splitlines()[0])
    return found


def test_it_takes_what_its_dry_run_shows_and_says_that_nobody_asked_servers(host: RunningDaemon) -> None:
    blob = free_blob(host.store)
    would = host.command("gc", "--dry-run", "--json")
    assert blob.exists()

    done = host.command("gc", "--json")

    assert (would.returncode, done.returncode) == (0, 0), would.stderr + done.stderr
    assert event(would.stdout) | {"dry_run": False} == event(done.stdout)
    assert event(done.stdout)["blobs"] == [str(descriptor(b"free").digest)]
    assert event(done.stdout)["freed_bytes"] == 4
    assert "what servers have loaded is not known" in done.stderr
    assert "store:" in done.stderr
    assert "store:" not in would.stderr
    assert not blob.exists()


def test_it_needs_no_password_of_a_registry_that_it_does_not_ask(host: RunningDaemon) -> None:
    host.write_settings('[registries."registry.example"]\ntoken_file = "/nonexistent/token"\n')
    blob = free_blob(host.store)

    done = host.command("gc")

    assert done.returncode == 0, done.stderr
    assert not blob.exists()


def test_without_servers_and_a_daemon_it_does_not_wait_for_what_speaks_http(host: RunningDaemon) -> None:
    code = (
        "import sys\n"
        "from syncd.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    assert 'syncd.store.sweep' in sys.modules\n"
        "    assert not {'aiohttp', 'cryptography'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, "gc", "--dry-run", "--store", str(host.store)]
    environ = os.environ | {"SYNCD_CONFIG": str(host.folder / "etc" / "syncd.toml")}

    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr


def test_without_a_daemon_the_servers_of_the_settings_are_asked(
    host: RunningDaemon, registry: ScriptedRegistry
) -> None:
    model = registry.add(build_model("mistral:7b"))
    host.write_settings("")
    assert host.command("pull", model.name).returncode == 0
    with StandIn(host.store) as server:
        assert ask(server, "/api/generate", {"model": model.name, "keep_alive": -1}).status == 200
        host.write_settings(settings(server))
        assert host.command("rm", model.name).returncode == 0
        weights = host.store / "blobs" / model.weights.replace(":", "-")
        for folder in ("blobs", ".syncd/records"):
            for path in (host.store / folder).iterdir():
                os.utime(path, (0, 0))

        held = host.command("gc", "--json")
        assert held.returncode == 0, held.stderr
        assert event(held.stdout)["blobs"] == []
        assert weights.exists()

        server.hang()
        blob = free_blob(host.store)
        unknown = host.command("gc")
        assert unknown.returncode == 8
        assert "stay: nobody knows what gpu-0 has loaded" in unknown.stderr
        assert "--without-servers" in unknown.stderr
        assert blob.exists()

        insisted = host.command("gc", "--without-servers", "--json")
        assert insisted.returncode == 0, insisted.stderr
        assert not blob.exists()

    free_blob(host.store)
    down = host.command("gc", "--json")
    assert down.returncode == 0
    assert "gpu-0 is down" in down.stderr


def test_with_a_daemon_the_same_command_goes_by_what_the_daemon_knows(host: RunningDaemon) -> None:
    blob = free_blob(host.store)
    stray = host.store / ".syncd" / "quarantine" / "stray.0123456789abcdef"
    stray.write_bytes(b"x" * 5000)
    with StandIn(host.store, prune=False) as server:
        server.hang()
        host.write_settings(settings(server))
        with host:
            eventually(lambda: "not known" in _held(host) or "nobody knows" in _held(host))
            assert blob.exists()
            server.heal()
            eventually(lambda: host.status()["instances"][0]["up"])

            done = host.command("gc", "--json")

            assert done.returncode == 0, done.stderr
            assert event(done.stdout)["blobs"] == [str(descriptor(b"free").digest)]
            assert not blob.exists()
            eventually(lambda: host.metric("syncd_collected_bytes_total") == 4)
            assert host.metric("syncd_collection_last_completed_timestamp_seconds") > time.time() - 300
            assert host.metric("syncd_quarantine_bytes") >= 5000
            assert host.status()["collection"]["last"] is not None
            assert "in quarantine" in host.command("status").stdout
    assert "in quarantine" in host.command("status").stdout


def _held(host: RunningDaemon) -> str:
    done = host.command("gc", "--dry-run")
    assert done.returncode == 8
    return done.stderr


def test_the_schedule_of_the_settings_collects_and_ages_the_quarantine(host: RunningDaemon) -> None:
    blob = free_blob(host.store)
    host.write_settings('[collect]\nevery = "1h"\nquarantine_age = "1h"\nkeep_previous = 2\n')
    with host:
        eventually(lambda: not blob.exists())
        eventually(lambda: host.status()["collection"]["last"])

        assert host.status()["collection"]["every"] == 3600
    assert json.loads(host.command("status", "--json").stdout)["collection"]["every"] == 3600


def test_a_broken_manifest_stops_it_with_what_to_do(host: RunningDaemon) -> None:
    blob = free_blob(host.store)
    broken = host.store / "manifests/registry.ollama.ai/library/mistral/7b"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"{")

    done = host.command("gc")

    assert done.returncode == 6
    assert "'syncd rm mistral:7b' removes it" in done.stderr
    assert blob.exists()


@pytest.mark.parametrize("line", ['every = "1s"', "keep_previous = -1", 'quarantine_age = "1m"', "evry = 3"])
def test_settings_out_of_bounds_are_refused(host: RunningDaemon, line: str) -> None:
    host.write_settings(f"[collect]\n{line}\n")

    assert host.command("gc").returncode == 10
