"""The quarantine takes what it is told, once, and loses nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.oci.digest import Digest
from syncd.store.quarantine import used_bytes
from syncd.store.records import Identity
from syncd.store.root import Store
from tests.support import ollama_store
from tests.support.models import build_model

MISTRAL = build_model("mistral:7b", 64 * 1024)
WEIGHTS = Digest.parse(MISTRAL.weights)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    ollama_store.put(tmp_path / "store", MISTRAL)
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def contents(store: Store) -> list[bytes]:
    return [path.read_bytes() for path in store.quarantine.path.iterdir()]


def weights(store: Store) -> Path:
    return ollama_store.blob_path(store.path, MISTRAL.weights)


def test_two_files_of_one_name_both_stay(store: Store) -> None:
    for content in (b"first", b"second"):
        (store.path / "blobs" / "x.tmp").write_bytes(content)
        assert store.quarantine.take_leftover("x.tmp")

    assert sorted(contents(store)) == [b"first", b"second"]
    assert not store.quarantine.take_leftover("x.tmp")


def test_the_longest_names_are_taken(store: Store) -> None:
    name = "x" * 255
    (store.path / "blobs" / name).write_bytes(b"long")

    assert store.quarantine.take_leftover(name)
    assert contents(store) == [b"long"]


def test_a_blob_that_has_become_another_file_is_left(store: Store) -> None:
    before = Identity.of(weights(store).stat())
    fresh = weights(store).with_name("fresh")
    fresh.write_bytes(weights(store).read_bytes())
    fresh.rename(weights(store))

    assert not store.quarantine.take_blob(WEIGHTS, before)
    assert not store.quarantine.keep_copy(WEIGHTS, before)
    assert weights(store).exists()


def test_a_blob_that_only_got_a_fresh_mtime_is_taken(store: Store) -> None:
    before = Identity.of(weights(store).stat())
    os.utime(weights(store), (1, 1))

    assert store.quarantine.take_blob(WEIGHTS, before)
    assert not weights(store).exists()


def test_a_copy_is_kept_once_and_tells_when_it_was_replaced(store: Store) -> None:
    identity = Identity.of(weights(store).stat())
    content = weights(store).read_bytes()

    assert store.quarantine.keep_copy(WEIGHTS, identity)
    assert store.quarantine.keep_copy(WEIGHTS, identity)
    weights(store).unlink()

    assert contents(store) == [content]
    assert store.quarantine.replaced_at(WEIGHTS) is None, "nothing has taken its place"
    weights(store).write_bytes(content)
    assert store.quarantine.replaced_at(WEIGHTS) is not None


async def test_a_manifest_goes_with_the_folders_that_it_leaves_empty(store: Store) -> None:
    with await store.locks.references(shared=False) as held:
        assert store.quarantine.take_manifest(("registry.ollama.ai", "library", "mistral", "7b"), held=held)
        assert not store.quarantine.take_manifest(("registry.ollama.ai", "library", "mistral", "7b"), held=held)

    assert list((store.path / "manifests").iterdir()) == []
    (kept,) = [path for path in store.quarantine.path.rglob("*") if path.is_file()]
    assert kept.read_bytes() == MISTRAL.manifest


async def test_a_link_in_a_manifests_place_is_not_touched(store: Store, tmp_path: Path) -> None:
    link = store.path / "manifests/registry.ollama.ai/library/mistral/latest"
    link.symlink_to(tmp_path)

    with await store.locks.references(shared=False) as held:
        assert not store.quarantine.take_manifest(("registry.ollama.ai", "library", "mistral", "latest"), held=held)
    assert link.is_symlink()


def test_disk_use_counts_a_file_once_whatever_its_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 8192)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to("a")
    alone = (tmp_path / "a").stat().st_blocks * 512

    assert alone <= used_bytes(tmp_path) <= alone + 4096
    assert used_bytes(tmp_path / "nothing") == 0
