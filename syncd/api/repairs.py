"""What the daemon says of damaged blobs that wait to be mended."""

import msgspec


class WaitingRepair(msgspec.Struct, frozen=True):
    """A blob that is known to be damaged. ``reason``: why it could not be mended yet, if that was tried.

    ``next_try``: when it is tried again (RFC 3339); null: ``[scrub] repair`` leaves it to 'syncd verify --repair'.
    """

    digest: str
    size: int
    models: tuple[str, ...]
    detail: str
    reason: str | None
    next_try: str | None
