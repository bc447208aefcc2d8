"""Restoring: what somebody took away, emptied or replaced in the store is put back from what the disk still holds.

No request leaves the host. It is a pull whose manifest comes from the history and whose blobs come from ``keep/``: the
same locks, the same lease, the same order of publishing.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum

import structlog

from syncd.aio import entered, in_thread
from syncd.errors import StoreError, SyncdError
from syncd.jobs.blobs import BytesGoneError, PullBlobs
from syncd.jobs.pull import refuse_case_conflicts
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor, Manifest
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStatus
from syncd.store.history import Publication, moved_back, versions
from syncd.store.leases import Lease
from syncd.store.models import TagMovedError
from syncd.store.root import Store

log = structlog.get_logger()


class Restoration(StrEnum):
    """How an attempt ended."""

    RESTORED = "restored"
    INTACT = "intact"  # there was nothing to do
    GONE = "gone"  # nothing was ever published, or its bytes are not on the disk any more: to be pulled
    BUSY = "busy"  # somebody is at this name: look again later


@dataclass(frozen=True, slots=True)
class Expected:
    """What should lie under a name. ``noted``: the history's latest entry is this one.

    ``older``: another version was published after it.
    """

    manifest: Manifest
    origin: str
    noted: bool
    older: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """What a name holds, beside what it should.

    ``digest``: of the bytes under the tag, None if there are none that can be read. ``broken``: what is wrong with what
    is there, in words. ``gone``: blobs whose bytes are not on the disk at all. ``blobs``: what it should
    consist of. ``size``: bytes of the model. ``moved_back``: when (seconds since the epoch) what the tag holds was
    published before, if it holds it because the registry's tag has moved back.
    """

    expected: Expected | None
    digest: Digest | None
    broken: str | None
    gone: tuple[Descriptor, ...]
    blobs: frozenset[Digest]
    size: int
    moved_back: float | None = None

    @property
    def fault(self) -> str:
        """In a word or a few, what has to be mended, if anything has."""
        return self.broken or ("removed" if self.digest is None else "replaced")

    @property
    def restorable(self) -> bool:
        """Whether putting it back needs no network, unless bytes turn out wrong."""
        return self.expected is not None and not self.gone

    @property
    def intact(self) -> bool:
        """Whether all of what was expected is there."""
        wanted = self.expected
        return wanted is not None and wanted.noted and self.broken is None and self.digest == wanted.manifest.digest


def examine(store: Store, name: ModelName, pin: Digest | None) -> Condition:
    """Look at a name, cheaply: no blob is read. ``pin``: what it should hold, whatever was published last. Blocks."""
    digest, manifest, broken = _under_the_tag(store, name)
    publications = store.models.publications(name)
    expected = _expected(store, name, pin, digest, publications)
    judged = expected.manifest if expected else manifest
    states = {blob: _look(store, blob) for blob in judged.blobs} if judged else {}
    gone = tuple(blob for blob, (status, _) in states.items() if status is BlobStatus.ABSENT)
    # Of what syncd never published, nobody knows yet which bytes are right.
    lost = tuple(blob for blob, look in states.items() if look != (BlobStatus.STORED, True)) if expected else gone
    if broken is None and lost and judged and judged.digest == digest:
        broken = f"{len(lost)} of its blobs {'is' if len(lost) == 1 else 'are'} gone or changed"
    blobs = frozenset(blob.digest for blob in states)
    latest = publications[0] if publications else None
    before = None
    if latest is not None and not latest.chosen and latest.manifest.digest == digest:
        before = moved_back(publications[1:], latest.manifest.digest)
    return Condition(
        expected,
        digest,
        broken,
        gone,
        blobs,
        size=judged.size if judged else 0,
        moved_back=None if before is None else before.time,
    )


async def restore(store: Store, name: ModelName, pin: Digest | None, *, beneath: bool = False) -> Restoration:
    """Put back what was last published under ``name``, or its ``pin``. Raise ``SyncdError`` where the store fails.

    ``beneath``: a pull of this process holds the name's lock, and brings blobs in that have still a long way to go. It
    publishes only over what it saw when it began, which is what is put back here, so neither takes the other's away.
    """
    lock = None if beneath else store.locks.try_name(name)
    if lock is None and not beneath:
        return Restoration.BUSY
    with lock or nullcontext():
        try:
            return await _Restore(store, name, pin).run()
        except BytesGoneError as error:
            log.warning("model.bytes_gone", name=str(name), error=error.message)
            return Restoration.GONE
        except TagMovedError:
            return Restoration.BUSY  # somebody else has published meanwhile


class _Restore:
    """Under the name's lock."""

    def __init__(self, store: Store, name: ModelName, pin: Digest | None) -> None:
        self._store = store
        self._name = name
        self._pin = pin
        self._blobs = PullBlobs(name, store, None, 0)

    async def run(self) -> Restoration:
        found = await in_thread(examine, self._store, self._name, self._pin)
        if found.intact:
            return Restoration.INTACT
        if found.expected is None or found.gone:
            return Restoration.GONE
        await in_thread(refuse_case_conflicts, self._name, self._store)
        manifest = found.expected.manifest
        self._blobs.expect(manifest)
        with await self._store.locks.references(shared=True) as held:
            async with entered(self._store.leases.take, self._name, manifest, held) as lease:
                held.release()
                try:
                    await self._put_back(found.expected, lease)
                except SyncdError:
                    if await in_thread(self._is_kept, manifest.digest):
                        lease.release()  # one lease that was abandoned is enough, however often this fails
                    raise
        log.info("model.restored", name=str(self._name), digest=str(manifest.digest), was=found.fault)
        return Restoration.RESTORED

    async def _put_back(self, expected: Expected, lease: Lease) -> None:
        await self._blobs.bring(expected.manifest.blobs, lease)
        await self._publish(expected.manifest)
        await self._blobs.bring_again(expected.manifest, lease)
        if not expected.noted:
            await in_thread(self._remember, expected)

    async def _publish(self, manifest: Manifest) -> None:
        digest, _, broken = await in_thread(_under_the_tag, self._store, self._name)
        if broken is not None and digest is None:
            with await self._store.locks.references(shared=False) as alone:
                await in_thread(self._store.models.unpublish, self._name, held=alone)
        with await self._store.locks.references(shared=True) as held:
            await in_thread(self._store.models.publish, self._name, manifest, expected=digest, held=held)

    def _remember(self, expected: Expected) -> None:
        # What has to be this version says nothing of the registry's tag, whoever published it last.
        chosen = expected.older or self._pin is not None
        self._store.models.remember(self._name, expected.manifest, expected.origin, time.time(), chosen=chosen)

    def _is_kept(self, digest: Digest) -> bool:
        return any(
            lease.name == self._name and lease.manifest.digest == digest and not lease.live and not lease.passing
            for lease in self._store.leases.all(time.time())
        )


def _under_the_tag(store: Store, name: ModelName) -> tuple[Digest | None, Manifest | None, str | None]:
    """The digest of what lies there, the manifest that it is, and what is wrong with it."""
    try:
        digest = store.models.tag_digest(name)
    except SyncdError as error:
        return None, None, error.message
    try:
        return digest, store.models.read(name), None
    except SyncdError as error:
        return digest, None, error.message


def _expected(
    store: Store, name: ModelName, pin: Digest | None, there: Digest | None, publications: Sequence[Publication]
) -> Expected | None:
    history = versions(publications)
    if there is not None and (not history or history[0].manifest.digest != there) and pin in {None, there}:
        # Published by a pull that has not noted it yet, or died before it could: its lease has the manifest.
        for lease in store.leases.all(time.time()):
            if lease.name == name and lease.manifest.digest == there and not lease.passing:
                return Expected(lease.manifest, "a pull that was cut off", noted=False)
        history = store.models.history(name)  # it may have let go of its lease just now, and then it is noted
    for index, entry in enumerate(history):
        if pin is None or entry.manifest.digest == pin:
            return Expected(entry.manifest, entry.origin, noted=index == 0, older=index > 0)
    return None


def _look(store: Store, blob: Descriptor) -> tuple[BlobStatus, bool]:
    try:
        return store.blobs.look(blob)
    except StoreError:
        return BlobStatus.ABSENT, False  # a link, a folder: nothing that could be a blob
