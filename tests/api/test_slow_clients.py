"""Clients that are slow, silent or many hold up nobody else."""

import asyncio
import hashlib
import json
import socket
import struct
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from syncd.api.connections import Limits
from tests.api.world import World, daemon, over_tcp, over_unix
from tests.support.models import synthetic_model
from tests.support.registry import ScriptedRegistry
from tests.support.registry.scripted import ModelHandle

HASTY = Limits(connections=8, head=1.0, idle=1.5, body=1.0, unread=1.0, sweep_every=0.05)


async def hung_up(reader: asyncio.StreamReader, *, seconds: float = 30.0) -> bytes:
    """What came until the other side hung up."""
    try:
        return await asyncio.wait_for(reader.read(), seconds)
    except ConnectionResetError:
        return b""


async def answers_at_once(world: World) -> None:
    started = time.monotonic()
    async with over_tcp(world) as client, client.get("/api/version") as response:
        assert response.status == 200
    assert time.monotonic() - started < 10


async def test_a_head_that_never_ends_is_hung_up_on(tmp_path: Path) -> None:
    async with daemon(tmp_path, limits=HASTY) as world:
        reader, writer = await asyncio.open_connection(*world.address.split(":"))
        started = time.monotonic()
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")

        async def trickle() -> None:
            while True:
                writer.write(b"X: y\r\n")
                await asyncio.sleep(0.05)

        trickling = asyncio.ensure_future(trickle())
        await answers_at_once(world)
        assert await hung_up(reader) == b""
        assert 0.9 < time.monotonic() - started < 20
        trickling.cancel()
        writer.close()


async def test_a_connection_that_says_nothing_is_hung_up_on(tmp_path: Path) -> None:
    async with daemon(tmp_path, limits=HASTY) as world:
        reader, writer = await asyncio.open_unix_connection(world.socket)
        assert await hung_up(reader) == b""
        writer.close()


async def test_a_connection_is_kept_for_the_next_request_for_a_while(tmp_path: Path) -> None:
    async with daemon(tmp_path, limits=HASTY) as world:
        reader, writer = await asyncio.open_unix_connection(world.socket)
        for _ in range(2):
            writer.write(b"GET /api/ps HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"}")
        started = time.monotonic()
        assert await hung_up(reader) == b""
        assert 1.4 < time.monotonic() - started < 20
        writer.close()


async def test_a_body_that_never_comes_is_answered_and_hung_up_on(tmp_path: Path) -> None:
    async with daemon(tmp_path, limits=HASTY) as world:
        reader, writer = await asyncio.open_unix_connection(world.socket)
        writer.write(
            b"POST /api/pull HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{"
        )
        await answers_at_once(world)
        answer = await hung_up(reader)
        assert answer.split()[1] == b"408"
        writer.close()


async def test_a_crowd_of_silent_connections_keeps_nobody_out(tmp_path: Path) -> None:
    patient = Limits(connections=8, head=30, sweep_every=0.05)
    async with daemon(tmp_path, limits=patient) as world:
        crowd = [await asyncio.open_connection(*world.address.split(":")) for _ in range(30)]
        for _ in range(3):
            await answers_at_once(world)
        ends = await asyncio.gather(*(asyncio.wait_for(hung_up(reader), 30) for reader, _ in crowd[:20]))
        assert ends == [b""] * 20
        for _, writer in crowd:
            writer.close()


async def test_a_reader_that_takes_nothing_is_dropped_and_its_pull_goes_on(
    tmp_path: Path, registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = registry.add(synthetic_model())
    registry.throttle(8 << 20)
    # Moments of the size that a model of thousands of blobs has.
    monkeypatch.setattr("syncd.api.pull_lines._blob_line", lambda digest, *_: digest.encode() * 20_000 + b"\n")
    monkeypatch.setattr("syncd.api.streams.PAUSE", 0.0)
    async with daemon(tmp_path, limits=HASTY) as world:
        silent = socket.socket(socket.AF_UNIX)
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.setblocking(False)  # noqa: FBT003 - the socket's own signature
        await asyncio.get_running_loop().sock_connect(silent, str(world.socket))
        body = json.dumps({"model": model.name}).encode()
        head = f"POST /api/pull HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        await asyncio.get_running_loop().sock_sendall(silent, head.encode() + b"\r\n\r\n" + body)
        await answers_at_once(world)
        async with (
            over_unix(world) as client,
            client.post("/api/pull", json={"model": model.name, "stream": False}) as r,
        ):
            assert await r.json() == {"status": "success"}
        rest = b""
        with pytest.raises((ConnectionResetError, EOFError)):  # noqa: PT012 - it is read to its end
            while True:
                piece = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(silent, 65536), 30)
                rest = (rest + piece)[-100:]
                if not piece:
                    raise EOFError
        silent.close()
    assert b"success" not in rest


async def test_clients_that_vanish_in_mid_stream_do_not_stop_the_pull(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    model = registry.add(synthetic_model(weights_bytes=24 << 20))
    registry.throttle(16 << 20)
    with capture_logs() as logs:
        await vanish_three_times(tmp_path, model)
    assert registry.bytes_served(model.weights) == model.weights_size
    assert [one["status"] for one in logs if one["event"] == "http.request"] == [499, 499, 499, 200]
    assert {one["log_level"] for one in logs} == {"info"}


async def vanish_three_times(tmp_path: Path, model: ModelHandle) -> None:
    async with daemon(tmp_path) as world:
        for _ in range(3):
            async with over_unix(world) as client, client.post("/syncd/v1/pull", json={"name": model.name}) as response:
                assert json.loads(await response.content.readline())["event"] == "attached"
        async with (
            over_unix(world) as client,
            client.post("/api/pull", json={"model": model.name, "stream": False}) as r,
        ):
            assert await r.json() == {"status": "success"}
        jobs = world.service.board.jobs()
    assert len(jobs) == 1


def plant_a_hostile_header(folder: Path, texts: int) -> None:
    """A model whose GGUF header holds so many texts of a megabyte that JSON makes six of."""

    def text(content: bytes) -> bytes:
        return struct.pack("<Q", len(content)) + content

    fields = text(b"general.texts") + struct.pack("<IIQ", 9, 8, texts) + text(bytes(1 << 20)) * texts
    weights = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + fields
    hexes = hashlib.sha256(weights).hexdigest()
    (folder / "models/blobs" / f"sha256-{hexes}").write_bytes(weights)
    blob = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{hexes}", "size": len(weights)}
    tag = folder / "models/manifests/registry.ollama.ai/library/hostile/latest"
    tag.parent.mkdir(parents=True)
    tag.write_text(json.dumps({"schemaVersion": 2, "config": blob, "layers": [blob]}))


ASKED = b'{"model":"hostile","verbose":true}'
SHOW = (
    b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(ASKED)
) + ASKED


async def test_large_answers_that_nobody_reads_are_few_and_not_for_long(tmp_path: Path) -> None:
    async with daemon(tmp_path, limits=Limits(unread=3.0)) as world:
        plant_a_hostile_header(tmp_path, 1)
        crowd = []
        for _ in range(20):
            reader, writer = await asyncio.open_unix_connection(world.socket)
            writer.write(SHOW)
            crowd.append((reader, writer))
        statuses = [(await asyncio.wait_for(reader.readline(), 30)).split()[1] for reader, _ in crowd]
        await answers_at_once(world)
        assert sorted(statuses) == [b"200"] * 8 + [b"503"] * 12
        await asyncio.sleep(3)
        for (reader, _), code in zip(crowd, statuses, strict=True):
            if code == b"200":  # it is cut short
                assert len(await hung_up(reader)) < 6 << 20
        async with over_tcp(world) as client, client.post("/api/show", json=json.loads(ASKED)) as response:
            assert len((await response.json())["model_info"]["general.texts"]) == 1
        for _, writer in crowd:
            writer.close()


async def test_an_answer_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    async with daemon(tmp_path) as world, over_tcp(world) as client:
        plant_a_hostile_header(tmp_path, 7)
        async with client.post("/api/show", json=json.loads(ASKED)) as verbose:
            assert (verbose.status, "without verbose" in await verbose.text()) == (500, True)
        async with client.post("/api/show", json={"model": "hostile"}) as plain:
            assert plain.status == 200
