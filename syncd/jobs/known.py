"""Manifests that this host has already: a pinned one needs no registry that serves manifests by digest."""

from syncd.aio import in_thread
from syncd.jobs.pins import Pins
from syncd.jobs.pull import ManifestSource
from syncd.oci.name import Reference
from syncd.registry.found import FetchedManifest
from syncd.store.root import Store


class KnownManifests:
    """Implements ``ManifestSource``: pinned references from the pins file and the history, all else from a registry."""

    def __init__(self, registry: ManifestSource, store: Store, pins: Pins) -> None:
        self._registry = registry
        self._store = store
        self._pins = pins

    async def manifest(self, reference: Reference) -> FetchedManifest:
        """What ``reference`` means. Raise ``SyncdError``."""
        found = None if reference.digest is None else await in_thread(self._find, reference)
        return found or await self._registry.manifest(reference)

    def _find(self, reference: Reference) -> FetchedManifest | None:
        pin = self._pins.of(reference.name)
        if pin is not None and pin.manifest.digest == reference.digest:
            return FetchedManifest(pin.manifest, f"the pins file {self._pins.path}")
        hold = self._store.holds.of(reference.name)
        if hold is not None and hold.manifest.digest == reference.digest:
            return FetchedManifest(hold.manifest, hold.origin)
        for one in self._store.models.history(reference.name):
            if one.manifest.digest == reference.digest:
                return FetchedManifest(one.manifest, one.origin)
        return None
