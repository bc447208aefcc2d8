"""Who is let in, and what is said to those who are not."""

import asyncio
import io
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from syncd.api.listeners import TcpDoor
from syncd.errors import ConfigurationError
from tests.api.world import World, daemon, loopback, over_tcp, over_unix


async def status(world: World, method: str = "GET", path: str = "/api/tags", **headers: str) -> int:
    async with over_tcp(world) as client:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with client.request(method, path, headers=named) as response:
            return response.status


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:11500",
        "127.0.0.1.evil.example",
        "",
        ".",
        "10.0.0.1",
        "a b",
        "localhost:80@evil.example",
        "localhost@evil.example",
        "localhost:evil.example",
        "localhost,evil.example",
        "localhost..",
        "[::1]evil.example",
        "[::1]:1@evil.example",
        "[::1",
        "[localhost]",
        "::1",
        "2130706433",
        "0.0.0.0",  # noqa: S104 - a name that pages use for this host
    ],
)
async def test_a_rebound_name_is_refused(tmp_path: Path, host: str) -> None:
    async with daemon(tmp_path) as world:
        assert await status(world, Host=host) == 403


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:11500", "127.8.8.8", "gpu-host.lan:1"]
)
async def test_names_of_this_host_are_let_in(tmp_path: Path, host: str) -> None:
    async with daemon(tmp_path, door=loopback(allowed_hosts=("gpu-host.lan",))) as world:
        assert await status(world, Host=host) == 200


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (b"http://evil.example/api/ps", b"403"),
        (b"http://localhost@evil.example/api/ps", b"403"),
        (b"http://localhost:1/api/ps", b"200"),
        (b"http://[::1]/api/ps", b"200"),
        (b"/api/ps", b"200"),
        (b"/syncd%2fv1/status", b"403"),
        (b"/%73yncd/v1/status", b"403"),
        (b"http://localhost/syncd/v1/status", b"403"),
        (b"//syncd/v1/status", b"404"),
        (b"/api/../syncd/v1/status", b"404"),
    ],
)
async def test_a_target_is_no_way_around_the_host_header(tmp_path: Path, target: bytes, code: bytes) -> None:
    async with daemon(tmp_path) as world:
        reader, writer = await asyncio.open_connection(*world.address.split(":"))
        writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
    assert answer.split()[1] == code


@pytest.mark.parametrize("path", ["/syncd/v1/events", "/api/tags", "/"])
async def test_who_asks_for_a_head_gets_one_and_no_stream(tmp_path: Path, path: str) -> None:
    async with daemon(tmp_path) as world:
        reader, writer = await asyncio.open_unix_connection(world.socket)
        writer.write(f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
    assert answer.split()[1] == b"200"
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "http://[", ""])
async def test_a_foreign_page_is_refused(tmp_path: Path, origin: str) -> None:
    async with daemon(tmp_path) as world:
        assert await status(world, Origin=origin) == 403


async def test_a_page_is_refused_on_the_control_socket_too(tmp_path: Path) -> None:
    async with daemon(tmp_path) as world, over_unix(world) as client:
        async with client.get("/api/tags", headers={"Origin": "http://syncd"}) as page:
            assert page.status == 403
        async with client.get("/api/tags", headers={"Host": "whatever.example"}) as other:
            assert other.status == 200


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""])
async def test_what_a_form_can_send_is_refused(tmp_path: Path, content_type: str) -> None:
    async with daemon(tmp_path) as world, over_tcp(world) as client:
        async with client.post("/api/pull", data=b'{"model":"x"}', headers={"Content-Type": content_type}) as response:
            assert response.status == 415
        assert world.service.asked == []


async def test_json_with_a_charset_is_let_in(tmp_path: Path) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    async with (
        daemon(tmp_path) as world,
        over_tcp(world) as client,
        client.post("/api/show", data=b'{"model":"x"}', headers=headers) as response,
    ):
        assert response.status == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"  ", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"model":1}', 400),
        (b'{"model":"x","model":"y"}', 400),
        (b'{"model":' + b"[" * 50_000, 400),
        (b'{"model":"\xff"}', 400),
        (b'{"model":"x","unknown":{"deep":[1,2]}}', 404),
        (b'{"model":"x","verbose":null}', 404),
        (b" " * (1024 * 1024 + 1), 413),
    ],
)
async def test_bodies_are_read_strictly(tmp_path: Path, body: bytes, code: int) -> None:
    async def in_pieces() -> Any:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    headers = {"Content-Type": "application/json"}
    async with daemon(tmp_path) as world, over_tcp(world) as client:
        async with client.post("/api/show", data=io.BytesIO(body), headers=headers) as at_once:
            assert at_once.status == code
        async with client.post("/api/show", data=in_pieces(), headers=headers) as chunked:
            assert chunked.status == code


async def test_a_packed_body_is_not_unpacked(tmp_path: Path) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with (
        daemon(tmp_path) as world,
        over_tcp(world) as client,
        client.post("/api/show", data=b"\x1f\x8b", headers=headers) as response,
    ):
        assert response.status == 415


@pytest.mark.parametrize(
    ("given", "code"),
    [("Bearer canary", 200), ("bearer canary", 200), ("Bearer canar", 401), ("Basic canary", 401), ("canary", 401)],
)
async def test_a_token_opens_tcp(tmp_path: Path, given: str, code: int) -> None:
    async with (
        daemon(tmp_path, door=loopback("canary")) as world,
        over_tcp(world, Authorization=given) as client,
        client.get("/syncd/v1/status") as response,
    ):
        assert response.status == code
        assert response.headers.get("WWW-Authenticate") == ("Bearer" if code == 401 else None)


async def test_without_a_token_tcp_speaks_ollamas_part_only(tmp_path: Path) -> None:
    async with daemon(tmp_path) as world:
        assert await status(world, path="/syncd/v1/status") == 403
        assert await status(world, path="/api/tags") == 200


async def test_a_door_for_strangers_without_a_token_does_not_open(tmp_path: Path) -> None:
    async with daemon(tmp_path) as world:
        for host in ("0.0.0.0", "::", "gpu-host.lan", "192.0.2.1"):  # noqa: S104 - it is refused
            with pytest.raises(ConfigurationError, match="no token"):
                await world.listeners.listen(TcpDoor(host, 0))
        with pytest.raises(ConfigurationError, match="no token"):
            await world.listeners.listen(TcpDoor("127.0.0.1", 0, token=" "))
        assert await status(world) == 200  # the old one stays


async def test_errors_tell_strangers_of_no_path(tmp_path: Path) -> None:
    (tmp_path / "models/manifests/registry.ollama.ai/library/broken").mkdir(parents=True)
    broken = tmp_path / "models/manifests/registry.ollama.ai/library/broken/latest"
    broken.write_text("{")
    async with daemon(tmp_path, door=loopback("canary")) as world:
        async with over_tcp(world, Authorization="Bearer canary") as client:
            async with client.post("/api/show", json={"model": "broken"}) as shown:
                over_the_net = await shown.text()
            async with client.get("/syncd/v1/model?name=missing") as missing:
                of_ours = await missing.text()
        async with over_unix(world) as client, client.get("/syncd/v1/model?name=missing") as missing:
            locally = await missing.json()

    assert shown.status == 500
    assert str(tmp_path) not in over_the_net + of_ours
    assert str(tmp_path) in locally["message"]
    assert locally["exit_code"] == 3
    assert locally["event"] == "error"


async def test_what_is_not_there_answers_in_the_shape_of_its_half(tmp_path: Path) -> None:
    async with daemon(tmp_path) as world, over_unix(world) as client:
        async with client.get("/api/nothing") as ollamas:
            assert (ollamas.status, list(await ollamas.json())) == (404, ["error"])
        async with client.get("/syncd/v1/nothing") as ours:
            assert (ours.status, (await ours.json())["exit_code"]) == (404, 3)
        async with client.get("/api/pull") as wrong:
            assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
        async with client.post("/api/chat", data=b"anything") as chat:
            assert (chat.status, "does not run" in (await chat.json())["error"]) == (501, True)


async def test_a_bug_ends_its_request_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with daemon(tmp_path) as world, over_unix(world) as client:
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(world.service, "status", lambda: 1 / 0)
            async with client.get("/syncd/v1/status") as response:
                assert response.status == 500
                assert "division" not in await response.text()
        async with client.get("/syncd/v1/status") as again:
            assert again.status == 200
    assert [one["event"] for one in logs if one["log_level"] == "error"] == ["http.crashed"]


async def test_who_calls_is_logged_and_no_secret_is(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with daemon(tmp_path, door=loopback("canary")) as world:
            async with over_unix(world) as client, client.get("/api/tags?key=canary") as response:
                assert response.status == 200
            await status(world, Authorization="Bearer canary")
            await status(world, path="/\x1b[31m%0a", Authorization="Bearer wrong-canary")

    events = [one for one in logs if one["event"] == "http.request"]
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert {key: events[0][key] for key in ("method", "path", "status", "uid", "pid", "user")} == {
        "method": "GET",
        "path": "/api/tags",
        "status": 200,
        "uid": os.geteuid(),
        "pid": os.getpid(),
        "user": user,
    }
    assert [(one["status"], one["peer"]) for one in events[1:]] == [(200, "127.0.0.1"), (401, "127.0.0.1")]
    assert "canary" not in repr(logs)
    assert all(one["path"].isprintable() for one in events)


@pytest.mark.parametrize("head", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
async def test_what_is_no_http_is_answered_and_logged_without_its_bytes(tmp_path: Path, head: bytes) -> None:
    with capture_logs() as logs:
        async with daemon(tmp_path) as world:
            reader, writer = await asyncio.open_unix_connection(world.socket)
            writer.write(head)
            answer = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.")
    assert answer.split()[1] == b"400"
    assert {one["log_level"] for one in logs} == {"info"}
    assert "nonsense" not in repr(logs)


@pytest.mark.parametrize(
    "head",
    [b"GET /" + b"a" * 20_000, b"GET / HTTP/1.1\r\nA: " + b"a" * 20_000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200],
)
async def test_a_head_that_is_too_large_is_refused(tmp_path: Path, head: bytes) -> None:
    async with daemon(tmp_path) as world:
        reader, writer = await asyncio.open_unix_connection(world.socket)
        writer.write(head + b"\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        await writer.wait_closed()
    assert answer.split()[1] == b"400"


ODD = {
    "an upgrade": b"GET /api/ps HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "an expectation": b"POST /api/show HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\nContent-Length: 0\r\n\r\n",
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a trace": b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a whole URL": b"GET http://evil.example/api/ps HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": b"POST /api/show HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST /api/show HTTP/1.1\r\nHost: x\r\n"
    b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
    "a broken chunk": b"POST /api/show HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a path upwards": b"GET /syncd/v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "a folded head": b"GET /api/ps HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "the first HTTP": b"GET /api/ps HTTP/1.0\r\n\r\n",
    "no host": b"GET /api/ps HTTP/1.1\r\n\r\n",
    "many at once": b"GET /api/ps HTTP/1.1\r\nHost: x\r\n\r\n" * 200,
}


@pytest.mark.parametrize("what", ODD)
async def test_odd_requests_are_answered_without_a_crash(tmp_path: Path, what: str) -> None:
    with capture_logs() as logs:
        async with daemon(tmp_path) as world:
            reader, writer = await asyncio.open_unix_connection(world.socket)
            writer.write(ODD[what])
            answer = await asyncio.wait_for(reader.readline(), 30)
            async with over_unix(world) as client, client.get("/api/version") as response:
                assert response.status == 200
            writer.close()
            await writer.wait_closed()
    assert answer.split()[1] in {b"200", b"400", b"404", b"405", b"417"}
    assert [one for one in logs if one["log_level"] not in {"info", "debug"}] == []
