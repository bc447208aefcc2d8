"""An import that is killed at any of its steps loses nothing, shows nothing by halves, and the next one gets there."""

import asyncio
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from syncd.store.root import Store
from tests.bundles import importer
from tests.bundles.world import Layout, small, taken_in
from tests.crash import strace
from tests.support.oracle import assert_store_whole

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

_PATIENCE = 60.0  # seconds
_OLD = small("one:1b", "old")
_NEW = (small("one:1b", "new"), small("two:1b"))


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """In memory where that can be: a kill is a kill, however slow the disk is."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="syncd-import-", dir=memory if os.access(memory, os.W_OK) else None
    ) as folder:
        yield Path(folder).resolve()


@dataclass(frozen=True, slots=True)
class Place:
    """Where imports are killed: two bundles, the second one's models newer, or not there before."""

    folder: Path
    old: Path
    new: Path

    def store(self, number: int) -> Path:
        """One that has the old models."""
        store = self.folder / str(number)
        with Store.open(store, create=True) as opened:
            asyncio.run(taken_in(opened, self.old))
        return store

    def assert_nothing_lost(self, store: Path, number: int) -> None:
        """What is visible is whole, of the old models or the new; one more run gets there, and leaves nothing."""
        one, two = (f"registry.ollama.ai/library/{model.name}" for model in _NEW)
        visible = assert_store_whole(store)
        assert visible.get(one) in {_OLD.digest, _NEW[0].digest}, f"lost at change {number}"
        assert visible.get(two) in {None, _NEW[1].digest}
        with Store.open(store, create=False) as opened:
            asyncio.run(taken_in(opened, self.new))
        assert assert_store_whole(store) == {one: _NEW[0].digest, two: _NEW[1].digest}
        own = store / ".syncd"
        assert not [path for path in (own / "staging").iterdir() if not path.name.startswith("tmp-")]
        assert not list((own / "leases").iterdir())
        shutil.rmtree(store)


@pytest.fixture
def place(quick_path: Path) -> Place:
    made = Place(quick_path, quick_path / "old.tar", quick_path / "new.tar")
    made.old.write_bytes(Layout.of(_OLD).tar())
    # The index last: a pipe's blobs wait until it is known what they are for.
    made.new.write_bytes(Layout.of(*_NEW).reversed().tar())
    return made


@pytest.fixture
def started() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.bundles.importer"])
    return context


def was_killed(process: ForkServerProcess) -> bool:
    """Wait for its end; whether it was killed, and not done."""
    process.join(_PATIENCE)
    assert process.exitcode in {0, -signal.SIGKILL}
    killed = process.exitcode != 0
    process.close()
    return killed


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_a_kill_at_any_step_loses_nothing_and_the_next_run_gets_there(
    place: Place, started: ForkServerContext, pipe: bool
) -> None:
    for number in range(1, 1000):
        store = place.store(number)
        arguments = (str(store), str(place.new), number)
        process = started.Process(target=importer.import_and_die, args=arguments, kwargs={"pipe": pipe})
        process.start()
        killed = was_killed(process)

        place.assert_nothing_lost(store, number)
        if not killed:
            assert number > 50  # it was killed all along
            return
    pytest.fail("it never came to an end")


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_a_kill_at_any_system_call_that_changes_the_store_loses_nothing(
    place: Place, started: ForkServerContext, pipe: bool
) -> None:
    strace.needs_strace()
    for number in range(1, 2000):
        store = place.store(number)
        theirs, ours = started.Pipe(duplex=False)
        arguments = (str(store), str(place.new), theirs)
        process = started.Process(target=importer.import_when_told, args=arguments, kwargs={"pipe": pipe})
        process.start()
        theirs.close()
        assert process.pid is not None
        options = ("-e", f"trace={strace.CHANGING}", "-e", f"inject={strace.CHANGING}:signal=KILL:when={number}")
        with ours, strace.attached(process.pid, place.folder / "trace", *options):
            ours.send("go")
            killed = was_killed(process)

        place.assert_nothing_lost(store, number)
        if not killed:
            assert number > 50  # it was killed all along
            return
    pytest.fail("it never came to an end")
