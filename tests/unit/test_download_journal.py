import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.download.journal import Journal, claimed_bytes, header, parse, record
from syncd.oci.chunks import CHUNK_SIZE, chunk_count
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor

BLOB = Descriptor("application/vnd.ollama.image.model", Digest.of(b"weights"), 20 * CHUNK_SIZE + 5)
claims = st.lists(st.tuples(st.integers(0, chunk_count(BLOB.size) - 1), st.binary(min_size=32, max_size=32)))


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield fd
    os.close(fd)


@given(claims)
def test_what_was_claimed_is_read_back_the_later_claim_holding(written: list[tuple[int, bytes]]) -> None:
    content = header(BLOB) + b"".join(record(index, blake3) for index, blake3 in written)

    assert parse(content, BLOB).chunks == dict(written)


@given(claims, st.data())
def test_a_torn_journal_claims_a_prefix_of_what_was_written(
    written: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    whole = header(BLOB) + b"".join(record(index, blake3) for index, blake3 in written)
    cut = data.draw(st.integers(0, len(whole)))

    parsed = parse(whole[:cut], BLOB)

    count = max(0, (parsed.length - len(header(BLOB))) // len(record(0, bytes(32))))
    assert parsed.chunks == dict(written[:count])
    assert parsed.length <= cut


@given(claims, st.data())
def test_a_flipped_bit_ends_the_journal_and_never_raises(written: list[tuple[int, bytes]], data: st.DataObject) -> None:
    content = bytearray(header(BLOB) + b"".join(record(index, blake3) for index, blake3 in written))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))

    parsed = parse(bytes(content), BLOB)

    assert parsed.length <= position
    assert all(any(pair == claim for claim in written) for pair in parsed.chunks.items())


@given(st.binary(max_size=400))
def test_foreign_bytes_claim_nothing(content: bytes) -> None:
    assert parse(content, BLOB).chunks == {}


def test_another_blobs_journal_claims_nothing() -> None:
    other = Descriptor(BLOB.media_type, Digest.of(b"other"), BLOB.size)

    assert parse(header(other) + record(0, bytes(32)), BLOB).length == 0


def test_the_last_chunk_counts_with_its_real_size() -> None:
    content = header(BLOB) + record(20, bytes(32)) + record(0, bytes(32))

    assert claimed_bytes(content, BLOB) == CHUNK_SIZE + 5


def test_a_chunk_beyond_the_blob_ends_the_journal() -> None:
    content = header(BLOB) + record(21, bytes(32)) + record(0, bytes(32))

    assert parse(content, BLOB).chunks == {}


def test_a_torn_tail_is_cut_off_so_that_later_claims_are_found(fd: int) -> None:
    journal = Journal(fd, BLOB)
    journal.read()
    journal.claim(3, b"3" * 32)
    os.write(fd, record(4, b"4" * 32)[:17])

    reopened = Journal(fd, BLOB)
    assert reopened.read() == {3: b"3" * 32}
    reopened.claim(5, b"5" * 32)

    assert Journal(fd, BLOB).read() == {3: b"3" * 32, 5: b"5" * 32}


def test_a_cleared_journal_claims_nothing_and_can_be_used(fd: int) -> None:
    journal = Journal(fd, BLOB)
    journal.read()
    journal.claim(3, b"3" * 32)

    journal.clear()
    journal.claim(1, b"1" * 32)

    assert Journal(fd, BLOB).read() == {1: b"1" * 32}
