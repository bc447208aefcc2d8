"""``syncd history``: what was published under a name, newest first."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from syncd.aio import in_thread
from syncd.api.catalogue import rfc3339
from syncd.api.operation import Desk, Operation, Tell
from syncd.errors import NotFoundError, StoreError
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStatus
from syncd.store.root import Store
from syncd.text import printable


class HistoryRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model."""

    name: str


class PublicationLine(msgspec.Struct, frozen=True):
    """A publication of a manifest. ``origin``: where it came from. ``current``: the tag holds this digest now.

    ``chosen``: by its digest (a rollback, a pin), whatever the registry's tag held. ``blobs``: whether its bytes are
    still on the disk (``here``, ``partly``, ``gone``); ``missing``: bytes that are not. ``pinned``: by whom the tag is
    held at this digest.
    """

    digest: str
    published: str
    origin: str
    size: int
    current: bool
    chosen: bool = False
    blobs: Literal["here", "partly", "gone"] = "here"
    missing: int = 0
    pinned: str | None = None


class HistoryTold(msgspec.Struct, frozen=True):
    """``history``: of one name, newest first."""

    event: Literal["history"]
    name: str
    publications: tuple[PublicationLine, ...]


async def _history(desk: Desk, asked: HistoryRequest, _tell: Tell) -> HistoryTold:
    return await in_thread(_read, desk, ModelName.parse(asked.name))


def _read(desk: Desk, asked: ModelName) -> HistoryTold:
    models = desk.store.models
    name = models.known(asked)
    current, pins = models.tag_digest(name), _pins(desk, name)
    states: dict[Digest, bool] = {}
    lines = []
    for one in models.publications(name):
        missing = _missing(desk.store, one.manifest.blobs, states)
        lines.append(
            PublicationLine(
                digest=str(one.manifest.digest),
                published=rfc3339(one.time),
                origin=printable(one.origin),
                size=one.manifest.size,
                current=one.manifest.digest == current,
                chosen=one.chosen,
                blobs="here" if not missing else "gone" if len(missing) == len(one.manifest.blobs) else "partly",
                missing=sum(blob.size for blob in missing),
                pinned=pins.get(one.manifest.digest),
            )
        )
    if not lines:
        raise NotFoundError(f"{name}: nothing was ever published under this name", hint="'syncd list' shows what is")
    return HistoryTold("history", str(name), tuple(lines))


def _pins(desk: Desk, name: ModelName) -> dict[Digest, str]:
    """What the tag is held at, and by whom."""
    found: dict[Digest, str] = {}
    if (pin := desk.rules.pin_of(name)) is not None:
        found[pin] = printable(f"the settings at {desk.wanted(name)}", limit=1000)
    if (hold := desk.store.holds.of(name)) is not None:
        found[hold.manifest.digest] = printable(hold.by)
    return found


def _missing(store: Store, blobs: Iterable[Descriptor], states: dict[Digest, bool]) -> list[Descriptor]:
    """Those of which nothing is on the disk. ``states``: what is known already."""
    for blob in blobs:
        if blob.digest not in states:
            states[blob.digest] = _is_here(store, blob)
    return [blob for blob in blobs if not states[blob.digest]]


def _is_here(store: Store, blob: Descriptor) -> bool:
    try:
        return store.blobs.look(blob)[0] is not BlobStatus.ABSENT
    except StoreError:
        return False  # a link, a folder: nothing that could be a blob


HISTORY = Operation(
    path="history",
    asked=HistoryRequest,
    lines={},
    ended=("history", HistoryTold),
    run=_history,
    writes=lambda _asked: False,
)
