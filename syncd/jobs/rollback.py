"""Rolling back: a version that was published once is published again, and the tag stays at it until it is released.

It is a pull whose manifest comes from the history: the same locks, lease, order, and word to the servers beforehand.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from syncd.errors import IntegrityError, NotFoundError, StoreError, UsageError
from syncd.jobs.policy import Policy, refuse
from syncd.jobs.progress import PullOutcome, PullProgress
from syncd.jobs.pull import PullMeans, pull
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName, Reference
from syncd.registry.found import FetchedManifest
from syncd.store.blobs import BlobStatus
from syncd.store.history import Publication
from syncd.store.holds import Hold
from syncd.store.root import Store

log = structlog.get_logger()

_LEAST = 6  # hex digits of a digest that is not named whole
_PREFIX = re.compile(r"(?:sha256:)?(?P<hex>[0-9a-f]{1,64})")


@dataclass(frozen=True, slots=True)
class RollbackPlan:
    """``target``: what is to be published. ``current``: the digest that is now; None: nothing.

    ``missing``: the blobs that have to be fetched.
    """

    name: ModelName
    target: Publication
    current: Digest | None
    missing: tuple[Descriptor, ...]

    @property
    def digest(self) -> Digest:
        """Of what is to be published."""
        return self.target.manifest.digest


def choose(name: ModelName, versions: Sequence[Publication], current: Digest | None, wanted: str | None) -> Publication:
    """Which version is meant (pure). ``versions``: the latest first. ``wanted``: a digest or its beginning.

    Without that it is the one that was published before ``current``. Raise ``NotFoundError`` or ``UsageError``.
    """
    if wanted is None:
        found = [one for one in versions if one.manifest.digest != current]
        if not found:
            raise NotFoundError(
                f"{name}: no other version was published here" if versions else f"{name}: nothing was published here",
                hint=f"'syncd history {name}' shows what was; 'syncd pull {name}@sha256:...' asks the registry",
            )
        return found[0]
    match = _PREFIX.fullmatch(wanted)
    if match is None or len(match["hex"]) < _LEAST:
        raise UsageError(f"not a digest, nor {_LEAST} or more hex digits of its beginning: {wanted[:100]!r}")
    found = [one for one in versions if one.manifest.digest.hex.startswith(match["hex"])]
    if not found:
        raise NotFoundError(
            f"{name}: no version of the history begins with {wanted}",
            hint=f"'syncd history {name}' shows those there are",
        )
    if len(found) > 1:
        raise UsageError(f"{wanted} is the beginning of {len(found)} versions of {name}", hint="give more digits")
    return found[0]


def plan(store: Store, name: ModelName, wanted: str | None, policy: Policy) -> RollbackPlan:
    """What a rollback would do (``--dry-run``). ``name``: as the store has it. Raise ``SyncdError``. Blocks."""
    current, hold = store.models.tag_digest(name), _held_at(store, name)
    if wanted is None and hold is not None and hold.manifest.digest == current and store.leases.has_dead(name):
        # One that was cut off behind its publication: the same command is to end it, and not to undo it.
        target = Publication(hold.manifest, hold.at, hold.origin, chosen=True)
    else:
        target = choose(name, store.models.history(name), current, wanted)
    refuse(policy, name, target.manifest.size)
    missing = tuple(blob for blob in target.manifest.blobs if _is_absent(store, blob))
    return RollbackPlan(name, target, current, missing)


async def roll_back(
    planned: RollbackPlan, means: PullMeans, by: str, report: Callable[[PullProgress], None]
) -> PullOutcome:
    """Publish what was planned, and hold the tag there. ``by``: in words, who wants it. Raise ``SyncdError``.

    Where it fails, or is cancelled, the tag and what it was held at are as before. A process that dies has held the tag
    before it published, if it came that far: whoever goes by the hold finishes it.
    """
    means = replace(means, registry=_One(planned.target), hold_for=by)
    return await pull(Reference(planned.name, planned.digest), means, report)


def _held_at(store: Store, name: ModelName) -> Hold | None:
    """What the tag is held at; None also where that cannot be read: a rollback writes it anew."""
    try:
        return store.holds.of(name)
    except IntegrityError as error:
        log.warning("rollback.hold_unreadable", name=str(name), error=error.message)
        return None


def _is_absent(store: Store, blob: Descriptor) -> bool:
    try:
        return store.blobs.look(blob)[0] is BlobStatus.ABSENT
    except StoreError:
        return True  # a link, a folder: nothing that could be a blob


class _One:
    """Implements ``ManifestSource``: the one version of the history."""

    def __init__(self, target: Publication) -> None:
        self._found = FetchedManifest(target.manifest, target.origin)

    async def manifest(self, _reference: Reference) -> FetchedManifest:
        """It."""
        return self._found
