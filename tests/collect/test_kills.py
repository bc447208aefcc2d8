"""SIGKILL at every system call by which a collection changes its store, one by one, until all are covered."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncd.jobs.collect import collect
from syncd.jobs.collection import CollectRules
from syncd.store import collected
from syncd.store.blobs import BlobStatus
from syncd.store.root import Store
from tests.crash import strace
from tests.support.forks import Forker
from tests.support.oracle import assert_store_whole, unreferenced_blobs
from tests.support.store_copies import Template
from tests.unit.store_world import NAME, blob_path, commit, descriptor, manifest_of, publish

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

_KINDS = (
    "openat",
    "mkdirat",
    "write",
    "pwritev",
    "pwritev2",
    "fchmod",
    "fsync",
    "linkat",
    "renameat",
    "renameat2",
    "unlinkat",
)
_WEEK_AND_A_DAY = 8 * 86400.0
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A store with one whole model and all kinds of what a collection takes. Stores are copies of it by hard links."""

    template: Template
    forker: Forker
    now: float

    def store(self, name: str) -> Path:
        return self.template.copy(self.template.path.with_name(name))

    def run(self, store: Path, *options: str) -> strace.TracedEnding:
        """A collection under strace from its first call on."""
        arguments = {"store": str(store), "now": self.now, "quarantine_age": _HOUR}
        run = self.forker.fork("tests.collect.collects:collected", arguments)
        return strace.traced(run, store.with_name("trace"), *options)


def _fill(path: Path) -> None:
    with Store.open(path, create=True) as store:
        manifest = publish(store, b"weights", b"config")
        store.models.remember(NAME, manifest, "a registry", time.time())
        for content in (b"free 1", b"free 2", b"only kept", b"only recorded"):
            commit(store, content)
        blob_path(store, descriptor(b"only kept")).unlink()
        for folder in ("blobs", ".syncd/keep"):
            blob_path(store, descriptor(b"only recorded"), folder).unlink()
        with store.blobs.partials.stage(descriptor(b"half")) as partial:
            os.close(partial.open_journal())
        held = store.locks.try_references(shared=True)
        assert held is not None
        with held:
            store.leases.take(NAME, manifest_of(b"half", b"config"), held).abandon()
        (path / "blobs" / "stray").write_bytes(b"stray")
        assert store.quarantine.take_leftover("stray")
        (path / ".syncd" / "staging" / "tmp-0123").touch()
        store.sweep.throw_away([commit(store, b"of a killed run").digest])


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    strace.needs_strace()
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="syncd-collect-", dir=memory if os.access(memory, os.W_OK) else None))
    _fill(folder / "template")
    try:
        with Forker("tests.collect.collects") as forker:
            yield Scene(Template(folder / "template"), forker, time.time() + _WEEK_AND_A_DAY)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def undisturbed(scene: Scene) -> tuple[strace.Call, ...]:
    """The changing calls of a run that nothing disturbs."""
    store = scene.store("undisturbed")
    ending = scene.run(store, "-e", f"trace={strace.CHANGING}")
    assert ending.done, ending.result
    _assert_collected(store)
    changing = [call for call in ending.calls if call.name != "openat" or call.creates]
    assert not [call for call in changing if call.paths and not call.below(store)], "it changes nothing but its store"
    return ending.calls


def test_every_kind_of_call_that_changes_a_store_gets_its_kills(undisturbed: tuple[strace.Call, ...]) -> None:
    assert {call.name for call in undisturbed if call.paths} <= set(_KINDS)


@pytest.mark.parametrize("kind", _KINDS)
def test_a_kill_at_any_call_loses_nothing_and_the_next_run_takes_the_rest(
    scene: Scene, undisturbed: tuple[strace.Call, ...], kind: str
) -> None:
    calls = [call for call in undisturbed if call.name == kind]
    # Opening what is there changes nothing.
    wanted = [number for number, call in enumerate(calls, 1) if kind != "openat" or call.creates]
    for number in wanted:
        store = scene.store(f"{kind}-{number}")
        ending = scene.run(store, "-e", f"trace={kind}", "-e", f"inject={kind}:signal=KILL:when={number}")
        assert ending.killed, f"{kind} {number} was not met"

        _assert_whole(store)
        with Store.open(store, create=False) as opened:
            asyncio.run(collect(opened, now=scene.now, rules=CollectRules(quarantine_age=_HOUR)))
        _assert_collected(store)
        shutil.rmtree(store)


def _assert_whole(store: Path) -> None:
    assert list(assert_store_whole(store)) == [f"registry.ollama.ai/library/{NAME}"]
    with Store.open(store, create=False) as opened:
        looks = [opened.blobs.look(descriptor(content)) for content in (b"weights", b"config")]
        assert looks == [(BlobStatus.STORED, True)] * 2
        assert len(opened.models.history(NAME)) == 1


def _assert_collected(store: Path) -> None:
    """All that nothing needs is gone, from everywhere, and it is noted when."""
    _assert_whole(store)
    assert not unreferenced_blobs(store)
    own = store / ".syncd"
    names = {path.name for path in (store / "blobs").iterdir()}
    assert {path.name for path in (own / "keep").iterdir()} == names
    assert {path.name for path in (own / "records").iterdir()} == names
    # What was killed while it wrote its note leaves a temporary file, which is too young to go.
    young = {path.name for path in (own / "staging").iterdir()}
    assert all(name.startswith("tmp-") and name != "tmp-0123" for name in young), young
    for folder in ("leases", "trash", "quarantine"):
        assert not list((own / folder).iterdir()), folder
    with Store.open(store, create=False) as opened:
        assert collected.read(opened.state).completed > 0
