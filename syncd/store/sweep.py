"""Taking away what nobody needs: blobs go through ``trash/``, partials and temporary files directly."""

from contextlib import suppress
from dataclasses import dataclass

from syncd.errors import SyncdError
from syncd.oci.digest import Digest
from syncd.store import layout
from syncd.store.files import Folder, new_token


@dataclass(frozen=True, slots=True)
class HeldBlob:
    """A blob, whatever is left of it: a file in ``blobs/``, in ``keep/``, or only a record.

    ``size``: bytes of its files, not of its record. ``modified``: the newest mtime, in seconds since the epoch.
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


class Sweep:
    """What lies in a store whether anybody names it or not, and how it goes away."""

    def __init__(self, blobs: Folder, keep: Folder, records: Folder, staging: Folder, trash: Folder) -> None:
        self._blobs = blobs
        self._keep = keep
        self._records = records
        self._staging = staging
        self._trash = trash

    def blobs(self) -> list[HeldBlob]:
        """Every blob of which anything is there, in order of digest."""
        sizes: dict[Digest, dict[tuple[int, int], int]] = {}
        newest: dict[Digest, float] = {}
        for folder in (self._blobs, self._keep, self._records):
            for entry in folder.list():
                digest = layout.digest_of_file(entry.name)
                status = folder.stat(entry.name) if digest and entry.is_file else None
                if digest and status:
                    newest[digest] = max(newest.get(digest, 0.0), status.st_mtime)
                    if folder is not self._records:  # one file under two names counts once
                        sizes.setdefault(digest, {})[status.st_dev, status.st_ino] = status.st_size
        return [
            HeldBlob(digest, sum(sizes.get(digest, {}).values()), modified)
            for digest, modified in sorted(newest.items())
        ]

    def staged(self) -> list[StagedFile]:
        """Every partial, journal and temporary file; ``size`` is what it takes on the disk."""
        found = []
        for entry in self._staging.list():
            digest = layout.digest_of_staged(entry.name)
            status = self._staging.stat(entry.name)
            if status and (digest or layout.is_temporary(entry.name)):
                found.append(StagedFile(entry.name, digest, status.st_blocks * 512, status.st_mtime))
        return found

    def throw_away(self, digests: list[Digest]) -> None:
        """Rename all that is left of these blobs into ``trash/``, durably. Under the exclusive references lock.

        Killed in between, it leaves a blob without its link in ``keep/`` or a record without its blob: ``blobs()``
        finds either.
        """
        for digest in digests:
            file = layout.blob_file(digest)
            for folder in (self._keep, self._blobs, self._records):
                if folder.stat(file) is not None:
                    folder.rename(file, self._trash, layout.temporary_file(new_token()))
        for folder in (self._keep, self._blobs, self._records):
            folder.fsync()

    def empty_trash(self) -> None:
        """Give the space back: of this collection, and of one that was killed."""
        for entry in self._trash.list():
            with suppress(SyncdError):  # another collection may be at the same file; what stays is tried next time
                self._trash.remove_tree(entry.name)

    def remove_staged(self, name: str) -> None:
        """Remove a file of ``staging/``. Under its digest's lock, if it has a digest."""
        self._staging.remove_tree(name)
