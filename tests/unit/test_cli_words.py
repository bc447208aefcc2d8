"""Sizes, rates and times as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.cli import words
from syncd.cli.words import Meter
from syncd.jobs.progress import Totals
from syncd.oci.media import kind
from syncd.text import size


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (274_302_450, "274 MB"),
        (4_113_301_824, "4.1 GB"),
        (10**18, "1000 PB"),
    ],
)
def test_sizes_are_decimal_with_two_or_three_digits(number: int, text: str) -> None:
    assert size(number) == text


@given(st.integers(0, 10**17))
def test_a_size_is_within_its_rounding(number: int) -> None:
    value, unit = size(number).split()
    factor = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}[unit]
    assert abs(float(value) * factor - number) <= 0.06 * max(number, 1)
    assert len(value) <= 3


@pytest.mark.parametrize(
    ("seconds", "in_full", "in_brief"),
    [
        (0.04, "0.0 s", "0s"),
        (41.23, "41.2 s", "41s"),
        (200, "3 min 20 s", "3m20s"),
        (7500, "2 h 5 min", "2h05m"),
        (10**6, "277 h 46 min", "11d"),
    ],
)
def test_times_in_full_and_in_brief(seconds: float, in_full: str, in_brief: str) -> None:
    assert (words.took(seconds), words.left(seconds)) == (in_full, in_brief)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"),
        (1, "1 second ago"),
        (59, "59 seconds ago"),
        (61, "1 minute ago"),
        (7300, "2 hours ago"),
        (100_000, "27 hours ago"),
        (200_000, "2 days ago"),
        (90 * 86400, "3 months ago"),
        (800 * 86400, "2 years ago"),
    ],
)
def test_ages_in_one_unit(seconds: float, text: str) -> None:
    assert words.ago(seconds) == text


def test_a_kind_is_a_word_and_never_an_escape_sequence() -> None:
    assert kind("application/vnd.ollama.image.model") == "weights"
    assert kind("application/vnd.ollama.image.template") == "template"
    assert kind("application/vnd.docker.container.image.v1+json") == "config"
    assert kind("application/x;\x1b[2J") == "application/x;\\x1b[2J"


def test_a_meter_measures_the_last_seconds_only() -> None:
    meter = Meter(span=8)
    for second in range(21):
        done = 100 * second if second <= 10 else 1000 + 10 * (second - 10)
        meter.see(second, Totals(size=2000, done=done, fetched=done))

    assert meter.rate(20) == pytest.approx(10)
    assert meter.seconds_left(20) == pytest.approx(90)


def test_a_meter_that_has_seen_nothing_promises_nothing() -> None:
    meter = Meter()
    assert meter.rate(0) == 0
    assert meter.seconds_left(0) is None
    meter.see(0, Totals(10, 5, 5))
    assert meter.seconds_left(1) is None


def test_bytes_found_on_the_disk_are_not_speed() -> None:
    meter = Meter()
    meter.see(0, Totals(size=1000, done=0, fetched=0))
    meter.see(1, Totals(size=1000, done=800, fetched=10))

    assert meter.rate(1) == 10


def test_while_another_process_fetches_its_progress_is_the_rate() -> None:
    meter = Meter()
    meter.see(0, Totals(size=1000, done=100, fetched=0))
    meter.see(2, Totals(size=1000, done=300, fetched=0))

    assert meter.rate(2) == 100


@pytest.mark.parametrize(("size", "done", "percent"), [(0, 0, 0), (1000, 999, 99), (1000, 1000, 100)])
def test_percent_is_rounded_down(size: int, done: int, percent: int) -> None:
    assert Totals(size, done, 0).percent == percent
