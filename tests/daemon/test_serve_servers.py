"""``syncd serve`` with servers in its settings: what it pulls is seen to be served, and told everywhere."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon, eventually
from tests.support.models import build_model
from tests.support.registry import ScriptedRegistry
from tests.support.standin import StandIn

NAMES = ("mistral:7b", "nomic-embed-text:v1.5")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """Not started yet; ended afterwards whatever happened."""
    made = RunningDaemon(tmp_path / "host")
    made.folder.mkdir()
    made.write_settings("")
    assert made.command("init").returncode == 0
    yield made
    made.stop(signal.SIGKILL)


def settings(wanted: Iterable[str], *servers: StandIn) -> str:
    models = "".join(f'[[models]]\nname = "{name}"\n' for name in wanted)
    named = "".join(
        f'[[instances]]\nname = "server-{number}"\nurl = "{server.url}"\n' for number, server in enumerate(servers, 1)
    )
    return f'{models}{named}[probes]\nevery = "1s"\ntimeout = "2s"\n[reload]\nsettle = "0s"\n'


def states(daemon: RunningDaemon) -> dict[str, dict[str, str]]:
    return {
        one["name"]: {model["name"]: model["state"] for model in one["models"]} for one in daemon.status()["instances"]
    }


def test_what_is_pulled_is_proved_on_every_server_and_told_everywhere(
    daemon: RunningDaemon, registry: ScriptedRegistry
) -> None:
    names = [registry.add(build_model(name)).name for name in NAMES]
    with ExitStack() as stack:
        servers = [stack.enter_context(StandIn(daemon.store)) for _ in range(2)]
        daemon.write_settings(settings(names, *servers))
        with daemon:
            proved = dict.fromkeys(names, "proved")
            eventually(lambda: states(daemon) == {"server-1": proved, "server-2": proved})

            shown = daemon.command("status")
            found: dict[str, Any] = json.loads(daemon.command("status", "--json").stdout)
            assert daemon.metric('syncd_instance_model_available{instance="server-2",model="' + names[0] + '"}') == 1
            assert daemon.metric('syncd_instance_up{instance="server-1"}') == 1
            _, metrics = daemon.ops("/metrics")

            servers[1].stop()
            eventually(lambda: states(daemon)["server-2"] == dict.fromkeys(names, "failing"))
            checked = daemon.command("status", "--check")
            assert daemon.metric('syncd_instance_model_available{instance="server-2",model="' + names[0] + '"}') == 0
            assert daemon.metric('syncd_instance_up{instance="server-2"}') == 0
            assert set(states(daemon)["server-1"].values()) == {"proved"}

    assert "MODEL ON SERVER" in shown.stdout
    assert [one["version"] for one in found["instances"]] == ["0.12.6", "0.12.6"]
    assert checked.returncode == 1
    assert "server-2" in checked.stdout
    promtool = shutil.which("promtool")
    if promtool is None:
        assert not os.environ.get("CI"), "promtool is not installed (Debian: apt install prometheus)"
        pytest.skip("NOT RUN: promtool is not installed")
    done = subprocess.run([promtool, "check", "metrics"], input=metrics, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_servers_come_and_go_with_the_settings_file(daemon: RunningDaemon, registry: ScriptedRegistry) -> None:
    names = [registry.add(build_model(name)).name for name in NAMES]
    with StandIn(daemon.store) as first, StandIn(daemon.store) as second:
        daemon.write_settings(settings(names, first))
        with daemon:
            eventually(lambda: set(states(daemon)) == {"server-1"})

            daemon.write_settings(settings(names, first, second))

            eventually(lambda: set(states(daemon)) == {"server-1", "server-2"})


def test_a_server_that_hangs_delays_neither_the_others_nor_the_end(
    daemon: RunningDaemon, registry: ScriptedRegistry
) -> None:
    names = [registry.add(build_model(name)).name for name in NAMES]
    with StandIn(daemon.store) as first, StandIn(daemon.store) as second:
        first.hang()
        daemon.write_settings(settings(names, first, second).replace('timeout = "2s"', 'timeout = "60s"'))
        with daemon:
            eventually(lambda: [one["available"] for one in daemon.status()["instances"][1]["models"]] == [True] * 2)
            assert daemon.status()["instances"][0]["up"] is None

            assert daemon.stop() == 0
