"""The header of GGUF files: real ones are read as the reference implementation reads them, hostile ones are refused."""

import struct
from contextlib import suppress
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.errors import IntegrityError
from syncd.oci.gguf import GgufError, Header, ReadAt, read_header
from tests.support.gguf_files import Shape, embedder, language_model, projector

LLAMA = language_model(Shape("llama", "small", 4096, 100_000, 1))


def reader(raw: bytes) -> ReadAt:
    return lambda offset, length: raw[offset : offset + length]


def read(raw: bytes, *, arrays: bool = False) -> Header:
    return read_header(reader(raw), arrays=arrays)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def header(fields: bytes = b"", *, count: int = 0, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + fields


@pytest.mark.parametrize("make", [language_model, embedder, projector])
def test_real_files_are_read_as_the_reference_reads_them(tmp_path: Path, make: object) -> None:
    raw = make(Shape("llama", "small", 4096, 100_000, 1))  # type: ignore[operator]  # one of the three above
    file = tmp_path / "weights.gguf"
    file.write_bytes(raw)
    reference = gguf.GGUFReader(file)

    found = read(raw, arrays=True)

    expected = {name: one.contents() for name, one in reference.fields.items() if not name.startswith("GGUF.")}
    assert found.fields == expected
    assert [(one.name, one.kind, one.shape) for one in found.tensors] == [
        (one.name, one.tensor_type.name, tuple(int(side) for side in one.shape)) for one in reference.tensors
    ]
    assert found.parameters == sum(int(one.n_elements) for one in reference.tensors)


def test_arrays_are_passed_over_unless_asked_for() -> None:
    assert read(LLAMA).fields["tokenizer.ggml.tokens"] is None
    assert isinstance(read(LLAMA, arrays=True).fields["tokenizer.ggml.tokens"], list)
    assert {**read(LLAMA).fields}.keys() == {**read(LLAMA, arrays=True).fields}.keys()


def test_it_says_what_the_file_says_of_itself() -> None:
    found = read(LLAMA)
    assert (found.architecture, found.quantization) == ("llama", "F16")
    nothing = read(header())
    assert (nothing.architecture, nothing.quantization, nothing.parameters) == ("", "", 0)


def test_files_of_the_other_byte_order_are_read_too() -> None:
    raw = b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + struct.pack(">Q", 1) + b"a" + struct.pack(">Ii", 5, -7)
    assert read(raw).fields == {"a": -7}


HUGE = 2**63
HOSTILE = {
    "empty": b"",
    "other magic": b"GGML" + LLAMA[4:],
    "a version to come": header(version=4),
    "the first version": header(version=1),
    "2^63 fields": header(count=HUGE),
    "2^63 tensors": header(tensors=HUGE),
    "a key of 2^63 bytes": header(struct.pack("<Q", HUGE), count=1),
    "a text of 2^63 bytes": header(text("a") + struct.pack("<IQ", 8, HUGE), count=1),
    "an array of 2^63 numbers": header(text("a") + struct.pack("<IIQ", 9, 4, HUGE), count=1),
    "an array of 2^63 texts": header(text("a") + struct.pack("<IIQ", 9, 8, HUGE), count=1),
    "an array of arrays": header(text("a") + struct.pack("<IIQ", 9, 9, 1), count=1),
    "an unknown type": header(text("a") + struct.pack("<I", 13), count=1),
    "a field twice": header((text("a") + struct.pack("<Ib", 1, 1)) * 2, count=2),
    "a tensor of 2^32 dimensions": header(text("t") + struct.pack("<I", 2**32 - 1), tensors=1),
    "a tensor of 2^126 numbers": header(text("t") + struct.pack("<IQQIQ", 2, HUGE, HUGE, 0, 0), tensors=1),
    "cut short": LLAMA[:500],
    "a field beyond the end": header(text("a") + struct.pack("<IIQ", 9, 4, 10**6) + text("b"), count=2),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("arrays", [False, True])
def test_what_nobody_can_mean_is_refused_before_anything_is_allocated(what: str, arrays: bool) -> None:
    largest = 0

    def bounded(offset: int, length: int) -> bytes:
        nonlocal largest
        largest = max(largest, length)
        return HOSTILE[what][offset : offset + length]

    with pytest.raises(GgufError):
        read_header(bounded, arrays=arrays)
    assert largest <= 4 * 1024 * 1024


def test_a_header_that_never_ends_is_given_up() -> None:
    def endless(offset: int, length: int) -> bytes:
        start = header(count=10_000) if offset == 0 else b""
        return (start + text(f"{offset}".ljust(60_000)) + struct.pack("<IQ", 8, 1 << 21) + bytes(1 << 21))[:length]

    with pytest.raises(IntegrityError):
        read_header(endless)


@given(st.data())
def test_a_damaged_header_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    raw = bytearray(LLAMA[:3000])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(GgufError):
        read(bytes(raw), arrays=data.draw(st.booleans()))
