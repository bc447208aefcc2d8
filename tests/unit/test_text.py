import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from syncd.text import printable, printable_json


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    shown = printable(text)

    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in shown)
    assert not any(character in shown for character in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200f\u2028")


@given(st.text(st.characters(codec="utf-8") | st.sampled_from('\x7f\x9b\u202e\U000e0041\n"\\')))
def test_json_says_the_same_and_steers_no_terminal(text: str) -> None:
    shown = printable_json(msgspec.json.encode([text, {text: text}]).decode())

    assert json.loads(shown) == [text, {text: text}]
    assert printable(shown, limit=10**6) == shown


def test_escapes_show_what_was_there() -> None:
    assert printable("a\x1b[31mb\nc") == "a\\x1b[31mb\\nc"


def test_ordinary_text_stays_as_it_is() -> None:
    assert printable("Größe: 4 GB — 模型") == "Größe: 4 GB — 模型"


def test_endless_text_is_cut() -> None:
    assert len(printable("x" * 10_000)) == 500
