"""An import that is killed at any of its steps loses nothing, shows nothing by halves, and the next one gets there."""

import asyncio
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.store.root import Store
from tests.bundles import importer
from tests.bundles.world import Layout, small, taken_in
from tests.support.oracle import assert_store_whole

pytestmark = pytest.mark.crash

_PATIENCE = 60.0  # seconds
_OLD = small("one:1b", "old")
_NEW = (small("one:1b", "new"), small("two:1b"))
_EVERY = 2  # one step out of so many: of a file the odd ones, of a pipe the even ones


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """In memory where that can be: a kill is a kill, however slow the disk is."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="syncd-import-", dir=memory if os.access(memory, os.W_OK) else None
    ) as folder:
        yield Path(folder).resolve()


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_a_kill_at_any_step_loses_nothing_and_the_next_run_gets_there(quick_path: Path, pipe: bool) -> None:
    started = multiprocessing.get_context("forkserver")
    started.set_forkserver_preload(["tests.bundles.importer"])
    old, new = quick_path / "old.tar", quick_path / "new.tar"
    old.write_bytes(Layout.of(_OLD).tar())
    # The index last: a pipe's blobs wait until it is known what they are for.
    new.write_bytes(Layout.of(*_NEW).reversed().tar())
    one, two = (f"registry.ollama.ai/library/{model.name}" for model in _NEW)
    published = {one: _NEW[0].digest, two: _NEW[1].digest}
    for number in range(1 + pipe, 1000, _EVERY):
        store = quick_path / str(number)
        with Store.open(store, create=True) as opened:
            asyncio.run(taken_in(opened, old))
        process = started.Process(
            target=importer.import_and_die, args=(str(store), str(new), number), kwargs={"pipe": pipe}
        )
        process.start()
        process.join(_PATIENCE)
        assert process.exitcode in {0, -signal.SIGKILL}
        killed = process.exitcode != 0
        process.close()

        visible = assert_store_whole(store)
        assert visible.get(one) in {_OLD.digest, _NEW[0].digest}, f"lost at change {number}"
        assert visible.get(two) in {None, _NEW[1].digest}
        with Store.open(store, create=False) as opened:
            asyncio.run(taken_in(opened, new))
        assert assert_store_whole(store) == published
        own = store / ".syncd"
        assert not [path for path in (own / "staging").iterdir() if not path.name.startswith("tmp-")]
        assert not list((own / "leases").iterdir())
        shutil.rmtree(store)
        if not killed:
            assert number > 50  # it was killed all along
            return
    pytest.fail("it never came to an end")
