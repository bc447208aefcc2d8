"""The oracle finds what is wrong with a store, and nothing wrong with a whole one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.content import whole
from tests.support.models import Model, build_model
from tests.support.oracle import assert_store_whole, snapshot, unreferenced_blobs

MODEL = build_model("mistral:7b", weights_bytes=10_000)
MANIFEST = "manifests/127.0.0.1:5000/library/mistral/7b"


def lay_out(store: Path, model: Model) -> None:
    """By hand, as Ollama would find it."""
    (store / MANIFEST).parent.mkdir(parents=True)
    (store / "blobs").mkdir()
    for folder in (store / "blobs", store / "manifests", *(store / "manifests").rglob("*")):
        folder.chmod(0o755)
    (store / MANIFEST).write_bytes(model.manifest)
    (store / MANIFEST).chmod(0o644)
    for digest, blob in model.blobs.items():
        path = blob_path(store, digest)
        path.write_bytes(whole(blob))
        path.chmod(0o444)


def blob_path(store: Path, digest: str) -> Path:
    return store / "blobs" / digest.replace(":", "-")


def test_a_whole_store_is_whole(store_path: Path) -> None:
    lay_out(store_path, MODEL)

    assert assert_store_whole(store_path) == {"127.0.0.1:5000/library/mistral:7b": MODEL.digest}
    assert unreferenced_blobs(store_path) == set()
    assert len(snapshot(store_path)) == len(MODEL.blobs) + 4  # host, namespace, model, tag


def test_a_store_that_is_not_there_is_whole(store_path: Path) -> None:
    assert assert_store_whole(store_path) == {}


def remove_weights(store: Path) -> None:
    blob_path(store, MODEL.weights).unlink()


def change_weights(store: Path) -> None:
    path = blob_path(store, MODEL.weights)
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))
    path.chmod(0o444)


def break_manifest(store: Path) -> None:
    (store / MANIFEST).write_bytes(MODEL.manifest[:-1])


def leave_partial(store: Path) -> None:
    blob_path(store, MODEL.weights + "-partial").touch(0o444)


def leave_temporary_manifest(store: Path) -> None:
    (store / MANIFEST).with_name(".7b.tmp").touch(0o644)


def leave_shallow_file(store: Path) -> None:
    (store / "manifests" / "lost").touch()


def leave_empty_folder(store: Path) -> None:
    (store / "manifests/127.0.0.1:5000/library/empty").mkdir(mode=0o755)


def plant_link(store: Path) -> None:
    blob_path(store, "sha256:" + 64 * "0").symlink_to("/etc/passwd")


def link_manifest(store: Path) -> None:
    (store / MANIFEST).with_name("latest").symlink_to("7b")


def open_blob_to_writing(store: Path) -> None:
    blob_path(store, MODEL.weights).chmod(0o644)


def hide_folder(store: Path) -> None:
    (store / "manifests/127.0.0.1:5000").chmod(0o700)


@pytest.mark.parametrize(
    "harm",
    [
        remove_weights,
        change_weights,
        break_manifest,
        leave_partial,
        leave_temporary_manifest,
        leave_shallow_file,
        leave_empty_folder,
        plant_link,
        link_manifest,
        open_blob_to_writing,
        hide_folder,
    ],
)
def test_harm_is_found(store_path: Path, harm: Callable[[Path], None]) -> None:
    lay_out(store_path, MODEL)
    before = snapshot(store_path)

    harm(store_path)

    with pytest.raises((AssertionError, ValueError)):
        assert_store_whole(store_path)
    assert snapshot(store_path) != before


def test_a_blob_may_be_allowed_to_miss(store_path: Path) -> None:
    lay_out(store_path, MODEL)
    remove_weights(store_path)

    assert assert_store_whole(store_path, allow_missing={MODEL.weights})
