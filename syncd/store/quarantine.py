"""``quarantine/``: what lay in the shared folders and was no whole part of a model. Only age removes it (``sweep.py``).

Each thing keeps its name, with a token behind it: the same name may come here again.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from syncd.oci.digest import Digest
from syncd.store import layout
from syncd.store.descriptors import same_file
from syncd.store.files import Folder, new_token
from syncd.store.locks import Lock
from syncd.store.models import ModelStore
from syncd.store.os_errors import translated
from syncd.store.records import Identity, Records

_MAX_NAME = 200  # characters of a name that are kept: with its token it must not be longer than a name may be


class Quarantine:
    """Takes in what does not belong into the shared folders. Methods block for a moment."""

    def __init__(self, blobs: Folder, keep: Folder, records: Records, models: ModelStore, own: Folder) -> None:
        """``own``: the quarantine's folder."""
        self._blobs = blobs
        self._keep = keep
        self._records = records
        self._models = models
        self._own = own

    @property
    def path(self) -> Path:
        """Where things are taken to."""
        return self._own.path

    def take_leftover(self, file: str) -> bool:
        """Move what bears no blob's name; False if it is gone."""
        if self._blobs.stat(file) is None:
            return False
        self._blobs.rename(file, self._own, _name(file))
        self._blobs.fsync()
        self._own.fsync()
        return True

    def take_blob(self, digest: Digest, identity: Identity) -> bool:
        """Move a blob's file; False if another one lies there by now. The caller holds the digest's lock.

        What syncd kept of it, or knew of it, is gone then: only for bytes that were found to be wrong.
        """
        file = layout.blob_file(digest)
        found = self._blobs.stat(file)
        if found is None or not _is(found, identity):
            return False
        self._records.remove(digest)
        if same_file(found, self._keep.stat(file)):
            self._keep.unlink(file)
            self._keep.fsync()
        return self.take_leftover(file)

    def take_damaged(self, digest: Digest) -> bool:
        """Move whatever lies under a blob's name, as ``take_blob`` does; False if nothing does."""
        found = self._blobs.stat(layout.blob_file(digest))
        return found is not None and self.take_blob(digest, Identity.of(found))

    def keep_copy(self, digest: Digest, identity: Identity) -> bool:
        """Give a blob's file another name in here, so that its bytes stay when a whole one takes its place.

        False if another file lies there by now. Once is enough: a second call does nothing.
        """
        file = layout.blob_file(digest)
        found = self._blobs.stat(file)
        if found is None or not _is(found, identity):
            return False
        if not any(same_file(found, self._own.stat(name)) for name in self.names(file)):
            self._blobs.link(file, self._own, _name(file), through=self._own)
            self._own.fsync()
        return True

    def replaced_at(self, digest: Digest) -> float | None:
        """When a whole blob last took the place of one that is in here, in seconds since the epoch; None: never did."""
        file = layout.blob_file(digest)
        if self._blobs.stat(file) is None:
            return None
        # A file's ctime is that of its last change of names: it lost the one in blobs/ then.
        times = [found.st_ctime for name in self.names(file) if (found := self._own.stat(name)) is not None]
        return max(times, default=None)

    def is_there(self, digest: Digest, identity: Identity) -> bool:
        """Whether the blob's file is still this one."""
        found = self._blobs.stat(layout.blob_file(digest))
        return found is not None and _is(found, identity)

    def take_manifest(self, path: tuple[str, ...], *, held: Lock) -> bool:
        """Move the file at ``path`` below ``manifests/``, as ``ModelStore.set_aside`` says."""
        return self._models.set_aside(path, self._own, _name("+".join(path)), held=held)

    def names(self, file: str) -> Iterator[str]:
        """What is in here of that name."""
        return (entry.name for entry in self._own.list() if entry.name.startswith(file[:_MAX_NAME] + "."))


def used_bytes(path: Path) -> int:
    """What all files below ``path`` take on the disk, each once however many names it has. Follows no link."""
    seen: set[tuple[int, int]] = set()
    total = 0
    folders = [path]
    while folders:
        folder = folders.pop()
        with translated(folder):
            try:
                entries = list(os.scandir(folder))
            except FileNotFoundError:
                continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return total


def _is(found: os.stat_result, identity: Identity) -> bool:
    """Whether it is the same file, whoever gave it another mtime: a blob that loses a reference gets a fresh one."""
    return (found.st_dev, found.st_ino, found.st_size) == (identity.device, identity.inode, identity.size)


def _name(name: str) -> str:
    return f"{name[:_MAX_NAME]}.{new_token()}"
