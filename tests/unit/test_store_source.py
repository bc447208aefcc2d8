"""Another program's store, opened and looked at: what it has, and what it gives back."""

import os
from pathlib import Path

import pytest

from syncd.errors import SyncdError
from syncd.oci.digest import Digest
from syncd.store.source import SourceStore
from syncd.store.source_scan import digest_of, kind_of

HEX = "5" * 64


def test_a_source_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "blobs").symlink_to(tmp_path / "manifests")
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the folder lists itself while it is read

    with pytest.raises(SyncdError, match="a symbolic link where a folder should be") as refused:
        SourceStore.open(tmp_path)

    # The error is still at hand, and with it every frame that held a folder: nothing was closed by going away.
    assert refused.value.__traceback__ is not None
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - as above


@pytest.mark.parametrize("file", [f"sha256-{HEX}", f"sha256:{HEX}"])
def test_a_blob_is_known_by_the_name_that_old_and_new_releases_give_it(file: str) -> None:
    assert digest_of(file) == Digest(HEX)


@pytest.mark.parametrize("file", ["sha256-5", f"sha512-{HEX}", f"sha256-{HEX}-partial", "note.txt"])
def test_nothing_else_is_a_blobs_name(file: str) -> None:
    assert digest_of(file) is None


def test_what_lies_among_the_blobs_and_is_none_has_a_word(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name in (f"sha256-{HEX}-partial-3", "note.txt"):
        (tmp_path / name).touch()

    words = {path.name: kind_of(path.lstat().st_mode, path.name) for path in tmp_path.iterdir()}

    assert words == {
        "folder": "folder",
        "link": "symbolic link",
        "pipe": "no regular file",
        f"sha256-{HEX}-partial-3": "partial download",
        "note.txt": "no blob",
    }
