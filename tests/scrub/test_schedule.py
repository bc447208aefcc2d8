"""The daemon scrubs by itself when it is time; what its end interrupts goes on in the next life."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from syncd.daemon.chronicle import Chronicle
from syncd.daemon.followed import Times
from syncd.daemon.integrity_settings import ScrubInterval, ScrubSettings
from syncd.daemon.scrubbing import Scrubbing, next_due
from syncd.daemon.units import Rate
from syncd.jobs.scrub import ScrubWish
from syncd.jobs.scrub_book import ScrubBook
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.name import ModelName
from syncd.store.root import Store
from tests.pull.world import until
from tests.scrub.world import blob_file, book_of, harm, put, scrubbed
from tests.support.daemon import RunningDaemon
from tests.support.models import synthetic_model

_DAY = 86400.0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RunningDaemon]:
    made = RunningDaemon(tmp_path / "host")
    made.folder.mkdir()
    yield made
    made.stop()


def test_without_a_schedule_nothing_is_due() -> None:
    assert next_due(ScrubSettings(), 5.0, 10.0, 0.5) is None


def test_a_store_that_was_never_scrubbed_is_soon_and_hosts_do_not_all_begin_together() -> None:
    weekly = ScrubSettings(every=ScrubInterval(7 * _DAY))

    due = [next_due(weekly, None, 1000.0, chance) for chance in (0.0, 0.5, 0.99)]

    assert due == [1000.0, 1300.0, 1594.0]


def test_the_next_one_is_an_interval_after_the_last_one_ended_less_some_jitter() -> None:
    weekly = ScrubSettings(every=ScrubInterval(7 * _DAY))

    assert next_due(weekly, 1000.0, 2000.0, 0.0) == 1000.0 + 7 * _DAY
    assert next_due(weekly, 1000.0, 2000.0, 0.5) == pytest.approx(1000.0 + 0.95 * 7 * _DAY)


def test_a_clock_that_was_set_back_puts_nothing_off() -> None:
    weekly = ScrubSettings(every=ScrubInterval(7 * _DAY))

    assert next_due(weekly, 10 * _DAY, 2000.0, 0.0) == 2000.0 + 7 * _DAY


def test_the_rate_of_a_scheduled_scrub_leaves_the_disk_to_the_servers() -> None:
    assert ScrubSettings().max_rate == Rate(200_000_000)


async def test_a_scrub_that_meets_a_bug_is_put_off_and_the_daemon_goes_on(store: Store) -> None:
    put(store, synthetic_model(weights_bytes=1 << 20))
    book = book_of(store)
    await book.schedule(1.0)
    scrubbing = _scrubbing(store, book, Times(monotonic=lambda: 1 // 0, random=lambda: 0.0))

    service = asyncio.create_task(scrubbing.run())
    await until(lambda: book.state.failure or service.done())

    assert not service.done()
    assert "ZeroDivisionError" in (book.state.failure or "")
    await until(lambda: (book.state.due or 0) > time.time() + 1000)
    service.cancel()
    await asyncio.wait((service,))


def test_a_scheduled_scrub_finds_damage_and_says_so_everywhere(host: RunningDaemon) -> None:
    weights = _filled(host, harmed=True)
    host.write_settings(_schedule("200 MB/s"))
    with host:
        _due_now(host)
    with host:
        _wait(host, lambda: bool(host.events("scrub.damage")))
        _wait(host, lambda: _scrub(host)["last"] is not None)
        status = _scrub(host)
        metrics = {
            name: host.metric(name)
            for name in (
                'syncd_scrub_faults_total{kind="wrong_bytes"}',
                "syncd_scrub_interval_seconds",
                "syncd_scrub_in_progress",
            )
        }
        completed = host.metric("syncd_scrub_last_completed_timestamp_seconds")
        check = host.command("status", "--check")

    assert [one["digest"] for one in status["damaged"]] == [weights]
    assert status["last"]["damaged"] == 1
    assert (status["now"], status["interrupted"], status["failure"]) == (None, False, None)
    assert list(metrics.values()) == [1.0, 7 * _DAY, 0.0]
    assert abs(completed - time.time()) < 300
    assert check.returncode == 6
    assert weights in check.stdout


def test_a_killed_daemons_scrub_goes_on_in_the_next_life(host: RunningDaemon) -> None:
    _filled(host, chunks=12)
    host.write_settings(_schedule("16 MB/s"))
    with host:
        _due_now(host)
    with host:
        _wait(host, lambda: _noted(host) >= 2 * CHUNK_SIZE)
        host.kill()
    noted = _noted(host)
    host.write_settings(_schedule("1 GB/s"))

    with host:
        _wait(host, lambda: _scrub(host)["last"] is not None)
        read = host.metric("syncd_scrub_bytes_total")

    assert read <= 12 * CHUNK_SIZE - noted + 2 * CHUNK_SIZE
    assert host.events("scrub.begun")[-1]["goes_on"]


def test_the_daemon_ends_within_a_moment_while_it_scrubs(host: RunningDaemon) -> None:
    _filled(host, chunks=12)
    host.write_settings(_schedule("8 MB/s"))
    with host:
        _due_now(host)
    with host:
        _wait(host, lambda: (_scrub(host)["now"] or {"done": 0})["done"] > 0)
        started = time.monotonic()
        code = host.stop()
        took = time.monotonic() - started

    assert code == 0
    assert took < 10  # on a machine that does nothing else it is a tenth of a second
    assert _noted(host) > 0


def test_another_rate_takes_effect_in_the_middle(host: RunningDaemon) -> None:
    _filled(host, chunks=12)
    host.write_settings(_schedule("1 MB/s"))  # three minutes
    with host:
        _due_now(host)
    with host:
        _wait(host, lambda: (_scrub(host)["now"] or {"done": 0})["done"] > 0)
        host.write_settings(_schedule("1 GB/s"))
        _wait(host, lambda: _scrub(host)["last"] is not None)
        read = host.metric("syncd_scrub_bytes_total")

    assert read <= 15 * CHUNK_SIZE  # and it did not begin anew: at most what had not been noted by chunk is read twice


def test_by_hand_through_the_daemon_it_is_the_daemons_and_shown_in_status(host: RunningDaemon) -> None:
    weights = _filled(host, harmed=True)
    host.write_settings("[scrub]\nrepair = false\n")
    with host:
        told = host.command("scrub", "--json")
        again = host.command("scrub")
        shown = host.command("status")

    assert told.returncode == 6
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [one["damage"]["digest"] for one in lines if one["event"] == "damage"] == [weights]
    assert [one["direct"] for one in lines if one["event"] == "scrubbed"] in ([True], [False])
    assert again.returncode == 6
    assert f"big:1: wrong bytes: {weights}" in shown.stdout


def test_a_scrub_of_everything_by_hand_counts_for_the_schedule(host: RunningDaemon) -> None:
    _filled(host)
    host.write_settings(_schedule("1 GB/s"))
    with host:
        _wait(host, lambda: _scrub(host)["next"] is not None)  # within ten minutes, since there was none yet
        by_hand = host.command("scrub")
        _wait(host, lambda: _days_to_next(host) > 6)
        status = _scrub(host)
        completed = host.metric("syncd_scrub_last_completed_timestamp_seconds")

    assert by_hand.returncode == 0, by_hand.stderr
    assert status["last"]["blobs"] > 0
    assert abs(completed - time.time()) < 300


def test_a_scrub_by_hand_between_two_lives_of_the_daemon_counts_as_well(host: RunningDaemon) -> None:
    _filled(host)
    host.write_settings(_schedule("1 GB/s"))
    with host:
        _due_now(host)

    by_hand = host.command("scrub")
    with host:
        _wait(host, lambda: _scrub(host)["next"] is not None)
        days = _days_to_next(host)

    assert by_hand.returncode == 0, by_hand.stderr
    assert days > 6
    assert not host.events("scrub.begun")


async def test_a_scrub_by_hand_that_a_daemons_start_met_counts_when_it_has_ended(store: Store) -> None:
    put(store, synthetic_model(weights_bytes=1 << 20))
    daemons, commands = book_of(store), book_of(store)
    await daemons.schedule(time.time() + 60)
    scrubbing = _scrubbing(store, daemons, Times(wall=time.time, random=lambda: 0.0))
    service = asyncio.create_task(scrubbing.run())
    await until(lambda: scrubbing.info().next is not None)

    await scrubbed(store, book=commands)
    scrubbing.poke()
    await until(lambda: daemons.state.last)

    assert daemons.state.last == commands.state.last
    await until(lambda: (daemons.state.due or 0) > time.time() + _DAY / 2)
    service.cancel()
    await asyncio.wait((service,))


async def test_a_scrub_of_one_model_by_hand_does_not_count(store: Store) -> None:
    model = synthetic_model(weights_bytes=1 << 20)
    put(store, model)
    book = book_of(store)
    await book.schedule(1000.0)

    await scrubbed(store, ScrubWish((ModelName.parse(model.name),), None), book)

    assert (book.state.last, book.state.due) == (None, 1000.0)


def _scrubbing(store: Store, book: ScrubBook, times: Times) -> Scrubbing:
    settings = SimpleNamespace(
        revision=0,
        current=SimpleNamespace(settings=SimpleNamespace(scrub=ScrubSettings(every=ScrubInterval(_DAY)))),
        changed=lambda _after: asyncio.Event().wait(),
    )
    return Scrubbing(
        store, cast("Any", settings), book, Chronicle(time.time), times=times, on_damage=lambda _names: None
    )


def _days_to_next(host: RunningDaemon) -> float:
    due = _scrub(host)["next"]
    return 0.0 if due is None else (datetime.fromisoformat(due).timestamp() - time.time()) / _DAY


def _schedule(rate: str) -> str:
    return f'[scrub]\nevery = "7d"\nmax_rate = "{rate}"\nrepair = false\n'


def _filled(host: RunningDaemon, *, chunks: int = 1, harmed: bool = False) -> str:
    model = synthetic_model("big:1", chunks * CHUNK_SIZE)
    with Store.open(host.store, create=True) as store:
        put(store, model)
        if harmed:
            harm(blob_file(store, model.weights), "flip", random.Random(1))
    return model.weights


def _due_now(host: RunningDaemon) -> None:
    """Let the daemon have had it in mind for a while, and end: as after a weekend without power."""
    _wait(host, lambda: _scrub(host)["next"] is not None)
    host.stop()
    path = host.store / ".syncd" / "state" / "scrub.json"
    state = json.loads(path.read_bytes())
    path.write_text(json.dumps({**state, "due": 1.0}))


def _scrub(host: RunningDaemon) -> Any:
    return host.ask("GET", "/syncd/v1/status")["scrub"]


def _noted(host: RunningDaemon) -> int:
    with Store.open(host.store, create=False) as store:
        state = book_of(store).state
    return state.whole.read if state.whole else 0


def _wait(host: RunningDaemon, until: Callable[[], bool], seconds: float = 45.0) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, host.log()[-4000:]
        time.sleep(0.1)
