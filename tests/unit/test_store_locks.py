"""Locks: between tasks, between processes, and on file systems that lie about them."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest

from syncd.errors import StoreError
from syncd.oci.name import ModelName
from syncd.store import layout
from syncd.store.root import Store
from tests.unit.store_world import NAME, python

_HOLD = """
import sys
from pathlib import Path
from syncd.oci.name import ModelName
from syncd.store.root import Store
store = Store.open(Path(sys.argv[1]), create=False)
lock = store.locks.try_name(ModelName.parse("mistral:7b"))
print("held" if lock else "busy", flush=True)
sys.stdin.read()
"""


def test_a_name_has_one_holder_whatever_its_case(store: Store) -> None:
    first = store.locks.try_name(NAME)

    assert first is not None
    assert store.locks.try_name(ModelName.parse("Mistral:7B")) is None
    first.release()
    with store.locks.try_name(NAME) or pytest.fail("not released"):
        pass


def test_references_are_shared_by_many_or_held_by_one(store: Store) -> None:
    one, two = store.locks.try_references(shared=True), store.locks.try_references(shared=True)
    assert one is not None
    assert two is not None
    with one, two:
        assert store.locks.try_references(shared=False) is None

    alone = store.locks.try_references(shared=False)
    assert alone is not None
    with alone:
        assert store.locks.try_references(shared=True) is None


async def test_a_lock_goes_to_the_next_process_when_its_holder_is_killed(store: Store) -> None:
    with python(_HOLD, store.path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert store.locks.try_name(NAME) is None
        waits: list[None] = []

        waiter = asyncio.create_task(store.locks.name(NAME, poll=0.01, on_wait=lambda: waits.append(None)))
        await asyncio.sleep(0.05)
        assert not waiter.done()
        holder.send_signal(signal.SIGKILL)
        with await asyncio.wait_for(waiter, 60):
            assert waits


async def test_a_cancelled_wait_holds_nothing(store: Store) -> None:
    held = store.locks.try_name(NAME)
    assert held is not None
    with held, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await store.locks.name(NAME, poll=0.01)

    with await asyncio.wait_for(store.locks.name(NAME), 30):
        pass


def test_a_removal_is_seen_by_whoever_began_before_it(store: Store) -> None:
    before = store.locks.removal_mark(NAME)
    held = store.locks.try_name(NAME)
    assert held is not None
    with held:  # by the very pull that is to be cancelled
        store.locks.mark_removal(ModelName.parse("MISTRAL:7b"))

    after = store.locks.removal_mark(NAME)
    assert after != before
    store.locks.mark_removal(NAME)
    assert store.locks.removal_mark(NAME) != after


@pytest.mark.timeout(20)
def test_a_fifo_at_a_locks_path_is_an_error_and_no_hang(store: Store) -> None:
    os.mkfifo(store.path / ".syncd" / "locks" / layout.name_lock(NAME))

    with pytest.raises(StoreError, match="no regular file"):
        store.locks.try_name(NAME)


def test_a_link_at_a_locks_path_is_not_followed(store: Store, tmp_path: Path) -> None:
    (store.path / ".syncd" / "locks" / layout.name_lock(NAME)).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StoreError, match="symbolic link"):
        store.locks.try_name(NAME)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(shutil.which("strace") is None and not os.environ.get("CI"), reason="needs strace")
def test_a_file_system_that_grants_every_lock_to_everybody_is_refused(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from syncd.errors import StoreError
from syncd.store.root import Store
try:
    Store.open(Path(sys.argv[1]), create=True)
except StoreError as error:
    print(error.message)
"""
    lying = ("strace", "-qq", "-o", "/dev/null", "-f", "-e", "trace=flock", "-e", "inject=flock:retval=0")

    out, err = python(code, tmp_path / "models", before=lying).communicate(timeout=60)

    assert "grants one lock to two holders at once" in out, err
