"""Connections that know their place: few where the processors are what limits, and behind the hash."""

import os
import threading

import pytest

from syncd.download.crew import Load, yielding_threads


class Meter:
    """Times that a test sets, in seconds."""

    def __init__(self) -> None:
        self.used = 100.0
        self.now = 5.0

    def passes(self, seconds: float, *, used: float) -> None:
        self.now += seconds
        self.used += used

    def load(self, cores: int) -> Load:
        return Load(lambda: self.used, lambda: self.now, cores)


@pytest.mark.parametrize(
    ("cores", "used", "light"), [(2, 0.04, True), (2, 0.06, False), (64, 1.5, True), (64, 1.7, False)]
)
def test_a_quarter_of_the_processors_is_light_work(cores: int, used: float, light: bool) -> None:
    meter = Meter()
    load = meter.load(cores)
    meter.passes(0.1, used=used)
    assert load.light() is light


def test_each_look_is_at_the_time_since_the_last_one() -> None:
    meter = Meter()
    load = meter.load(2)
    meter.passes(0.1, used=0.2)
    assert not load.light()
    meter.passes(0.1, used=0.01)
    assert load.light()
    meter.passes(0.1, used=0.2)
    assert not load.light()


def test_connections_give_way_to_the_hash_and_nobody_else_does() -> None:
    ours = os.getpriority(os.PRIO_PROCESS, 0)

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    with yielding_threads(2) as threads:
        theirs = {threads.submit(niceness).result(), threads.submit(niceness).result()}

    assert theirs == {min(19, ours + 5)}
    assert niceness() == ours
