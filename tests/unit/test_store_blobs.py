"""Blobs: what counts as stored, what comes back, and what a commit leaves at each of its failures."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.errors import NoSpaceError, StoreError
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.manifest import Descriptor
from syncd.store.blobs import BlobStatus, VerificationStoppedError
from syncd.store.os_errors import NotAFileError
from syncd.store.root import Store
from tests.unit.store_world import age, blob_path, chunks_of, commit, descriptor, python

CONTENT = b"weights" * 1000
BLOB = descriptor(CONTENT)
needs_strace = pytest.mark.skipif(shutil.which("strace") is None and not os.environ.get("CI"), reason="needs strace")


def never() -> bool:
    return False


def verify(store: Store, blob: Descriptor = BLOB) -> bool:
    return store.blobs.verify(blob, on_bytes=lambda _: None, cancelled=never)


def leave(store: Store, content: bytes, blob: Descriptor = BLOB) -> Path:
    """Let an outside Ollama put a file under the blob's name."""
    path = blob_path(store, blob)
    path.write_bytes(content)
    return path


def kept(store: Store, blob: Descriptor = BLOB) -> Path:
    return blob_path(store, blob, ".syncd/keep")


def staged(store: Store) -> list[str]:
    return sorted(path.name for path in (store.path / ".syncd" / "staging").iterdir())


@pytest.mark.parametrize("mode", [0o400, 0o000, 0o666])
def test_what_is_put_back_from_keep_can_be_read_by_all_and_written_by_nobody(store: Store, mode: int) -> None:
    commit(store, CONTENT)
    blob_path(store, BLOB).unlink()
    kept(store).chmod(mode)

    assert store.blobs.status(BLOB) is BlobStatus.STORED

    assert blob_path(store, BLOB).stat().st_mode & 0o7777 == 0o444


# What a commit makes


def test_a_committed_blob_is_stored_kept_recorded_and_readable(store: Store) -> None:
    before = os.umask(0o077)
    try:
        commit(store, CONTENT)
    finally:
        os.umask(before)

    path = blob_path(store, BLOB)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o7777 == 0o444
    assert path.samefile(kept(store))
    assert store.blobs.status(BLOB) is BlobStatus.STORED
    record = store.records.get(BLOB.digest)
    assert record is not None
    assert record.chunks == chunks_of(CONTENT)
    assert staged(store) == []


def test_an_empty_blob_is_a_blob(store: Store) -> None:
    assert store.blobs.status(commit(store, b"")) is BlobStatus.STORED


def test_a_partial_has_its_full_size_and_is_found_again(store: Store) -> None:
    with store.blobs.partials.stage(BLOB) as partial:
        assert partial.fresh
        partial.write((CONTENT[:3], memoryview(CONTENT)[3:10]), 0)
        partial.sync()
        partial.drop_cache()
    assert store.blobs.partials.reserved(BLOB.digest) >= (BLOB.size if partial.preallocated else 0)

    with store.blobs.partials.stage(BLOB) as again:
        assert not again.fresh
        buffer = memoryview(bytearray(10))
        assert again.read_into(buffer, 0) == 10
        assert buffer.tobytes() == CONTENT[:10]
        assert os.fstat(again.fd).st_size == BLOB.size


def test_bytes_beyond_a_partials_size_are_refused(store: Store) -> None:
    with store.blobs.partials.stage(BLOB) as partial, pytest.raises(ValueError, match="do not fit"):
        partial.write((b"xx",), BLOB.size - 1)


def test_a_fresh_partial_has_no_journal_of_an_older_one(store: Store) -> None:
    with store.blobs.partials.stage(BLOB) as partial:
        fd = partial.open_journal()
        os.write(fd, b"claims")
        os.close(fd)
    (store.path / ".syncd" / "staging" / f"sha256-{BLOB.digest.hex}.partial").unlink()

    with store.blobs.partials.stage(BLOB) as again:
        assert again.fresh
        fd = again.open_journal()
        assert os.fstat(fd).st_size == 0
        os.close(fd)


def test_a_discarded_partial_leaves_nothing(store: Store) -> None:
    partial = store.blobs.partials.stage(BLOB)
    os.close(partial.open_journal())

    partial.discard()

    assert staged(store) == []
    assert store.blobs.partials.reserved(BLOB.digest) == 0


def test_a_half_made_partial_is_made_anew(store: Store) -> None:
    path = store.path / ".syncd" / "staging" / f"sha256-{BLOB.digest.hex}.partial"
    path.write_bytes(b"half")

    with store.blobs.partials.stage(BLOB) as partial:
        assert partial.fresh
        assert path.stat().st_size == BLOB.size


@pytest.mark.parametrize("plant", ["link", "fifo", "folder"])
@pytest.mark.timeout(10)
def test_what_is_planted_in_staging_is_refused(store: Store, tmp_path: Path, plant: str) -> None:
    path = store.path / ".syncd" / "staging" / f"sha256-{BLOB.digest.hex}.partial"
    _plant(path, plant, tmp_path)

    with pytest.raises(StoreError, match="partial"):
        store.blobs.partials.stage(BLOB)
    assert not (tmp_path / "elsewhere").read_bytes()


def test_a_partial_that_was_swapped_is_not_published(store: Store) -> None:
    path = store.path / ".syncd" / "staging" / f"sha256-{BLOB.digest.hex}.partial"
    with store.blobs.partials.stage(BLOB) as partial:
        partial.write((CONTENT,), 0)
        path.unlink()
        path.write_bytes(b"x" * BLOB.size)

        with pytest.raises(StoreError, match="was replaced"):
            store.blobs.commit(partial, chunks_of(CONTENT))

    assert store.blobs.status(BLOB) is BlobStatus.ABSENT


def test_a_commit_replaces_a_corrupt_blob_by_a_new_file(store: Store) -> None:
    path = leave(store, b"x" * BLOB.size)
    with path.open("rb") as reader:  # a runner has it mapped
        commit(store, CONTENT)

        assert reader.read() == b"x" * BLOB.size
    assert path.read_bytes() == CONTENT
    assert path.samefile(kept(store))


# What counts as stored


def test_what_ollama_left_is_hashed_and_then_stored(store: Store) -> None:
    path = leave(store, CONTENT)
    path.chmod(0o600)
    assert store.blobs.status(BLOB) is BlobStatus.UNVERIFIED

    assert verify(store)

    assert store.blobs.status(BLOB) is BlobStatus.STORED
    assert path.stat().st_mode & 0o777 == 0o444
    assert path.samefile(kept(store))


def test_right_size_and_wrong_bytes_are_never_stored(store: Store) -> None:
    path = leave(store, b"x" * BLOB.size)

    assert store.blobs.status(BLOB) is BlobStatus.UNVERIFIED
    assert not verify(store)
    assert store.blobs.status(BLOB) is BlobStatus.ABSENT
    assert path.read_bytes() == b"x" * BLOB.size  # until a commit replaces it


def test_another_size_is_absent(store: Store) -> None:
    leave(store, CONTENT[:-1])

    assert store.blobs.status(BLOB) is BlobStatus.ABSENT
    assert not verify(store)


def test_a_blob_that_was_written_into_is_condemned_and_its_map_stays(store: Store) -> None:
    commit(store, CONTENT)
    blob_path(store, BLOB).chmod(0o644)
    with blob_path(store, BLOB).open("r+b") as file:
        file.write(b"evil")

    assert store.blobs.status(BLOB) is BlobStatus.UNVERIFIED
    known = store.records.get(BLOB.digest)
    assert not verify(store)
    record = store.records.get(BLOB.digest)
    assert known
    assert record
    assert record.condemns(blob_path(store, BLOB).stat())
    assert record.chunks == known.chunks  # by which a repair knows what is still good
    assert store.blobs.status(BLOB) is BlobStatus.ABSENT
    assert not kept(store).exists()


def test_a_corrupt_record_costs_a_hashing_and_no_more(store: Store) -> None:
    commit(store, CONTENT)
    (store.path / ".syncd" / "records" / f"sha256-{BLOB.digest.hex}").write_bytes(b"\0" * 300)

    assert store.blobs.status(BLOB) is BlobStatus.UNVERIFIED
    assert verify(store)
    assert store.blobs.status(BLOB) is BlobStatus.STORED


def test_a_verification_records_the_same_chunks_as_a_download(store: Store) -> None:
    content = os.urandom(1000) * (CHUNK_SIZE // 500)
    blob = descriptor(content)
    leave(store, content, blob)
    seen: list[int] = []

    assert store.blobs.verify(blob, on_bytes=seen.append, cancelled=never)

    record = store.records.get(blob.digest)
    assert record is not None
    assert record.chunks == chunks_of(content)
    assert sum(seen) == blob.size


def test_a_verification_stops_when_it_is_told_to(store: Store) -> None:
    leave(store, CONTENT)

    with pytest.raises(VerificationStoppedError):
        store.blobs.verify(BLOB, on_bytes=lambda _: None, cancelled=lambda: True)
    assert store.blobs.status(BLOB) is BlobStatus.UNVERIFIED


def test_a_blob_that_changes_while_it_is_read_does_not_pass(store: Store) -> None:
    path = leave(store, CONTENT)

    def write_into(_: int) -> None:
        path.write_bytes(CONTENT)
        age(path, -60)

    assert not store.blobs.verify(BLOB, on_bytes=write_into, cancelled=never)
    assert store.blobs.status(BLOB) is BlobStatus.UNVERIFIED


@pytest.mark.parametrize("plant", ["link", "fifo", "folder"])
@pytest.mark.timeout(10)
def test_what_is_planted_under_a_blobs_name_is_never_followed(store: Store, tmp_path: Path, plant: str) -> None:
    _plant(blob_path(store, BLOB), plant, tmp_path)

    for attempt in (store.blobs.status, store.blobs.open_check):
        with pytest.raises(NotAFileError, match=BLOB.digest.hex):
            attempt(BLOB)


# What comes back


def test_what_an_outside_ollama_took_is_put_back(store: Store) -> None:
    commit(store, CONTENT)
    blob_path(store, BLOB).unlink()

    assert store.blobs.status(BLOB) is BlobStatus.STORED
    assert blob_path(store, BLOB).read_bytes() == CONTENT


def test_what_an_outside_ollama_replaced_gives_way_to_the_verified_file(store: Store) -> None:
    commit(store, CONTENT)
    blob_path(store, BLOB).unlink()
    leave(store, b"half a download")

    assert store.blobs.status(BLOB) is BlobStatus.STORED
    assert blob_path(store, BLOB).read_bytes() == CONTENT


def test_a_kept_file_without_a_record_is_hashed_before_it_comes_back(store: Store) -> None:
    commit(store, CONTENT)
    blob_path(store, BLOB).unlink()
    store.records.remove(BLOB.digest)

    assert store.blobs.status(BLOB) is BlobStatus.UNVERIFIED
    assert not blob_path(store, BLOB).exists()
    assert verify(store)
    assert blob_path(store, BLOB).read_bytes() == CONTENT


def test_nothing_comes_back_from_nowhere(store: Store) -> None:
    assert store.blobs.status(BLOB) is BlobStatus.ABSENT
    with pytest.raises(StoreError, match="was removed"):
        store.blobs.refresh(BLOB)


def test_a_blob_found_stored_gets_a_fresh_mtime_and_stays_stored(store: Store) -> None:
    commit(store, CONTENT)
    path = blob_path(store, BLOB)
    age(path, 7200)
    assert verify(store)
    kept(store).unlink()
    old = path.stat().st_mtime

    store.blobs.refresh(BLOB)

    assert path.stat().st_mtime > old + 7000
    assert store.blobs.status(BLOB) is BlobStatus.STORED
    assert path.samefile(kept(store))


def test_a_fresh_mtime_does_not_make_an_unverified_blob_stored(store: Store) -> None:
    commit(store, CONTENT)
    age(blob_path(store, BLOB), 7200)

    store.blobs.refresh(BLOB)

    assert store.blobs.status(BLOB) is BlobStatus.UNVERIFIED


# What a crash or a failure leaves


def test_a_commit_that_was_killed_before_its_rename_is_not_fetched_again(store: Store) -> None:
    with store.blobs.partials.stage(BLOB) as partial:
        partial.write((CONTENT,), 0)
        os.fchmod(partial.fd, 0o444)
        os.link(partial.path, kept(store))

    assert store.blobs.status(BLOB) is BlobStatus.UNVERIFIED
    assert verify(store)

    assert store.blobs.status(BLOB) is BlobStatus.STORED
    assert staged(store) == []  # it is the file of a published blob now: nobody may write into it


def test_the_file_of_a_published_blob_is_never_opened_as_a_partial(store: Store) -> None:
    commit(store, CONTENT)
    os.link(blob_path(store, BLOB), store.path / ".syncd" / "staging" / f"sha256-{BLOB.digest.hex}.partial")

    with store.blobs.partials.stage(BLOB) as partial:
        assert partial.fresh
        partial.write((b"other",), 0)

    assert blob_path(store, BLOB).read_bytes() == CONTENT


_COMMIT = """
import sys
from pathlib import Path
from syncd.errors import SyncdError
from syncd.store.root import Store
from tests.unit.store_world import commit
with Store.open(Path(sys.argv[1]), create=False) as store:
    try:
        commit(store, b"weights" * 1000)
    except SyncdError as error:
        print(error.message)
"""


def _commit_with_failing_fsync(store: Store, number: int) -> str:
    inject = ("-e", "trace=fsync", "-e", f"inject=fsync:error=EIO:when={number}")
    process = python(_COMMIT, store.path, before=("strace", "-qq", "-f", "-o", "/dev/null", *inject))
    out, err = process.communicate(timeout=60)
    assert "Input/output error" in out, err
    return out


@needs_strace
def test_bytes_whose_fsync_failed_are_thrown_away(store: Store) -> None:
    _commit_with_failing_fsync(store, 1)

    assert staged(store) == []
    assert store.blobs.status(BLOB) is BlobStatus.ABSENT


@needs_strace
@pytest.mark.parametrize("number", [2, 3])
def test_names_whose_fsync_failed_are_taken_back_and_the_bytes_stay(store: Store, number: int) -> None:
    _commit_with_failing_fsync(store, number)

    assert staged(store) == [f"sha256-{BLOB.digest.hex}.partial"]
    assert store.blobs.status(BLOB) is BlobStatus.ABSENT
    with store.blobs.partials.stage(BLOB) as partial:
        assert not partial.fresh
        store.blobs.commit(partial, chunks_of(CONTENT))
    assert store.blobs.status(BLOB) is BlobStatus.STORED


def test_after_a_failed_sync_nothing_of_a_partial_counts(store: Store) -> None:
    with store.blobs.partials.stage(BLOB) as partial:
        fd = partial.fd
        saved = os.dup(fd)
        reader, writer = os.pipe()
        os.dup2(writer, fd)  # fdatasync(2) of a pipe fails
        try:
            with pytest.raises(StoreError):
                partial.sync()
        finally:
            os.dup2(saved, fd)
            for one in (saved, reader, writer):
                os.close(one)

        with pytest.raises(StoreError, match="earlier fsync failed"):
            partial.write((b"x",), 0)
        with pytest.raises(StoreError, match="earlier fsync failed"):
            store.blobs.commit(partial, chunks_of(CONTENT))


@pytest.fixture
def small_store(tmp_path: Path) -> Iterator[Store]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        with Store.open(disk / "models", create=True) as opened:
            yield opened
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_blob_that_does_not_fit_takes_nothing(small_store: Store) -> None:
    free = small_store.free_bytes()

    with pytest.raises(NoSpaceError, match="No space left"):
        small_store.blobs.partials.stage(Descriptor("a/b", BLOB.digest, 8 << 20))

    assert small_store.free_bytes() == free
    assert staged(small_store) == []


def _plant(path: Path, kind: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    match kind:
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
