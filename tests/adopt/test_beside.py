"""Adopting beside others: a daemon of the same store, a pull of the same name, a helper that dies."""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from syncd.errors import CancelledByRemovalError
from syncd.jobs.progress import Phase, PullProgress
from syncd.oci.name import ModelName
from syncd.store.hands import Open, SourceError, childs_hands
from syncd.store.root import Store
from syncd.store.source import SourceStore
from tests.adopt.world import Ending, adopted, blob_file
from tests.support.daemon import RunningDaemon
from tests.support.models import Model
from tests.support.oracle import assert_store_whole

MISTRAL = ModelName.parse("mistral:7b")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """It runs."""
    made = RunningDaemon(tmp_path / "host")
    try:
        with made:
            yield made
    finally:
        made.stop(signal.SIGKILL)


def test_a_running_daemon_serves_what_is_adopted_beside_it(daemon: RunningDaemon, source: Path, mistral: Model) -> None:
    ended = daemon.command("adopt", "--delete-source", str(source))

    assert ended.returncode == 0, ended.stderr
    listed = daemon.command("list").stdout
    assert "mistral:7b" in listed
    assert mistral.digest in assert_store_whole(daemon.store).values()


async def test_who_holds_the_name_is_waited_for(store: Store, source: Path, mistral: Model) -> None:
    lock = store.locks.try_name(MISTRAL)
    assert lock is not None
    with lock:
        adoption, waiting = begun(store, source)
        await asyncio.wait_for(waiting.wait(), 60)
    await asyncio.wait_for(adoption, 60)

    assert mistral.digest in assert_store_whole(store.path).values()


async def test_a_removal_while_it_is_adopted_stops_it_and_the_source_stays(
    store: Store, source: Path, mistral: Model
) -> None:
    lock = store.locks.try_name(MISTRAL)
    assert lock is not None
    with lock:
        adoption, waiting = begun(store, source)
        await asyncio.wait_for(waiting.wait(), 60)
        store.locks.mark_removal(MISTRAL)
        endings = await asyncio.wait_for(adoption, 60)

    assert isinstance(endings["mistral:7b"], CancelledByRemovalError)
    assert mistral.digest not in assert_store_whole(store.path).values()
    assert blob_file(source, mistral.weights).exists()


def begun(store: Store, source: Path) -> tuple[asyncio.Task[Mapping[str, Ending]], asyncio.Event]:
    """An adoption that takes the source's away, and what says that it waits for somebody."""
    waiting = asyncio.Event()

    def look(progress: PullProgress) -> None:
        if progress.phase is Phase.WAITING:
            waiting.set()

    return asyncio.create_task(adopted(store, source, delete=True, report=look), name="adoption"), waiting


def test_a_helper_that_dies_is_an_error_and_no_hang(source: Path, mistral: Model) -> None:
    with SourceStore.open(source) as opened, childs_hands([opened]) as hands:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        file = blob_file(source, mistral.weights).name
        os.close(hands.ask(Open(0, file))[1])
        os.kill(int(children[-1]), signal.SIGKILL)

        with pytest.raises(SourceError, match="has died"):
            hands.ask(Open(0, file))
