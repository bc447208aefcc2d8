"""What a pass over a blob that lies in the store comes to, and how it is remembered: of a verification or a scrub."""

import asyncio

from syncd.errors import NotAuthorisedError
from syncd.oci.digest import Digest
from syncd.store.check import Passed, Verdict
from syncd.store.locks import Lock
from syncd.store.root import Store

_PATIENCE = 10.0  # seconds for a digest's lock: who only looks holds it for a moment, who fetches for long


async def blob_lock(store: Store, digest: Digest) -> Lock | None:
    """The digest's lock, for which it is worth waiting: what is found must not be forgotten because somebody looked.

    None if its holder keeps it: a pull is at this blob, and what is known of it is that one's business.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            return await store.locks.digest(digest)
    except TimeoutError:
        return None


def conclude(store: Store, check: Passed, *, locked: bool) -> Verdict:
    """The verdict of a finished pass; with the digest's lock it is remembered. Blocks; raise ``SyncdError``."""
    if not locked:
        return check.verdict()
    try:
        verdict = store.blobs.conclude(check)
        if verdict is Verdict.RIGHT:
            # Whoever took its last model away meanwhile could not start its hour of grace.
            store.blobs.refresh(check.blob)
    except NotAuthorisedError:
        return check.verdict()  # another user's file: right or wrong, it cannot be made the store's own
    return verdict


def detail_of(verdict: Verdict, check: Passed) -> str:
    """What is wrong, for people."""
    match verdict:
        case Verdict.WRONG_SIZE:
            return f"{check.before.size} bytes, not {check.blob.size}"
        case Verdict.UNREADABLE:
            return str(check.unreadable)
    return "other bytes than its name says"
