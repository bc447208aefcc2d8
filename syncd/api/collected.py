"""What ``syncd gc`` and ``syncd status`` say of collections. Sizes are bytes, times RFC 3339 in UTC."""

from typing import Literal

import msgspec


class Collected(msgspec.Struct, frozen=True):
    """``gc``: blobs (by digest), leftovers and things from quarantine (by file) that were, or would be, taken.

    ``freed_bytes``: all their sizes; ``sizes``: of each. ``held_back``: blobs that would go too but for ``doubts``,
    which are sentences, as ``notices`` are: what was not known and kept nothing.
    """

    event: Literal["collected"]
    dry_run: bool
    freed_bytes: int
    blobs: tuple[str, ...]
    leftovers: tuple[str, ...]
    sizes: dict[str, int]
    quarantined: tuple[str, ...] = ()
    held_back: tuple[str, ...] = ()
    held_back_bytes: int = 0
    doubts: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


class CollectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """``status``: ``last``: when a collection ended that nothing held back; ``freed``: what the last one gave back.

    ``every``: seconds from one to the next (null: none by itself). ``quarantine``: what lies there; ``reclaimable``:
    what a collection would take, as of the daemon's last look (null: nobody has looked). ``waiting``: why one that is
    due waits.
    """

    every: float | None
    last: str | None
    freed: int
    quarantine: int
    reclaimable: int | None
    waiting: tuple[str, ...] = ()
