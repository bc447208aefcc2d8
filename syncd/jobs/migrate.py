"""A migration's own steps: the shared folder looked at and hashed, and what does not belong there taken away.

What else it does are other jobs: adopting, pulling, verifying, reloading. Every step is done when the world says so:
nothing notes how far a migration is, and one that was killed is gone on with by running it again.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from syncd.aio import in_thread, only_error
from syncd.errors import BusyError, NotFoundError, SyncdError
from syncd.jobs.migration import CorruptBlob, Plan, Shared, Withdrawn, WrongBlob
from syncd.jobs.verify import VerifyProgress
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStatus
from syncd.store.check import BlobCheck, Verdict
from syncd.store.layout import blob_file
from syncd.store.locks import Lock
from syncd.store.models import StoredModel
from syncd.store.root import Store
from syncd.store.source import SourceStore
from syncd.store.source_scan import Scan, Stray

log = structlog.get_logger()

_SLICE_BYTES = 32 * 1024 * 1024  # a cancellation waits for one slice
_ATTEMPTS = 3
_LOCK_SECONDS = 60.0
_UNKNOWN = "application/octet-stream"


class Taken(StrEnum):
    """What came of something that was to go."""

    MOVED = "moved"
    SET_ASIDE = "set aside"  # its bytes are safe, and a whole one will take its place
    LEFT = "left"  # somebody else has it in hand, or has replaced it since


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One of them. ``path``: below the models folder."""

    path: str
    what: str
    taken: Taken


async def survey(
    folder: SourceStore, store: Store | None, on_progress: Callable[[VerifyProgress], None], *, record: bool
) -> Shared:
    """What the shared ``folder`` holds, every blob hashed. ``store``: of this folder, None if it is none yet.

    ``record``: note in the store what is found, and put back what somebody took and the store still has.
    Raise ``SyncdError`` for what cannot be read. Cancelled, it ends within a slice.
    """
    notes = store if record else None
    scan = await in_thread(folder.scan)
    files = {digest: blob for digest, blob in scan.blobs.items() if blob.file == blob_file(digest)}
    progress = _Progress(sum(blob.size for blob in files.values()), len(files), on_progress)
    right: dict[Digest, int] = {}
    wrong: dict[Digest, WrongBlob] = {}
    room = asyncio.Semaphore(max(1, min(4, len(os.sched_getaffinity(0)))))

    async def judge(digest: Digest) -> None:
        async with room:
            found = await _hashed(folder, digest, notes, progress)
        match found:
            case WrongBlob():
                wrong[digest] = found
            case int():
                right[digest] = found

    try:
        async with asyncio.TaskGroup() as group:
            for digest in files:
                group.create_task(judge(digest), name=f"hash {digest}")
    except BaseExceptionGroup as errors:
        raise only_error(errors, (SyncdError,)) from errors
    if store is not None:
        right |= await in_thread(_kept, store, scan, {*right, *wrong}, put_back=record)
    return Shared(
        path=scan.path,
        manifests=scan.manifests,
        strays=(*scan.strays, *_old_names(scan)),
        right=right,
        wrong=wrong,
        replaceable=frozenset(one.path for one in scan.manifests if folder.manifests.is_file(one.path)),
    )


class _Progress:
    """How far all hashing is, told as it goes on. On the loop."""

    def __init__(self, total: int, blobs: int, tell: Callable[[VerifyProgress], None]) -> None:
        self._now = VerifyProgress(0, total, 0, blobs)
        self._tell = tell
        tell(self._now)

    def add(self, count: int, blobs: int) -> None:
        now = self._now
        self._now = VerifyProgress(min(now.done + count, now.total), now.total, now.blobs_done + blobs, now.blobs)
        self._tell(self._now)


async def _hashed(
    folder: SourceStore, digest: Digest, store: Store | None, progress: _Progress
) -> WrongBlob | int | None:
    """Its size, if it is right; None if it is gone."""
    size = 0
    for _ in range(_ATTEMPTS):
        check = await in_thread(_opened, folder, digest)
        if check is None:
            return None
        with check:
            size = check.before.size
            while count := await in_thread(check.step, _SLICE_BYTES):
                progress.add(count, 0)
            verdict = await in_thread(_conclude, store, check)
        if verdict is Verdict.CHANGED:
            continue
        progress.add(0, 1)
        if verdict is Verdict.RIGHT:
            return size
        return WrongBlob(digest, check.before, _why(check, verdict))
    # Somebody writes to it all the time. Whoever that is may be right: it stays, and is verified at the end.
    log.warning("migrate.busy_blob", digest=str(digest))
    return size


def _opened(folder: SourceStore, digest: Digest) -> BlobCheck | None:
    file = blob_file(digest)
    try:
        fd = folder.open_blob(file)
    except NotFoundError:
        return None
    return BlobCheck(Descriptor(_UNKNOWN, digest, os.fstat(fd).st_size), fd, folder.path / "blobs" / file)


def _conclude(store: Store | None, check: BlobCheck) -> Verdict:
    lock = store.locks.try_digest(check.blob.digest) if store else None
    if store is None or lock is None:
        return check.verdict()
    with lock:
        return store.blobs.conclude(check)


def _why(check: BlobCheck, verdict: Verdict) -> str:
    if verdict is Verdict.UNREADABLE:
        return f"unreadable: {check.unreadable}"
    return "corrupt" if check.before.size else "empty"


def _kept(store: Store, scan: Scan, known: Iterable[Digest], *, put_back: bool) -> dict[Digest, int]:
    """Blobs that somebody took away, and that the store has kept."""
    known = set(known)
    wanted = {blob.digest: blob for one in scan.manifests if one.manifest for blob in one.manifest.blobs}
    found: dict[Digest, int] = {}
    for digest, blob in wanted.items():
        if digest in known:
            continue
        status = store.blobs.status(blob) if put_back else store.blobs.look(blob)[0]
        if status is BlobStatus.STORED:
            found[digest] = blob.size
    return found


def _old_names(scan: Scan) -> Iterable[Stray]:
    """Blobs under the names of old releases: a server on a read-only mount does not start beside one."""
    for digest, blob in scan.blobs.items():
        if blob.file != blob_file(digest):
            yield Stray(blob.file, blob.size, "a blob under the name of an old release")


# The quarantine


async def quarantine(store: Store, plan: Plan, tell: Callable[[Quarantined], None]) -> None:
    """Take away what ``plan`` says, manifests before the blobs that they name. Raise ``SyncdError``."""
    for withdrawn in plan.manifests:
        taken = await _take_manifest(store, withdrawn)
        tell(Quarantined(f"manifests/{withdrawn.path}", withdrawn.why, taken))
    for stray in plan.strays:
        moved = await in_thread(store.quarantine.take_leftover, stray.file)
        tell(Quarantined(f"blobs/{stray.file}", stray.what, Taken.MOVED if moved else Taken.LEFT))
    for blob in plan.corrupt:
        taken = await in_thread(_take_blob, store, blob)
        tell(Quarantined(f"blobs/{blob_file(blob.blob.digest)}", blob.blob.why, taken))


async def quarantine_unmended(store: Store, plan: Plan, tell: Callable[[Quarantined], None]) -> tuple[ModelName, ...]:
    """Take away what was to be replaced and was not, with the manifests that name it; those models' names.

    A model that lacks blobs is none: it is seen again when a pull has brought it.
    """
    models = [one for one in await in_thread(store.models.list) if isinstance(one, StoredModel)]
    there = {
        blob.blob.digest
        for blob in plan.corrupt
        if blob.replaced and await in_thread(store.quarantine.is_there, blob.blob.digest, blob.blob.identity)
    }
    lost = []
    for model in models:
        why = await in_thread(_lack, store, model, there)
        if why is None or model.name not in plan.mended:
            continue
        lost.append(model.name)
        path = "/".join(model.name.parts)
        taken = await _take_manifest(store, Withdrawn(path, model.name, model.manifest.digest, why))
        tell(Quarantined(f"manifests/{path}", why, taken))
    for blob in plan.corrupt:
        if blob.blob.digest in there:
            taken = await in_thread(_take_blob, store, CorruptBlob(blob.blob, replaced=False))
            tell(Quarantined(f"blobs/{blob_file(blob.blob.digest)}", blob.blob.why, taken))
    with await _alone(store):
        await in_thread(store.models.remove_empty_folders)  # a server on a read-only mount does not start beside one
    return tuple(lost)


def _lack(store: Store, model: StoredModel, wrong: Iterable[Digest]) -> str | None:
    wrong = set(wrong)
    for blob in model.manifest.blobs:
        if blob.digest in wrong:
            return f"its {blob.digest} is corrupt, and nothing has replaced it"
        if store.blobs.look(blob)[0] is BlobStatus.ABSENT:
            return f"its {blob.digest} is not there, and nothing has brought it"
    return None


async def _take_manifest(store: Store, withdrawn: Withdrawn) -> Taken:
    lock = store.locks.try_name(withdrawn.name) if withdrawn.name else None
    if withdrawn.name is not None and lock is None:
        return Taken.LEFT  # a pull is at it
    try:
        with await _alone(store) as held:
            return await in_thread(_withdraw, store, withdrawn, held)
    finally:
        if lock is not None:
            lock.release()


def _withdraw(store: Store, withdrawn: Withdrawn, held: Lock) -> Taken:
    if withdrawn.name is not None and withdrawn.digest is not None:
        if store.models.tag_digest(withdrawn.name) != withdrawn.digest:
            return Taken.LEFT
    elif withdrawn.name is not None and not _is_broken(store, withdrawn.name):
        return Taken.LEFT
    moved = store.quarantine.take_manifest(tuple(withdrawn.path.split("/")), held=held)
    return Taken.MOVED if moved else Taken.LEFT


def _is_broken(store: Store, name: ModelName) -> bool:
    try:
        store.models.read(name)
    except SyncdError:
        return True  # unreadable, for whatever reason: to a server it is broken as well
    return False


def _take_blob(store: Store, corrupt: CorruptBlob) -> Taken:
    blob = corrupt.blob
    lock = store.locks.try_digest(blob.digest)
    if lock is None:
        return Taken.LEFT  # a pull is at it, and will replace it
    with lock:
        if corrupt.replaced:
            kept = store.quarantine.keep_copy(blob.digest, blob.identity)
            return Taken.SET_ASIDE if kept else Taken.LEFT
        return Taken.MOVED if store.quarantine.take_blob(blob.digest, blob.identity) else Taken.LEFT


async def _alone(store: Store) -> Lock:
    try:
        async with asyncio.timeout(_LOCK_SECONDS):
            return await store.locks.references(shared=False)
    except TimeoutError as error:
        raise BusyError(f"{store.path}: other processes add models without a pause", hint="run it again") from error


def unverified(store: Store, shared: Shared) -> tuple[ModelName, ...]:
    """The models that have a blob which this migration has not hashed, or which has become another file since."""
    return tuple(
        model.name
        for model in store.models.list()
        if isinstance(model, StoredModel)
        and any(
            shared.right.get(blob.digest) != blob.size or store.blobs.look(blob) != (BlobStatus.STORED, True)
            for blob in model.manifest.blobs
        )
    )
