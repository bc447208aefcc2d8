"""What ``syncd scrub`` and ``syncd status`` say of scrubs. Sizes are bytes, times RFC 3339 in UTC."""

from typing import Literal

import msgspec


class ScrubMoment(msgspec.Struct, frozen=True, kw_only=True):
    """``scrub``: how far it is. ``damaged``: blobs so far. ``buffered``: blobs that were not read past the cache."""

    event: Literal["scrubbing"] = "scrubbing"
    done: int
    size: int
    blobs_done: int
    blobs: int
    damaged: int
    buffered: int


class ScrubDamage(msgspec.Struct, frozen=True, kw_only=True):
    """A damaged blob, by name. ``kind``: ``missing``, ``wrong_size``, ``wrong_bytes`` or ``unreadable``.

    ``chunks``: the indices of the 16 MiB that are wrong (null: not known). ``detail``: for people.
    """

    digest: str
    size: int
    kind: str
    models: tuple[str, ...]
    chunks: tuple[int, ...] | None
    detail: str


class DamageLine(msgspec.Struct, frozen=True, kw_only=True):
    """``scrub``: a blob that is damaged."""

    event: Literal["damage"] = "damage"
    damage: ScrubDamage


class Scrubbed(msgspec.Struct, frozen=True, kw_only=True):
    """``scrub``: it has come to its end. It found ``damaged`` blobs; ``mended`` of them are whole again.

    ``damages``: all that it found and that nobody has mended. ``unnamed``: as many were not mended either, but no model
    names them any more.
    ``resumed``: it went on where another was interrupted, and speaks for both. ``direct``: everything was read from the
    disk itself; else ``buffered`` blobs were read through the page cache, where rot can hide. ``seconds``: of this one.
    """

    event: Literal["scrubbed"] = "scrubbed"
    models: int
    blobs: int
    size: int
    damaged: int
    damages: tuple[ScrubDamage, ...]
    direct: bool
    buffered: int
    resumed: bool
    seconds: float
    mended: int = 0
    unnamed: int = 0


class LastScrub(msgspec.Struct, frozen=True, kw_only=True):
    """The last scrub of everything that came to its end. ``damaged``: blobs that it found."""

    ended: str
    seconds: float
    models: int
    blobs: int
    size: int
    damaged: int
    buffered: int


class ScrubInfo(msgspec.Struct, frozen=True, kw_only=True):
    """``status``: ``every``: seconds from one to the next (null: none by itself), ``next``: when.

    ``now``: the one that runs. ``interrupted``: one of everything has begun and goes on when the next one runs.
    ``damaged``: blobs that are known to be damaged. ``failure``: why the last scheduled one ended early.
    """

    every: float | None
    next: str | None
    now: ScrubMoment | None
    last: LastScrub | None
    interrupted: bool
    damaged: tuple[ScrubDamage, ...]
    failure: str | None
