"""What is being fetched: the partials in ``staging/``, one a blob. Whoever changes one holds its digest's lock."""

import os

from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.store import layout
from syncd.store.allocate import allocate
from syncd.store.descriptors import same_file
from syncd.store.files import Folder
from syncd.store.os_errors import translated
from syncd.store.partial import Partial

_MAX_JOURNAL = 1 << 30  # bytes


class Partials:
    """Those of a store. ``keep``: where a commit that was killed may have left a second name of one."""

    def __init__(self, staging: Folder, keep: Folder) -> None:
        self._staging = staging
        self._keep = keep

    def stage(self, blob: Descriptor) -> Partial:
        """Open the blob's partial, or make one of its full size. ``NoSpaceError``: no room; nothing is taken."""
        file = layout.partial_file(blob.digest)
        fd = self._reopen(blob)
        if fd is not None:
            allocated = os.fstat(fd).st_blocks * 512 >= blob.size
            return Partial(blob, fd, self._staging, fresh=False, preallocated=allocated)
        # A journal without its partial speaks of bytes that are gone.
        self._staging.unlink(layout.journal_file(blob.digest), missing_ok=True)
        fd = self._staging.create_file(file)
        try:
            preallocated = allocate(fd, blob.size, self._staging.path / file)
        except BaseException:
            os.close(fd)
            self._staging.unlink(file, missing_ok=True)
            raise
        return Partial(blob, fd, self._staging, fresh=True, preallocated=preallocated)

    def reserved(self, digest: Digest) -> int:
        """Bytes of disk that its partial holds already; 0 if there is none."""
        found = self._staging.stat(layout.partial_file(digest))
        return found.st_blocks * 512 if found else 0

    def read_journal(self, digest: Digest) -> bytes | None:
        """The journal of its partial as it is now, for those who watch another process fetch; None if there is none."""
        return self._staging.read_file(layout.journal_file(digest), _MAX_JOURNAL)

    def discard(self, digest: Digest) -> None:
        """Throw away its partial and journal, if there are any, and give their space back."""
        self._staging.unlink(layout.journal_file(digest), missing_ok=True)
        self._staging.unlink(layout.partial_file(digest), missing_ok=True)

    def _reopen(self, blob: Descriptor) -> int | None:
        """A read-write descriptor of an earlier run's partial, if it can be written into."""
        file = layout.partial_file(blob.digest)
        fd = self._staging.open_file(file)
        if fd is None:
            return None
        try:
            with translated(self._staging.path / file):
                if os.fstat(fd).st_nlink > 1 and same_file(
                    os.fstat(fd), self._keep.stat(layout.blob_file(blob.digest))
                ):
                    # Killed in mid-commit. A blob under keep/ that is right has been found by status() and verify().
                    self._keep.unlink(layout.blob_file(blob.digest))
                found = os.fstat(fd)
                if found.st_nlink > 1 or found.st_size != blob.size:
                    # The file of a published blob is never written into; a partial of another size is half made.
                    self._staging.unlink(file)
                    return None
                os.fchmod(fd, layout.OWN_FILE_MODE)  # 0444 already, if it was killed in mid-commit
        finally:
            os.close(fd)
        return self._staging.open_file(file, os.O_RDWR)
