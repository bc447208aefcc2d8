"""A rollback through the daemon: servers get it one after another, and the reconcile holds it over a moved tag."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.store.root import Store
from tests.daemon.servers import stand_ins
from tests.history.world import refused, run, told, version, visible
from tests.support.daemon import RunningDaemon, eventually
from tests.support.ollama_servers import ask
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


def rolled_out(daemon: RunningDaemon, digest: str) -> None:
    """The latest rollout has brought this version to both servers."""

    def so() -> bool:
        found = [(one["digest"], one["state"], sorted(one["done"])) for one in daemon.status()["rollouts"]]
        return found == [(digest, "done", ["gpu-0", "gpu-1"])]

    try:
        eventually(so)
    except AssertionError as error:
        raise AssertionError(f"{daemon.status()['rollouts']}\n{daemon.log()[-6000:]}") from error


def loaded(server: StandIn) -> list[str]:
    return [f"sha256:{one['digest']}" for one in ask(server, "/api/ps").json["models"]]


def test_a_rollback_reaches_the_servers_and_the_reconcile_leaves_it_over_a_moved_tag(
    registry: ScriptedRegistry, servers: list[StandIn], tmp_path: Path
) -> None:
    first = version(registry, 1)
    with RunningDaemon(tmp_path, settings(first.name, servers)) as daemon:
        rolled_out(daemon, first.digest)
        second = version(registry, 2)
        run(daemon, "pull", second.name)
        rolled_out(daemon, second.digest)
        for server in servers:
            ask(server, "/api/generate", {"model": second.name, "prompt": "x", "stream": False, "keep_alive": -1})
        assert [loaded(server) for server in servers] == [[second.digest], [second.digest]]

        done = told(daemon, "rollback", first.name)
        assert (done["digest"], done["previous"]) == (first.digest, second.digest)
        rolled_out(daemon, first.digest)
        eventually(lambda: [loaded(server) for server in servers] == [[first.digest], [first.digest]])
        tried = [event["instance"] for event in daemon.events("rollout.tried")][-2:]
        assert sorted(tried) == ["gpu-0", "gpu-1"]

        third = version(registry, 3)
        # Looks come within the minute; a start is one at once.
        daemon.stop()
        daemon.start()
        daemon.hear("READY=1")
        eventually(lambda: daemon.model(first.name)["pending"] in {second.digest, third.digest})
        shown = daemon.model(first.name)
        assert (shown["state"], shown["digest"]) == ("pinned", first.digest)
        assert f"'syncd unpin {first.name}' releases it" in shown["reason"]
        assert "is pinned to" in refused(daemon, "pull", first.name, code=8)
        assert visible(daemon.store) == {first.name: first.digest}
        assert daemon.metric("syncd_models_pinned") == 1
        assert daemon.metric("syncd_pin_drift") == 0

        run(daemon, "unpin", first.name)
        eventually(lambda: daemon.model(first.name)["digest"] == third.digest)
        rolled_out(daemon, third.digest)


def test_a_tag_that_moved_back_is_told_of_in_status_log_events_and_metrics(
    registry: ScriptedRegistry, tmp_path: Path
) -> None:
    first = version(registry, 1)
    with RunningDaemon(tmp_path, f'[[models]]\nname = "{first.name}"') as daemon:
        eventually(lambda: daemon.model(first.name)["state"] == "published")
        second = version(registry, 2)
        run(daemon, "pull", second.name)
        assert daemon.model(first.name)["moved_back"] is None
        version(registry, 1)

        ended = told(daemon, "pull", first.name)

        assert ended["moved_back"] is not None
        eventually(lambda: daemon.model(first.name)["moved_back"] == ended["moved_back"])
        assert daemon.metric("syncd_tag_moved_back_total") == 1
        assert daemon.events("pull.tag_moved_back")
        assert "moved back" in run(daemon, "status")


def test_a_rollback_that_died_before_it_published_is_finished_by_the_next_daemon(
    registry: ScriptedRegistry, tmp_path: Path
) -> None:
    first = version(registry, 1)
    daemon = RunningDaemon(tmp_path, f'[[models]]\nname = "{first.name}"')
    with daemon:
        eventually(lambda: daemon.model(first.name)["state"] == "published")
        second = version(registry, 2)
        run(daemon, "pull", second.name)
        run(daemon, "rollback", first.name)
    # As if it had been killed between the two: pinned, and not yet published.
    (hold,) = (daemon.store / ".syncd" / "state").glob("hold-*.json")
    content = hold.read_bytes()
    run(daemon, "unpin", first.name)
    run(daemon, "pull", second.name)
    hold.write_bytes(content)

    with daemon:
        eventually(lambda: daemon.model(first.name)["state"] == "pinned")
        assert visible(daemon.store) == {first.name: first.digest}
