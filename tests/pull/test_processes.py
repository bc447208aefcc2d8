"""Many processes at one store, and more than one user: who downloads, who waits, who takes over, who is refused."""

import contextlib
import json
import os
import pwd
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from syncd.download.journal import Journal
from syncd.jobs.blobs import PullBlobs
from syncd.oci.chunks import CHUNK_SIZE, ChunkMap
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.root import Store
from tests.pull.world import ActingAfter, as_root, blob_file, command, pulled
from tests.support import commands
from tests.support.models import build_model, synthetic_model
from tests.support.oracle import assert_store_whole, snapshot
from tests.support.registry import ModelHandle, ScriptedRegistry
from tests.support.registry.answers import Request

MIB = 1 << 20
MANY = 8
CONNECTIONS = 3


@dataclass
class Puller:
    """A ``syncd pull --json`` that runs."""

    process: commands.Process
    told: Path

    def events(self) -> list[dict[str, Any]]:
        """What it has said so far."""
        return [json.loads(line) for line in self.told.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def blob(self, digest: str) -> list[tuple[str, int]]:
        """State and bytes of a blob, as it showed them one after another."""
        return [
            (blob["state"], blob["done"])
            for event in self.events()
            if event["event"] == "progress"
            for blob in event["blobs"]
            if blob["digest"] == digest
        ]

    def ended(self) -> dict[str, Any]:
        """Its last event."""
        assert self.process.wait(60) is not None
        return self.events()[-1]


@pytest.fixture
def pullers(store_path: Path, tmp_path: Path) -> Iterator[Callable[[str], Puller]]:
    """Starts pulls, each in a process of its own."""
    with contextlib.ExitStack() as stack:
        started: list[Puller] = []

        def start(name: str) -> Puller:
            told = tmp_path / f"told-{len(started)}"
            arguments = ["pull", "--json", "--connections", str(CONNECTIONS), "--store", str(store_path), name]
            with told.open("wb") as out, told.with_suffix(".err").open("wb") as err:
                process = commands.Process.start(
                    *arguments,
                    environ={
                        "PATH": os.environ["PATH"],
                        "HOME": str(tmp_path),
                        "SYNCD_SOCKET": str(tmp_path / "syncd.sock"),
                    },
                    streams=(None, out.fileno(), err.fileno()),
                    cwd=tmp_path,
                )
            stack.callback(end, process)
            started.append(Puller(process, told))
            return started[-1]

        yield start


def end(process: commands.Process) -> None:
    process.kill()
    process.wait()


def wait_until(condition: Callable[[], object], *, seconds: float = 80.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.02)


def start_of(request: Request) -> int:
    return int((request.range or "bytes=0-").removeprefix("bytes=").partition("-")[0])


@dataclass
class Gates:
    """Hold up a blob's chunks: none comes before ``first`` is opened, none past ``half`` before that is."""

    registry: ScriptedRegistry
    digest: str
    half: int

    def __post_init__(self) -> None:
        self.first = self.registry.stall(MIB, digest=self.digest, where=lambda it: start_of(it) < self.half)
        self.second = self.registry.stall(MIB, digest=self.digest, where=lambda it: start_of(it) >= self.half)


@pytest.fixture
def large(registry: ScriptedRegistry) -> ModelHandle:
    """A model of six chunks."""
    return registry.add(synthetic_model(weights_bytes=6 * CHUNK_SIZE))


def split(pullers: list[Puller], digest: str, *, done: int = 0) -> tuple[Puller, list[Puller]]:
    """The one who fetches, and those who wait for it, once these all show ``done`` bytes of its."""

    def fetches(puller: Puller) -> bool:
        return any(state == "fetching" for state, _ in puller.blob(digest))

    def waits(puller: Puller) -> bool:
        return any(state == "waiting" and count >= done for state, count in puller.blob(digest))

    wait_until(lambda: sorted((fetches(one), waits(one)) for one in pullers)[-2:] == [(False, True), (True, False)])
    wait_until(lambda: sum(map(waits, pullers)) == len(pullers) - 1)
    (fetching,) = filter(fetches, pullers)
    return fetching, [one for one in pullers if one is not fetching]


def test_of_eight_processes_one_downloads_and_seven_show_its_progress(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path, pullers: Callable[[str], Puller]
) -> None:
    gates = Gates(registry, large.weights, half=3 * CHUNK_SIZE)
    everyone = [pullers(large.name) for _ in range(MANY)]
    split(everyone, large.weights)
    gates.first.lift()
    downloading, waiting = split(everyone, large.weights, done=3 * CHUNK_SIZE)
    gates.second.lift()

    ended = [one.ended() for one in everyone]

    assert {event["digest"] for event in ended} == {large.digest}
    assert [event["event"] for event in ended].count("published") == 1
    assert downloading.ended()["event"] == "published"
    for one in waiting:
        shown = [done for _, done in one.blob(large.weights)]
        assert shown == sorted(shown)
        assert len(set(shown)) > 1
        assert one.ended()["fetched_bytes"] == 0
    assert {one.process.returncode for one in everyone} == {0}
    assert registry.bytes_served() == large.size
    assert assert_store_whole(store_path) == {large.name: large.digest}


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGKILL, MANY), (signal.SIGTERM, 3)])
def test_when_the_one_who_downloads_is_ended_another_takes_over_from_its_journal(
    number: signal.Signals,
    processes: int,
    registry: ScriptedRegistry,
    large: ModelHandle,
    store_path: Path,
    pullers: Callable[[str], Puller],
) -> None:
    half = 3 * CHUNK_SIZE
    gates = Gates(registry, large.weights, half=half)
    gates.first.lift()
    everyone = [pullers(large.name) for _ in range(processes)]
    downloading, waiting = split(everyone, large.weights, done=half)
    before = registry.bytes_served(large.weights)
    asked = len(registry.requests_for(large.weights))

    downloading.process.send_signal(number)
    gates.second.lift()

    ended = [one.ended() for one in waiting]
    assert {event["digest"] for event in ended} == {large.digest}
    assert {one.process.returncode for one in waiting} == {0}
    assert downloading.process.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
    assert assert_store_whole(store_path) == {large.name: large.digest}
    assert before >= half
    # What was in no whole chunk yet is fetched again, and nothing else.
    assert all(start_of(request) >= half for request in registry.requests_for(large.weights)[asked:])
    assert registry.bytes_served(large.weights) <= large.weights_size + CONNECTIONS * CHUNK_SIZE


def test_two_processes_fetch_a_blob_that_their_models_share_once(
    registry: ScriptedRegistry, store_path: Path, pullers: Callable[[str], Puller]
) -> None:
    one, other = (registry.add(synthetic_model(name, weights_bytes=3 * CHUNK_SIZE)) for name in ("one:a", "other:b"))
    gates = Gates(registry, one.weights, half=CHUNK_SIZE)
    both = [pullers(model.name) for model in (one, other)]
    split(both, one.weights)
    gates.first.lift()
    gates.second.lift()

    assert [puller.ended()["event"] for puller in both] == ["published", "published"]

    assert registry.bytes_served(one.weights) == one.weights_size
    assert assert_store_whole(store_path) == {one.name: one.digest, other.name: other.digest}


async def test_a_blob_that_comes_just_when_somebody_looks_is_not_shown_as_begun_anew(store_path: Path) -> None:
    model = synthetic_model(weights_bytes=CHUNK_SIZE + 1000)
    content = model.blobs[model.weights].read(0, model.weights_size)
    hashes = tuple(blake3(part).digest() for part in (content[:CHUNK_SIZE], content[CHUNK_SIZE:]))
    manifest = Manifest.parse(model.manifest)
    blob = next(one for one in manifest.blobs if str(one.digest) == model.weights)
    with Store.open(store_path, create=True) as store, store.blobs.partials.stage(blob) as partial:
        partial.write((content,), 0)
        journal = Journal(partial.open_journal(), blob)
        journal.read()
        journal.claim(0, hashes[0])
        journal.close()
        waiting = PullBlobs(ModelName.parse(model.name), store, None, 0)
        waiting.expect(manifest)
        waiting.tracks = {blob.digest: waiting.tracks[blob.digest]}
        commits = iter([store.blobs.commit])

        def come() -> None:
            for commit in commits:
                commit(partial, ChunkMap(blob.size, hashes))

        watched: Any = ActingAfter(store.blobs, "status", come)
        watched.partials = ActingAfter(store.blobs.partials, "read_journal", come)
        store.blobs = watched
        await waiting.look()

    assert waiting.tracks[blob.digest].done >= CHUNK_SIZE


# Users. One owns the store; root becomes that one; all others are told.


def owners(path: Path) -> set[str]:
    return {pwd.getpwuid(one.lstat().st_uid).pw_name for one in (path, *path.rglob("*"))}


def everything(path: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, owner and size of all that lies in a folder."""
    found = {}
    for one in path.rglob("*"):
        status = one.lstat()
        found[str(one)] = (status.st_mode, status.st_uid, 0 if stat.S_ISDIR(status.st_mode) else status.st_size)
    return found


@as_root
@pytest.mark.parametrize("arguments", [["pull"], ["rm"], ["verify"], ["init"]])
async def test_a_second_user_is_refused_and_the_store_stays_as_it_was(
    arguments: list[str], registry: ScriptedRegistry, open_path: Path
) -> None:
    store, model = open_path / "models", registry.add(build_model("mistral:7b"))
    await pulled(model.name, store)
    registry.forget_requests()
    before = everything(open_path)
    names = [] if arguments == ["init"] else [model.name]

    refused = command(*arguments, "--store", str(store), *names, user="nobody")

    assert refused.returncode == 4
    assert "belongs to root" in refused.stderr
    assert "hint: " in refused.stderr
    assert everything(open_path) == before
    assert registry.requests == ()


@as_root
def test_a_second_user_cannot_take_over_a_folder_that_another_users_ollama_made(
    registry: ScriptedRegistry, open_path: Path
) -> None:
    store, model = open_path / "models", registry.add(build_model("mistral:7b"))
    for name in ("blobs", "manifests"):
        (store / name).mkdir(parents=True)
    before = everything(open_path)

    refused = command("pull", "--store", str(store), model.name, user="nobody")

    assert refused.returncode == 4
    assert everything(open_path) == before


@as_root
def test_root_becomes_the_user_whose_ollama_made_the_folder(registry: ScriptedRegistry, open_path: Path) -> None:
    store, model = open_path / "models", registry.add(build_model("mistral:7b"))
    nobody = pwd.getpwnam("nobody")
    (store / "blobs").mkdir(parents=True)
    (store / "manifests").mkdir()
    there = store / "blobs" / blob_file(model.weights)
    there.write_bytes(model.blobs[model.weights].read(0, model.weights_size))
    for path in (store, *store.rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)

    done = command("pull", "--store", str(store), model.name)

    assert done.returncode == 0, done.stderr
    assert "as nobody" in done.stderr
    assert owners(store) == {"nobody"}
    assert registry.requests_for(model.weights) == []
    assert assert_store_whole(store) == {model.name: model.digest}


@as_root
async def test_init_hands_a_store_over_and_from_then_on_the_new_owner_pulls(
    registry: ScriptedRegistry, open_path: Path
) -> None:
    store = open_path / "models"
    one, other = (registry.add(build_model(name)) for name in ("mistral:7b", "codellama:7b"))
    await pulled(one.name, store)
    before = snapshot(store)

    handed = command("init", "--owner", "nobody", "--store", str(store))

    assert handed.returncode == 0, handed.stderr
    assert owners(store) == {"nobody"}
    assert snapshot(store) == before
    registry.forget_requests()
    done = command("pull", "--store", str(store), other.name, user="nobody")
    assert done.returncode == 0, done.stderr
    assert not any(registry.requests_for(digest) for digest in set(one.blobs) & set(other.blobs))
    assert owners(store) == {"nobody"}
    assert assert_store_whole(store) == {one.name: one.digest, other.name: other.digest}


@as_root
def test_only_root_can_give_a_store_away(open_path: Path) -> None:
    mine = open_path / "mine"
    mine.mkdir()
    os.chown(mine, *pwd.getpwnam("nobody")[2:4])

    refused = command("init", "--owner", "daemon", "--store", str(mine), user="nobody")

    assert refused.returncode == 4
    assert "sudo" in refused.stderr
    assert list(mine.iterdir()) == []


@as_root
def test_the_hint_where_no_store_is_yet_is_the_command_that_makes_one_for_the_folders_owner(open_path: Path) -> None:
    theirs = open_path / "theirs"  # as systemd-tmpfiles makes it
    theirs.mkdir()
    os.chown(theirs, *pwd.getpwnam("nobody")[2:4])

    told = command("status", "--store", str(theirs))
    hint = re.search(r"'syncd (init[^']*)'", told.stderr)
    assert hint, told.stderr
    made = command(*hint[1].split(), "--store", str(theirs))

    assert (told.returncode, made.returncode) == (3, 0), made.stderr
    assert owners(theirs) == {"nobody"}
    assert command("status", "--store", str(theirs), user="nobody").returncode == 0


@as_root
def test_root_is_told_how_to_make_a_store_in_a_folder_of_another_user(open_path: Path) -> None:
    theirs = open_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, *pwd.getpwnam("nobody")[2:4])

    refused = command("init", "--store", str(theirs))

    assert (refused.returncode, list(theirs.iterdir())) == (4, [])
    assert "'syncd init --owner nobody'" in refused.stderr
    assert "sudo" not in refused.stderr


@as_root
def test_a_folder_that_nobody_may_write_to_is_not_authorised(registry: ScriptedRegistry, open_path: Path) -> None:
    model = registry.add(build_model("mistral:7b"))

    refused = command("pull", "--store", str(open_path / "models"), model.name, user="nobody")

    assert refused.returncode == 4
    assert "hint: " in refused.stderr
    assert list(open_path.iterdir()) == []


@as_root
async def test_a_server_of_any_user_can_read_the_store_and_not_write_to_it(
    registry: ScriptedRegistry, open_path: Path
) -> None:
    store, model = open_path / "models", registry.add(build_model("mistral:7b"))
    await pulled(model.name, store)
    script = f"cat {store}/manifests/*/*/*/* {store}/blobs/* && ! ls {store}/.syncd && ! touch {store}/blobs/x"

    daemon = pwd.getpwnam("daemon")
    done = subprocess.run(
        ["sh", "-c", script], user=daemon.pw_uid, group=daemon.pw_gid, extra_groups=[], capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == model.size + len(model.manifest)


def test_a_store_with_a_newer_layout_is_left_alone(registry: ScriptedRegistry, store_path: Path) -> None:
    Store.open(store_path, create=True).close()
    (store_path / ".syncd" / "version").write_text("2\n")

    refused = command("pull", "--store", str(store_path), registry.add(build_model("mistral:7b")).name)

    assert refused.returncode == 10
    assert "newer syncd" in refused.stderr
    assert assert_store_whole(store_path) == {}
