"""What a new version means to each server: the steps, the order, and how far a rollout goes. Pure, but for commands."""

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.instances.model import Instance, ReloadWay
from syncd.instances.ollama import Loaded
from syncd.jobs import commands
from syncd.jobs.commands import CommandFailedError
from syncd.jobs.reload import Change, Step, Update, change_of, in_order, outdated, plan, stale, to_unload, waves
from syncd.jobs.reload_server import Result, Verdict
from syncd.jobs.rollout import Rollout, State, after_wave, finished
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName

NAME = ModelName.parse("mistral:7b")
OTHER = ModelName.parse("nomic-embed-text:v1.5")
NEW, OLD = Digest.of(b"new"), Digest.of(b"old")
SERVERS = ("a", "b", "c", "d")


def manifest(weights: bytes, template: bytes = b"{{ .Prompt }}") -> Manifest:
    def blob(kind: str, content: bytes) -> dict[str, object]:
        kind = f"application/vnd.ollama.image.{kind}"
        return {"mediaType": kind, "digest": str(Digest.of(content)), "size": len(content)}

    layers = [blob("model", weights), blob("template", template)]
    return Manifest.parse(json.dumps({"schemaVersion": 2, "layers": layers, "config": blob("json", b"{}")}).encode())


def update(change: Change = Change.WEIGHTS, **more: object) -> Update:
    fields: dict[str, object] = {"outdated": frozenset({OLD.hex}), **more}
    return Update(name=NAME, digest=NEW, change=change, **fields)  # type: ignore[arg-type]  # fields by name


def server(way: ReloadWay = ReloadWay.AUTO, name: str = "a") -> Instance:
    return Instance(name=name, url="http://127.0.0.1:1", reload=way)


def loaded(digest: Digest = OLD, *, name: str = "mistral:7b", expires: float | None = 100.0) -> Loaded:
    return Loaded(name, digest.hex, expires, 4096, 1, 1)


# What changed


def test_weights_tell_one_change_from_another() -> None:
    assert change_of(None, manifest(b"1")) is Change.NEW
    assert change_of(manifest(b"1"), manifest(b"2")) is Change.WEIGHTS
    assert change_of(manifest(b"1"), manifest(b"1", b"other")) is Change.TEXT


def test_an_older_version_with_the_same_weights_is_not_outdated() -> None:
    first, second, third = manifest(b"1"), manifest(b"2"), manifest(b"1", b"other")
    assert outdated((first, second, third), third) == {second.digest.hex}


# Steps


def test_only_servers_that_unload_by_name_are_asked_to_before_the_rename() -> None:
    servers = [server(way, way.value) for way in ReloadWay]
    assert [one.name for one in to_unload(servers, Change.WEIGHTS)] == ["auto"]
    assert to_unload(servers, Change.TEXT) == to_unload(servers, Change.NEW) == ()


@pytest.mark.parametrize("way", ReloadWay)
@pytest.mark.parametrize("change", [Change.NEW, Change.TEXT])
def test_what_is_new_or_of_the_same_weights_is_only_proved(way: ReloadWay, change: Change) -> None:
    found = plan(server(way), (update(change, warm=frozenset({"a"})),), (loaded(),))
    assert (found.restart, found.models[0].load, found.models[0].unload) == (None, False, False)


@pytest.mark.parametrize(
    ("way", "step"),
    [(ReloadWay.RESTART, Step.RESTART), (ReloadWay.SIGNAL, Step.SIGNAL), (ReloadWay.EXEC, Step.EXEC)],
)
def test_a_server_begins_anew_only_where_it_holds_old_weights(way: ReloadWay, step: Step) -> None:
    held, free = plan(server(way), (update(),), (loaded(),)), plan(server(way), (update(),), ())
    assert (held.restart, held.models[0].load) == (step, True)
    assert (free.restart, free.models[0].load) == (None, False)


def test_new_weights_are_loaded_where_the_old_ones_were() -> None:
    assert plan(server(), (update(warm=frozenset({"a"})),), ()).models[0].load
    assert not plan(server(), (update(warm=frozenset({"b"})),), ()).models[0].load
    assert plan(server(), (update(keep_warm=frozenset({"a"})),), ()).models[0].load
    assert plan(server(ReloadWay.PRELOAD), (update(),), ()).models[0].load
    assert not plan(server(ReloadWay.NONE), (update(warm=frozenset({"a"})),), (loaded(),)).models[0].load


def test_a_reload_that_was_asked_for_lets_go_first() -> None:
    found = plan(server(), (update(Change.ASKED),), (loaded(NEW),)).models[0]
    assert (found.unload, found.load) == (True, True)
    cold = plan(server(), (update(Change.ASKED),), ()).models[0]
    assert (cold.unload, cold.load) == (False, False)


@pytest.mark.parametrize("way", ReloadWay)
def test_proving_alone_reloads_nothing(way: ReloadWay) -> None:
    asked = update(Change.ASKED, only_prove=True, keep_warm=frozenset({"a"}))
    found = plan(server(way), (asked,), (loaded(),))
    assert (found.restart, found.models[0].load, found.models[0].unload) == (None, False, False)


def test_a_server_is_stale_until_its_last_old_runner_goes() -> None:
    assert stale(update(), (loaded(NEW),)) is None
    never = loaded(expires=None)
    assert stale(update(), (loaded(expires=5.0), never, loaded(NEW))) is never


# Order


@given(
    order=st.lists(st.text("abcdefgh", min_size=1, max_size=3), unique=True, max_size=20),
    at_once=st.integers(1, 6),
    canary=st.booleans(),
)
def test_never_more_servers_at_once_than_allowed_and_each_exactly_once(
    order: list[str], at_once: int, *, canary: bool
) -> None:
    taken = list(waves(order, at_once, canary=canary))

    assert [name for wave in taken for name in wave] == order
    assert all(1 <= len(wave) <= at_once for wave in taken)
    assert not canary or not taken or len(taken[0]) == 1


@given(st.lists(st.sampled_from(SERVERS), unique=True), st.sets(st.sampled_from(SERVERS)))
def test_who_is_well_goes_first_and_else_the_settings_order_holds(order: list[str], fit: set[str]) -> None:
    found = in_order([server(name=name) for name in order], fit)
    assert list(found) == [name for name in order if name in fit] + [name for name in order if name not in fit]


# How far


def rollout(name: ModelName = NAME, **more: object) -> Rollout:
    fields: dict[str, object] = {"previous": OLD, "waiting": SERVERS, **more}
    return Rollout(name=name, digest=NEW, change=Change.WEIGHTS, at=0.0, **fields)  # type: ignore[arg-type]  # likewise


PROVED = Verdict(Result.PROVED)
FAILED = Verdict(Result.FAILED, "it failed")
BLAMED = Verdict(Result.FAILED, "no token", blames_version=True)


def test_a_version_that_the_first_server_cannot_serve_is_taken_back_and_the_others_go_on() -> None:
    bad, good = after_wave(
        (rollout().with_verdict("a", BLAMED), rollout(OTHER).with_verdict("a", PROVED)), frozenset({NAME})
    )
    assert (bad.state, bad.reason) == (State.REVERTING, "a: no token")
    assert (good.state, good.waiting) == (State.RUNNING, ("b", "c", "d"))


@pytest.mark.parametrize(
    "one",
    [
        rollout(previous=None),
        rollout(insisted=True),
        rollout(passed={"d": Result.SERVED}, waiting=("a", "b", "c")),
    ],
    ids=["new", "insisted on", "served elsewhere"],
)
def test_what_cannot_be_taken_back_halts(one: Rollout) -> None:
    (found,) = after_wave((one.with_verdict("a", BLAMED),), frozenset({NAME}))
    assert found.state is State.HALTED


def test_a_bad_server_halts_everything_that_has_servers_left() -> None:
    ended = rollout(OTHER, waiting=("a",)).with_verdict("a", PROVED)
    first, second = after_wave((rollout().with_verdict("a", FAILED), ended), frozenset())
    assert (first.state, first.reason, first.waiting) == (State.HALTED, "a: it failed", ("b", "c", "d"))
    assert finished(second).state is State.DONE


@given(
    st.integers(1, 4),
    st.dictionaries(st.sampled_from(SERVERS), st.sampled_from([FAILED, BLAMED]), max_size=4),
)
def test_nothing_is_tried_after_a_wave_that_failed(at_once: int, bad: Mapping[str, Verdict]) -> None:
    one, tried = rollout(), 0
    for wave in waves(SERVERS, at_once, canary=True):
        if one.state is not State.RUNNING:
            break
        verdicts = {name: bad.get(name, PROVED) for name in wave}
        for name, verdict in verdicts.items():
            one, tried = one.with_verdict(name, verdict), tried + 1
        blamed = frozenset({NAME} if any(verdict.blames_version for verdict in verdicts.values()) else ())
        (one,) = after_wave((one,), blamed)

    one = finished(one)
    assert (one.state is State.DONE) == (not bad)
    assert one.state is not State.REVERTING or tried == 1
    assert len(one.failed) <= at_once
    assert len(one.passed) + len(one.failed) + len(one.waiting) == len(SERVERS)


def test_in_another_life_who_is_new_waits_and_who_has_left_is_forgotten() -> None:
    one = rollout(passed={"a": Result.PROVED, "z": Result.PROVED}, failed={"b": "it failed"}, waiting=("c",))
    found = one.among(("a", "b", "e"))
    assert (dict(found.passed), dict(found.failed), found.waiting) == ({"a": Result.PROVED}, {}, ("b", "e"))


# Commands


async def test_a_command_that_ends_well_says_nothing() -> None:
    await commands.run((sys.executable, "-c", "print('x' * 10**6)"), within=20)


async def test_a_command_that_fails_is_quoted_from_its_end() -> None:
    code = "import sys; print('noise' * 10000); print('no such unit', file=sys.stderr); sys.exit(3)"
    with pytest.raises(CommandFailedError, match=r"exit code 3: .*noise.*") as failed:
        await commands.run((sys.executable, "-u", "-c", code), within=20)
    assert len(failed.value.message) < 600


async def test_a_command_that_cannot_be_run_is_named() -> None:
    with pytest.raises(CommandFailedError, match="/nonexistent/reload: cannot be run: No such file"):
        await commands.run(("/nonexistent/reload",), within=20)


async def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    code = f"sleep 60 & echo $! > {tmp_path / 'pid'}; wait"
    with pytest.raises(CommandFailedError, match=r"not done after 2 s"):
        await commands.run(("/bin/sh", "-c", code), within=2.0)
    child = Path("/proc") / (tmp_path / "pid").read_text().strip()
    deadline = time.monotonic() + 30
    while child.exists() and "zombie" not in (child / "status").read_text():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_what_a_command_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    code = f"sleep 60 & echo $! > {tmp_path / 'pid'}"
    began = time.monotonic()
    await commands.run(("/bin/sh", "-c", code), within=30)
    assert time.monotonic() - began < 20
    await commands.run(("/bin/kill", (tmp_path / "pid").read_text().strip()), within=30)
