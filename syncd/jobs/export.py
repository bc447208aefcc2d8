"""Exporting: models of the store as one stream of bytes, a tar of an OCI image layout.

The same models give the same bytes, whenever and wherever. Each blob is hashed while it is written: what is damaged
ends the export. The index comes first, then the manifests, then the blobs, so that whoever reads it from a pipe knows
what each blob is for when it comes.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import msgspec
import structlog

from syncd.aio import entered, in_thread, in_thread_stoppable
from syncd.errors import IntegrityError, NotFoundError, SyncdError, UsageError
from syncd.oci import image_layout
from syncd.oci.digest import Digest, Hasher
from syncd.oci.manifest import MAX_LAYERS, Descriptor, Manifest
from syncd.oci.name import ModelName
from syncd.store import archive
from syncd.store.blobs import BlobStatus
from syncd.store.copying import read_exactly
from syncd.store.root import Store

log = structlog.get_logger()

_PART = 1024 * 1024  # bytes
_BLOBS_A_LEASE = MAX_LAYERS // 2  # of several models: a manifest that names them is far below its bounds

Write = Callable[[bytes | memoryview, Callable[[], bool]], None]
"""Takes the next bytes, all of them. Blocks, unless the second argument says that it is cancelled; ``SyncdError``."""


class ExportStoppedError(SyncdError):
    """The caller told it to stop."""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A model of a bundle."""

    name: ModelName
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ExportProgress:
    """``done`` of ``size`` bytes of blobs are written."""

    done: int
    size: int


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle that was written to its end. ``size``: of the archive, in bytes."""

    models: tuple[ExportedModel, ...]
    blobs: int
    size: int


async def export(
    store: Store, names: Iterable[ModelName], write: Write, report: Callable[[ExportProgress], None]
) -> Exported:
    """Write these models, each once, in an order that follows from their names. ``report`` is called in a thread.

    No collection takes their blobs meanwhile. Raise ``NotFoundError``, ``IntegrityError`` for what is missing or
    damaged, ``SyncdError``; what was written until then is no bundle, and cannot be taken for one: it has no end.
    """
    async with AsyncExitStack() as stack:
        with await store.locks.references(shared=True) as held:
            models = await in_thread(_resolved, store, names)
            for name, manifest in leased(models):
                # Nobody resumes an export: what one that failed or was killed leaves is to keep nothing.
                taken = entered(store.leases.take, name, manifest, held, passing=True)
                lease = await stack.enter_async_context(taken)
                stack.callback(lease.release)
        await in_thread(_refuse_missing, store, models)
        return await in_thread_stoppable(lambda cancelled: _Writer(store, models, write, report, cancelled).run())


def leased(models: Sequence[ExportedModel]) -> list[tuple[ModelName, Manifest]]:
    """What leases are taken for, such that they keep the blobs of all (pure).

    A lease is an open file, and a process may have 1,024 of them: so one is for many models, under the first one's
    name, with a manifest of its own that names the blobs of all.
    """
    groups: list[tuple[list[ExportedModel], dict[Digest, Descriptor]]] = []
    for model in models:
        blobs = {blob.digest: blob for blob in model.manifest.blobs}
        if not groups or len(groups[-1][1].keys() | blobs.keys()) > _BLOBS_A_LEASE:
            groups.append(([], {}))
        groups[-1][0].append(model)
        for digest, blob in blobs.items():
            groups[-1][1].setdefault(digest, blob)  # two models may give one digest two sizes: one of them lies
    return [(group[0].name, _joint(group, tuple(blobs.values()))) for group, blobs in groups]


def _joint(group: Sequence[ExportedModel], blobs: Sequence[Descriptor]) -> Manifest:
    first = group[0].manifest
    if len(group) == 1:
        return first
    return Manifest.parse(
        msgspec.json.encode(
            {"schemaVersion": 2, "config": _said(first.config), "layers": [_said(one) for one in blobs]}
        )
    )


def _said(blob: Descriptor) -> dict[str, str | int]:
    return {"mediaType": blob.media_type, "digest": str(blob.digest), "size": blob.size}


def _resolved(store: Store, names: Iterable[ModelName]) -> list[ExportedModel]:
    found: dict[ModelName, ExportedModel] = {}
    for asked in names:
        name = store.models.find(asked)
        manifest = None if name is None else store.models.read(name)
        if name is None or manifest is None:
            raise NotFoundError(f"{asked} is not in {store.path}", hint="'syncd list' shows what is")
        found[name] = ExportedModel(name, manifest)
    return sorted(found.values(), key=lambda one: one.name)


def _refuse_missing(store: Store, models: Sequence[ExportedModel]) -> None:
    for model in models:
        for blob in model.manifest.blobs:
            if store.blobs.status(blob) is BlobStatus.ABSENT:
                raise IntegrityError(f"{model.name}: {blob.digest} is missing or damaged", hint=_mend(model.name))


def _mend(name: ModelName) -> str:
    return f"'syncd verify --repair {name}' mends it; then export again"


class _Writer:
    """Writes one bundle."""

    def __init__(
        self,
        store: Store,
        models: Sequence[ExportedModel],
        write: Write,
        report: Callable[[ExportProgress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._store = store
        self._models = models
        self._write = write
        self._report = report
        self._cancelled = cancelled
        self._written = 0
        self._done = 0
        manifests = {model.manifest.digest: model.manifest for model in models}
        self._manifests = [manifests[digest] for digest in sorted(manifests)]
        # A blob that is a manifest of the bundle as well lies in it already.
        self._blobs: dict[Digest, tuple[ModelName, Descriptor]] = {
            blob.digest: (model.name, blob)
            for model in models
            for blob in model.manifest.blobs
            if blob.digest not in manifests
        }
        self._size = sum(blob.size for _, blob in self._blobs.values())

    def run(self) -> Exported:
        """Everything."""
        index = image_layout.index_of(
            (model.name, model.manifest.digest, len(model.manifest.raw)) for model in self._models
        )
        # Both have bounds: what nobody could import is not written.
        image_layout.Index.parse(index)
        if sum(len(manifest.raw) for manifest in self._manifests) > image_layout.MAX_MANIFESTS_BYTES:
            raise UsageError("these are more models than a bundle can hold", hint="export them in several bundles")
        self._file(image_layout.MARKER, image_layout.MARKER_CONTENT)
        self._file(image_layout.INDEX, index)
        self._put(archive.folder_header(image_layout.BLOBS))
        self._put(archive.folder_header(f"{image_layout.BLOBS}/{image_layout.ALGORITHM}"))
        for manifest in self._manifests:
            self._file(image_layout.blob_member(manifest.digest), manifest.raw)
        for digest in sorted(self._blobs):
            self._blob(*self._blobs[digest])
        self._put(archive.END)
        return Exported(tuple(self._models), len(self._blobs), self._written)

    def _put(self, content: bytes | memoryview) -> None:
        if self._cancelled():
            raise ExportStoppedError("the export was stopped")
        self._write(content, self._cancelled)
        self._written += len(content)

    def _file(self, name: str, content: bytes) -> None:
        self._put(archive.header(name, len(content)) + content + archive.padding(len(content)))

    def _blob(self, name: ModelName, blob: Descriptor) -> None:
        self._store.blobs.status(blob)  # what an outside Ollama took since we looked comes back
        check = self._store.blobs.open_check(blob)
        if check is None:
            raise IntegrityError(f"{name}: {blob.digest} was removed meanwhile", hint=_mend(name))
        with check:
            if check.before.size != blob.size:
                raise IntegrityError(f"{check.path} has {check.before.size} bytes, not {blob.size}", hint=_mend(name))
            os.posix_fadvise(check.fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            self._put(archive.header(image_layout.blob_member(blob.digest), blob.size))
            hasher, buffer = Hasher(), memoryview(bytearray(min(_PART, blob.size)))
            for offset in range(0, blob.size, _PART):
                part = buffer[: min(_PART, blob.size - offset)]
                read_exactly(check.fd, part, offset, check.path)
                hasher.update(part)
                self._put(part)
                self._done += len(part)
                self._report(ExportProgress(self._done, self._size))
            if hasher.digest() != blob.digest:
                log.warning("export.damaged", name=str(name), digest=str(blob.digest))
                raise IntegrityError(f"{name}: {check.path} is damaged: it holds other bytes", hint=_mend(name))
            self._put(archive.padding(blob.size))
