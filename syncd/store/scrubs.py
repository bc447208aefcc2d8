"""What is remembered of scrubs: how far one has come, what it found, and when the last one ended.

Losing it costs a scrub from the beginning, and no model. So what cannot be read counts as nothing.
"""

from typing import Literal, TypeAlias

import msgspec

from syncd.errors import SyncdError
from syncd.oci.digest import Digest
from syncd.store.records import Identity
from syncd.store.state import StateFiles

_FILE = "scrub.json"

Kind: TypeAlias = Literal["missing", "wrong_size", "wrong_bytes", "unreadable"]


class FoundDamage(msgspec.Struct, frozen=True, kw_only=True):
    """A damaged blob that nobody has mended yet. ``digest``, ``models``: as text. ``found``: epoch."""

    digest: str
    size: int
    media_type: str
    kind: Kind
    chunks: tuple[int, ...] | None
    models: tuple[str, ...]
    detail: str
    found: float


class Underway(msgspec.Struct, frozen=True, kw_only=True):
    """A scrub that has begun and not ended. ``names``: of which models; None: of all. ``begun``: epoch.

    Blobs go by digest, then by size; those before ``digest`` and ``size`` are done. Of that one, as long as it is the
    file ``identity``, the chunks before ``chunk`` were right. ``read``: bytes. ``seconds``: of work, over all lives.
    ``buffered``: blobs that were read through the page cache. ``damaged``: digests.
    """

    names: tuple[str, ...] | None
    begun: float
    digest: str = ""
    size: int = 0
    chunk: int = 0
    identity: Identity | None = None
    read: int = 0
    seconds: float = 0.0
    buffered: int = 0
    damaged: tuple[str, ...] = ()


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A scrub of everything that came to its end. Times: epoch; ``seconds``: of work. ``size``: bytes."""

    begun: float
    ended: float
    seconds: float
    models: int
    blobs: int
    size: int
    buffered: int
    damaged: int


class ScrubState(msgspec.Struct, frozen=True, kw_only=True):
    """``whole``, ``part``: scrubs of all models, and of some, that have not ended. ``due``: of the next one, epoch.

    ``damaged``: every blob known to be damaged. ``failure``: what the last scheduled one failed with.
    """

    whole: Underway | None = None
    part: Underway | None = None
    last: Finished | None = None
    damaged: tuple[FoundDamage, ...] = ()
    due: float | None = None
    failure: str | None = None


def load(files: StateFiles) -> ScrubState:
    """What is remembered. Blocks for a moment."""
    try:
        content = files.read(_FILE)
        found = ScrubState() if content is None else msgspec.json.decode(content, type=ScrubState)
        for one in found.damaged:
            Digest.parse(one.digest)
    except (SyncdError, msgspec.MsgspecError):
        return ScrubState()  # the next scrub reads all anew; what was found damaged stays condemned in its record
    return found


def save(files: StateFiles, state: ScrubState) -> None:
    """Durable when it returns. Blocks. Raise ``SyncdError``."""
    files.write(_FILE, msgspec.json.format(msgspec.json.encode(state)))
