"""JSON from strangers costs no more than its size, and what it holds can be told."""

import time

import pytest

from syncd.oci import strict_json

QUOTES = b'"' + b'\\"' * 400_000
LEVELS = b"[]," * 40
MANY_KEYS = b"{" + b"".join(b'"%05x":0,' % number for number in range(100_000)) + b'"1869f":0}'


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"a":[' + LEVELS + QUOTES, "no JSON"),
        (b'{"a":[' + LEVELS + QUOTES + b'"' + b"[" * 40, "nested deeper"),
        (MANY_KEYS, "'1869f' twice"),
        (b'{"' + b"k" * 500_000 + b'":0,"' + b"k" * 500_000 + b'":0}', "twice"),
        (b'{"a":' + b"9" * 900_000 + b"}", "no JSON"),
    ],
    ids=["a text without an end", "brackets behind a text of quotes", "a key twice", "a long key", "a long number"],
)
def test_what_nobody_sends_in_good_faith_is_refused_at_once_and_in_few_words(raw: bytes, why: str) -> None:
    started = time.process_time()
    with pytest.raises(strict_json.StrictJSONError, match=why) as refused:
        strict_json.parse(raw)
    assert time.process_time() - started < 2
    assert len(refused.value.message) < 500


@pytest.mark.parametrize("raw", [rb'"\ud800"', rb'{"\uDFFF":1}', rb'["\ud83d\ud83d\ude00"]', rb'"\ude00\ud83d"'])
def test_half_a_character_is_refused(raw: bytes) -> None:
    with pytest.raises(strict_json.StrictJSONError):
        strict_json.parse(raw)


def test_a_character_in_two_halves_is_one() -> None:
    assert strict_json.parse(rb'"\ud83d\ude00 \\ud800"') == "\U0001f600 \\ud800"
    assert strict_json.parse(b'{"a":"[[[[ \\" ]", "b":[' + b"[]," * 40 + b"0]}")["a"] == '[[[[ " ]'
