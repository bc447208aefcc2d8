"""Operations are done for whoever asks, here or through the daemon, and their answers are their lines."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec

from syncd.api.operating import Outbox
from tests.api.world import daemon, over_unix
from tests.support.daemon import RunningDaemon
from tests.support.models import build_model
from tests.support.registry import ScriptedRegistry


class Moment(msgspec.Struct, tag_field="event", tag="moment"):
    done: int


class Found(msgspec.Struct, tag_field="event", tag="found"):
    what: str


async def test_of_moments_only_the_newest_is_told_and_of_findings_all() -> None:
    outbox = Outbox((Moment,))
    for told in (Moment(1), Moment(2), Found("a"), Found("b"), Moment(3), Moment(4)):
        outbox.put(told)

    lines = [json.loads(line) for line in outbox.take().splitlines()]

    assert lines == [
        {"event": "moment", "done": 2},
        {"event": "found", "what": "a"},
        {"event": "found", "what": "b"},
        {"event": "moment", "done": 4},
    ]
    assert outbox.take() == b""


async def test_an_error_is_the_last_line(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(20),
        daemon(tmp_path) as world,
        over_unix(world) as client,
        client.post("/syncd/v1/history", json={"name": "nothing"}) as response,
    ):
        assert response.status == 200
        told = json.loads((await response.text()).splitlines()[-1])

    assert (told["event"], told["exit_code"]) == ("error", 3)


def test_history_is_the_same_with_and_without_a_daemon(tmp_path: Path, registry: ScriptedRegistry) -> None:
    handle = registry.add(build_model("mistral:7b"))
    host = RunningDaemon(tmp_path / "host")
    host.folder.mkdir()
    host.write_settings("")
    pulled = host.command("pull", handle.name)
    assert pulled.returncode == 0, pulled.stderr

    alone = host.command("history", handle.name, "--json")
    with host:
        through = host.command("history", handle.name, "--json")

    assert (alone.returncode, through.returncode) == (0, 0), alone.stderr + through.stderr
    found: dict[str, Any] = json.loads(alone.stdout)
    assert found == json.loads(through.stdout)
    assert [one["current"] for one in found["publications"]] == [True]
    assert found["publications"][0]["digest"] == str(handle.digest)
