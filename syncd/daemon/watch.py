"""The store's own folders, watched: what anybody changes in ``manifests/`` and ``blobs/`` is told of within a second.

The kernel's events (inotify, through watchfiles) say where to look and never what is so. What they may miss, in folders
that are just being made, is found by a second look; where there are no events at all, by the reconcile's own rounds.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog
from watchfiles import Change, awatch

from syncd.aio import only_error
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName
from syncd.store.layout import BLOBS, MANIFESTS, digest_of_file, manifest_parts

log = structlog.get_logger()

_SETTLE_MS = 300  # of one storm of events
_STEP_MS = 400  # how often watchfiles looks whether there are events, or it is to stop: each time costs some 20 µs
_QUIET_MS = 600_000
_SENTRY = 1.0  # seconds between two looks whether the folders are still the ones that are watched
_RETRY = 5.0  # seconds until watching is tried again
_PARTS = 4  # of a name: how deep manifests lie


@dataclass(frozen=True, slots=True)
class Touched:
    """Where something happened. ``paths``: below ``manifests/``, a manifest's or a folder's; ``digests``: of blobs.

    ``everything``: nobody knows what.
    """

    paths: frozenset[tuple[str, ...]] = frozenset()
    digests: frozenset[Digest] = frozenset()
    everything: bool = False

    @classmethod
    def by(cls, root: Path, changed: Iterable[str]) -> Self:
        """What events for these paths mean in the store at ``root``."""
        paths: set[tuple[str, ...]] = set()
        digests: set[Digest] = set()
        everything = False
        for path in changed:
            try:
                top, *below = Path(path).relative_to(root).parts
            except ValueError:  # the root itself, or above it
                top, below = "", []
            if not below:
                everything = True
            elif top == MANIFESTS:
                paths.add(tuple(below))
            elif top == BLOBS and (digest := digest_of_file(below[0])) is not None:
                digests.add(digest)
        return cls(frozenset(paths), frozenset(digests), everything)

    def concerns(self, name: ModelName, blobs: frozenset[Digest]) -> bool:
        """Whether a model may be another now; ``blobs``: what it consists of."""
        if self.everything or not self.digests.isdisjoint(blobs):
            return True
        folders, tag = manifest_parts(name)
        parts = (*folders, tag)
        return any(parts[:depth] in self.paths for depth in range(1, len(parts) + 1))


async def watch(root: Path, tell: Callable[[Touched], None]) -> None:
    """Call ``tell`` on the loop, whenever something happens in the store at ``root``, until cancelled."""
    troubled = False
    while True:
        try:
            await _watch_once(root, tell)
            troubled = False
        except (OSError, RuntimeError) as error:
            # No folder at the moment, or no watches left (fs.inotify.max_user_watches).
            if not troubled:
                log.warning("watch.failed", path=str(root), error=str(error))
            troubled = True
            await asyncio.sleep(_RETRY)
        tell(Touched(everything=True))  # what happened meanwhile


async def _watch_once(root: Path, tell: Callable[[Touched], None]) -> None:
    """Watch the folders that are there now; return when they are others."""
    watched = _identities(root)
    stop = asyncio.Event()
    appeared: set[tuple[str, ...]] = set()
    try:
        async with asyncio.TaskGroup() as group:
            follow = group.create_task(_follow(root, tell, appeared, stop), name="store events")
            try:
                while not follow.done() and _identities(root) == watched:
                    await asyncio.sleep(_SENTRY)
                    if appeared:
                        tell(Touched(paths=frozenset(appeared)))
                        appeared.clear()
            finally:
                stop.set()  # its thread sees this at its next step
    except BaseExceptionGroup as errors:
        raise only_error(errors, (OSError, RuntimeError)) from errors


async def _follow(
    root: Path, tell: Callable[[Touched], None], appeared: set[tuple[str, ...]], stop: asyncio.Event
) -> None:
    """``appeared`` gets the folders that are new: what was made in one before it was watched made no event."""
    changes = awatch(
        root / MANIFESTS,
        root / BLOBS,
        watch_filter=None,
        debounce=_SETTLE_MS,
        step=_STEP_MS,
        rust_timeout=_QUIET_MS,
        stop_event=stop,
        ignore_permission_denied=True,
    )
    async with aclosing(changes):
        async for change in changes:
            tell(Touched.by(root, (path for _, path in change)))
            new = Touched.by(root, (path for kind, path in change if kind is Change.added)).paths
            appeared |= {path for path in new if len(path) < _PARTS}


def _identities(root: Path) -> tuple[tuple[int, int] | None, ...]:
    return tuple(_identity(root / name) for name in (MANIFESTS, BLOBS))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None  # not there, or not to be got at: the watch itself meets that, and tells of it
    return found.st_dev, found.st_ino
