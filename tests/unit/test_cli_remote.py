"""The command as a client of a daemon that is well, hostile, broken, hung, foreign or gone; on a real socket."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.cli import main, place, remote
from syncd.cli.remote_streams import LineSplitter, following
from syncd.errors import NotAuthorisedError
from tests.pull.world import ROOT, as_root
from tests.support import commands
from tests.support.scripted_daemon import ScriptedDaemon, info

HEX = "a" * 64
OTHER = "b" * 64
HOSTILE = "\x1b]0;owned\x07\u202e"
BLOB = {
    "digest": f"sha256:{HEX}",
    "media_type": "application/vnd.ollama.image.model",
    "size": 100,
    "state": "fetching",
    "done": 40,
    "fetched": 40,
}
UPDATE = {
    "event": "update",
    "name": "mistral:7b",
    "phase": "fetching",
    "digest": f"sha256:{OTHER}",
    "blobs": [BLOB],
    "retries": 0,
    "trouble": None,
}
ATTACHED = {"event": "attached", "job": "j1", "name": "mistral:7b", "asked_by": "root", "fresh": True}
ENDED = {
    "event": "ended",
    "reference": "mistral:7b",
    "outcome": {
        "event": "published",
        "name": "mistral:7b",
        "digest": f"sha256:{OTHER}",
        "size": 100,
        "blobs": 1,
        "fetched_blobs": 1,
        "fetched_bytes": 100,
        "found_bytes": 0,
        "moved_back": None,
        "seconds": 2.0,
    },
}
LISTING = {
    "store": "/srv",
    "models": [
        {"name": "mistral:7b", "digest": f"sha256:{HEX}", "size": 4_100_000_000, "modified": "2026-01-01T00:00:00Z"}
    ],
    "broken": [],
}
MODELS, PULL, VERIFY = "/syncd/v1/models", "/syncd/v1/pull", "/syncd/v1/verify"


def failed(message: str, code: int, *, hint: str | None = None) -> dict[str, Any]:
    return {"event": "error", "name": None, "message": message, "hint": hint, "exit_code": code}


class Command:
    """Runs commands in this process: their exit code, stdout, stderr."""

    def __init__(self, home: Path, read: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.store = home / "models"
        self.socket = home / "syncd.sock"
        self._read = read

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        code = main.run(arguments)
        told = self._read.readouterr()
        return code, told.out, told.err


@pytest.fixture
def syncd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    for name in ("SYNCD_CONFIG", "OLLAMA_MODELS", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    command = Command(tmp_path, capsys)
    settings = tmp_path / "syncd.toml"
    settings.write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SYNCD_CONFIG", str(settings))
    monkeypatch.setenv("SYNCD_STORE", str(command.store))
    monkeypatch.setenv("SYNCD_SOCKET", str(command.socket))
    return command


@pytest.fixture
def daemon(syncd: Command) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(syncd.socket, syncd.store) as running:
        yield running


# Whether there is a daemon, and whose.


def test_without_a_socket_the_command_does_the_work_itself(syncd: Command) -> None:
    assert syncd("init")[0] == 0
    assert syncd("list", "--json") == (0, f'{{"store":"{syncd.store}","models":[],"broken":[]}}\n', "")


def test_a_socket_that_a_dead_daemon_left_is_no_daemon(syncd: Command) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(syncd.socket))
    assert syncd("init")[0] == 0
    assert syncd("list")[0] == 0


def test_a_file_where_the_socket_should_be_is_no_daemon(syncd: Command) -> None:
    syncd.socket.write_text("")
    assert syncd("init")[0] == 0


def test_with_a_daemon_its_answer_is_shown(syncd: Command, daemon: ScriptedDaemon) -> None:
    daemon.says(MODELS, LISTING)

    code, shown, errors = syncd("list")

    assert (code, errors) == (0, "")
    assert shown.splitlines()[1].startswith("mistral:7b    aaaaaaaaaaaa    4.1 GB    ")
    assert not syncd.store.exists()


def test_a_daemon_of_another_store_than_the_one_asked_for_is_an_error(syncd: Command, daemon: ScriptedDaemon) -> None:
    code, shown, errors = syncd("list", "--store", str(syncd.home / "mine"))

    assert (code, shown) == (2, "")
    assert errors.startswith(f"error: {syncd.home}/mine (--store) is not the store of the daemon (pid 4711): that is ")
    assert "\nhint: " in errors
    assert len(daemon.asked) == 1


def test_the_same_store_by_another_path_is_the_same_store(syncd: Command, daemon: ScriptedDaemon) -> None:
    daemon.says(MODELS, LISTING)
    syncd.store.mkdir()
    (syncd.home / "link").symlink_to(syncd.store)
    assert syncd("list", "--store", str(syncd.home / "link"))[0] == 0


def test_who_asks_for_no_store_means_that_of_the_daemon(
    syncd: Command, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SYNCD_STORE")
    daemon.streams(PULL, ENDED)

    code, _, errors = syncd("pull", "mistral:7b")

    assert code == 0
    assert errors == f"store: {syncd.store}, through the daemon (pid 4711)\n"


@pytest.mark.usefixtures("daemon")
def test_a_store_is_not_made_anew_under_its_daemon(syncd: Command) -> None:
    code, _, errors = syncd("init")

    assert code == 8
    assert "belongs to the daemon with pid 4711\nhint: stop it first" in errors
    assert syncd("init", "--store", str(syncd.home / "other"))[0] == 0


def test_a_hung_daemon_is_an_error_and_not_worked_around(
    syncd: Command, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "GREETING_SECONDS", 0.3)
    daemon.hangs("/syncd/v1/daemon")
    began = time.monotonic()

    code, _, errors = syncd("list")

    assert code == 1
    assert "has not answered for 0.3 s" in errors
    assert time.monotonic() - began < 30


def test_a_daemon_that_accepts_nobody_is_an_error_too(syncd: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "GREETING_SECONDS", 0.3)
    with socket.socket(socket.AF_UNIX) as deaf, socket.socket(socket.AF_UNIX) as queued:
        deaf.bind(str(syncd.socket))
        deaf.listen(0)
        queued.connect(str(syncd.socket))
        code, _, errors = syncd("list")
    assert code == 1
    assert "has not answered for 0.3 s" in errors


def test_a_path_that_no_socket_can_have_is_the_settings_fault(syncd: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    long = syncd.home / ("x" * 120)
    long.touch()
    monkeypatch.setenv("SYNCD_SOCKET", str(long))
    assert syncd("list")[0] == 10


@as_root
@pytest.mark.parametrize("closed", ["socket", "folder"])
def test_a_socket_that_refuses_this_user_is_never_worked_around(open_path: Path, closed: str) -> None:
    folder = open_path / "run"
    folder.mkdir(mode=0o750 if closed == "folder" else 0o755)
    with ScriptedDaemon(folder / "syncd.sock", open_path / "models"):
        (folder / "syncd.sock").chmod(0o660)
        environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        environ |= {"SYNCD_SOCKET": str(folder / "syncd.sock"), "SYNCD_STORE": str(open_path / "models")}
        done = commands.completed("list", environ=environ, cwd=Path("/"), user="nobody")
    assert done.returncode == 4, done.stderr
    assert "this user may not speak to the daemon\nhint: " in done.stderr
    assert "group 'root'" in done.stderr or "owns its folder" in done.stderr
    assert not (open_path / "models").exists()


def test_a_listing_without_a_daemon_imports_no_client(syncd: Command) -> None:
    syncd("init")
    assert not {"aiohttp", "rich", "syncd.cli.remote", "syncd.cli.there"} & imported_by("list")


def test_a_listing_through_a_daemon_imports_no_aiohttp(daemon: ScriptedDaemon) -> None:
    daemon.says(MODELS, LISTING)
    imported = imported_by("list")
    assert "syncd.cli.remote" in imported
    assert not {"aiohttp", "rich"} & imported


def imported_by(command: str) -> set[str]:
    """The modules that this command needs, in a process of its own."""
    code = f"import sys, syncd.cli.main as main; main.run(['{command}']); print(*sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


# What it sends.


def garbage(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def half(connection: socket.socket) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"store":')


def headers_without_end(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000)


def nothing(_: socket.socket) -> None:
    pass


@pytest.mark.parametrize("script", [garbage, half, headers_without_end, nothing])
@pytest.mark.parametrize("target", ["/syncd/v1/daemon", MODELS])
def test_what_is_no_answer_is_an_error(
    syncd: Command, daemon: ScriptedDaemon, script: Callable[[socket.socket], None], target: str
) -> None:
    daemon.does(target, script)
    code, shown, errors = syncd("list")
    assert (code, shown) == (1, "")
    assert errors.startswith(f"error: the daemon at {syncd.socket} went away\nhint: ")


def test_a_body_without_end_is_cut(syncd: Command, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_BODY", 2**20)

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)

    daemon.does(MODELS, endless)
    assert syncd("list")[0] == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"store":1,"models":[],"broken":[]}',
        b'{"store":"\xff","models":[],"broken":[]}',
        json.dumps(LISTING | {"models": [LISTING["models"][0] | {"modified": "yesterday"}]}).encode(),  # type: ignore[index, operator]  # a literal above
    ],
)
def test_what_no_daemon_would_say_is_an_error(syncd: Command, daemon: ScriptedDaemon, body: bytes) -> None:
    daemon.says(MODELS, body)
    code, shown, errors = syncd("list")
    assert (code, shown) == (1, "")
    assert "does not speak as a syncd daemon does\nhint: " in errors


def test_another_server_on_the_socket_is_told_apart(syncd: Command, daemon: ScriptedDaemon) -> None:
    daemon.says("/syncd/v1/daemon", b"<html>not found</html>", status=404)
    code, _, errors = syncd("list")
    assert code == 1
    assert "answered /syncd/v1/daemon with HTTP status 404\nhint: is it the daemon of another version?" in errors


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 7, 8, 10])
def test_an_error_of_the_daemon_is_the_commands_own(syncd: Command, daemon: ScriptedDaemon, code: int) -> None:
    daemon.says("/syncd/v1/model?name=x:latest", failed("x:latest is so and so", code, hint="do this"), status=500)
    assert syncd("show", "x") == (code, "", "error: x:latest is so and so\nhint: do this\n")


def test_text_from_the_daemon_cannot_paint_the_terminal(syncd: Command, daemon: ScriptedDaemon) -> None:
    evil = {"name": HOSTILE, "digest": HOSTILE, "size": 1, "modified": "2026-01-01T00:00:00Z"}
    blob = {"media_type": HOSTILE, "digest": HOSTILE, "size": 1, "status": HOSTILE}
    daemon.says(MODELS, LISTING | {"models": [evil], "broken": [{"path": HOSTILE, "problem": HOSTILE}]})
    daemon.says(
        "/syncd/v1/model?name=x:latest", evil | {"config": blob, "layers": [blob], "texts": {"license": HOSTILE}}
    )
    daemon.streams(
        "/syncd/v1/collect",
        {"event": "collected", "dry_run": True, "freed_bytes": 1, "sizes": {HOSTILE: 1}}
        | {"blobs": [HOSTILE], "leftovers": [HOSTILE]},
    )
    daemon.streams(
        PULL,
        UPDATE | {"trouble": HOSTILE, "retries": 1},
        {"event": "failed", "state": "failed"} | {"error": failed(HOSTILE, 1, hint=HOSTILE)},
    )
    fault = {"event": "fault", "kind": HOSTILE, "models": [HOSTILE], "digest": None, "detail": HOSTILE}
    daemon.streams(VERIFY, fault, {"event": "verified", "models": 1, "blobs": 1, "size": 1, "faults": 1, "seconds": 1})

    for arguments in (["list"], ["show", "x"], ["gc", "--dry-run"], ["pull", "x"], ["verify"]):
        _, shown, errors = syncd(*arguments)
        assert "\\x1b" in shown + errors
        assert not {"\x1b", "\x07", "\u202e"} & set(shown + errors)


# Streams.


def test_a_pull_through_the_daemon_looks_like_any_other(syncd: Command, daemon: ScriptedDaemon) -> None:
    resolving = UPDATE | {"phase": "resolving", "blobs": [], "digest": None}
    daemon.streams(PULL, ATTACHED, resolving, UPDATE, UPDATE | {"phase": "publishing"}, ENDED)

    assert syncd("pull", "mistral:7b") == (
        0,
        f"mistral:7b: fetched 100 B for 1 of 1 blob, 2.0 s (50 B/s), published sha256:{OTHER}\n",
        "\n".join(
            (
                f"store: {syncd.store} (SYNCD_STORE), through the daemon (pid 4711)",
                "mistral:7b: asking for the manifest",
                "mistral:7b: fetching 100 B",
                "mistral:7b: publishing\n",
            )
        ),
    )
    assert daemon.asked[-1] == ("POST", PULL, {"name": "mistral:7b"})

    code, told, _ = syncd("pull", "--json", "mistral:7b")
    events = [json.loads(line) for line in told.splitlines()]
    assert (code, [event["event"] for event in events]) == (0, ["resolving", "progress", "publishing", "published"])
    assert events[1]["blobs"] == [BLOB]
    assert events[-1] == ENDED["outcome"]


def test_events_that_nobody_knows_yet_are_skipped(syncd: Command, daemon: ScriptedDaemon) -> None:
    daemon.streams(PULL, {"event": "tomorrow", "phase": 7}, b"\n", UPDATE | {"more": []}, ENDED)
    assert syncd("pull", "-q", "mistral:7b") == (0, "", "")


def test_lines_come_in_whatever_pieces(syncd: Command, daemon: ScriptedDaemon) -> None:
    whole = b"".join(json.dumps(line).encode() + b"\n" for line in (ATTACHED, UPDATE, ENDED))
    daemon.streams(PULL, *(whole[at : at + 7] for at in range(0, len(whole), 7)))
    assert syncd("pull", "-q", "mistral:7b") == (0, "", "")


@pytest.mark.parametrize("ends", [True, False])
def test_a_stream_that_breaks_off_says_that_the_daemon_went_away(
    syncd: Command, daemon: ScriptedDaemon, ends: bool
) -> None:
    daemon.streams(PULL, ATTACHED, UPDATE, b'{"event":"ended"', ends=ends)
    code, shown, errors = syncd("pull", "-q", "mistral:7b")
    assert (code, shown) == (1, "")
    assert errors.startswith(f"error: mistral:7b: the daemon at {syncd.socket} went away\nhint: it resumes the pull ")
    assert "'syncd status'" in errors


@pytest.mark.parametrize(
    "line",
    [
        b"{\n",
        b'{"event":7}\n',
        b"[" * 100_000 + b"\n",
        UPDATE | {"phase": "dancing"},
        UPDATE | {"name": "../../etc"},
        UPDATE | {"digest": "md5:1"},
        UPDATE | {"blobs": [BLOB | {"state": "eaten"}]},
        UPDATE | {"blobs": [BLOB | {"size": "1"}]},
        ENDED | {"reference": "a b"},
    ],
)
def test_a_line_that_no_daemon_would_say_is_an_error(syncd: Command, daemon: ScriptedDaemon, line: object) -> None:
    daemon.streams(PULL, line, ENDED)
    code, _, errors = syncd("pull", "-q", "mistral:7b")
    assert code == 1
    assert "does not speak as a syncd daemon does" in errors


@given(lines=st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=8), data=st.data())
def test_lines_are_the_same_wherever_the_network_cuts_them(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    splitter = LineSplitter(20)
    pieces = [whole[start:end] for start, end in pairwise([0, *cuts, len(whole)])]
    assert [line for piece in pieces for line in splitter.feed(piece)] == lines


async def test_a_queue_that_is_full_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "syncd.sock"
    whole = b"HTTP/1.1 200 OK\r\n\r\n"
    said, greeting = whole + b'{"event":"verified"}\n', whole + json.dumps(info(tmp_path)).encode()

    class Said(msgspec.Struct):
        event: str

    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(path))
        busy.listen(0)
        first.connect(str(path))

        def serve() -> None:
            time.sleep(0.3)
            asked = b""
            while VERIFY.encode() not in asked:
                connection, _ = busy.accept()
                with connection:
                    connection.settimeout(0.2)  # the one that fills the queue asks nothing
                    with suppress(TimeoutError):
                        asked = connection.recv(4096)
                        connection.sendall(said if VERIFY.encode() in asked else greeting)

        serving = asyncio.get_running_loop().run_in_executor(None, serve)
        async with following(path, VERIFY, Said("go"), {"verified": Said}) as lines:
            assert await anext(lines) == Said("verified")
        await serving


def test_a_line_without_end_is_cut() -> None:
    splitter = LineSplitter(100)
    assert splitter.feed(b"a\nb") == [b"a"]
    assert splitter.feed(b"c\n\n") == [b"bc", b""]
    assert splitter.feed(b"x" * 100) == []
    with pytest.raises(ValueError, match="more than 100 bytes"):
        splitter.feed(b"x")


def test_one_pull_after_another_and_the_first_failure_counts(syncd: Command, daemon: ScriptedDaemon) -> None:
    daemon.streams(PULL, {"event": "failed", "state": "failed", "error": failed("a:latest is not there", 3)})
    code, _, errors = syncd("pull", "a", "b", "-q")
    assert code == 3
    assert errors == "error: a:latest is not there\nerror: b:latest: a:latest is not there\n"
    assert [body["name"] for _, target, body in daemon.asked if target == PULL] == ["a:latest", "b:latest"]


def test_a_pull_that_is_refused_at_once_is_an_error_too(syncd: Command, daemon: ScriptedDaemon) -> None:
    daemon.says(PULL, failed("the daemon is stopping", 1, hint="wait"), status=503)
    assert syncd("pull", "x", "-q") == (1, "", "error: x:latest: the daemon is stopping\nhint: wait\n")


@pytest.mark.parametrize("option", [("--max-rate", "5 MB/s"), ("--connections", "2")])
def test_limits_are_the_daemons_own(syncd: Command, daemon: ScriptedDaemon, option: tuple[str, str]) -> None:
    code, _, errors = syncd("pull", "x", *option)
    assert code == 2
    assert option[0] in errors
    assert "[download] in the daemon's settings" in errors
    assert PULL not in {target for _, target, _ in daemon.asked}


def test_a_silent_stream_is_followed_as_long_as_the_daemon_is_there(
    syncd: Command, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.cli.remote_streams.SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(remote, "GREETING_SECONDS", 0.3)

    def silent(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while len([None for _, target, _ in daemon.asked if target == "/syncd/v1/daemon"]) < 4:
            time.sleep(0.01)
        daemon.hangs("/syncd/v1/daemon")
        daemon.wait()

    daemon.does(PULL, silent)
    code, _, errors = syncd("pull", "-q", "x")
    assert code == 1
    assert "has not answered for 0.3 s" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_stops_watching_and_is_told_how_to_stop_the_pull(
    syncd: Command, daemon: ScriptedDaemon, number: signal.Signals
) -> None:
    def follow(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        os.kill(os.getpid(), number)
        assert connection.recv(1) == b""  # it hangs up

    daemon.does(PULL, follow)
    code, shown, errors = syncd("pull", "-q", "mistral:7b")
    assert (code, shown) == (128 + number, "")
    assert errors == (
        "interrupted; the daemon goes on; 'syncd cancel mistral:7b' stops it, 'syncd pull mistral:7b' shows it again\n"
    )


def test_faults_that_the_daemon_finds_are_the_commands_own(syncd: Command, daemon: ScriptedDaemon) -> None:
    fault = {"event": "fault", "kind": "missing", "models": ["a:latest"], "digest": f"sha256:{HEX}", "detail": "gone"}
    sums = {"event": "verified", "models": 1, "blobs": 2, "size": 100, "faults": 1, "seconds": 0.5}
    progress = {"event": "progress", "done": 1, "size": 2, "blobs_done": 0, "blobs": 1}
    daemon.streams(VERIFY, progress, fault, sums)

    code, shown, errors = syncd("verify", "a")
    assert (code, shown) == (6, "a:latest: missing: gone\n")
    assert "error: 1 fault in 1 model, 2 blobs, 100 B\n" in errors
    assert daemon.asked[-1][2] == {"names": ["a:latest"]}

    code, told, _ = syncd("verify", "--json")
    assert [json.loads(line) for line in told.splitlines()][:2] == [fault, sums]
    assert daemon.asked[-1][2] == {"names": None}

    daemon.streams(VERIFY, progress, failed("a:latest is not here", 3))
    assert syncd("verify", "a")[0] == 3


# What takes away.


def test_removals_and_collections_look_like_any_other(syncd: Command, daemon: ScriptedDaemon) -> None:
    removed = {"event": "removed", "name": "a:latest", "dry_run": False, "published": True, "digest": f"sha256:{HEX}"}
    removed |= {"freed_bytes": 100, "freed": [f"sha256:{HEX}"], "shared": []}
    collected = {"event": "collected", "dry_run": True, "freed_bytes": 100, "blobs": [f"sha256:{HEX}"]}
    collected |= {"leftovers": [], "sizes": {f"sha256:{HEX}": 100}}
    daemon.says("/syncd/v1/remove", removed)
    daemon.streams("/syncd/v1/collect", collected)

    code, shown, errors = syncd("rm", "a")
    assert (code, shown) == (0, "a:latest removed, 100 B in 1 blob for 'syncd gc'\n")
    assert errors == f"store: {syncd.store} (SYNCD_STORE), through the daemon (pid 4711)\n"
    assert syncd("gc", "--dry-run") == (0, f"sha256:{HEX}  100 B\n100 B would be given back\n", "")
    assert daemon.asked[-1] == ("POST", "/syncd/v1/collect", {"dry_run": True, "without_servers": False})


def test_a_model_that_the_settings_want_is_not_removed(syncd: Command) -> None:
    syncd("init")
    (syncd.home / "syncd.toml").write_text('\n[[models]]\nname = "mistral:7b"\n')
    for arguments in (["rm", "Mistral:7b"], ["rm", "--dry-run", "mistral:7b"]):
        code, _, errors = syncd(*arguments)
        assert code == 8
        assert f"is wanted by the settings at {syncd.home}/syncd.toml:2" in errors


def test_what_the_settings_want_is_wanted_in_their_store_and_in_no_other(syncd: Command, tmp_path: Path) -> None:
    main, other = tmp_path / "main", tmp_path / "other"
    for store in (main, other):
        assert syncd("init", "--store", str(store))[0] == 0
    (syncd.home / "syncd.toml").write_text(f'store = "{main}"\n[[models]]\nname = "mistral:7b"\n')

    refused, _, _ = syncd("rm", "mistral:7b", "--store", str(main))
    not_there, _, errors = syncd("rm", "mistral:7b", "--store", str(other))
    _, shown, _ = syncd("status", "--store", str(other))

    assert (refused, not_there) == (8, 3)
    assert f"mistral:7b is not in the store at {other}" in errors
    assert "mistral:7b" not in shown


# What is looked up.


JOB = {
    "id": "j1",
    "kind": "pull",
    "name": "mistral:7b",
    "state": "running",
    "phase": "fetching",
    "asked_by": "root",
    "started": "2026-01-01T00:00:00Z",
    "ended": None,
    "size": 100,
    "done": 40,
    "error": None,
}


@pytest.mark.parametrize(
    ("what", "request_"),
    [
        ("j1", {"job": "j1", "name": None}),
        ("mistral:7b", {"job": "j1", "name": None}),
        ("Mistral:7b", {"job": None, "name": "Mistral:7b"}),
    ],
)
def test_a_pull_is_cancelled_by_job_or_by_name(
    syncd: Command, daemon: ScriptedDaemon, what: str, request_: dict[str, Any]
) -> None:
    daemon.says("/syncd/v1/jobs", {"jobs": [JOB]})
    daemon.says("/syncd/v1/cancel", {"cancelled": [JOB]})
    assert syncd("cancel", what) == (0, "mistral:7b: cancelled (job j1, asked for by root)\n", "")
    assert daemon.asked[-1] == ("POST", "/syncd/v1/cancel", request_)
    assert json.loads(syncd("cancel", "--json", what)[1]) == {"cancelled": [JOB]}


def test_what_is_not_pulled_cannot_be_cancelled(syncd: Command, daemon: ScriptedDaemon) -> None:
    daemon.says("/syncd/v1/jobs", {"jobs": [JOB | {"state": "done"}]})
    daemon.says("/syncd/v1/cancel", {"cancelled": []})
    code, _, errors = syncd("cancel", "mistral:7b")
    assert code == 3
    assert errors.startswith("error: mistral:7b is not being pulled\nhint: ")


def test_without_a_daemon_there_is_nothing_to_cancel(syncd: Command) -> None:
    code, _, errors = syncd("cancel", "mistral:7b")
    assert code == 3
    assert "no daemon runs" in errors


def test_what_is_neither_a_name_nor_a_job_cannot_be_cancelled_anywhere(syncd: Command, daemon: ScriptedDaemon) -> None:
    daemon.says("/syncd/v1/jobs", {"jobs": [JOB]})
    with_daemon = syncd("cancel", "bad name")
    daemon.path.unlink()

    assert syncd("cancel", "bad name") == with_daemon
    assert with_daemon[0] == 2


def test_where_nobody_may_look_is_no_way_around(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        assert place.control_socket([tmp_path / "none", tmp_path]) == tmp_path
        return
    (tmp_path / "run").mkdir(mode=0)
    with pytest.raises(NotAuthorisedError):
        place.control_socket([tmp_path / "run" / "syncd.sock"])
    (tmp_path / "run").chmod(stat.S_IRWXU)


@pytest.mark.usefixtures("daemon")
def test_the_greeting_tells_who_answers(syncd: Command) -> None:
    found = remote.greet(syncd.socket)
    assert found is not None
    assert found.pid == info(syncd.store)["pid"]
