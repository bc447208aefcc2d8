"""The official Python client of Ollama, unmodified, through the TCP listener."""

import asyncio
from pathlib import Path

import ollama
import pytest

from tests.api.world import daemon, loopback
from tests.support.models import build_model
from tests.support.registry import ScriptedRegistry


async def test_it_pulls_with_progress_lists_shows_and_deletes(tmp_path: Path, registry: ScriptedRegistry) -> None:
    model = registry.add(build_model("mistral:7b"))
    name = model.name
    async with daemon(tmp_path) as world:
        client = ollama.AsyncClient(world.url)

        moments = [one async for one in await client.pull(name, insecure=True, stream=True)]
        listed = (await client.list()).models
        shown = await client.show(name)
        running = (await client.ps()).models
        deleted = await client.delete(name)
        left = (await client.list()).models
        await client.close()

    statuses = list(dict.fromkeys(one.status for one in moments))
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    ends = {one.digest: (one.completed, one.total) for one in moments if one.digest}
    assert ends == {digest: (blob.size, blob.size) for digest, blob in model.blobs.items()}
    assert [(one.model, one.digest, one.size) for one in listed] == [(name, model.digest[7:], model.size)]
    assert listed[0].details is not None
    assert (listed[0].details.family, listed[0].details.parameter_size) == ("llama", "7.2B")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "llama"
    assert not running
    assert deleted.status == "success"
    assert not left
    assert world.service.insecure == [True]


async def test_it_pulls_without_a_stream(tmp_path: Path, registry: ScriptedRegistry) -> None:
    model = registry.add(build_model("nomic-embed-text:v1.5"))
    async with daemon(tmp_path) as world:
        client = ollama.AsyncClient(world.url)

        done = await client.pull(model.name)
        shown = await client.show(model.name)
        await client.close()

    assert done.status == "success"
    assert shown.capabilities == ["embedding"]


@pytest.mark.parametrize("stream", [True, False])
async def test_it_hears_of_a_model_that_the_registry_does_not_have(
    tmp_path: Path, registry: ScriptedRegistry, stream: bool
) -> None:
    async with daemon(tmp_path) as world:
        client = ollama.AsyncClient(world.url)

        with pytest.raises(ollama.ResponseError, match="file does not exist"):
            await _pulled(client, f"{registry.host}/library/nothing", stream=stream)
        await client.close()


async def test_it_hears_what_is_not_there(tmp_path: Path) -> None:
    async with daemon(tmp_path) as world:
        client = ollama.AsyncClient(world.url)
        with pytest.raises(ollama.ResponseError, match="model 'nothing' not found") as shown:
            await client.show("nothing")
        with pytest.raises(ollama.ResponseError, match="model 'nothing' not found") as deleted:
            await client.delete("nothing")
        with pytest.raises(ollama.ResponseError, match="invalid model name") as invalid:
            await client.show("not//a name")
        with pytest.raises(ollama.ResponseError, match="does not run") as generated:
            await client.generate("nothing", "hello")
        await client.close()

    assert [one.value.status_code for one in (shown, deleted, invalid, generated)] == [404, 404, 400, 501]


async def test_it_pulls_over_plain_http_only_as_ollama_does(tmp_path: Path, registry: ScriptedRegistry) -> None:
    model = registry.add(build_model("mistral:7b"))
    name = f"http://{model.name}"
    async with daemon(tmp_path) as world:
        client = ollama.AsyncClient(world.url)
        with pytest.raises(ollama.ResponseError, match="insecure protocol http"):
            await client.pull(name)
        done = await client.pull(name, insecure=True)
        await client.close()

    assert done.status == "success"


async def test_with_a_token_it_is_let_in_by_its_api_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    async with daemon(tmp_path, door=loopback("canary")) as world:
        monkeypatch.setenv("OLLAMA_API_KEY", "wrong")
        stranger = ollama.AsyncClient(world.url)
        with pytest.raises(ollama.ResponseError) as refused:
            await stranger.list()
        monkeypatch.setenv("OLLAMA_API_KEY", "canary")
        friend = ollama.AsyncClient(world.url)
        listed = await friend.list()
        await asyncio.gather(stranger.close(), friend.close())

    assert refused.value.status_code == 401
    assert not listed.models


async def _pulled(client: ollama.AsyncClient, name: str, *, stream: bool) -> None:
    if stream:
        async for _ in await client.pull(name, stream=True):
            pass
    else:
        await client.pull(name)
