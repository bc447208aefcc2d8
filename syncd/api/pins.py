"""``syncd pin`` and ``syncd unpin``: which very versions a host holds. Files are the command's own business."""

from typing import Literal

import msgspec

from syncd.aio import in_thread
from syncd.api.operation import Desk, Operation, Tell
from syncd.errors import IntegrityError, NotFoundError, SyncdError
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.holds import Holds


class PinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which models; null: all that the settings want, or, where they want none, all that are published."""

    names: tuple[str, ...] | None = None


class PinLine(msgspec.Struct, frozen=True):
    """``pin``: a model as it is published. ``manifest``: its very bytes, which are UTF-8."""

    event: Literal["pin"]
    name: str
    digest: str
    manifest: str


class PinsTold(msgspec.Struct, frozen=True):
    """``pins``: so many were told."""

    event: Literal["pins"]
    models: int


class UnpinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which models are to be released from what a rollback pinned them to; null: all."""

    names: tuple[str, ...] | None = None
    dry_run: bool = False


class UnpinLine(msgspec.Struct, frozen=True):
    """``released``: a model, and what it was pinned to; ``digest`` is null where that could not be read."""

    event: Literal["released"]
    name: str
    digest: str | None
    by: str


class UnpinsTold(msgspec.Struct, frozen=True):
    """``unpinned``: so many were released (or, after ``dry_run``, would be)."""

    event: Literal["unpinned"]
    models: int
    dry_run: bool


async def _pin(desk: Desk, asked: PinRequest, tell: Tell) -> PinsTold:
    found = await in_thread(_published, desk, asked)
    for name, manifest in found:
        tell(PinLine("pin", name.qualified, str(manifest.digest), manifest.raw.decode("utf-8")))
    return PinsTold("pins", len(found))


def _published(desk: Desk, asked: PinRequest) -> list[tuple[ModelName, Manifest]]:
    models = desk.store.models
    if asked.names is not None:
        names = [models.known(ModelName.parse(name)) for name in asked.names]
    elif desk.rules.wanted:
        names = [models.known(one.name) for one in desk.rules.wanted]
    else:
        names = sorted(models.names())
    found = []
    for name in names:
        manifest = models.read(name)
        if manifest is None:
            raise NotFoundError(f"{name} cannot be pinned: it is not published here", hint=f"'syncd pull {name}' first")
        found.append((name, manifest))
    return found


async def _unpin(desk: Desk, asked: UnpinRequest, tell: Tell) -> UnpinsTold:
    released = await in_thread(_released, desk, asked)
    for line in released:
        tell(line)
    if released and not asked.dry_run:
        desk.changed(*(ModelName.parse(line.name) for line in released))
    return UnpinsTold("unpinned", len(released), asked.dry_run)


def _released(desk: Desk, asked: UnpinRequest) -> list[UnpinLine]:
    holds = desk.store.holds
    names = _all(holds) if asked.names is None else map(ModelName.parse, asked.names)
    found = [line for name in names if (line := _held(holds, name)) is not None]
    if not asked.dry_run:
        for line in found:
            holds.drop(ModelName.parse(line.name))
    return found


def _all(holds: Holds) -> list[ModelName]:
    """The names that are held. Raise the ``SyncdError`` of one that cannot be read: whose it is, nobody knows."""
    unreadable: list[SyncdError] = []
    names = [one.name for one in holds.all(unreadable.append)]
    if unreadable:
        raise unreadable[0]
    return names


def _held(holds: Holds, name: ModelName) -> UnpinLine | None:
    try:
        hold = holds.of(name)
    except IntegrityError:
        return UnpinLine("released", str(name), None, "what cannot be read any more")
    return None if hold is None else UnpinLine("released", str(hold.name), str(hold.manifest.digest), hold.by)


PIN = Operation(
    path="pin",
    asked=PinRequest,
    lines={"pin": PinLine},
    ended=("pins", PinsTold),
    run=_pin,
    writes=lambda _asked: False,
)

UNPIN = Operation(
    path="unpin",
    asked=UnpinRequest,
    lines={"released": UnpinLine},
    ended=("unpinned", UnpinsTold),
    run=_unpin,
    writes=lambda asked: not asked.dry_run,
)
