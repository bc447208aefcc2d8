"""Many clients, one pull."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.api.world import World, daemon, lines, over_unix
from tests.support.models import build_model, synthetic_model
from tests.support.registry import ScriptedRegistry


async def followed(world: World, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with over_unix(world) as client, client.post(path, json=body) as response:
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        return await lines(response)


@pytest.mark.parametrize("clients", [8, 50])
async def test_one_download_serves_all_and_all_see_it_to_its_end(
    tmp_path: Path, registry: ScriptedRegistry, clients: int
) -> None:
    model = registry.add(synthetic_model(weights_bytes=16 << 20))
    registry.throttle(24 << 20)
    async with daemon(tmp_path) as world:
        ours = [followed(world, "/syncd/v1/pull", {"name": model.name}) for _ in range(clients // 2)]
        ollamas = [followed(world, "/api/pull", {"model": model.name}) for _ in range(clients // 2)]
        told = await asyncio.gather(*ours, *ollamas)

    assert registry.bytes_served(model.weights) == model.weights_size
    assert len(registry.manifest_requests()) == 1
    for story in told[: clients // 2]:
        assert story[0]["event"] == "attached"
        assert story[-1]["event"] == "ended"
        assert story[-1]["outcome"]["digest"] == model.digest
        weights = [blob["done"] for one in story for blob in one.get("blobs", ()) if blob["digest"] == model.weights]
        assert any(0 < done < model.weights_size for done in weights)
    assert sum(story[0]["fresh"] for story in told[: clients // 2]) <= 1
    for story in told[clients // 2 :]:
        assert story[0] == {"status": "pulling manifest"}
        assert story[-1] == {"status": "success"}
        weights = [one.get("completed", 0) for one in story if one.get("digest") == model.weights]
        assert any(0 < done < model.weights_size for done in weights)
        assert weights[-1] == model.weights_size


async def test_a_follower_gets_at_most_ten_moments_a_second(tmp_path: Path, registry: ScriptedRegistry) -> None:
    model = registry.add(build_model("mistral:7b"))
    registry.stall(1000, times=1)
    async with daemon(tmp_path) as world:
        loop = asyncio.get_running_loop()
        started = loop.time()
        story = await followed(world, "/syncd/v1/pull", {"name": model.name})
        seconds = loop.time() - started
    assert len(story) <= 3 + 10 * seconds + 1


async def test_a_failed_pull_says_why_on_both_halves(tmp_path: Path, registry: ScriptedRegistry) -> None:
    name = f"{registry.host}/library/nothing:latest"
    async with daemon(tmp_path) as world:
        ours = await followed(world, "/syncd/v1/pull", {"name": name})
        ollamas = await followed(world, "/api/pull", {"model": name})
        async with over_unix(world) as client, client.post("/api/pull", json={"model": name, "stream": False}) as r:
            assert (r.status, "error" in await r.json()) == (500, True)
    assert (ours[-1]["event"], ours[-1]["state"], ours[-1]["error"]["exit_code"]) == ("failed", "failed", 3)
    assert ollamas[-1] == {"error": "pull model manifest: file does not exist"}


async def test_a_cancelled_pull_ends_for_everybody(tmp_path: Path, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model())
    registry.stall(1 << 20)
    async with daemon(tmp_path) as world, over_unix(world) as client:
        async with client.post("/syncd/v1/pull", json={"name": model.name}) as response:
            attached = json.loads(await response.content.readline())
            async with client.get("/syncd/v1/jobs") as listed:
                jobs = (await listed.json())["jobs"]
            async with client.post("/syncd/v1/cancel", json={"name": model.name}) as cancelled:
                stopped = (await cancelled.json())["cancelled"]
            story = await lines(response)
        async with client.get(f"/syncd/v1/jobs/{attached['job']}") as one:
            job = await one.json()
        async with client.get(f"/syncd/v1/jobs/{attached['job']}/follow") as again:
            retold = await lines(again)
        async with client.post("/syncd/v1/cancel", json={"name": model.name}) as nothing:
            assert nothing.status == 404
        async with client.get("/syncd/v1/jobs/none") as none:
            assert none.status == 404

    assert [one["id"] for one in jobs] == [one["id"] for one in stopped] == [attached["job"]]
    assert (story[-1]["event"], story[-1]["state"]) == ("failed", "cancelled")
    assert job["state"] == "cancelled"
    assert [one["event"] for one in retold] == ["attached", "failed"]
    assert retold[0]["fresh"] is False


async def test_streams_end_with_a_farewell_when_the_listener_closes(tmp_path: Path, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model())
    registry.stall(1 << 20)
    async with daemon(tmp_path) as world, over_unix(world) as client:
        ours = await client.post("/syncd/v1/pull", json={"name": model.name})
        ollamas = await client.post("/api/pull", json={"model": model.name})
        happening = await client.get("/syncd/v1/events")
        assert json.loads(await ours.content.readline())["event"] == "attached"
        started = asyncio.get_running_loop().time()
        await world.listeners.__aexit__(None, None, None)
        assert asyncio.get_running_loop().time() - started < 20  # they have no end of their own
        told = [await lines(one) for one in (ours, ollamas, happening)]
    assert told[0][-1]["error"]["message"] == "the daemon is stopping"
    assert "stopping" in told[1][-1]["error"]
    assert told[2] == []
