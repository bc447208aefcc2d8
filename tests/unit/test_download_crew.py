"""Connections that know their place: few where the hash is what limits, and behind it."""

import os
import threading

import pytest

from syncd.download.crew import FEW, Crew, yielding_threads


class Passing:
    """Time in seconds, as a test lets it pass."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now

    def passes(self, crew: Crew, *, seconds: float, hashing: float) -> None:
        """So much time, of which the hash was at work for a share."""
        self.now += seconds
        crew.hashed(hashing * seconds)
        crew.look()


def test_all_may_work_until_the_hash_limits() -> None:
    time = Passing()
    crew = Crew(8, time)
    assert crew.size == 8
    time.passes(crew, seconds=1, hashing=0.7)
    assert crew.size == 8
    for size in (4, 2, FEW):
        time.passes(crew, seconds=1, hashing=0.9)
        assert crew.size == size


def test_few_stay_few_until_the_hash_waits_for_bytes() -> None:
    time = Passing()
    crew = Crew(8, time)
    time.passes(crew, seconds=1, hashing=0.9)
    time.passes(crew, seconds=1, hashing=0.9)
    time.passes(crew, seconds=1, hashing=0.6)
    assert crew.size == FEW
    for size in (4, 8, 8):
        time.passes(crew, seconds=1, hashing=0.4)
        assert crew.size == size


def test_a_moment_decides_nothing_but_counts() -> None:
    time = Passing()
    crew = Crew(8, time)
    time.passes(crew, seconds=0.05, hashing=1.0)
    assert crew.size == 8
    time.passes(crew, seconds=0.06, hashing=0.9)
    assert crew.size == 4


@pytest.mark.parametrize("most", [1, FEW])
def test_it_is_never_more_than_may_be(most: int) -> None:
    time = Passing()
    crew = Crew(most, time)
    time.passes(crew, seconds=1, hashing=0.9)
    assert crew.size == most


def test_connections_give_way_to_the_hash_and_nobody_else_does() -> None:
    ours = os.getpriority(os.PRIO_PROCESS, 0)

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    with yielding_threads(2) as threads:
        theirs = {threads.submit(niceness).result(), threads.submit(niceness).result()}

    assert theirs == {min(19, ours + 5)}
    assert niceness() == ours
