"""Servers are looked at, asked to show, and proved: honestly, without harm, and each by itself."""

import asyncio
import json
import socket
import time
import urllib.request
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from syncd.instances.model import Instance, Origin, Prove
from syncd.instances.ollama import Reason
from syncd.instances.probe import Level, Word
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName
from tests.daemon.fleet_world import (
    EMBED,
    LLAMA,
    MISTRAL,
    WEIGHTS,
    fleet,
    hex_of,
    instance,
    one_server,
    probes,
    publish,
)
from tests.support import ollama_store
from tests.support.models import Model, build_model, model_from
from tests.support.standin import StandIn

NEWER = build_model("mistral:7b", WEIGHTS, seed=2)
NAME = ModelName.parse("mistral:7b")


def template_changed(model: Model) -> Model:
    """The same weights under another text."""
    layers: list[Any] = [("model", model.blobs[model.weights]), ("template", b"{{ .Prompt }} and no more")]
    return model_from(model.name, layers)


async def ask(server: StandIn, path: str, **body: Any) -> dict[str, Any]:
    """As a user of the server."""

    def asked() -> dict[str, Any]:
        data = json.dumps({**body, "stream": False}).encode() if body else None
        request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    return await asyncio.to_thread(asked)


async def use(server: StandIn, model: Model, **more: Any) -> None:
    path = "/api/embed" if model is EMBED else "/api/generate"
    words = {"input": "x"} if model is EMBED else {"prompt": "x"}
    await ask(server, path, model=model.name, **words, **more)


# Words


async def test_a_model_is_served_once_it_is_listed_and_shown_and_proved_once_it_made_a_token(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m") as (world, server):
        cell = await world.becomes(Word.PROVED)

        assert (cell.served, cell.proved, cell.available, cell.digest) == (True, True, True, hex_of(MISTRAL))
        assert world.row().up is True
        assert world.row().version == "0.12.6"
        assert [asked.body["options"] for asked in server.requests("/api/generate")] == [{"num_predict": 1}]


async def test_an_embedding_model_is_proved_by_an_embedding(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", models=(EMBED,)) as (world, server):
        await world.becomes(Word.PROVED, EMBED)

        assert len(server.requests("/api/embed")) == 1
        assert server.requests("/api/generate") == []


async def test_where_no_proof_is_allowed_the_honest_word_is_served(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", prove=Prove.NEVER) as (world, server):
        await world.becomes(Word.SERVED)
        cell = await world.fleet.prove("one", NAME, insist=True)
        await world.looks()

        assert (cell.word, cell.proved, cell.available) == (Word.SERVED, False, True)
        assert server.loads == []


async def test_a_model_that_somebody_uses_is_loaded(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", prove=Prove.NEVER) as (world, server):
        await use(server, MISTRAL)
        await world.becomes(Word.LOADED)

        assert world.fleet.loaded() == {Digest.parse(MISTRAL.digest)}


async def test_what_is_being_loaded_is_said_to_be(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", slow_load=0.5) as (world, _):
        assert (await world.becomes(Word.LOADING)).available
        await world.becomes(Word.PROVED)


async def test_a_server_with_a_store_of_its_own_misses_the_model(tmp_path: Path) -> None:
    (tmp_path / "empty" / "blobs").mkdir(parents=True)
    (tmp_path / "empty" / "manifests").mkdir()
    with StandIn(tmp_path / "empty") as server:
        async with fleet(tmp_path / "m", instance("one", server.url)) as world:
            assert not (await world.becomes(Word.MISSING)).available


async def test_a_server_that_lists_another_version_fails_with_a_wrong_digest(tmp_path: Path) -> None:
    ollama_store.put(tmp_path / "other", NEWER)
    with StandIn(tmp_path / "other") as server:
        async with fleet(tmp_path / "m", instance("one", server.url)) as world:
            cell = await world.becomes(Word.FAILING)

            assert cell.fault is not None
            assert cell.fault.reason is Reason.WRONG_DIGEST
            assert hex_of(NEWER)[:12] in cell.fault.message
            assert server.loads == []


async def test_a_stub_of_a_hosted_model_is_listed_and_never_probed(tmp_path: Path) -> None:
    stub = model_from(
        "hosted:cloud", [("license", b"none")], {"remote_host": "https://ollama.com:443", "remote_model": "hosted"}
    )
    async with one_server(tmp_path / "m", models=(stub,), prove=Prove.ALWAYS) as (world, server):
        await world.becomes(Word.HOSTED, stub)
        await world.fleet.prove("one", ModelName.parse("hosted:cloud"), insist=True)
        await world.looks(count=3)

        assert {asked.path for asked in server.requests()} == {"/api/version", "/api/tags", "/api/ps"}


# Failures and their reasons


async def test_a_server_that_is_not_there_refuses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with fleet(tmp_path / "m", instance("one", f"http://127.0.0.1:{port}")) as world:
        cell = await world.becomes(Word.FAILING)

        assert cell.fault is not None
        assert cell.fault.reason is Reason.REFUSED
        assert world.row().up is False
        assert ("one", Level.LOOK, Reason.REFUSED) in world.probed
        assert any(event.event == "instance.down" for event in world.events)


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (lambda server: server.hang("/api/tags"), Reason.TIMEOUT),
        (lambda server: server.answer(503, "/api/tags"), Reason.STATUS),
        (lambda server: server.drop("/api/tags"), Reason.PROTOCOL),
        (lambda server: server.answer(404, "/api/ps"), Reason.NOT_FOUND),
        (lambda server: server.not_found("mistral:7b", "/api/show"), Reason.NOT_FOUND),
        (lambda server: server.answer(500, "/api/show"), Reason.STATUS),
        (lambda server: server.hang("/api/show"), Reason.TIMEOUT),
        (lambda server: server.not_found("mistral:7b", "/api/generate"), Reason.NOT_FOUND),
        (lambda server: server.answer(500, "/api/generate"), Reason.STATUS),
        (lambda server: server.hang("/api/generate"), Reason.TIMEOUT),
        (lambda server: server.drop("/api/generate"), Reason.PROTOCOL),
        (lambda server: server.empty_answers(), Reason.EMPTY),
        (lambda server: server.fail_load(), Reason.STATUS),
    ],
)
async def test_every_failure_keeps_its_reason_until_it_is_over(tmp_path: Path, fail: Any, reason: Reason) -> None:
    # Where no answer is to come there is less patience.
    patience = probes(timeout=1.0, proof_timeout=1.5) if reason is Reason.TIMEOUT else probes()
    async with one_server(tmp_path / "m", prove=Prove.NEVER, probing=patience) as (world, server):
        await world.becomes(Word.SERVED)
        fail(server)
        world.put(instance("one", server.url, prove=Prove.ALWAYS), probing=patience)
        world.publish(NEWER)
        cell = await world.becomes(Word.FAILING)

        assert cell.fault is not None
        assert cell.fault.reason is reason
        assert reason in {one for _, _, one in world.probed}

        server.heal()
        await world.fleet.prove("one", NAME, insist=True)
        await world.becomes(Word.PROVED)


async def test_a_failed_proof_is_not_tried_again_and_again(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", prove=Prove.NEVER) as (world, server):
        await world.becomes(Word.SERVED)
        server.answer(500, "/api/generate")
        world.put(instance("one", server.url))
        await world.becomes(Word.FAILING)
        await world.looks(count=5)

        assert world.count(Level.PROOF) == 1


# No harm


async def test_probing_a_busy_server_changes_neither_expiry_nor_options_nor_what_is_loaded(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", models=(MISTRAL, LLAMA, EMBED), prove=Prove.NEVER) as (world, server):
        await world.becomes(Word.SERVED, EMBED)
        await use(server, LLAMA, keep_alive="17m", options={"num_ctx": 2048, "num_batch": 64})
        before = await ask(server, "/api/ps")
        loads = len(server.loads)
        server.forget()

        world.put(instance("one", server.url, prove=Prove.IDLE), probing=probes(every=0.05, deep_every=0.1))
        for model in (template_changed(MISTRAL), NEWER, template_changed(LLAMA), LLAMA):
            world.publish(model)
            await world.looks(count=5)

        assert await ask(server, "/api/ps") == before
        assert (loads, server.loads, server.unloads) == (1, [], [])
        assert server.requests("/api/show")
        assert not server.requests("/api/generate") + server.requests("/api/embed") + server.requests("/api/chat")
        assert (world.word(MISTRAL), world.word(LLAMA), world.word(EMBED)) == (Word.SERVED, Word.LOADED, Word.SERVED)


async def test_a_model_is_proved_when_its_server_has_become_idle(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", models=(MISTRAL, LLAMA), prove=Prove.NEVER) as (world, server):
        await use(server, LLAMA, keep_alive="17m")
        await world.becomes(Word.SERVED, MISTRAL)
        world.put(instance("one", server.url, prove=Prove.IDLE))
        await world.looks()
        assert world.word(MISTRAL) is Word.SERVED

        await ask(server, "/api/generate", model=LLAMA.name, keep_alive=0)
        await world.becomes(Word.PROVED, MISTRAL)


async def test_a_rollout_proves_a_loaded_model_with_the_context_length_that_it_has(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", prove=Prove.NEVER) as (world, server):
        await use(server, MISTRAL, keep_alive="17m", options={"num_ctx": 1024})
        await world.becomes(Word.LOADED)
        world.put(instance("one", server.url, prove=Prove.IDLE))

        assert (await world.fleet.prove("one", NAME)).word is Word.PROVED

        asked = server.requests("/api/generate")[-1].body
        assert asked["options"] == {"num_predict": 1, "num_ctx": 1024}
        assert "keep_alive" not in asked
        assert len(server.loads) == 1
        held = (await ask(server, "/api/ps"))["models"][0]
        assert 900 < datetime.fromisoformat(held["expires_at"]).timestamp() - time.time() < 1030


async def test_models_are_proved_one_after_another_where_only_proofs_have_loaded_any(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", models=(MISTRAL, LLAMA, EMBED), keep_alive=600.0) as (world, server):
        for model in (MISTRAL, LLAMA, EMBED):
            await world.becomes(Word.PROVED, model)

        assert len(server.loads) == 3


async def test_what_a_proof_left_and_somebody_used_since_is_in_use(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", keep_alive=600.0) as (world, server):
        await world.becomes(Word.PROVED)
        await use(server, MISTRAL)
        await world.looks()
        world.publish(LLAMA)
        await world.becomes(Word.SERVED, LLAMA)
        await world.looks(count=3)

        assert world.word(LLAMA) is Word.SERVED
        assert len(server.loads) == 1


async def test_an_operator_may_insist_where_a_probe_would_not(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", models=(MISTRAL, LLAMA), prove=Prove.NEVER) as (world, server):
        await use(server, LLAMA)
        await world.becomes(Word.SERVED, MISTRAL)
        world.put(instance("one", server.url, prove=Prove.IDLE))
        await world.looks()

        assert (await world.fleet.prove("one", NAME)).word is Word.SERVED
        assert (await world.fleet.prove("one", NAME, insist=True)).word is Word.PROVED
        await world.fleet.prove("one", NAME, insist=True)
        assert len(server.requests("/api/generate", MISTRAL.name)) == 2


# What a proof is worth


async def test_a_proof_is_made_once_for_a_version_and_a_start(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m") as (world, server):
        await world.becomes(Word.PROVED)
        await world.looks(count=5)
        assert world.count(Level.PROOF) == 1

        server.restart()
        await world.until(lambda: world.count(Level.PROOF) == 2)
        await world.becomes(Word.PROVED)
        assert world.started == ["one", "one"]
        assert world.row().life > 1


async def test_a_restart_between_two_looks_is_told_by_the_connection(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", probing=probes(every=3600.0)) as (world, server):
        await world.becomes(Word.PROVED)
        life = world.row().life

        server.restart()
        await world.fleet.observe("one")

        assert world.row().fault is None
        assert world.row().life == life + 1
        await world.until(lambda: world.count(Level.PROOF) == 2)


async def test_who_knows_of_a_restart_can_tell(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", probing=probes(every=3600.0)) as (world, _):
        await world.becomes(Word.PROVED)

        world.fleet.restarted("one")

        await world.until(lambda: world.count(Level.PROOF) == 2)
        await world.becomes(Word.PROVED)


async def test_a_server_that_closes_every_connection_is_not_taken_to_restart_all_the_time(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", prove=Prove.NEVER, probing=probes(every=3600.0)) as (world, server):
        await world.becomes(Word.SERVED)
        for _ in range(6):
            await asyncio.to_thread(server.restart)
            await world.fleet.observe("one")

        assert world.row().life <= 3


async def test_a_new_version_is_seen_on_all_servers_at_once_and_proved(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", probing=probes(every=3600.0)) as (world, _):
        await world.becomes(Word.PROVED)

        world.publish(LLAMA)
        await world.until(lambda: world.word(LLAMA) not in (None, Word.UNKNOWN))  # in an hour, else

        assert world.cell(LLAMA).available


async def test_old_weights_in_memory_are_stale_until_they_expire(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", prove=Prove.NEVER) as (world, server):
        await use(server, MISTRAL, keep_alive="17m")
        await world.becomes(Word.LOADED)

        world.publish(NEWER)
        await world.until(lambda: world.word() is Word.STALE and world.served())

        cell = world.cell()
        assert (cell.stale, cell.available, cell.digest) == (True, True, hex_of(NEWER))
        assert cell.stale_until is not None
        assert 900 < cell.stale_until - time.time() < 1030


async def test_old_weights_that_never_expire_are_stale_without_end(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", prove=Prove.NEVER) as (world, server):
        await use(server, MISTRAL, keep_alive=-1)
        await world.becomes(Word.LOADED)

        world.publish(NEWER)

        assert (await world.becomes(Word.STALE)).stale_until is None


async def test_another_template_over_the_same_weights_makes_nothing_stale(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", prove=Prove.NEVER) as (world, server):
        await use(server, MISTRAL)
        await world.becomes(Word.LOADED)
        changed = template_changed(MISTRAL)

        world.publish(changed)
        await world.until(lambda: world.cell().digest == hex_of(changed) and world.cell().served)

        assert (world.cell().word, world.cell().stale) == (Word.LOADED, False)


async def test_weights_that_an_earlier_life_published_are_known_from_the_history(tmp_path: Path) -> None:
    path = tmp_path / "m"
    async with one_server(path, prove=Prove.NEVER) as (first, server):
        await use(server, MISTRAL)
        await first.becomes(Word.LOADED)
        changed = template_changed(MISTRAL)
        publish(first.store, changed)
        async with fleet(path, instance("one", server.url, prove=Prove.NEVER), models=()) as second:
            await second.becomes(Word.LOADED)


async def test_a_change_that_nobody_told_of_is_found_by_what_servers_list(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", prove=Prove.NEVER) as (world, _):
        await world.becomes(Word.SERVED)

        publish(world.store, NEWER)

        await world.until(lambda: world.cell().digest == hex_of(NEWER) and world.cell().served)
        assert Reason.WRONG_DIGEST not in {one for _, _, one in world.probed}


# One server and the others


async def test_a_server_that_hangs_delays_no_other(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        path = tmp_path / "m"
        (path / "blobs").mkdir(parents=True)
        (path / "manifests").mkdir()
        servers = [stack.enter_context(StandIn(path)) for _ in range(8)]
        servers[0].hang()
        named = [instance(str(index), server.url) for index, server in enumerate(servers)]
        world = await stack.enter_async_context(fleet(path, *named, probing=probes(timeout=600.0, every=0.2)))

        for index in range(1, 8):
            await world.until(lambda index=index: world.served(server=str(index)))  # type: ignore[misc]
        for index in range(1, 8):
            await world.becomes(Word.PROVED, server=str(index))
        assert world.word(server="0") is Word.UNKNOWN


async def test_proofs_take_turns_over_the_fleet(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        path = tmp_path / "m"
        (path / "blobs").mkdir(parents=True)
        (path / "manifests").mkdir()
        servers = [stack.enter_context(StandIn(path, slow_load=0.2)) for _ in range(3)]
        named = [instance(str(index), server.url) for index, server in enumerate(servers)]
        world = await stack.enter_async_context(fleet(path, *named))

        for index in range(3):
            await world.becomes(Word.PROVED, server=str(index))

        times = sorted((one.began, one.ended or 0.0) for each in servers for one in each.requests("/api/generate"))
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(times))


async def test_whoever_has_a_servers_turn_proves_in_it(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m", probing=probes(every=3600.0)) as (world, _):
        await world.becomes(Word.PROVED)
        async with world.fleet.turn("one"):
            world.fleet.restarted("one")
            await world.fleet.observe("one")

            assert (await world.fleet.prove("one", NAME, in_turn=True)).word is Word.PROVED


# Settings and Docker


async def test_servers_come_and_go_with_the_settings(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m") as (world, server):
        await world.becomes(Word.PROVED)
        with StandIn(tmp_path / "m") as other:
            world.put(instance("one", server.url), instance("two", other.url))
            await world.becomes(Word.PROVED, server="two")
            assert world.count(Level.PROOF) == 1  # the first one went on

            world.put(instance("two", other.url))
            await world.until(lambda: len(world.fleet.matrix()) == 1)
            server.forget()
            await world.looks("two", count=4)
            assert server.requests() == []


async def test_a_server_that_moved_is_another_one(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m") as (world, _):
        await world.becomes(Word.PROVED)
        with StandIn(tmp_path / "m", version="0.99.0") as other:
            world.put(instance("one", other.url))

            await world.until(lambda: world.row().version == "0.99.0")


async def test_what_docker_tells_of_is_watched_unless_the_settings_name_it(tmp_path: Path) -> None:
    async with one_server(tmp_path / "m") as (world, server):
        with StandIn(tmp_path / "m") as other:
            found = Instance(name="two", url=other.url, origin=Origin.DOCKER)
            same = Instance(name="again", url=server.url, origin=Origin.DOCKER)

            world.fleet.discovered([same, found])
            await world.becomes(Word.PROVED, server="two")
            assert [one.name for one in world.fleet.instances()] == ["one", "two"]

            world.fleet.discovered([])
            assert [one.name for one in world.fleet.instances()] == ["one"]
            await world.looks()


async def test_a_model_that_a_rollout_has_is_proved_when_the_rollout_asks(tmp_path: Path) -> None:
    held = {NAME}
    async with one_server(tmp_path / "m", models=(MISTRAL, LLAMA), held=lambda _, name: name in held) as (
        world,
        server,
    ):
        await world.becomes(Word.PROVED, LLAMA)
        await world.looks(count=3)
        assert world.word(MISTRAL) is Word.SERVED
        assert not server.requests("/api/generate", MISTRAL.name)

        assert (await world.fleet.prove("one", NAME, insist=True)).word is Word.PROVED
