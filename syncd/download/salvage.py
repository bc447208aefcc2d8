"""Repair as a resumed download: what a damaged file still has of its blob becomes claims of the new one's journal.

From there on it is what every resumed fetch does: what is claimed is hashed from the disk again, the rest is fetched,
the whole is verified by SHA-256, and one rename puts it in the damaged file's place.
"""

from collections.abc import Callable, Mapping

from syncd.download.journal import Journal
from syncd.store.partial import Partial
from syncd.store.remains import Remains


def salvage(
    partial: Partial, remains: Remains, journal: Journal, claims: Mapping[int, bytes], stopped: Callable[[], bool]
) -> Mapping[int, bytes]:
    """Copy into ``partial`` the chunks that it has not and ``remains`` has; all claims, by chunk index, then.

    Blocks; soon after ``stopped`` says so it ends where it is. Raise ``SyncdError``.
    """
    held = dict(claims)
    for index, known in enumerate(remains.known.hashes):
        if stopped():
            break
        if index not in held and remains.bring(index, partial.fd, partial.path):
            journal.claim(index, known)
            held[index] = known
    return held
