"""Sizes, rates and times as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.daemon.units import Rate, Seconds, Size, as_written

UNITS = {
    "B": 1,
    "kB": 1000,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1024,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " ", "  "]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str, space: str) -> None:
    assert Size.parse(f"{number}{space}{unit}") == number * UNITS[unit]


@given(st.text(max_size=20))
def test_any_text_is_a_size_in_bounds_or_refused(text: str) -> None:
    try:
        size = Size.parse(text)
    except ValueError:
        return
    assert 0 <= size < 2**63


def test_decimal_and_binary_units_are_distinct() -> None:
    assert Size.parse("1 MB") == 1_000_000
    assert Size.parse("1 MiB") == 1_048_576
    assert Size.parse("1.5 GiB") == 3 * 2**29


def test_an_integer_is_a_size_in_bytes() -> None:
    assert Size.parse(4096) == 4096


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "GB",
        "-1 GB",
        "1 Gb",
        "1 gb",
        "1e9 B",
        "9999999999 TiB",
        "1 GB/s",
        "\u0661 GB",
        True,
        1.5,
        -1,
        2**63,
        None,
        ["1 GB"],
    ],
)
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"is not|is less"):
        Size.parse(value)


@pytest.mark.parametrize(("text", "rate"), [("200 MB/s", 2e8), ("16MiB/s", 2**24), ("1.5 kB / s", 1500)])
def test_a_rate_is_bytes_a_second(text: str, rate: float) -> None:
    assert Rate.parse(text) == rate


@pytest.mark.parametrize("value", ["200 MB", "200 Mb/s", "200", "0 MB/s", "999 B/s", 1000, "inf MB/s"])
def test_what_is_no_rate_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"is not|is less"):
        Rate.parse(value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("250 ms", 0.25), ("1.5h", 5400), ("2m", 120), ("1d", 86400)]
)
def test_a_time_is_in_seconds(text: str, seconds: float) -> None:
    assert Seconds.parse(text) == seconds


@pytest.mark.parametrize("value", ["30", 30, "-1s", "1 y", "30s/s", "9999d"])
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"is not|is less"):
        Seconds.parse(value)


@given(st.sampled_from([Size, Rate, Seconds]), st.integers(1000, 2**50), st.sampled_from([1, 10**6, 2**20]))
def test_what_is_written_is_read_as_the_same(kind: type[Size | Rate | Seconds], number: int, unit: int) -> None:
    value = kind(number % 10**7 if kind is Seconds else number * unit % 2**62 + 1000)

    assert kind.parse(as_written(value)) == value


def test_what_is_written_is_as_short_as_it_can_be() -> None:
    written = [
        as_written(one) for one in (Size(10**10), Size(512 * 2**20), Size(0), Rate(2e8), Seconds(21600), Seconds(0.25))
    ]

    assert written == ["10 GB", "512 MiB", "0 B", "200 MB/s", "6h", "250ms"]
