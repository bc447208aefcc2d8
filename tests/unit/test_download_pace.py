import asyncio
import time

import pytest

from syncd.download.pace import Connection, RateLimit, Siblings, delay

MB = 1_000_000


def running(rate: float, *, seconds: int = 10, waiting_since: float | None = None) -> Connection:
    connection = Connection(started=0.0, waiting_since=waiting_since)
    for second in range(seconds + 1):
        connection.moved = int(rate * second)
        connection.sample(float(second))
    return connection


def test_a_connection_that_moves_no_byte_is_dropped() -> None:
    stalled, well = running(0, waiting_since=1.0), running(MB, waiting_since=9.9)

    found = Siblings(stall_timeout=5).laggards([stalled, well], 10.0)

    assert found == [(stalled, "no byte for 5 s")]


def test_a_connection_that_waits_for_our_disk_is_not_stalled() -> None:
    assert Siblings(stall_timeout=5).laggards([running(0)], 100.0) == []


def test_a_connection_far_slower_than_its_siblings_is_dropped() -> None:
    slow, *fast = running(MB), running(20 * MB), running(22 * MB), running(18 * MB)

    found = Siblings(stall_timeout=30).laggards([slow, *fast], 10.0)

    assert found == [(slow, "far slower than its siblings")]


def test_the_last_connection_is_measured_against_segments_that_came_through() -> None:
    siblings = Siblings(stall_timeout=30)
    for _ in range(3):
        siblings.finished(running(20 * MB), 10.0)
    slow = running(MB)

    assert siblings.laggards([slow], 10.0) == [(slow, "far slower than its siblings")]


def test_a_little_slower_is_left_alone() -> None:
    connections = [running(rate * MB) for rate in (5, 10, 15, 20)]

    assert Siblings(stall_timeout=30).laggards(connections, 10.0) == []


def test_a_young_connection_is_left_alone() -> None:
    connections = [running(0, seconds=4), running(20 * MB), running(20 * MB), running(20 * MB)]
    connections[0].started = 6.0

    assert Siblings(stall_timeout=30).laggards(connections, 10.0) == []


def test_waits_double_up_to_the_cap_and_jitter_only_shortens_them() -> None:
    longest = [delay(n, base=1, cap=10, asked=None, random=lambda: 1.0) for n in range(1, 7)]
    shortest = [delay(n, base=1, cap=10, asked=None, random=lambda: 0.0) for n in range(1, 7)]

    assert longest == [1, 2, 4, 8, 10, 10]
    assert shortest == [0.5, 1, 2, 4, 5, 5]


def test_never_sooner_than_the_server_asked() -> None:
    assert delay(1, base=1, cap=10, asked=60.0, random=lambda: 0.5) == 60.0


def test_a_million_failures_do_not_overflow() -> None:
    assert delay(1_000_000, base=1, cap=10, asked=None, random=lambda: 1.0) == 10


async def test_the_rate_limit_holds_over_all_who_share_it() -> None:
    limit = RateLimit(MB, clock=time.monotonic)

    async def spend() -> None:
        for _ in range(15):
            await limit.spend(10_000)

    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(spend())
        group.create_task(spend())

    assert 0.2 <= time.monotonic() - started < 10


async def test_no_limit_never_waits() -> None:
    started = time.monotonic()

    await RateLimit(None, clock=time.monotonic).spend(1 << 50)

    assert time.monotonic() - started < 10


async def test_a_connection_that_is_still_writing_can_be_dropped_again() -> None:
    connection = running(MB)

    async def read() -> None:
        async with asyncio.timeout(None) as connection.scope:
            connection.drop("slow")
            connection.drop("slow")
            try:
                await asyncio.sleep(5)
            finally:
                connection.drop("slow")

    with pytest.raises(TimeoutError):
        await read()
