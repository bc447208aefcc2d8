"""Models: published and taken away in one rename each, whatever else goes on in the tree."""

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from syncd.errors import IntegrityError, NotFoundError, StoreError
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStatus
from syncd.store.models import BrokenModel, StoredModel, TagMovedError
from syncd.store.root import Store
from tests.unit.store_world import NAME, age, blob_path, commit, descriptor, manifest_of, manifest_path, publish

OLD = manifest_of(b"old weights", b"config")
NEW = manifest_of(b"new weights", b"config")


def put(store: Store, manifest: Manifest, *, expected: Digest | None = None, name: ModelName = NAME) -> None:
    held = store.locks.try_references(shared=True)
    assert held is not None
    with held:
        store.models.publish(name, manifest, expected=expected, held=held)


def take(store: Store, name: ModelName = NAME) -> Manifest | None:
    held = store.locks.try_references(shared=False)
    assert held is not None
    with held:
        return store.models.unpublish(name, held=held)


def below(path: Path) -> list[str]:
    return sorted(str(one.relative_to(path)) for one in path.rglob("*"))


def test_a_manifest_is_published_verbatim_and_readable_by_all(store: Store) -> None:
    put(store, NEW)

    path = manifest_path(store)
    assert path.read_bytes() == NEW.raw
    assert path.stat().st_mode & 0o777 == 0o644
    assert {parent.stat().st_mode & 0o777 for parent in path.parents[:4]} == {0o755}
    assert store.models.read(NAME) == NEW
    assert store.models.tag_digest(NAME) == NEW.digest
    assert below(store.path / ".syncd" / "staging") == []


def test_a_manifest_replaces_the_one_it_expects(store: Store) -> None:
    put(store, OLD)

    put(store, NEW, expected=OLD.digest)

    assert store.models.read(NAME) == NEW


@pytest.mark.parametrize("expected", [None, NEW.digest])
def test_a_tag_that_moved_is_left_alone(store: Store, expected: Digest | None) -> None:
    put(store, OLD)

    with pytest.raises(TagMovedError, match="published by somebody else"):
        put(store, NEW, expected=expected)

    assert store.models.read(NAME) == OLD


def test_a_tag_that_was_removed_meanwhile_is_not_made_again(store: Store) -> None:
    with pytest.raises(TagMovedError, match="removed by somebody else"):
        put(store, NEW, expected=OLD.digest)

    assert below(store.path / "manifests") == []


def test_a_broken_manifest_is_told_apart_and_can_be_replaced(store: Store) -> None:
    put(store, OLD)
    manifest_path(store).write_bytes(b"{")

    with pytest.raises(IntegrityError, match="no manifest"):
        store.models.read(NAME)
    put(store, NEW, expected=store.models.tag_digest(NAME))

    assert store.models.read(NAME) == NEW


def is_empty_in_place(folder: Path) -> bool:
    """Whether the folder is empty and, after that was seen, still in its place: taken out of it, it may well be."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        return not os.listdir(fd) and os.path.samestat(os.fstat(fd), folder.stat())  # noqa: PTH208 - a descriptor
    finally:
        os.close(fd)


def test_nobody_ever_sees_an_empty_folder_or_a_stray_file(store: Store) -> None:
    names = [ModelName.parse(text) for text in ("a:1", "a:2", "hf.co/x/b:1")]
    stop = threading.Event()
    seen: list[str] = []

    def look() -> None:
        root = store.path / "manifests"
        while not stop.is_set():
            for depth in ("*", "*/*", "*/*/*"):
                with suppress(FileNotFoundError):
                    seen.extend(str(folder) for folder in root.glob(depth) if is_empty_in_place(folder))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            for name in names:
                put(store, NEW, name=name)
            for name in names:
                take(store, name)
    finally:
        stop.set()
        watcher.join()

    assert seen == []
    assert below(store.path / "manifests") == []


def test_two_that_publish_neighbours_at_once_both_succeed(store: Store) -> None:
    errors: list[BaseException] = []

    def many(tag: str) -> None:
        try:
            for number in range(6):
                put(store, NEW, name=ModelName.parse(f"m{number}:{tag}"))
        except BaseException as error:  # noqa: BLE001 - handed to the assertion below
            errors.append(error)

    threads = [threading.Thread(target=many, args=(tag,)) for tag in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert len(list(store.models.names())) == 12


def test_taking_a_model_away_takes_the_folders_that_it_alone_was_in(store: Store) -> None:
    put(store, NEW)
    put(store, NEW, name=ModelName.parse("llava"))

    assert take(store) == NEW
    assert below(store.path / "manifests" / "registry.ollama.ai" / "library") == ["llava", "llava/latest"]
    take(store, ModelName.parse("llava"))
    assert below(store.path / "manifests") == []
    with pytest.raises(NotFoundError):
        take(store)


def test_a_broken_model_can_be_taken_away(store: Store) -> None:
    put(store, NEW)
    manifest_path(store).write_bytes(b"{")

    assert take(store) is None
    assert below(store.path / "manifests") == []


def test_folders_that_an_outside_ollama_left_empty_are_removed(store: Store) -> None:
    put(store, NEW)
    (store.path / "manifests" / "hf.co" / "user" / "model").mkdir(parents=True)

    assert store.models.remove_empty_folders() == 3
    assert store.models.read(NAME) == NEW


def test_a_replaced_manifests_blobs_get_their_hour(store: Store) -> None:
    publish(store, b"old weights", b"config")
    weights, config = descriptor(b"old weights"), descriptor(b"config")
    for blob in (weights, config):
        age(blob_path(store, blob), 7200)
        assert store.blobs.verify(blob, on_bytes=lambda _: None, cancelled=lambda: False)
    commit(store, b"new weights")

    put(store, NEW, expected=OLD.digest)

    assert time.time() - blob_path(store, weights).stat().st_mtime < 60
    assert time.time() - blob_path(store, config).stat().st_mtime > 7000  # the new one names it too
    assert store.blobs.status(weights) is BlobStatus.STORED


def test_the_list_tells_what_is_broken_and_goes_on(store: Store) -> None:
    put(store, NEW)
    model = manifest_path(store).parent
    (model / "no-json").write_bytes(b"{")
    (model / ".hidden").write_bytes(NEW.raw)
    (model / "link").symlink_to(manifest_path(store))
    (store.path / "manifests" / "elsewhere").symlink_to("/etc")
    (store.path / "manifests" / "stray").touch()

    found = store.models.list()

    broken = {one.path.rpartition("/")[2]: one.problem for one in found if isinstance(one, BrokenModel)}
    assert [one.name for one in found if isinstance(one, StoredModel)] == [NAME]
    assert sorted(broken) == [".hidden", "elsewhere", "link", "no-json"]
    assert "symbolic link" in broken["link"]
    assert "symbolic link" in broken["elsewhere"]


def test_a_manifest_is_never_read_or_written_through_a_link(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.path / "manifests" / "registry.ollama.ai").symlink_to(outside)

    for attempt in (lambda: store.models.read(NAME), lambda: put(store, NEW), lambda: take(store)):
        with pytest.raises(StoreError, match="symbolic link"):
            attempt()
    assert below(outside) == []


def test_a_name_is_found_in_any_case(store: Store) -> None:
    put(store, NEW, name=ModelName.parse("Mistral:7B"))

    assert store.models.find(NAME) == ModelName.parse("Mistral:7B")
    assert store.models.find(ModelName.parse("Mistral:7B")) == ModelName.parse("Mistral:7B")
    assert store.models.find(ModelName.parse("other")) is None
    assert list(store.models.names()) == [ModelName.parse("Mistral:7B")]


def test_what_was_published_is_remembered_with_time_and_origin(store: Store) -> None:
    store.models.remember(NAME, OLD, "https://mirror.example", 100.0)
    store.models.remember(NAME, NEW, "https://registry.ollama.ai", 200.5)

    folder = store.path.joinpath(".syncd", "history", *NAME.parts)
    entries = {json.loads(path.read_bytes())["time"] for path in folder.iterdir()}
    assert entries == {100.0, 200.5}
    assert {path.stat().st_mode & 0o777 for path in (folder, *folder.parents[:4])} == {0o700}


def test_ten_thousand_models_are_listed_fast(store: Store) -> None:
    library = store.path / "manifests" / "registry.ollama.ai" / "library"
    for number in range(10_000):
        (library / f"model-{number}").mkdir(parents=True)
        (library / f"model-{number}" / "latest").write_bytes(NEW.raw)
    started = time.process_time()

    assert len(store.models.list()) == 10_000

    assert time.process_time() - started < 6  # 0.7 s on an idle machine; this one may be slow and busy
