"""Taking away what nobody needs: everything goes through ``trash/``, but for partials and temporary files."""

import errno
import os
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from syncd.errors import SyncdError
from syncd.oci.digest import Digest
from syncd.store import layout
from syncd.store.descriptors import same_file
from syncd.store.files import Folder, new_token
from syncd.store.os_errors import translated

_OLLAMAS_PARTIAL = "-partial"  # ollama server/download.go: "<blob>-partial" and "<blob>-partial-<n>"


@dataclass(frozen=True, slots=True)
class HeldBlob:
    """A blob, whatever is left of it: a file in ``blobs/``, in ``keep/``, or only a record.

    ``size``: bytes of its files, not of its record. ``modified``: their newest mtime, in seconds since the epoch.
    """

    digest: Digest
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file of ``staging/``. ``digest``: whose partial or journal it is; None for a temporary file."""

    name: str
    digest: Digest | None
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class QuarantinedFile:
    """What lies in ``quarantine/``. ``since``: when it came there, in seconds since the epoch."""

    name: str
    size: int
    since: float


@dataclass(frozen=True, slots=True)
class BlobNames:
    """The names of files in ``blobs/``, ``keep/`` and ``records/``, and of those in ``blobs/`` that have no record.

    Blobs are among them, and whatever else lies there.
    """

    all: frozenset[str] = frozenset()
    unrecorded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Thrown:
    """A name that was taken away: from where, and what it is called in ``trash/``."""

    folder: Folder
    file: str
    trashed: str


class Sweep:
    """What lies in a store whether anybody names it or not, and how it goes away."""

    def __init__(
        self, blobs: Folder, keep: Folder, records: Folder, staging: Folder, trash: Folder, quarantine: Folder
    ) -> None:
        self._blobs = blobs
        self._keep = keep
        self._records = records
        self._staging = staging
        self._trash = trash
        self._quarantine = quarantine

    # What is there

    def names(self) -> BlobNames:
        """Every blob of which anything is there is among them. No file is looked at: there may be 50,000."""
        blobs, records = _listed(self._blobs), _listed(self._records)
        return BlobNames(frozenset(blobs | records | _listed(self._keep)), frozenset(blobs - records))

    def look(self, files: Iterable[str]) -> list[HeldBlob]:
        """What is there of the blobs among these file names, in order of digest."""
        found = (self._look(file, digest) for file in sorted(files) if (digest := layout.digest_of_file(file)))
        return [blob for blob in found if blob is not None]

    def newest(self, files: Iterable[str]) -> float:
        """When the newest of these blobs of ``blobs/``, and of what Ollama makes while it pulls, was written to.

        In seconds since the epoch; 0 if there are none.
        """
        brought = (file for file in files if _OLLAMAS_PARTIAL in file or layout.digest_of_file(file))
        found = (self._blobs.stat(file) for file in brought)
        return max((_written(status) for status in found if status is not None), default=0.0)

    def staged(self) -> list[StagedFile]:
        """Every partial, journal and temporary file; ``size`` is what it takes on the disk."""
        found = []
        for entry in self._staging.list():
            digest = layout.digest_of_staged(entry.name)
            status = self._staging.stat(entry.name)
            if status and (digest or layout.is_temporary(entry.name)):
                found.append(StagedFile(entry.name, digest, status.st_blocks * 512, status.st_mtime))
        return found

    def quarantined(self) -> list[QuarantinedFile]:
        """Everything in quarantine; ``size`` is what it takes on the disk, with all below it."""
        found = []
        for entry in self._quarantine.list():
            status = self._quarantine.stat(entry.name)
            if status is not None:
                # A file's ctime is that of its last change of names: it came here then.
                found.append(QuarantinedFile(entry.name, _used(self._quarantine, entry.name), status.st_ctime))
        return sorted(found, key=lambda one: one.name)

    # How it goes

    def throw_away(self, digests: Iterable[Digest]) -> list[Thrown]:
        """Rename all that is left of these blobs into ``trash/``, durably. Under the exclusive references lock.

        Killed in between, it leaves a blob without its link in ``keep/`` or a record without its blob: ``names()``
        finds either.
        """
        thrown = [
            Thrown(folder, file, trashed)
            for file in map(layout.blob_file, digests)
            for folder in (self._keep, self._blobs, self._records)
            if (trashed := self._throw(folder, file)) is not None
        ]
        if thrown:
            for folder in (self._keep, self._blobs, self._records):
                folder.fsync()
        return thrown

    def put_back(self, thrown: Iterable[Thrown], digests: Collection[Digest]) -> None:
        """Undo that for these blobs, before the lock is let go of: somebody has named them meanwhile."""
        files = {layout.blob_file(digest) for digest in digests}
        for one in reversed([one for one in thrown if one.file in files]):
            self._trash.rename(one.trashed, one.folder, one.file)
        for folder in (self._records, self._blobs, self._keep):
            folder.fsync()

    def throw_quarantined(self, name: str) -> bool:
        """Rename something from quarantine into ``trash/``; False if it is gone."""
        return self._throw(self._quarantine, name) is not None

    def trash(self) -> list[str]:
        """What is in the trash. Under the exclusive references lock: nobody is about to put any of it back then."""
        return [entry.name for entry in self._trash.list()]

    def empty(self, trash: Iterable[str]) -> None:
        """Give the space of these names in the trash back."""
        for name in trash:
            with suppress(SyncdError):  # another collection may be at the same file; what stays is tried next time
                self._trash.remove_tree(name)

    def remove_staged(self, name: str) -> None:
        """Remove a file of ``staging/``. Under its digest's lock, if it has a digest."""
        self._staging.remove_tree(name)

    # Steps of the above

    def _look(self, file: str, digest: Digest) -> HeldBlob | None:
        blob, kept = _regular(self._blobs, file), _regular(self._keep, file)
        one = blob or kept
        if one is None:
            # A record alone keeps nothing: it is looked at where no file is left that it is of.
            record = _regular(self._records, file)
            return None if record is None else HeldBlob(digest, 0, _written(record))
        if blob is None or kept is None or same_file(blob, kept):
            return HeldBlob(digest, one.st_size, _written(one))
        return HeldBlob(digest, blob.st_size + kept.st_size, max(_written(blob), _written(kept)))

    def _throw(self, folder: Folder, file: str) -> str | None:
        trashed = layout.temporary_file(new_token())
        try:
            folder.rename(file, self._trash, trashed)
        except SyncdError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOENT:
                return None  # there was none, or an outside Ollama was quicker
            raise
        return trashed


def _regular(folder: Folder, file: str) -> os.stat_result | None:
    found = folder.stat(file)
    return found if found is not None and stat.S_ISREG(found.st_mode) else None


def _written(found: os.stat_result) -> float:
    """When it was last written to, or given a fresh mtime; in seconds since the epoch.

    Not after its ctime, which nobody can set: a file that came with an mtime in years to come would never be old.
    """
    return min(found.st_mtime, found.st_ctime)


def _listed(folder: Folder) -> set[str]:
    with translated(folder.path):
        # Opened anew: see Folder.list. Names alone, since a store may have 50,000 blobs three times over.
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder.fd)
        try:
            return set(os.listdir(fd))  # noqa: PTH208 - a descriptor has no path
        finally:
            os.close(fd)


def _used(folder: Folder, name: str) -> int:
    found = folder.stat(name)
    if found is None:
        return 0
    below = folder.sub(name) if stat.S_ISDIR(found.st_mode) else None
    if below is None:
        return found.st_blocks * 512
    with below:
        return sum(_used(below, entry.name) for entry in below.list())
