"""``syncd reload``: what the daemon's servers come to, in words, and the exit code that it leaves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncd.cli import main
from tests.support.scripted_daemon import ScriptedDaemon

RELOAD = "/syncd/v1/reload"
HEX = "0" * 64


def tried(instance: str, result: str, **more: Any) -> dict[str, Any]:
    line = {"event": "tried", "instance": instance, "model": "mistral:7b", "result": result}
    return {**line, "reason": None, "stale": False, "stale_until": None, **more}


def ended(state: str, **more: Any) -> dict[str, Any]:
    rollout = {
        "name": "mistral:7b",
        "digest": f"sha256:{HEX}",
        "previous": None,
        "change": "asked",
        "state": state,
        "since": "2026-01-01T00:00:00Z",
        "done": ["gpu-0"],
        "failed": [],
        "waiting": [],
        "reason": None,
        **more,
    }
    return {"event": "reloaded", "rollouts": [rollout]}


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedDaemon]:
    for name in ("SYNCD_CONFIG", "OLLAMA_MODELS", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SYNCD_STORE", str(tmp_path / "models"))
    monkeypatch.setenv("SYNCD_SOCKET", str(tmp_path / "syncd.sock"))
    with ScriptedDaemon(tmp_path / "syncd.sock", tmp_path / "models") as running:
        yield running


def test_servers_are_told_of_as_they_come_and_shown_in_a_table(
    daemon: ScriptedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (tried("gpu-0", "proved"), tried("gpu-1", "served", stale=True))
    daemon.streams(RELOAD, *lines, ended("done", done=["gpu-0", "gpu-1"]))

    code = main.run(["reload", "mistral:7b", "--instance", "gpu-0", "--instance", "gpu-1"])

    told = capsys.readouterr()
    assert code == 0
    assert told.err.splitlines() == [
        "gpu-0: mistral:7b: proved",
        "gpu-1: mistral:7b: served (it still holds older weights, until it is unloaded)",
    ]
    assert told.out.splitlines() == ["MODEL         gpu-0     gpu-1", "mistral:7b    proved    served"]
    assert daemon.asked[-1][2] == {
        "models": ["mistral:7b"],
        "instances": ["gpu-0", "gpu-1"],
        "prove": False,
        "resume": False,
    }


def test_a_server_that_fails_gives_exit_code_9_and_says_where(
    daemon: ScriptedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (tried("gpu-0", "proved"), tried("gpu-1", "failed", reason="no answer within 5 s\x1b[2J"))
    daemon.streams(RELOAD, *lines, ended("halted", failed=["gpu-1"], waiting=["gpu-2"], reason="gpu-1: no answer"))

    code = main.run(["reload", "--resume"])

    told = capsys.readouterr()
    assert code == 9
    assert "gpu-1: mistral:7b: failed: no answer within 5 s" in told.err
    assert "\x1b" not in told.err
    assert "error: mistral:7b: halted: gpu-1: no answer\nhint: 'syncd reload --resume'" in told.err
    assert told.out.splitlines()[1].split("    ") == ["mistral:7b", "proved", "failed", "not tried"]


def test_programs_get_every_line(daemon: ScriptedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.streams(RELOAD, tried("gpu-0", "proved"), ended("done"))

    assert main.run(["reload", "--prove", "--json"]) == 0

    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert events == ["tried", "reloaded"]


def test_without_a_daemon_it_says_what_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SYNCD_STORE", str(tmp_path / "models"))
    monkeypatch.setenv("SYNCD_SOCKET", str(tmp_path / "nobody.sock"))

    assert main.run(["reload"]) == 3

    assert "error: no daemon runs" in capsys.readouterr().err


def test_resuming_is_about_all_servers(daemon: ScriptedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["reload", "--resume", "--prove"]) == 2
    assert "leave out the rest" in capsys.readouterr().err
    assert not daemon.asked
