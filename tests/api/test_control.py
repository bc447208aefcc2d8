"""``/syncd/v1`` over the control socket."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from tests.api.world import VERSION, daemon, lines, over_unix
from tests.pull.world import blob_file
from tests.support.models import build_model, synthetic_model
from tests.support.registry import ScriptedRegistry


async def test_it_lists_shows_verifies_removes_and_collects(tmp_path: Path, registry: ScriptedRegistry) -> None:
    model = registry.add(build_model("mistral:7b"))
    async with daemon(tmp_path) as world, over_unix(world) as client:
        async with client.post("/syncd/v1/pull", json={"name": model.name}) as response:
            await lines(response)
        async with client.get("/syncd/v1/models") as response:
            listing = await response.json()
        async with client.get("/syncd/v1/model", params={"name": model.name}) as response:
            shown = await response.json()
        async with client.post("/syncd/v1/verify", json={"names": [model.name]}) as response:
            verified = await lines(response)
        async with client.post("/syncd/v1/remove", json={"name": model.name, "dry_run": True}) as response:
            would = await response.json()
        async with client.post("/syncd/v1/remove", json={"name": model.name}) as response:
            removed = await response.json()
        async with client.post("/syncd/v1/remove", json={"name": model.name}) as response:
            assert response.status == 404
        async with client.post("/syncd/v1/collect", json={"dry_run": True}) as response:
            collected = (await lines(response))[-1]
        async with client.get("/syncd/v1/daemon") as response:
            assert (await response.json())["version"] == VERSION
        async with client.get("/syncd/v1/status") as response:
            assert [job["state"] for job in (await response.json())["jobs"]] == ["done"]

    assert [one["name"] for one in listing["models"]] == [model.name]
    assert shown["digest"] == model.digest
    assert verified[-1] == {**verified[-1], "event": "verified", "models": 1, "faults": 0, "size": model.size}
    assert (would["dry_run"], removed["dry_run"]) == (True, False)
    assert would["freed_bytes"] == removed["freed_bytes"] == model.size
    assert collected["event"] == "collected"


async def test_a_verification_tells_of_faults_and_of_what_is_not_there(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    model = registry.add(build_model("mistral:7b"))
    async with daemon(tmp_path) as world, over_unix(world) as client:
        async with client.post("/syncd/v1/pull", json={"name": model.name}) as response:
            await lines(response)
        weights = tmp_path / "models/blobs" / blob_file(model.weights)
        weights.chmod(0o644)
        with weights.open("r+b") as file:
            file.write(b"broken")
        async with client.post("/syncd/v1/verify", json={}) as response:
            story = await lines(response)
        async with client.post("/syncd/v1/verify", json={"names": ["nothing"]}) as response:
            missing = await lines(response)

    assert [(one["kind"], one["digest"]) for one in story if one["event"] == "fault"] == [
        ("wrong bytes", model.weights)
    ]
    assert (story[-1]["event"], story[-1]["faults"]) == ("verified", 1)
    assert (missing[-1]["event"], missing[-1]["exit_code"]) == ("error", 3)


async def test_a_client_that_leaves_ends_its_verification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(*_: object, **__: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with daemon(tmp_path) as world:
        monkeypatch.setattr(world.service, "verify", endless)
        async with over_unix(world) as client, client.post("/syncd/v1/verify", json={}):
            await asyncio.wait_for(begun.wait(), 30)
        await asyncio.wait_for(ended.wait(), 30)


async def test_what_happens_is_told_as_it_happens(tmp_path: Path) -> None:
    async with daemon(tmp_path) as world, over_unix(world) as client:
        async with client.get("/syncd/v1/events") as response:
            async with asyncio.timeout(30):
                while not world.service.happening:
                    await asyncio.sleep(0.01)
            world.service.announce("settings.applied")
            assert json.loads(await response.content.readline())["event"] == "settings.applied"
        async with asyncio.timeout(30):
            while world.service.happening:
                await asyncio.sleep(0.01)


async def test_requests_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    asked = [
        ("GET", "/syncd/v1/model", None, 400),
        ("GET", "/syncd/v1/model?name=a%20b", None, 400),
        ("POST", "/syncd/v1/pull", {}, 400),
        ("POST", "/syncd/v1/pull", {"name": "mistral@sha256:12"}, 400),
        ("POST", "/syncd/v1/cancel", {}, 400),
        ("POST", "/syncd/v1/cancel", {"job": "a", "name": "b"}, 400),
        ("POST", "/syncd/v1/verify", {"names": "mistral"}, 400),
        ("POST", "/syncd/v1/remove", {"name": "mistral", "dry_run": 1}, 400),
    ]
    async with daemon(tmp_path) as world, over_unix(world) as client:
        for method, path, body, code in asked:
            async with client.request(method, path, json=body) as response:
                assert (path, response.status) == (path, code)
                assert (await response.json())["exit_code"] == 2
    assert world.service.asked == []


async def test_the_command_is_told_who_asked(tmp_path: Path, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model(weights_bytes=1 << 20))
    async with (
        daemon(tmp_path) as world,
        over_unix(world) as client,
        client.post("/syncd/v1/pull", json={"name": model.name}) as response,
    ):
        attached = (await lines(response))[0]
    assert attached["asked_by"] == world.service.asked[0][2]
    assert attached["asked_by"] != ""


async def test_a_stream_that_fails_is_cut_and_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with daemon(tmp_path) as world, over_unix(world) as client:
        monkeypatch.setattr(world.service, "verify", broken)
        with capture_logs() as logs, pytest.raises(aiohttp.ClientPayloadError):
            async with client.post("/syncd/v1/verify", json={}) as response:
                await lines(response)
    assert [one["event"] for one in logs if one["log_level"] == "error"] == ["http.crashed"]
