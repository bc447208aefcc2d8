"""Records: what is read is what was written, or nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.oci.chunks import ChunkMap, chunk_count
from syncd.oci.digest import Digest
from syncd.store.records import Identity, Record, decode, encode
from syncd.store.root import Store

numbers = st.integers(0, 2**63 - 1)


@st.composite
def records(draw: st.DrawFn) -> Record:
    size = draw(st.integers(0, 5 * 16 * 1024 * 1024))
    count = chunk_count(size)
    hashes = tuple(draw(st.lists(st.binary(min_size=32, max_size=32), min_size=count, max_size=count)))
    identity = Identity(draw(numbers), draw(numbers), size, draw(numbers))
    return Record(Digest.of(draw(st.binary())), identity, ChunkMap(size, hashes))


@given(records())
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert decode(encode(record), record.digest) == record


@given(records(), st.data())
def test_a_record_with_any_bit_flipped_is_none(record: Record, data: st.DataObject) -> None:
    content = bytearray(encode(record))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    assert decode(bytes(content), record.digest) is None


@given(records(), st.data())
def test_a_torn_record_is_none(record: Record, data: st.DataObject) -> None:
    content = encode(record)

    assert decode(content[: data.draw(st.integers(0, len(content) - 1))], record.digest) is None


@given(st.binary())
def test_a_foreign_file_is_none(content: bytes) -> None:
    assert decode(content, Digest.of(b"")) is None


@given(records())
def test_another_blobs_record_is_none(record: Record) -> None:
    assert decode(encode(record), Digest.of(b"another" + record.digest.hex.encode())) is None


def test_a_record_is_kept_replaced_and_forgotten(store: Store) -> None:
    record = Record(Digest.of(b"x"), Identity(1, 2, 0, 4), ChunkMap(0, ()))
    newer = Record(record.digest, Identity(1, 2, 0, 5), record.chunks)

    assert store.records.get(record.digest) is None
    store.records.put(record)
    assert store.records.get(record.digest) == record
    store.records.put(newer)
    assert store.records.get(record.digest) == newer
    store.records.remove(record.digest)
    store.records.remove(record.digest)
    assert store.records.get(record.digest) is None


@pytest.mark.parametrize("kind", ["link", "zeros", "folder"])
def test_what_is_no_record_counts_as_none(store: Store, kind: str) -> None:
    digest = Digest.of(b"x")
    path = store.path / ".syncd" / "records" / f"sha256-{digest.hex}"
    match kind:
        case "link":
            path.symlink_to("/etc/passwd")
        case "zeros":
            path.write_bytes(bytes(4096))
        case "folder":
            path.mkdir()

    assert store.records.get(digest) is None
