"""The daemon as a process, servers that read its store, and what an operator sees and does."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.store.root import Store
from tests.daemon.servers import stand_ins
from tests.support.daemon import RunningDaemon, eventually
from tests.support.models import build_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ScriptedRegistry
from tests.support.standin import StandIn


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[StandIn]]:
    with Store.open(tmp_path / "models", create=True):
        pass
    with stand_ins(tmp_path / "models", 2) as running:
        yield running


def settings(model: str, servers: list[StandIn]) -> str:
    tables = [f'[[models]]\nname = "{model}"\nupdate = {{ every = "1m" }}']
    tables += [f'[[instances]]\nname = "gpu-{at}"\nurl = "{server.url}"' for at, server in enumerate(servers)]
    tables += ['[probes]\nevery = "1s"\n[reload]\nsettle = "0s"']
    return "\n".join(tables)


def becomes(daemon: RunningDaemon, state: str) -> None:
    """The only rollout comes to this."""
    try:
        eventually(lambda: [one["state"] for one in daemon.status()["rollouts"]] == [state])
    except AssertionError as error:
        raise AssertionError(f"{daemon.status()['rollouts']}\n{daemon.log()[-6000:]}") from error


def test_a_version_that_no_server_can_serve_is_taken_back_refused_and_insisted_on(
    registry: ScriptedRegistry, servers: list[StandIn], tmp_path: Path
) -> None:
    mistral = registry.add(build_model("mistral:7b"))
    with RunningDaemon(tmp_path, settings(mistral.name, servers)) as daemon:
        becomes(daemon, "done")
        assert daemon.metric(f'syncd_rollout_state{{model="{mistral.name}",state="done"}}') == 1
        proved = daemon.command("reload", "--prove", "--json")
        assert (proved.returncode, len(proved.stdout.splitlines())) == (0, 3), proved.stderr

        newer = registry.add(build_model("mistral:7b", seed=2))
        servers[0].fail_load(mistral.name)
        assert daemon.command("pull", newer.name).returncode == 0
        becomes(daemon, "reverted")
        assert assert_store_whole(daemon.store) == {mistral.name: mistral.digest}
        page = daemon.command("status")
        assert "reverted" in page.stdout

        daemon.write_settings(settings(mistral.name, servers) + "\n# looked at anew\n")
        time.sleep(1.0)  # nothing must happen: neither a restore nor a pull brings it back
        assert assert_store_whole(daemon.store) == {mistral.name: mistral.digest}

        servers[0].heal()
        assert daemon.command("pull", newer.name).returncode == 0
        becomes(daemon, "done")
        assert assert_store_whole(daemon.store) == {newer.name: newer.digest}


def test_a_halted_rollout_is_told_of_and_resumed(
    registry: ScriptedRegistry, servers: list[StandIn], tmp_path: Path
) -> None:
    mistral = registry.add(build_model("mistral:7b"))
    with RunningDaemon(tmp_path, settings(mistral.name, servers)) as daemon:
        becomes(daemon, "done")
        newer = registry.add(build_model("mistral:7b", seed=2))
        servers[1].fail_load(mistral.name)
        assert daemon.command("pull", newer.name).returncode == 0
        becomes(daemon, "halted")

        failed = daemon.command("reload", "--resume")
        assert failed.returncode == 9
        assert "gpu-1: " in failed.stderr

        servers[1].heal()
        resumed = daemon.command("reload", "--resume", "--json")
        assert resumed.returncode == 0, resumed.stderr
        assert json.loads(resumed.stdout.splitlines()[-1])["rollouts"][0]["state"] == "done"
