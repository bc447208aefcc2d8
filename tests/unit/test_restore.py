"""Putting back what the store once held, from what is left of it: a real store, no registry anywhere."""

import asyncio
import os
import time
from collections.abc import Callable

import pytest

from syncd.errors import StoreError
from syncd.jobs.remove import remove_if
from syncd.jobs.restore import Restoration, examine, restore
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.root import Store
from tests.support.oracle import assert_store_whole
from tests.unit.store_world import NAME, blob_path, manifest_of, manifest_path, publish

FIRST = (b"weights", b"config")
SECOND = (b"other weights", b"config")


def published(store: Store, *contents: bytes, at: float = 100.0) -> Manifest:
    """As a pull leaves it."""
    manifest = publish(store, *contents)
    store.models.remember(NAME, manifest, "https://registry.example", at)
    return manifest


def whole(store: Store) -> dict[str, str]:
    return assert_store_whole(store.path)


async def test_what_is_whole_is_left_as_it_is(store: Store) -> None:
    manifest = published(store, *FIRST)
    before = manifest_path(store).stat()

    assert await restore(store, NAME, None) is Restoration.INTACT

    assert whole(store) == {NAME.qualified: str(manifest.digest)}
    assert manifest_path(store).stat() == before


async def test_the_latest_publication_is_put_back(store: Store) -> None:
    published(store, *FIRST, at=100.0)
    newest = published(store, *SECOND, at=50.0)  # the clock was set back meanwhile
    manifest_path(store).unlink()

    assert await restore(store, NAME, None) is Restoration.RESTORED

    assert whole(store) == {NAME.qualified: str(newest.digest)}
    assert store.models.history(NAME)[0].manifest == newest


async def test_a_pin_is_put_back_whatever_was_published_last(store: Store) -> None:
    pinned = published(store, *FIRST)
    published(store, *SECOND)

    assert await restore(store, NAME, pinned.digest) is Restoration.RESTORED

    assert whole(store) == {NAME.qualified: str(pinned.digest)}
    assert store.models.history(NAME)[0].manifest == pinned


async def test_blobs_come_back_from_where_they_are_kept(store: Store) -> None:
    manifest = published(store, *FIRST)
    for blob in manifest.blobs:
        blob_path(store, blob).unlink()
    found = examine(store, NAME, None)
    assert found.restorable
    assert not found.intact
    assert not blob_path(store, manifest.config).exists(), "a look changes nothing"

    assert await restore(store, NAME, None) is Restoration.RESTORED

    assert whole(store) == {NAME.qualified: str(manifest.digest)}


async def test_a_blob_that_was_only_touched_is_hashed_and_stays(store: Store) -> None:
    manifest = published(store, *FIRST)
    os.utime(blob_path(store, manifest.layers[0]))
    assert not examine(store, NAME, None).intact

    assert await restore(store, NAME, None) is Restoration.RESTORED

    assert examine(store, NAME, None).intact


async def test_nothing_is_changed_where_bytes_are_gone(store: Store) -> None:
    manifest = published(store, *FIRST)
    for folder in ("blobs", "keep"):
        where = "blobs" if folder == "blobs" else ".syncd/keep"
        blob_path(store, manifest.layers[0], where).unlink()
    manifest_path(store).unlink()

    assert await restore(store, NAME, None) is Restoration.GONE

    assert not manifest_path(store).exists()
    assert store.leases.all(time.time()) == []


async def test_bytes_that_are_wrong_are_not_put_back(store: Store) -> None:
    manifest = published(store, *FIRST)
    weights = blob_path(store, manifest.layers[0])
    weights.chmod(0o644)
    weights.write_bytes(b"WEIGHTS")
    manifest_path(store).unlink()

    assert await restore(store, NAME, None) is Restoration.GONE

    assert not manifest_path(store).exists()


async def test_what_was_never_published_cannot_be_put_back(store: Store) -> None:
    assert await restore(store, NAME, None) is Restoration.GONE


async def test_nobody_is_disturbed_who_is_at_the_name(store: Store) -> None:
    manifest = published(store, *FIRST)
    manifest_path(store).unlink()
    lock = store.locks.try_name(NAME)
    assert lock is not None

    with lock:
        assert await restore(store, NAME, None) is Restoration.BUSY
    assert await restore(store, NAME, None) is Restoration.RESTORED
    assert whole(store) == {NAME.qualified: str(manifest.digest)}


async def test_a_publication_that_a_crash_kept_from_being_noted_stands(store: Store) -> None:
    published(store, *FIRST)
    newer = manifest_of(*SECOND)
    references = store.locks.try_references(shared=True)
    assert references is not None
    with references:
        store.leases.take(NAME, newer, references).abandon()
    publish(store, *SECOND)

    assert await restore(store, NAME, None) is Restoration.RESTORED

    assert whole(store) == {NAME.qualified: str(newer.digest)}
    assert store.models.history(NAME)[0].manifest == newer


async def test_a_rollback_that_a_crash_kept_from_being_noted_is_no_tag_that_moved_back(store: Store) -> None:
    older = published(store, *FIRST)
    published(store, *SECOND)
    references = store.locks.try_references(shared=True)
    assert references is not None
    with references:
        store.leases.take(NAME, older, references).abandon()
    publish(store, *FIRST)

    assert await restore(store, NAME, older.digest) is Restoration.RESTORED

    assert [one.chosen for one in store.models.publications(NAME)] == [True, False, False]
    assert examine(store, NAME, older.digest).moved_back is None


def link(store: Store) -> None:
    manifest_path(store).unlink()
    manifest_path(store).symlink_to("/etc/passwd")


def folder(store: Store) -> None:
    manifest_path(store).unlink()
    (manifest_path(store) / "below").mkdir(parents=True)


def fifo(store: Store) -> None:
    manifest_path(store).unlink()
    os.mkfifo(manifest_path(store))


def torn(store: Store) -> None:
    manifest_path(store).write_bytes(b'{"schemaVersion": 2,')


@pytest.mark.parametrize("harm", [link, folder, fifo, torn])
async def test_whatever_lies_under_the_tag_makes_way(store: Store, harm: Callable[[Store], None]) -> None:
    manifest = published(store, *FIRST)
    harm(store)

    assert await restore(store, NAME, None) is Restoration.RESTORED

    assert whole(store) == {NAME.qualified: str(manifest.digest)}


async def test_a_link_above_the_tag_is_told_of_and_not_followed(store: Store) -> None:
    published(store, *FIRST)
    parent = manifest_path(store).parent
    parent.rename(store.path / "away")
    parent.symlink_to(store.path / "away")

    with pytest.raises(StoreError, match="symbolic link"):
        await restore(store, NAME, None)

    assert examine(store, NAME, None).broken is not None


async def test_failing_again_and_again_leaves_one_lease(store: Store) -> None:
    published(store, *FIRST)
    parent = manifest_path(store).parent
    parent.rename(store.path / "away")
    parent.write_bytes(b"a file where a folder should be")

    for _ in range(3):
        with pytest.raises(StoreError):
            await restore(store, NAME, None)

    assert len(store.leases.all(time.time())) <= 1


async def test_a_folder_that_was_moved_away_is_made_again(store: Store) -> None:
    manifest = published(store, *FIRST)
    for name in ("manifests", "blobs"):
        (store.path / name).rename(store.path / f"old-{name}")

    assert store.revive()
    assert not store.revive()

    assert await restore(store, NAME, None) is Restoration.RESTORED
    assert whole(store) == {NAME.qualified: str(manifest.digest)}


async def test_many_restores_at_once_end_with_one_whole_model(store: Store) -> None:
    manifest = published(store, *FIRST)
    manifest_path(store).unlink()

    results = await asyncio.gather(*(restore(store, NAME, None) for _ in range(8)))

    assert results.count(Restoration.RESTORED) == 1
    assert whole(store) == {NAME.qualified: str(manifest.digest)}


def test_history_tells_what_was_published_the_latest_first(store: Store) -> None:
    first, second = manifest_of(*FIRST), manifest_of(*SECOND)
    for manifest, at in ((first, 100.0), (second, 200.0), (first, 300.0)):
        store.models.remember(NAME, manifest, "here", at)

    history = store.models.history(NAME)

    assert [(entry.manifest, entry.time) for entry in history] == [(first, 300.0), (second, 200.0)]
    assert store.models.history(ModelName.parse("other")) == ()


@pytest.mark.parametrize("content", [b"", b"{", b'{"time":1,"origin":"x","manifest":"e30="}'])
def test_an_entry_that_cannot_be_read_is_left_out(store: Store, content: bytes) -> None:
    first, second = manifest_of(*FIRST), manifest_of(*SECOND)
    for manifest in (first, second):
        store.models.remember(NAME, manifest, "here", 100.0)
    entries = store.path.joinpath(".syncd", "history", *NAME.parts)
    (entries / f"sha256-{second.digest.hex}").write_bytes(content)

    assert [entry.manifest for entry in store.models.history(NAME)] == [first]


# What prune takes away


async def test_only_the_digest_that_is_meant_is_removed(store: Store) -> None:
    published(store, *FIRST)
    newer = published(store, *SECOND)

    assert await remove_if(store, NAME, manifest_of(*FIRST).digest, now=time.time()) is None
    assert whole(store) == {NAME.qualified: str(newer.digest)}

    removed = await remove_if(store, NAME, newer.digest, now=time.time())
    assert removed is not None
    assert removed.digest == newer.digest
    assert whole(store) == {}
    assert await remove_if(store, NAME, Digest.of(b"nothing"), now=time.time()) is None
