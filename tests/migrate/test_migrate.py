"""A host on which eight servers pulled by themselves comes to one store, whatever interrupts that."""

import itertools
import json
import os
import pwd
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from syncd.errors import ExitCode
from tests.adopt.world import blob_file, lay, photograph, tag_file
from tests.migrate.world import SERVERS, Host, flip, requests, ruined, standing, unknown_model, with_daemon
from tests.support import commands
from tests.support.models import Model, five_models
from tests.support.ollama_servers import ask
from tests.support.ollama_store import damage
from tests.support.oracle import assert_store_whole
from tests.support.registry import ScriptedRegistry
from tests.support.standin import StandIn


@pytest.fixture
def spoilt(tmp_path: Path, registry: ScriptedRegistry) -> Iterator[Host]:
    """Without a daemon."""
    with ruined(tmp_path / "host", registry) as host:
        yield host


def photograph_of(host: Host) -> list[object]:
    return [photograph(folder) for folder in (host.store, *host.copies) if folder.exists()]


def seen_by_servers(host: Host) -> dict[str, object]:
    """What servers can see, without what syncd keeps for itself."""
    return {path: seen for path, seen in photograph(host.store).items() if "/.syncd" not in path}


# The story


def test_after_it_every_model_is_proved_on_all_eight_servers(tmp_path: Path, registry: ScriptedRegistry) -> None:
    with with_daemon(tmp_path / "host", registry) as host:
        done = host.migrate()

        assert done.code == 0, done.errors
        assert assert_store_whole(host.store) == host.published
        assert [standing(server) for server in done.end["servers"]] == [{True}] * 8
        assert all(server["up"] for server in done.end["servers"])
        assert done.steps == ["hash", "quarantine", "adopt", "pull", "verify", "servers"]
        turns = [instance for instance, _ in itertools.groupby(line["instance"] for line in done.of("tried"))]
        assert turns[-8:] == sorted(set(turns)), "one server after another"
        # Who could not show the corrupt model just then loads it anew, before anything is proved.
        assert turns[:-8] == sorted(set(turns[:-8]))

        before = seen_by_servers(host)
        for server in host.servers:
            server.forget()
        again = host.migrate()

        assert again.code == 0
        assert again.steps == ["hash"], "there was nothing to do"
        assert seen_by_servers(host) == before
        assert not any(server.loads or server.requests("/api/generate") for server in host.servers)
        assert [standing(server) for server in again.end["servers"]] == [{True}] * 8


def test_what_is_done_is_what_the_dry_run_said(tmp_path: Path, registry: ScriptedRegistry) -> None:
    # Nothing is proved by the daemon itself between the two.
    with with_daemon(tmp_path / "host", registry, servers=2, prove="never") as host:
        shutil.rmtree(host.copies[1])  # what is corrupt in a source shows when it is taken, and not before
        host.copies[1].joinpath("blobs").mkdir(parents=True)
        before = seen_by_servers(host)
        said = host.migrate("--dry-run")
        assert seen_by_servers(host) == before
        done = host.migrate()

    assert said.code == done.code == 0
    assert said.events[-1] == said.plan
    same = {**said.plan, "dry_run": False, "adopt": {**said.plan["adopt"], "dry_run": False}}
    assert done.plan == same
    assert [one["path"] for one in done.of("quarantined")] == [one["path"] for one in said.plan["quarantine"]]
    adopting = [one["name"] for one in said.plan["adopt"]["models"] if one["decision"] == "adopt"]
    assert [one["name"] for one in done.of("adopted")] == adopting
    assert [one["name"] for one in done.of("published")] == [one["name"] for one in said.plan["pull"]]
    asked = [
        (server["server"], name) for server in said.plan["servers"] for name in (*server["reload"], *server["prove"])
    ]
    assert [(one["instance"], one["model"]) for one in done.of("tried")] == asked


def test_a_dry_run_on_a_folder_that_is_no_store_yet_makes_nothing(spoilt: Host) -> None:
    before = photograph_of(spoilt)

    said = spoilt.migrate("--dry-run")

    assert photograph_of(spoilt) == before
    done = spoilt.migrate()
    for field in ("quarantine", "pull", "servers", "stays"):
        assert said.plan[field] == done.plan[field]


def test_what_the_settings_want_in_their_store_is_not_pulled_into_another_one(spoilt: Host) -> None:
    settings = spoilt.folder / "syncd.toml"
    settings.write_text(f'store = "{spoilt.store}"\n[[models]]\nname = "{spoilt.models[4].name}"\n')
    environ = {name: value for name, value in spoilt.environment().items() if name != "SYNCD_STORE"}

    def wanted(store: Path) -> list[str]:
        arguments = ("migrate", "--json", "--dry-run", "--store", str(store))
        done = commands.completed(*arguments, environ={**environ, "SYNCD_CONFIG": str(settings)})
        plan = next(line for line in map(json.loads, done.stdout.splitlines()) if line["event"] == "plan")
        return [one["name"] for one in plan["pull"]]

    assert wanted(spoilt.store) == [spoilt.models[4].name]
    assert wanted(spoilt.folder / "another") == []


def test_without_a_daemon_the_store_is_mended_and_servers_are_left_alone(spoilt: Host) -> None:
    done = spoilt.migrate()

    assert done.code == 0, done.errors
    assert assert_store_whole(spoilt.store) == spoilt.published
    assert done.end["servers"] is None


def test_with_one_that_is_started_then_it_goes_on_to_the_servers(tmp_path: Path, registry: ScriptedRegistry) -> None:
    with ruined(tmp_path / "before", registry) as host:
        host.migrate()
    with with_daemon(tmp_path / "host", registry, servers=2, prepared=host) as later:
        done = later.migrate()

    assert done.code == 0, done.errors
    assert set(done.steps) <= {"hash", "servers"}, "the store had been mended"
    assert [standing(server) for server in done.end["servers"]] == [{True}] * 2


# Nothing is lost


def test_what_did_not_belong_there_lies_in_the_quarantine(spoilt: Host) -> None:
    corrupt, half = spoilt.models[1], spoilt.models[2]
    bytes_of_it = blob_file(spoilt.store, corrupt.weights).read_bytes()

    spoilt.migrate()

    blob, partial = (blob_file(spoilt.store, model.weights).name for model in (corrupt, half))
    names = [name for name in spoilt.quarantined() if not name.startswith("127.0.0.1")]
    assert names == sorted(["12345.tmp", f"sha256-{'0' * 64}", blob, f"{partial}-partial", f"{partial}-partial-0"])
    (kept,) = spoilt.quarantine.glob(f"{blob}.*")
    assert kept.read_bytes() == bytes_of_it


def test_a_blob_that_rotted_behind_its_record_is_found_and_replaced(spoilt: Host) -> None:
    spoilt.migrate()
    rotten = blob_file(spoilt.store, spoilt.models[0].weights)
    before = rotten.stat()
    rotten.chmod(0o644)
    flip(rotten)
    rotten.chmod(0o444)
    os.utime(rotten, ns=(before.st_atime_ns, before.st_mtime_ns))

    said = spoilt.migrate("--dry-run")
    done = spoilt.migrate()

    assert said.plan["quarantine"] == done.plan["quarantine"] != []
    assert done.code == 0, done.errors
    assert assert_store_whole(spoilt.store) == spoilt.published


def test_the_sources_are_only_read(spoilt: Host) -> None:
    before = [photograph(copy) for copy in spoilt.copies]

    spoilt.migrate()

    assert [photograph(copy) for copy in spoilt.copies] == before


def test_with_delete_source_what_the_store_has_is_gone_from_there_and_counted(spoilt: Host) -> None:
    files = [path for copy in spoilt.copies for path in (copy / "blobs").iterdir()]
    sizes = {path.name: path.stat().st_size for path in files}

    done = spoilt.migrate("--delete-source")

    left = {path.name for copy in spoilt.copies for path in (copy / "blobs").iterdir()}
    assert done.code == 0, done.errors
    assert assert_store_whole(spoilt.store) == spoilt.published
    disk = done.end["disk"]
    assert 0 < disk["saved"] <= sum(path_size for path_size in sizes.values())
    assert not any(blob_file(spoilt.copies[0], digest).name in left for digest in spoilt.models[2].blobs)


def test_the_disk_figures_are_true(spoilt: Host) -> None:
    before = used(spoilt.store, *spoilt.copies)

    disk = spoilt.migrate().end["disk"]

    near = 64 * 1024  # sources are told in bytes of their files, and what syncd keeps for itself was not there before
    assert abs(disk["before"] - before) < near
    assert abs(disk["after"] - used(spoilt.store, *spoilt.copies)) < near
    assert disk["quarantine"] == used(spoilt.quarantine)
    assert disk["saved"] == 0
    copies = [path for copy in spoilt.copies for path in (copy / "blobs").iterdir()]
    assert disk["savable"] == sum(path.stat().st_size for path in copies), "all of it is in the store, or corrupt"


def used(*folders: Path) -> int:
    inodes = {
        (found.st_dev, found.st_ino): found.st_blocks * 512
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and (found := path.stat())
    }
    return sum(inodes.values())


# What cannot be mended


def test_a_corrupt_model_that_nobody_can_replace_is_taken_out_of_sight(spoilt: Host) -> None:
    lost = unknown_model(f"{spoilt.registry.host}/library/lost:1b")
    lay(spoilt.store, lost)
    flip(blob_file(spoilt.store, lost.weights))

    done = spoilt.migrate(wanted=[*spoilt.published_names, lost.name])

    assert done.code == ExitCode.INTEGRITY
    assert done.events[-1]["event"] == "error"
    assert assert_store_whole(spoilt.store) == spoilt.published
    assert any(name.startswith(blob_file(spoilt.store, lost.weights).name) for name in spoilt.quarantined())


def test_a_corrupt_model_that_nobody_wants_is_taken_out_of_sight_as_planned(spoilt: Host) -> None:
    lost = unknown_model("lost:1b")
    lay(spoilt.store, lost)
    flip(blob_file(spoilt.store, lost.weights))

    done = spoilt.migrate()

    assert done.code == 0, done.errors
    assert assert_store_whole(spoilt.store) == spoilt.published
    assert "manifests/registry.ollama.ai/library/lost/1b" in [one["path"] for one in done.plan["quarantine"]]


def test_a_registry_that_is_away_leaves_what_could_be_saved(spoilt: Host) -> None:
    spoilt.registry.stop()
    done = spoilt.migrate()
    spoilt.registry.start()

    assert done.code == ExitCode.INTEGRITY
    saved = {model.name: model.digest for model in (spoilt.models[0], spoilt.models[2])}
    assert assert_store_whole(spoilt.store) == saved
    mended = spoilt.migrate()
    assert mended.code == 0, mended.errors
    assert assert_store_whole(spoilt.store) == spoilt.published


def test_a_model_that_is_corrupt_in_its_source_and_that_nobody_wants_is_an_error(spoilt: Host) -> None:
    wanted = spoilt.published_names[:4]

    done = spoilt.migrate(wanted=wanted)

    assert done.code == ExitCode.INTEGRITY
    assert spoilt.published_names[4] in done.of("error")[-1]["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_root_reads_closed_sources_and_all_belongs_to_the_stores_owner(registry: ScriptedRegistry) -> None:
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(dir="/tmp") as open_path, ruined(Path(open_path) / "host", registry) as host:
        for copy in host.copies:
            copy.chmod(0o700)
        for path in (Path(open_path), host.folder):
            path.chmod(0o755)
        for path in (host.store, *host.store.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)

        done = host.migrate()

        assert done.code == 0, done.errors
        assert assert_store_whole(host.store) == host.published
        assert {path.lstat().st_uid for path in host.store.rglob("*")} == {nobody.pw_uid}


# Servers that fail


def test_a_server_that_is_down_is_told_and_the_others_are_proved(tmp_path: Path, registry: ScriptedRegistry) -> None:
    with with_daemon(tmp_path / "host", registry, servers=3) as host:
        host.servers[1].stop()
        done = host.migrate()

        assert done.code == ExitCode.SERVER_FAILED
        assert [standing(server) for server in done.end["servers"]] == [{True}, {False}, {True}]
        assert done.end["servers"][1]["up"] is False

        host.servers[1].start()
        again = host.migrate()

    assert again.code == 0, again.errors
    assert {line["instance"] for line in again.of("tried")} <= {"gpu-1"}, "the daemon may have proved it by itself"
    assert [standing(server) for server in again.end["servers"]] == [{True}] * 3


def test_who_has_corrupt_weights_loaded_loads_the_right_ones(tmp_path: Path, registry: ScriptedRegistry) -> None:
    with with_daemon(tmp_path / "host", registry, servers=2) as host:
        corrupt = host.models[1]
        flip(blob_file(host.store, corrupt.weights))  # right again, until it is loaded
        host.use(host.servers[1], corrupt.name)
        host.wait_until_loaded("gpu-1", corrupt.name)
        flip(blob_file(host.store, corrupt.weights))

        done = host.migrate()

        assert done.code == 0, done.errors
        reloads = {one["server"]: one["reload"] for one in done.plan["servers"]}
        assert reloads["gpu-1"] == [corrupt.name]
        assert set(reloads["gpu-0"]) <= {corrupt.name}  # where it failed to show it just then
        # Once or twice: the daemon sees by itself that the file is another, and so does the migration.
        assert set(host.servers[1].unloads) == {blob_file(host.store, corrupt.weights).name}


def test_requests_for_a_model_that_is_whole_never_fail_meanwhile(tmp_path: Path, registry: ScriptedRegistry) -> None:
    with with_daemon(tmp_path / "host", registry, servers=2) as host:
        with requests(host, host.models[0].name) as statuses:
            done = host.migrate()

        assert done.code == 0, done.errors
        assert len(statuses) > 10
        assert set(statuses) <= {200, 404}
        # A manifest that goes while a server lists them makes that very request, for whatever model, answer 404
        # (ollama ``server/routes.go`` getExistingName): at most one a server for each that was taken away.
        taken = [line for line in done.of("quarantined") if line["path"].startswith("manifests/")]
        assert statuses.count(404) <= len(taken) * len(host.servers)


# Servers that pulled by themselves


def test_what_eight_servers_made_of_one_folder_is_mended_and_syncd_does_not_make_it(
    tmp_path: Path, ollama_registry: ScriptedRegistry
) -> None:
    models = five_models()
    mirror = f'[registries."registry.ollama.ai"]\nmirrors = ["{ollama_registry.url}"]\n'
    host = Host(tmp_path / "host", ollama_registry, models)
    delays = random.Random(8)  # containers do not start at the same instant
    for _ in range(12):  # about nine rounds of ten do damage that stays
        (host.store / "blobs").mkdir(parents=True)
        pull_by_themselves(host.store, ollama_registry, models, [delays.uniform(0, 0.3) for _ in range(SERVERS)])
        if damage(host.store):
            break
        shutil.rmtree(host.store)
    else:
        pytest.fail("eight servers pulled into one folder twelve times, and nothing was corrupt")
    ollama_registry.flip(1000, digest=models[0].weights, times=1)  # the same for syncd
    with with_daemon(tmp_path / "later", ollama_registry, more=mirror, prepared=host) as later:
        done = later.migrate()

        assert done.code == 0, done.errors
        assert damage(later.store) == []
        assert [standing(server) for server in done.end["servers"]] == [{True}] * 8


def pull_by_themselves(folder: Path, registry: ScriptedRegistry, models: list[Model], delays: Sequence[float]) -> None:
    """Eight servers, each all models, as the old script's container loop had it, and one bad transfer of each."""
    for model in models:
        registry.add(model)
        registry.flip(1000, digest=model.weights, times=1)

    def pull_all(server: StandIn, delay: float) -> None:
        time.sleep(delay)
        for model in models:
            ask(server, "/api/pull", {"model": model.name})

    with ExitStack() as stack, ThreadPoolExecutor(SERVERS) as pool:
        servers = [
            stack.enter_context(
                StandIn(folder, registry=registry.url, retry_seconds=0.05, verify_seconds=0.1, seed=number)
            )
            for number in range(SERVERS)
        ]
        list(pool.map(pull_all, servers, delays))


# Interrupted


def test_ctrl_c_ends_it_in_order_and_says_how_to_go_on(spoilt: Host) -> None:
    spoilt.registry.throttle(16 * 1024)  # bytes a second
    with spoilt.start() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line) == {"event": "step", "step": "pull"}:
                break
        time.sleep(0.3)  # into the transfer
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    spoilt.registry.heal()

    assert process.returncode == 128 + signal.SIGINT
    assert "run the same command" in errors
    assert spoilt.migrate().code == 0
    assert assert_store_whole(spoilt.store) == spoilt.published


def test_killed_at_any_event_it_loses_nothing_and_the_next_run_gets_there(
    quick_path: Path, registry: ScriptedRegistry
) -> None:
    for event in itertools.count(1):
        with ruined(quick_path / str(event), registry) as host:
            killed = host.migrate_and_die(event)
            assert_the_whole_one_never_suffered(host)
            done = host.migrate()

            assert done.code == 0, done.errors
            assert assert_store_whole(host.store) == host.published
            assert len(host.quarantined()) == 6, "each thing once"
        if not killed:
            assert event > 15
            return


def test_killed_again_and_again_while_servers_are_asked_it_gets_there(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    with with_daemon(tmp_path / "host", registry, servers=3) as host:
        for event in (14, 20, 6, 5, 4):
            host.migrate_and_die(event)
        done = host.migrate()

        assert done.code == 0, done.errors
        assert assert_store_whole(host.store) == host.published
        assert [standing(server) for server in done.end["servers"]] == [{True}] * 3
        assert host.migrate().steps == ["hash"]


def assert_the_whole_one_never_suffered(host: Host) -> None:
    whole = host.models[0]
    assert tag_file(host.store, whole.name).read_bytes() == whole.manifest
    for digest, content in whole.blobs.items():
        assert blob_file(host.store, digest).read_bytes() == bytes(content.read(0, content.size))


def test_what_the_settings_want_is_pulled_beside_a_daemon_that_pulls_it_too(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    with ruined(tmp_path / "host", registry) as host:
        pass
    wanted = "".join(f'[[models]]\nname = "{name}"\n' for name in host.published_names)
    with with_daemon(tmp_path / "later", registry, servers=2, more=wanted, prepared=host) as later:
        done = later.migrate(wanted=[])

        assert done.code == 0, done.errors
        assert assert_store_whole(later.store) == host.published
        assert [standing(server) for server in done.end["servers"]] == [{True}] * 2
