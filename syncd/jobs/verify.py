"""Verification: hash every blob of the named models, once each, and report every fault."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum

from syncd.aio import entered, in_thread
from syncd.errors import NotFoundError, SyncdError
from syncd.jobs.damage import users_now
from syncd.jobs.verdicts import blob_lock, conclude, detail_of
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store.check import BlobCheck, Verdict
from syncd.store.layout import BLOBS, blob_file
from syncd.store.models import BrokenModel, StoredModel
from syncd.store.os_errors import NotAFileError
from syncd.store.root import Store

_SLICE_BYTES = 32 * 1024 * 1024  # a third of a second on a slow disk: a cancellation waits for one slice
_ATTEMPTS = 3


class FaultKind(StrEnum):
    """What is wrong with a model."""

    MISSING = "missing"
    NOT_A_FILE = "not a regular file"
    WRONG_SIZE = "wrong size"
    WRONG_BYTES = "wrong bytes"
    UNREADABLE = "unreadable"
    BROKEN_MANIFEST = "broken manifest"


_KINDS = {
    Verdict.WRONG_SIZE: FaultKind.WRONG_SIZE,
    Verdict.WRONG_BYTES: FaultKind.WRONG_BYTES,
    Verdict.UNREADABLE: FaultKind.UNREADABLE,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ``models``: whom it hits. ``blob``: None for a manifest's fault. ``detail``: for people."""

    kind: FaultKind
    models: tuple[str, ...]
    blob: Descriptor | None
    detail: str


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """``done`` of ``total`` bytes are hashed, in ``blobs_done`` of ``blobs`` blobs."""

    done: int
    total: int
    blobs_done: int
    blobs: int


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at (``size`` in bytes, each blob once) and what is wrong with it."""

    models: int
    blobs: int
    size: int
    faults: tuple[Fault, ...]


async def verify(
    store: Store, names: Sequence[ModelName] | None, *, on_progress: Callable[[VerifyProgress], None]
) -> Verification:
    """Hash the blobs of the models of these names (None: of all). Raise ``NotFoundError`` for a name that is not there.

    A blob that passes is recorded, one that does not loses its record. Cancelled, it ends within a slice.
    """
    models = await in_thread(named, store, names)
    users = users_of(models)
    progress = VerifyProgress(0, sum(blob.size for blob in users), 0, len(users))
    on_progress(progress)
    faults = [
        Fault(FaultKind.BROKEN_MANIFEST, (str(model.name or model.path),), None, f"{model.path}: {model.problem}")
        for model in models
        if isinstance(model, BrokenModel)
    ]
    for blob, users_of_it in users.items():
        before = progress

        def hashed(done: int, before: VerifyProgress = before) -> None:
            on_progress(replace(before, done=before.done + done))

        fault = await _judge(store, blob, hashed)
        if fault is not None:
            kind, detail = fault
            hit = await in_thread(users_now, store, blob, [model.name for model in users_of_it])
            if hit:
                faults.append(Fault(kind, tuple(map(str, hit)), blob, detail))
        progress = replace(before, done=before.done + blob.size, blobs_done=before.blobs_done + 1)
        on_progress(progress)
    return Verification(len(models), len(users), progress.total, tuple(faults))


def named(store: Store, names: Sequence[ModelName] | None) -> list[StoredModel | BrokenModel]:
    """The models of these names (None: all), as they are now. Raise ``NotFoundError`` for one that is not there."""
    listed = store.models.list()
    if names is None:
        return listed
    wanted = set()
    for name in names:
        stored = store.models.find(name)
        if stored is None:
            raise NotFoundError(f"{name} is not in the store at {store.path}", hint="'syncd list' shows what is")
        wanted.add(stored)
    return [model for model in listed if model.name in wanted]


def users_of(models: Iterable[StoredModel | BrokenModel]) -> dict[Descriptor, list[StoredModel]]:
    """The blobs with the models that name them. Two manifests may give one digest two sizes: then one of them lies."""
    users: dict[tuple[str, int], tuple[Descriptor, list[StoredModel]]] = {}
    for model in models:
        if isinstance(model, StoredModel):
            for blob in model.manifest.blobs:
                users.setdefault((blob.digest.hex, blob.size), (blob, []))[1].append(model)
    return dict(users.values())


async def _judge(store: Store, blob: Descriptor, hashed: Callable[[int], None]) -> tuple[FaultKind, str] | None:
    """What is wrong with what lies in ``blobs/``, if anything."""
    where = store.path / BLOBS / blob_file(blob.digest)
    try:
        for _ in range(_ATTEMPTS):
            async with entered(_opened, store, blob) as check:
                if check is None:
                    return FaultKind.MISSING, f"{where} is not there"
                while await in_thread(check.step, _SLICE_BYTES):
                    hashed(check.done)
                with await blob_lock(store, blob.digest) or nullcontext() as lock:
                    verdict = await in_thread(conclude, store, check, locked=lock is not None)
            if verdict is Verdict.RIGHT:
                return None
            if verdict is not Verdict.CHANGED:
                return _KINDS[verdict], f"{where}: {detail_of(verdict, check)}"
    except NotAFileError as error:
        return FaultKind.NOT_A_FILE, error.message
    except SyncdError as error:
        return FaultKind.UNREADABLE, error.message
    return FaultKind.WRONG_BYTES, f"{where} is being written to by somebody else"


def _opened(store: Store, blob: Descriptor) -> AbstractContextManager[BlobCheck | None]:
    return store.blobs.open_check(blob) or nullcontext()
