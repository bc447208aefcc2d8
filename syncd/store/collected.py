"""What collections came to, over all lives of the daemon: one small file, replaced whole."""

import msgspec

from syncd.errors import SyncdError
from syncd.store.state import StateFiles

_FILE = "collection.json"


class CollectionNote(msgspec.Struct, frozen=True):
    """``completed``: when the last one ended that nothing held back, in seconds since the epoch; 0: never.

    ``freed``: bytes that the last one gave back that gave back any; ``total``: bytes that all of them did.
    """

    completed: float = 0.0
    freed: int = 0
    total: int = 0


def read(files: StateFiles) -> CollectionNote:
    """What is noted; nothing, where nobody can read it. Blocks for a moment."""
    try:
        content = files.read(_FILE)
        return CollectionNote() if content is None else msgspec.json.decode(content, type=CollectionNote)
    except (SyncdError, msgspec.MsgspecError):
        return CollectionNote()  # figures for people: the next collection makes them anew


def note(files: StateFiles, *, freed: int, completed: float | None) -> None:
    """Add a collection. ``completed``: when; None: something held it back. Durable; raise ``SyncdError``."""
    before = read(files)
    after = CollectionNote(
        completed=before.completed if completed is None else completed,
        freed=freed or before.freed,
        total=before.total + freed,
    )
    files.write(_FILE, msgspec.json.encode(after))
