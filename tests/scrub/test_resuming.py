"""Interrupted at whatever moment, a scrub goes on where it was, and loses nothing of what it found."""

import asyncio
import json
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from syncd.errors import BusyError
from syncd.jobs.scrub import ScrubWish
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.name import ModelName
from syncd.store.root import Store
from tests.scrub.world import MIB, Heard, blob_file, book_of, harm, put, scrubbed
from tests.support import commands
from tests.support.daemon import RunningDaemon
from tests.support.models import synthetic_model
from tests.unit.store_world import python

_SIZE = 8 * CHUNK_SIZE

_SLOWLY = """
import asyncio, sys, time
from pathlib import Path
from syncd.jobs.scrub import ScrubEars, ScrubWish, scrub
from syncd.store.root import Store
from tests.scrub.world import book_of
def told(now):
    print(now.done, flush=True)
with Store.open(Path(sys.argv[1]), create=False) as store:
    ears = ScrubEars(progress=told, damage=lambda _: print("damage", flush=True))
    asyncio.run(scrub(store, ScrubWish(None, 12e6), book_of(store), ears, monotonic=time.monotonic))
"""


async def test_killed_in_the_middle_it_goes_on_there_and_still_knows_what_it_found(store: Store) -> None:
    models = [synthetic_model(f"model{number}:v1", 16 * MIB + number, seed=number) for number in range(8)]
    for model in models:
        put(store, model)
    first = min((model.weights for model in models), key=lambda digest: digest)
    harm(blob_file(store, first), "flip", random.Random(1))
    with python(_SLOWLY, store.path) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        # On the disk every five seconds: what is there is what counts.
        reached = next(line for line in lines if line.strip().isdigit() and _noted(store) > 2 * CHUNK_SIZE)
        process.kill()
        process.wait(20)
    assert int(reached) > 0

    book = book_of(store)
    noted = book.state.whole
    assert noted is not None
    result = await scrubbed(store, book=book)

    assert result.resumed
    assert [str(one.blob.digest) for one in result.damages] == [first]
    whole = sum(model.size for model in models)
    assert book.read <= whole - noted.read + 2 * CHUNK_SIZE  # the rest, and what may be read at once
    assert book_of(store).state.whole is None


async def test_within_a_large_blob_it_goes_on_at_the_chunk(store: Store) -> None:
    put(store, synthetic_model(weights_bytes=_SIZE))
    await _interrupted(store, lambda heard: heard.moments[-1].done >= 3 * CHUNK_SIZE)

    book = book_of(store)
    result = await scrubbed(store, book=book)

    assert (result.resumed, result.damaged) == (True, 0)
    assert book.read <= _SIZE - 2 * CHUNK_SIZE


async def test_a_file_that_changed_meanwhile_is_read_from_its_beginning(store: Store) -> None:
    model = synthetic_model(weights_bytes=_SIZE)
    put(store, model)
    await _interrupted(store, lambda heard: heard.moments[-1].done >= 3 * CHUNK_SIZE)
    path = blob_file(store, model.weights)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"changed")

    result = await scrubbed(store)

    assert [one.chunks for one in result.damages] == [(0,)]


async def test_asked_for_anew_it_begins_at_the_beginning(store: Store) -> None:
    put(store, synthetic_model(weights_bytes=_SIZE))
    await _interrupted(store, lambda heard: heard.moments[-1].done >= 3 * CHUNK_SIZE)

    book = book_of(store)
    result = await scrubbed(store, ScrubWish(None, None, anew=True), book=book)

    assert not result.resumed
    assert book.read >= _SIZE


async def test_a_scrub_of_some_models_does_not_take_the_place_of_one_of_all(store: Store) -> None:
    put(store, synthetic_model("big:1", _SIZE))
    put(store, synthetic_model("small:1", MIB, seed=2))
    await _interrupted(store, lambda heard: heard.moments[-1].done >= 3 * CHUNK_SIZE)

    part = await scrubbed(store, ScrubWish([ModelName.parse("small:1")], None))

    assert (part.resumed, part.models) == (False, 1)
    assert (await scrubbed(store)).resumed


async def test_one_at_a_time(store: Store) -> None:
    put(store, synthetic_model(weights_bytes=_SIZE))

    async def other(heard: Heard) -> None:
        del heard
        with pytest.raises(BusyError, match="running already"):
            await scrubbed(store)

    await _interrupted(store, lambda heard: bool(heard.moments), then=other)


def test_interrupted_by_ctrl_c_the_command_says_how_to_go_on(tmp_path: Path) -> None:
    host = RunningDaemon(tmp_path / "host")
    host.folder.mkdir()
    host.write_settings("")
    with Store.open(host.store, create=True) as store:
        put(store, synthetic_model(weights_bytes=_SIZE))
    slowly = ("scrub", "--json", "--max-rate", "16MB/s")
    with commands.Process.start(*slowly, environ=host.environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if json.loads(line)["done"] >= CHUNK_SIZE:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(20) == 130
    assert "goes on where it stopped" in rest

    again = host.command("scrub", "--json")

    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["resumed"]


def _noted(store: Store) -> int:
    noted = book_of(store).state.whole
    return 0 if noted is None else noted.read


async def _interrupted(
    store: Store, enough: Callable[[Heard], bool], then: Callable[[Heard], Awaitable[None]] | None = None
) -> None:
    heard = Heard()
    async with asyncio.timeout(30):
        task = asyncio.create_task(scrubbed(store, ScrubWish(None, 24e6), heard=heard))
        while not (heard.moments and enough(heard)):
            assert not task.done()
            await asyncio.sleep(0.01)
        if then is not None:
            await then(heard)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
