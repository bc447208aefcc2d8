"""The blobs of a store. Whoever changes one, or what is known of it, holds its digest's lock."""

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from enum import StrEnum
from pathlib import Path

from syncd.errors import StoreError, SyncdError
from syncd.oci.chunks import ChunkMap
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.store import layout
from syncd.store.check import BlobCheck, Passed, Verdict
from syncd.store.descriptors import same_file
from syncd.store.direct import DirectReader
from syncd.store.files import Folder, fsync_file
from syncd.store.locks import Locks
from syncd.store.os_errors import NotAFileError, translated
from syncd.store.partial import Partial
from syncd.store.partials import Partials
from syncd.store.records import Identity, Record, Records
from syncd.store.remains import Remains
from syncd.store.scrutiny import Scrutiny

_STEP_BYTES = 16 * 1024 * 1024


class BlobStatus(StrEnum):
    """What the store has of a blob."""

    STORED = "stored"  # in blobs/, and it is the file that passed SHA-256
    UNVERIFIED = "unverified"  # something of the right size is there: hash it first
    ABSENT = "absent"  # to be fetched; what is known to be wrong counts as absent, and its right chunks are used again


class VerificationStoppedError(SyncdError):
    """A verification that its caller told to stop. It found nothing yet."""


class BlobStore:
    """``blobs/`` with what belongs to it: ``keep/``, ``records/`` and the partials in ``staging/``."""

    def __init__(self, blobs: Folder, keep: Folder, staging: Folder, records: Records, locks: Locks) -> None:
        self._blobs = blobs
        self._keep = keep
        self._staging = staging
        self._records = records
        self._locks = locks
        self.partials = Partials(staging, keep)
        self.renewing: Callable[[Digest], AbstractContextManager[None]] = _unheard
        """Entered, in a thread, while a file takes the place of one that was there before under the same digest."""

    # What is there

    def status(self, blob: Descriptor) -> BlobStatus:
        """What is there of ``blob``. What an outsider took from ``blobs/`` comes back here, if ``keep/`` has it."""
        status, in_place = self.look(blob)
        if status is BlobStatus.STORED and not in_place:
            self._restore(layout.blob_file(blob.digest))
        return status

    def look(self, blob: Descriptor) -> tuple[BlobStatus, bool]:
        """What is there of ``blob``, and whether it lies in ``blobs/``: a stored one may be in ``keep/`` alone."""
        file = layout.blob_file(blob.digest)
        visible = self._regular(self._blobs, file)
        record = self._records.get(blob.digest)
        if visible and visible.st_size == blob.size and record and record.identity == Identity.of(visible):
            return BlobStatus.STORED, True
        kept = self._regular(self._keep, file)
        if kept and kept.st_size == blob.size and record and record.identity == Identity.of(kept):
            return BlobStatus.STORED, False
        for found in (visible, kept):
            if found and found.st_size == blob.size and not (record and record.condemns(found)):
                return BlobStatus.UNVERIFIED, visible is not None
        return BlobStatus.ABSENT, visible is not None

    # What somebody else left, and what time may have done to it

    def open_check(self, blob: Descriptor) -> BlobCheck | None:
        """A pass over what lies in ``blobs/``; None if nothing does. ``StoreError`` if it is no regular file."""
        return self._check(blob, self._blobs)

    def open_scrutiny(
        self, blob: Descriptor, reader: DirectReader, *, whole: bool, kept: bool = False
    ) -> Scrutiny | None:
        """A pass over what the disk holds of ``blobs/``, likewise; by its record's map, unless ``whole`` is asked.

        ``kept``: if nothing lies there, then over what ``keep/`` has, which a pull would put back as it is.
        """
        file = layout.blob_file(blob.digest)
        for folder in (self._blobs, self._keep) if kept else (self._blobs,):
            self._regular(folder, file)
            fd = folder.open_file(file)
            if fd is not None:
                try:
                    return Scrutiny(blob, fd, folder.path / file, self._records.get(blob.digest), reader, whole=whole)
                except BaseException:
                    os.close(fd)
                    raise
        return None

    def in_place(self, check: Passed) -> bool:
        """Whether the file that was read still has the name under which it was found."""
        with translated(check.path):
            mine = os.fstat(check.fd)
        folder = self._keep if check.path.parent == self._keep.path else self._blobs
        return same_file(mine, folder.stat(layout.blob_file(check.blob.digest)))

    def conclude(self, check: Passed) -> Verdict:
        """What a finished pass found, and remember it: a right one is recorded, a wrong one counts no longer."""
        verdict = check.verdict()
        if verdict is Verdict.RIGHT:
            return verdict if self._adopt(check) else Verdict.CHANGED
        # A wrong size may be the manifest's lie about a blob that is right by another manifest.
        if verdict in {Verdict.WRONG_BYTES, Verdict.UNREADABLE}:
            self.condemn(blob=check.blob, fd=check.fd, path=check.path)
        return verdict

    def condemn(self, blob: Descriptor, fd: int, path: Path) -> None:
        """Remember that the file behind ``fd``, at ``path``, is not ``blob``: from now on it counts as absent.

        It stays where it is until a commit replaces it, for what is right of it, and the map of the right content stays
        with it. Nothing is remembered where ``keep/`` has the file that is known to be right.
        """
        file = layout.blob_file(blob.digest)
        with translated(path):
            mine = os.fstat(fd)
        kept = self._keep.stat(file)
        record = self._records.get(blob.digest)
        if record is None or record.identity.is_file(mine) or not record.identity.is_file(kept):
            self._records.put(Record.condemned(blob, mine, None if record is None else record.chunks))
        if same_file(mine, kept) and same_file(mine, self._blobs.stat(file)):
            self._keep.unlink(file)

    def is_condemned(self, blob: Descriptor) -> bool:
        """Whether what lies in ``blobs/`` was found to be wrong."""
        record, visible = self._records.get(blob.digest), self._blobs.stat(layout.blob_file(blob.digest))
        return record is not None and visible is not None and record.condemns(visible)

    def has_map(self, digest: Digest) -> bool:
        """Whether anything is known of its chunks."""
        record = self._records.get(digest)
        return record is not None and record.has_map

    def remains(self, blob: Descriptor, known: ChunkMap | None = None) -> Remains | None:
        """The files under the blob's name, to take its right chunks from; None where no map tells which those are.

        ``known``: a map, where the record has none. The caller closes it.
        """
        record = self._records.get(blob.digest)
        if record is not None and record.chunks.size == blob.size and record.has_map:
            known = record.chunks
        if known is None:
            return None
        remains = Remains(known)
        try:
            for folder in (self._blobs, self._keep):
                self._add(remains, folder, layout.blob_file(blob.digest))
        except BaseException:
            remains.close()
            raise
        return remains

    def _add(self, remains: Remains, folder: Folder, file: str) -> None:
        try:
            fd = folder.open_file(file)
        except NotAFileError:
            return  # nothing to take chunks from; whoever commits replaces it
        if fd is not None:
            remains.add(fd, folder.path / file)

    def verify(self, blob: Descriptor, *, on_bytes: Callable[[int], None], cancelled: Callable[[], bool]) -> bool:
        """Hash what lies in ``blobs/`` (or only in ``keep/``). True: it is right, and stored from now on.

        False: it is not; it stays where it is until a commit replaces it. ``on_bytes`` gets the size of each step.
        Raise ``VerificationStoppedError`` soon after ``cancelled`` says so.
        """
        for folder in (self._blobs, self._keep):
            check = self._check(blob, folder)
            if check is None:
                continue
            with check:
                while count := check.step(_STEP_BYTES):
                    on_bytes(count)
                    if cancelled():
                        raise VerificationStoppedError(f"checking {blob.digest} was stopped")
                if self.conclude(check) is Verdict.RIGHT:
                    return True
        return False

    def refresh(self, blob: Descriptor) -> None:
        """Give a stored blob a fresh mtime, so that nobody's collection takes it, and a link in ``keep/``.

        One without a matching record, never hashed yet, gets the mtime alone. ``StoreError`` if it is gone.
        """
        file = layout.blob_file(blob.digest)
        fd = self._blobs.open_file(file)
        if fd is None:
            raise StoreError(f"{self._blobs.path / file} was removed by somebody else", hint="run it again")
        path = self._blobs.path / file
        try:
            record = self._records.get(blob.digest)
            with translated(path):
                known = record is not None and record.identity == Identity.of(os.fstat(fd))
                os.utime(fd)
                identity = Identity.of(os.fstat(fd))
            if record is None or not known:
                return
            self._records.put(Record(blob.digest, identity, record.chunks))
            if not same_file(os.fstat(fd), self._keep.stat(file)):
                self._blobs.link(file, self._keep, file, through=self._staging)
                self._keep.fsync()
        finally:
            os.close(fd)
        self.partials.discard(blob.digest)

    def refresh_freed(self, blobs: Iterable[Descriptor]) -> None:
        """Start the hour of grace of blobs that are about to lose a reference, as far as that is possible."""
        for blob in blobs:
            lock = self._locks.try_digest(blob.digest)
            if lock is None:
                continue  # whoever works on it, a pull or a verification, gives it a fresh mtime
            with lock, suppress(SyncdError):
                self.refresh(blob)

    # What was fetched

    def commit(self, partial: Partial, chunks: ChunkMap) -> None:
        """Make a verified partial the blob (design section 3, "Publish", step 3), in the order that a crash asks for.

        The descriptor that was verified is the file that is published. If the fsync of its bytes fails, the partial is
        gone afterwards; if that of a folder fails, it is a partial again: its bytes are durable, its names are not.
        """
        file, staged = layout.blob_file(partial.blob.digest), layout.partial_file(partial.blob.digest)
        with translated(partial.path):
            verified = os.fstat(partial.fd)
        if not same_file(verified, self._staging.stat(staged)) or verified.st_size != partial.blob.size:
            raise StoreError(f"{partial.path} was replaced or cut while it was being fetched", hint="run it again")
        partial.settle()
        with translated(partial.path):
            # Taken before anybody else can open the file: what is written into it later must not be vouched for.
            identity = Identity.of(os.fstat(partial.fd))
        known = self._blobs.stat(file) is not None or self._records.get(partial.blob.digest) is not None
        with self.renewing(partial.blob.digest) if known else nullcontext():
            self._expose(staged, file)
            self._records.put(Record(partial.blob.digest, identity, chunks))
        self._staging.unlink(layout.journal_file(partial.blob.digest), missing_ok=True)

    def _expose(self, staged: str, file: str) -> None:
        self._staging.link(staged, self._keep, file, through=self._staging)
        self._staging.rename(staged, self._blobs, file)
        try:
            self._keep.fsync()
            self._blobs.fsync()
        except SyncdError:
            with suppress(SyncdError):
                self._blobs.rename(file, self._staging, staged)
            with suppress(SyncdError):
                self._keep.unlink(file, missing_ok=True)
            raise

    # Steps of the above

    def _regular(self, folder: Folder, file: str) -> os.stat_result | None:
        found = folder.stat(file)
        if found is not None and not stat.S_ISREG(found.st_mode):
            what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no regular file"
            raise NotAFileError(
                f"{folder.path / file} is {what} where a blob should be", hint="remove it, then run again"
            )
        return found

    def _check(self, blob: Descriptor, folder: Folder) -> BlobCheck | None:
        file = layout.blob_file(blob.digest)
        self._regular(folder, file)
        fd = folder.open_file(file)
        return None if fd is None else BlobCheck(blob, fd, folder.path / file)

    def _restore(self, file: str) -> None:
        found = self._keep.stat(file)
        if found is not None and stat.S_IMODE(found.st_mode) != layout.BLOB_MODE:
            # Before it is seen: servers in containers run as other users.
            self._keep.set_mode(file, (found.st_dev, found.st_ino), layout.BLOB_MODE)
        self._keep.link(file, self._blobs, file, through=self._staging)
        self._blobs.fsync()

    def _adopt(self, check: Passed) -> bool:
        """Record what passed; False if its name has become another file's meanwhile."""
        file = layout.blob_file(check.blob.digest)
        with translated(check.path):
            mine = os.fstat(check.fd)
        visible = same_file(mine, self._blobs.stat(file))
        source, target = (self._blobs, self._keep) if visible else (self._keep, self._blobs)
        if not same_file(mine, source.stat(file)):
            return False
        fsync_file(check.fd, check.path, mode=layout.BLOB_MODE)
        try:
            source.link(file, target, file, through=self._staging)
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False  # collected, or taken by an outside Ollama, since the line above
            raise
        self._keep.fsync()
        self._blobs.fsync()
        if not (same_file(mine, self._blobs.stat(file)) and same_file(mine, self._keep.stat(file))):
            return False
        self._records.put(Record(check.blob.digest, check.before, check.chunks()))
        # A partial of it, which a killed commit left, may be this very file: nobody may write into it again.
        self.partials.discard(check.blob.digest)
        return True


def _unheard(_digest: Digest) -> AbstractContextManager[None]:
    return nullcontext()
