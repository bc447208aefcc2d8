"""A real Prometheus scrapes a real daemon with servers: the rules work on what it tells, and every panel shows it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.monitoring.world import RULES, Prometheus, Query, queries, rules
from tests.support.daemon import RunningDaemon, eventually
from tests.support.models import build_model
from tests.support.registry import ScriptedRegistry
from tests.support.standin import StandIn

NAMES = ("mistral:7b", "nomic-embed-text:v1.5")


@dataclass(frozen=True, slots=True)
class Host:
    """What Prometheus watches. ``models``: as the settings name them; ``absent``: one that no registry has.

    ``scrubbed``: how a scrub ended after a bit had rotted.
    """

    prometheus: Prometheus
    daemon: RunningDaemon
    models: tuple[str, ...]
    absent: str
    scrubbed: subprocess.CompletedProcess[str]


def settings(models: tuple[str, ...], servers: list[StandIn]) -> str:
    tables = [f'[[models]]\nname = "{name}"' for name in models]
    tables += [f'[[instances]]\nname = "gpu-{at}"\nurl = "{server.url}"' for at, server in enumerate(servers)]
    return "\n".join([*tables, '[probes]\nevery = "1s"\n[reload]\nsettle = "0s"\n[scrub]\nevery = "1d"'])


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One that has had a bad day: a model that is nowhere, damage, a dead server, settings that are refused."""
    folder = tmp_path_factory.mktemp("host")
    daemon = RunningDaemon(folder / "daemon")
    daemon.folder.mkdir()
    daemon.write_settings("")
    assert daemon.command("init").returncode == 0
    target = f"127.0.0.1:{daemon.ops_port}"
    with ScriptedRegistry() as registry, StandIn(daemon.store) as first, StandIn(daemon.store) as second:
        models = tuple(registry.add(build_model(name)).name for name in NAMES)
        absent = models[0].replace("mistral", "nowhere")
        try:
            with daemon, Prometheus(folder / "prometheus", target) as prometheus:
                served(prometheus, daemon, models, absent, [first, second])
                scrubbed = damaged(daemon)
                second.stop()
                daemon.write_settings("no_such_key = 1")
                yield Host(prometheus, daemon, models, absent, scrubbed)
        finally:
            daemon.stop(signal.SIGKILL)


def served(
    prometheus: Prometheus, daemon: RunningDaemon, models: tuple[str, ...], absent: str, servers: list[StandIn]
) -> None:
    """Both servers prove what was pulled, and Prometheus has seen it."""
    daemon.write_settings(settings((*models, absent), servers))
    eventually(lambda: len(prometheus.series("syncd_instance_model_available == 1")) == len(models) * len(servers))
    eventually(lambda: prometheus.series(f'syncd_model_failing{{model="{absent}"}} == 1'))


def damaged(daemon: RunningDaemon) -> subprocess.CompletedProcess[str]:
    """A bit of a model's weights rots, a scrub looks for it, and what no model needs is collected."""
    weights = max((daemon.store / "blobs").iterdir(), key=lambda blob: blob.stat().st_size)
    before = weights.stat()
    weights.chmod(0o644)
    with weights.open("r+b") as blob:
        blob.seek(1000)
        rotten = bytes([blob.read(1)[0] ^ 1])
        blob.seek(1000)
        blob.write(rotten)
    weights.chmod(0o444)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # rot leaves no other trace
    scrubbed = daemon.command("scrub")
    eventually(lambda: collected(daemon), seconds=120)
    return scrubbed


def collected(daemon: RunningDaemon) -> bool:
    """Nothing holds a collection back any more: the servers have settled after what the damage made of them."""
    assert daemon.command("gc").returncode == 0
    return daemon.metric("syncd_collection_last_completed_timestamp_seconds") > 0


def test_the_damage_was_found(host: Host) -> None:
    assert host.scrubbed.returncode == 6, host.scrubbed.stderr


def test_the_rules_load_and_work_on_what_the_daemon_tells(host: Host) -> None:
    def all_ran() -> bool:
        groups = host.prometheus.ask("rules")["groups"]
        return all(rule["health"] != "unknown" for group in groups for rule in group["rules"])

    eventually(all_ran, seconds=30)
    found = [rule for group in host.prometheus.ask("rules")["groups"] for rule in group["rules"]]

    assert {rule["name"]: rule.get("lastError") for rule in found if rule["health"] != "ok"} == {}
    assert {rule["name"] for rule in found} == {*rules(RULES[0], "record"), *rules(RULES[1], "alert")}


@pytest.mark.parametrize("alert", rules(RULES[1], "alert"))
def test_an_alerts_expression_can_be_asked(alert: str, host: Host) -> None:
    expr = rules(RULES[1], "alert")[alert]["expr"]

    assert isinstance(host.prometheus.series(expr), list)


@pytest.mark.parametrize("name", rules(RULES[0], "record"))
def test_a_recording_rule_records(name: str, host: Host) -> None:
    eventually(lambda: host.prometheus.series(name), seconds=30)


@pytest.mark.parametrize("query", queries(), ids=str)
def test_a_panel_shows_something(query: Query, host: Host) -> None:
    try:
        eventually(lambda: host.prometheus.has_shown(query.filled), seconds=30)
    except AssertionError:
        raise AssertionError(f"never any data for {query.filled}") from None


def test_the_alerts_of_a_bad_day_are_on_their_way(host: Host) -> None:
    expected = {
        ("SyncdServerDown", "gpu-1", None),
        ("SyncdSettingsRejected", None, None),
        ("SyncdCorruptionFound", None, None),
        ("SyncdModelNotPublished", None, host.absent),
        *(("SyncdModelUnavailable", None, model) for model in host.models),
    }

    def seen() -> set[tuple[str, str | None, str | None]]:
        every = [alert["labels"] for alert in host.prometheus.ask("alerts")["alerts"]]
        return {(one["alertname"], one.get("exported_instance"), one.get("model")) for one in every}

    eventually(lambda: expected <= seen(), seconds=30)

    assert ("SyncdServerDown", "gpu-0", None) not in seen()
    assert ("SyncdAllServersDown", None, None) not in seen()
