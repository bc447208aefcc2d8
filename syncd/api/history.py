"""``syncd history``: what was published under a name, newest first."""

from typing import Literal

import msgspec

from syncd.aio import in_thread
from syncd.api.catalogue import rfc3339
from syncd.api.operation import Desk, Operation, Tell
from syncd.errors import NotFoundError
from syncd.oci.name import ModelName
from syncd.text import printable


class HistoryRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model."""

    name: str


class PublicationLine(msgspec.Struct, frozen=True):
    """A manifest that was published. ``origin``: where it came from. ``current``: the tag holds it now."""

    digest: str
    published: str
    origin: str
    size: int
    current: bool


class HistoryTold(msgspec.Struct, frozen=True):
    """``history``: of one name, newest first."""

    event: Literal["history"]
    name: str
    publications: tuple[PublicationLine, ...]


async def _history(desk: Desk, asked: HistoryRequest, _tell: Tell) -> HistoryTold:
    return await in_thread(_read, desk, ModelName.parse(asked.name))


def _read(desk: Desk, name: ModelName) -> HistoryTold:
    current = desk.store.models.tag_digest(name)
    lines = tuple(
        PublicationLine(
            digest=str(one.manifest.digest),
            published=rfc3339(one.time),
            origin=printable(one.origin),
            size=one.manifest.size,
            current=one.manifest.digest == current,
        )
        for one in desk.store.models.history(name)
    )
    if not lines:
        raise NotFoundError(f"{name}: nothing was ever published under this name", hint="'syncd list' shows what is")
    return HistoryTold("history", str(name), lines)


HISTORY = Operation(
    path="history",
    asked=HistoryRequest,
    lines={},
    ended=("history", HistoryTold),
    run=_history,
    writes=lambda _asked: False,
)
