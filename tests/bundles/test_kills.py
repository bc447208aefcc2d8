"""An import that is killed at any of its steps loses nothing, shows nothing by halves, and the next one gets there."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncd.store.root import Store
from tests.bundles.world import Layout, small, taken_in
from tests.crash import strace
from tests.support.forks import Forker
from tests.support.one_thread import run_in_one_thread
from tests.support.oracle import assert_store_whole
from tests.support.store_copies import Template

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

_OLD = small("one:1b", "old")
_NEW = (small("one:1b", "new"), small("two:1b"))


@dataclass(frozen=True, slots=True)
class Place:
    """Where imports are killed: a store with an old model, and a bundle of its newer version and of a new one."""

    folder: Path
    old: Template
    new: Path

    def store(self, name: str) -> Path:
        """One that has the old models."""
        return self.old.copy(self.folder / name)

    def assert_nothing_lost(self, store: Path, at: str) -> None:
        """What is visible is whole, of the old models or the new; one more run gets there, and leaves nothing."""
        one, two = (f"registry.ollama.ai/library/{model.name}" for model in _NEW)
        visible = assert_store_whole(store)
        assert visible.get(one) in {_OLD.digest, _NEW[0].digest}, f"lost at {at}"
        assert visible.get(two) in {None, _NEW[1].digest}
        with Store.open(store, create=False) as opened:
            run_in_one_thread(taken_in(opened, self.new))
        assert assert_store_whole(store) == {one: _NEW[0].digest, two: _NEW[1].digest}
        own = store / ".syncd"
        assert not [path for path in (own / "staging").iterdir() if not path.name.startswith("tmp-")]
        assert not list((own / "leases").iterdir())
        shutil.rmtree(store)


@pytest.fixture
def place(quick_path: Path) -> Place:
    bundle, old = quick_path / "old.tar", quick_path / "old"
    bundle.write_bytes(Layout.of(_OLD).tar())
    with Store.open(old, create=True) as opened:
        run_in_one_thread(taken_in(opened, bundle))
    made = Place(quick_path, Template(old), quick_path / "new.tar")
    # The index last: a pipe's blobs wait until it is known what they are for.
    made.new.write_bytes(Layout.of(*_NEW).reversed().tar())
    return made


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    with Forker("tests.bundles.importer") as started:
        yield started


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_a_kill_at_any_system_call_that_changes_the_store_loses_nothing(
    place: Place, forker: Forker, pipe: bool
) -> None:
    strace.needs_strace()

    def traced(store: Path, *options: str) -> strace.TracedEnding:
        arguments = {"store": str(store), "bundle": str(place.new), "pipe": pipe}
        run = forker.fork("tests.bundles.importer:import_all", arguments)
        return strace.traced(run, place.folder / "trace", *options)

    clean = traced(place.store("clean"), "-e", f"trace={strace.CHANGING}")
    assert clean.done, clean.result
    numbers: Counter[str] = Counter()
    for call in clean.calls:
        kind = call.name
        numbers[kind] += 1
        if kind == "openat" and not call.creates:  # opening what is there changes nothing
            continue
        at = f"{kind} {numbers[kind]}"
        store = place.store(at)
        kill = f"inject={kind}:signal=KILL:when={numbers[kind]}"  # strace counts each kind by itself
        ending = traced(store, "-e", f"trace={kind}", "-e", kill)

        assert ending.killed, (at, ending.result)
        place.assert_nothing_lost(store, at)
