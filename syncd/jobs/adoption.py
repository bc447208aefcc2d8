"""What adopting other stores would mean: which models, which blobs, which way, and why not (pure but for ``look``)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from syncd.errors import SyncdError
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor, Manifest
from syncd.oci.name import ModelName, case_conflict
from syncd.store.blobs import BlobStatus
from syncd.store.intake import Way
from syncd.store.root import Store
from syncd.store.source_scan import Scan, SourceBlob, SourceManifest

Chosen = Callable[[int, SourceBlob], Way]
"""How a file of the source with this index would come into the store."""


class Find(StrEnum):
    """What there is of a blob."""

    STORED = "stored"  # in our store
    UNVERIFIED = "unverified"  # in our store, to be hashed there first
    NEW = "new"  # in a source, with the right size
    TRUNCATED = "wrong size"  # in sources, but with another size than the manifest says
    PARTIAL = "partial"  # an unfinished download
    MISSING = "missing"


class Decision(StrEnum):
    """What becomes of a model of a source."""

    ADOPT = "adopt"
    CURRENT = "current"  # published, and whole
    KEPT = "kept"  # the store, or a source that was named earlier, has another version under this name
    INCOMPLETE = "incomplete"  # blobs of it are nowhere
    CONFLICT = "conflict"  # its name differs only in case from one that is, or would be, stored
    BROKEN = "broken"  # no manifest


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may hold a blob. ``source``: its index."""

    source: int
    file: str
    way: Way


@dataclass(frozen=True, slots=True)
class BlobPlan:
    """One blob of a model. ``candidates``: the files to try, in order."""

    blob: Descriptor
    find: Find
    candidates: tuple[Candidate, ...]

    @property
    def usable(self) -> bool:
        """Whether there is a hope of having it."""
        return self.find in {Find.STORED, Find.UNVERIFIED, Find.NEW}


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A model of one or more sources. ``sources``: their indices. ``path``: below ``manifests/``, in the first one.

    ``why``: in words, where it is not taken.
    """

    path: str
    name: ModelName | None
    manifest: Manifest | None
    sources: tuple[int, ...]
    decision: Decision
    why: str | None
    blobs: tuple[BlobPlan, ...]
    hosted: bool

    @property
    def wanted(self) -> bool:
        """Whether it belongs into the store, or is there already."""
        return self.decision in {Decision.ADOPT, Decision.CURRENT}


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it. ``scans``: what the sources have, in the order in which they were named."""

    models: tuple[ModelPlan, ...]
    scans: tuple[Scan, ...]

    def bytes_by(self, way: Way) -> int:
        """Bytes of new blobs that would come this way, each blob once."""
        return sum(blob.blob.size for blob in self._new().values() if blob.candidates and blob.candidates[0].way is way)

    @property
    def shared_bytes(self) -> int:
        """Bytes that the sources' models have twice, or that the store has already: they are not taken again."""
        asked = sum(
            blob.blob.size * len(model.sources) for model in self.models if model.wanted for blob in model.blobs
        )
        return asked - sum(blob.blob.size for blob in self._new().values())

    def _new(self) -> dict[Digest, BlobPlan]:
        return {
            blob.blob.digest: blob
            for model in self.models
            if model.decision is Decision.ADOPT
            for blob in model.blobs
            if blob.find is Find.NEW
        }


@dataclass(frozen=True, slots=True)
class Held:
    """What our store has. ``tags``: the digest under each name that sources use as well."""

    names: frozenset[ModelName]
    tags: Mapping[ModelName, Digest]
    blobs: Mapping[Digest, BlobStatus]


NOTHING = Held(frozenset(), {}, {})
"""What a store has that is not there yet."""


def look(store: Store, scans: Iterable[Scan]) -> Held:
    """What ``store`` has of what these sources have. Blocks; reads no blob."""
    found = [one for scan in scans for one in scan.manifests if one.manifest is not None and one.name is not None]
    tags: dict[ModelName, Digest] = {}
    for one in found:
        if one.name is not None and (digest := store.models.tag_digest(one.name)) is not None:
            tags[one.name] = digest
    wanted = {blob.digest: blob for one in found if one.manifest for blob in one.manifest.blobs}
    return Held(
        frozenset(store.models.names()),
        tags,
        {digest: _status(store, blob) for digest, blob in wanted.items()},
    )


def _status(store: Store, blob: Descriptor) -> BlobStatus:
    try:
        return store.blobs.look(blob)[0]
    except SyncdError:
        return BlobStatus.ABSENT  # a link or a folder where the blob should be: whoever brings it says so


def plan(scans: Sequence[Scan], held: Held, way: Chosen) -> Plan:
    """What adopting would do, in the sources' order. Of two versions of one name the first one counts."""
    models: list[ModelPlan] = []
    taken: dict[ModelName, int] = {}  # index in ``models``
    for index, scan in enumerate(scans):
        for found in scan.manifests:
            first = taken.get(found.name) if found.name and found.manifest else None
            if first is not None and models[first].manifest == found.manifest:
                models[first] = replace(models[first], sources=(*models[first].sources, index))
                continue
            names = {*held.names, *(model.name for model in models if model.name and model.wanted)}
            planned = _model(found, index, scans, held, names, way)
            if first is not None and models[first].wanted and planned.decision is not Decision.KEPT:
                why = f"{scans[models[first].sources[0]].path} has another version, and was named earlier"
                planned = replace(planned, decision=Decision.KEPT, why=why)
            if found.name and found.manifest and (first is None or not models[first].wanted):
                taken[found.name] = len(models)
            models.append(planned)
    return Plan(tuple(models), tuple(scans))


def _model(
    found: SourceManifest, index: int, scans: Sequence[Scan], held: Held, names: Iterable[ModelName], way: Chosen
) -> ModelPlan:
    if found.manifest is None or found.name is None:
        return ModelPlan(found.path, found.name, None, (index,), Decision.BROKEN, found.problem, (), hosted=False)
    name, manifest = found.name, found.manifest
    blobs = tuple(_blob(blob, index, scans, held, way) for blob in manifest.blobs)
    decision, why = Decision.ADOPT, None
    there = held.tags.get(name)
    clash = next((stored for stored in names if case_conflict(name, stored)), None)
    unusable = [blob for blob in blobs if not blob.usable]
    if there is not None and there != manifest.digest:
        decision, why = Decision.KEPT, f"the store has another version: {there}"
    elif clash is not None:
        decision, why = Decision.CONFLICT, f"it differs only in case from {clash}: Ollama would mix the two up"
    elif unusable:
        decision = Decision.INCOMPLETE
        why = "; ".join(f"{blob.blob.digest} is {_words(blob)}" for blob in unusable[:3])
        why += f"; and {len(unusable) - 3} more" if len(unusable) > 3 else ""  # noqa: PLR2004 - as many as were named
    elif there == manifest.digest and all(blob.find is Find.STORED for blob in blobs):
        decision = Decision.CURRENT
    return ModelPlan(found.path, name, manifest, (index,), decision, why, blobs, found.hosted)


def _blob(blob: Descriptor, first: int, scans: Sequence[Scan], held: Held, way: Chosen) -> BlobPlan:
    order = [first, *(index for index in range(len(scans)) if index != first)]
    files = [(index, scans[index].blobs[blob.digest]) for index in order if blob.digest in scans[index].blobs]
    candidates = tuple(Candidate(index, file.file, way(index, file)) for index, file in files if file.size == blob.size)
    status = held.blobs.get(blob.digest, BlobStatus.ABSENT)
    if status is BlobStatus.STORED:
        find = Find.STORED
    elif status is BlobStatus.UNVERIFIED:
        find = Find.UNVERIFIED
    elif candidates:
        find = Find.NEW
    elif files:
        find = Find.TRUNCATED
    elif any(blob.digest in scan.partial for scan in scans):
        find = Find.PARTIAL
    else:
        find = Find.MISSING
    return BlobPlan(blob, find, candidates)


def _words(blob: BlobPlan) -> str:
    match blob.find:
        case Find.TRUNCATED:
            return f"corrupt: it has not the {blob.blob.size} bytes that the manifest says"
        case Find.PARTIAL:
            return "only partly downloaded"
        case _:
            return blob.find.value
