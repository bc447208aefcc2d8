"""What a migration would mean: what goes to the quarantine, what is adopted, pulled, and asked of servers (pure)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from syncd.jobs import adoption
from syncd.jobs.adoption import Chosen, Decision, Held, ModelPlan
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName, Reference
from syncd.store.blobs import BlobStatus
from syncd.store.records import Identity
from syncd.store.source_scan import Scan, SourceManifest, Stray


@dataclass(frozen=True, slots=True)
class WrongBlob:
    """A file with a blob's name that holds other bytes. ``identity``: of the file that was hashed."""

    digest: Digest
    identity: Identity
    why: str


@dataclass(frozen=True, slots=True)
class Shared:
    """What the shared folder holds. ``right``: the sizes of blobs that hold what their names say; all were hashed.

    ``replaceable``: the manifests that are regular files, by their path below ``manifests/``.
    """

    path: Path
    manifests: tuple[SourceManifest, ...] = ()
    strays: tuple[Stray, ...] = ()
    right: Mapping[Digest, int] = field(default_factory=dict)
    wrong: Mapping[Digest, WrongBlob] = field(default_factory=dict)
    replaceable: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A file below ``manifests/`` that goes. ``digest``: of its manifest, if it is one."""

    path: str
    name: ModelName | None
    digest: Digest | None
    why: str


@dataclass(frozen=True, slots=True)
class CorruptBlob:
    """A blob that goes. ``replaced``: not before a whole one takes its place, since a model names it until then."""

    blob: WrongBlob
    replaced: bool


@dataclass(frozen=True, slots=True)
class PlannedPull:
    """A model to pull, and why."""

    reference: Reference
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it, but for the servers. ``stays``: what cannot be put right, in words.

    ``mended``: models that stay in sight while they get what they lack; ``renewed``: those of them whose weights were
    wrong. ``served``: the models that servers have to serve in the end, stubs of hosted ones left out; None: in a
    version that only the registry knows.
    """

    strays: tuple[Stray, ...]
    manifests: tuple[Withdrawn, ...]
    corrupt: tuple[CorruptBlob, ...]
    adoption: adoption.Plan
    pulls: tuple[PlannedPull, ...]
    mended: tuple[ModelName, ...]
    stays: tuple[str, ...]
    renewed: frozenset[ModelName]
    served: Mapping[ModelName, Digest | None]

    @property
    def changes(self) -> bool:
        """Whether there is anything to do about the store."""
        adopts = any(model.decision is Decision.ADOPT for model in self.adoption.models)
        return bool(self.strays or self.manifests or self.corrupt or self.pulls or adopts)


def plan(shared: Shared, scans: Sequence[Scan], wanted: Sequence[Reference], way: Chosen) -> Plan:
    """What a migration into ``shared`` would do. ``wanted``: models that have to be there in the end."""
    models = [one for one in shared.manifests if one.manifest is not None and one.name is not None]
    sick = {one.path: why for one in models if one.manifest and (why := ailment(one.manifest, shared))}
    well = {one.name: one.manifest.digest for one in models if one.name and one.manifest and one.path not in sick}
    taking = adoption.plan(scans, _held(shared, well), way)
    adopted = {
        one.name: one.manifest.digest
        for one in taking.models
        if one.decision is Decision.ADOPT and one.name and one.manifest
    }
    pulls = tuple(_pulls(wanted, {**well, **adopted}, models, sick, shared))
    stay = _mended(models, sick, adopted, pulls, shared)
    manifests = [
        Withdrawn(
            one.path, one.name, one.manifest.digest if one.manifest else None, sick.get(one.path) or str(one.problem)
        )
        for one in shared.manifests
        if one.path in shared.replaceable and (one.manifest is None or (one.path in sick and one not in stay))
    ]
    named = {blob.digest for one in stay if one.manifest for blob in one.manifest.blobs}
    described: Iterable[SourceManifest | ModelPlan] = (*models, *taking.models)
    weighty = {one.name for one in described if one.manifest and one.manifest.weights}
    served: dict[ModelName, Digest | None] = {
        name: digest for name, digest in {**well, **adopted}.items() if name in weighty
    }
    served |= {pull.reference.name: pull.reference.digest for pull in pulls}
    return Plan(
        strays=shared.strays,
        manifests=tuple(manifests),
        corrupt=tuple(CorruptBlob(blob, digest in named) for digest, blob in sorted(shared.wrong.items())),
        adoption=taking,
        pulls=pulls,
        mended=tuple(one.name for one in stay if one.name),
        stays=tuple(
            f"manifests/{one.path}: {one.problem}"
            for one in shared.manifests
            if one.manifest is None and one.path not in shared.replaceable
        ),
        renewed=frozenset(
            one.name
            for one in stay
            if one.name and one.manifest and any(blob.digest in shared.wrong for blob in one.manifest.weights)
        ),
        served=served,
    )


def ailment(manifest: Manifest, shared: Shared) -> str | None:
    """Why a model of the shared folder cannot be served as it is; None: it is whole."""
    bad = [blob for blob in manifest.blobs if shared.right.get(blob.digest) != blob.size]
    if not bad:
        return None
    corrupt = [blob for blob in bad if blob.digest in shared.wrong]
    first = (corrupt or bad)[0]
    what = shared.wrong[first.digest].why if corrupt else "not there"
    more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
    return f"its {first.digest} is {what}{more}"


def _held(shared: Shared, well: Mapping[ModelName, Digest]) -> Held:
    """What the shared folder has once the quarantine has taken its share."""
    return Held(frozenset(well), well, dict.fromkeys(shared.right, BlobStatus.STORED))


def _pulls(
    wanted: Iterable[Reference],
    there: Mapping[ModelName, Digest],
    models: Iterable[SourceManifest],
    sick: Mapping[str, str],
    shared: Shared,
) -> Iterable[PlannedPull]:
    digests = {name.folded: digest for name, digest in there.items()}
    ailing = {one.name.folded: sick[one.path] for one in models if one.name and one.path in sick}
    broken = {one.name.folded for one in shared.manifests if one.name and one.manifest is None}
    for reference in wanted:
        digest = digests.get(reference.name.folded)
        if digest is None:
            why = ailing.get(reference.name.folded)
            if why is None:
                why = "its manifest is broken" if reference.name.folded in broken else "missing"
            yield PlannedPull(reference, why)
        elif reference.digest not in {None, digest}:
            yield PlannedPull(reference, "pinned to another version")


def _mended(
    models: Iterable[SourceManifest],
    sick: Mapping[str, str],
    adopted: Mapping[ModelName, Digest],
    pulls: Iterable[PlannedPull],
    shared: Shared,
) -> list[SourceManifest]:
    """The ailing models that stay in sight until what they lack is there: nothing is missing in between."""
    pulled = {pull.reference.name.folded for pull in pulls}
    odd = {stray.file.replace("sha256-", "sha256:", 1) for stray in shared.strays}
    staying = []
    for one in models:
        if one.name is None or one.manifest is None or one.path not in sick:
            continue
        if any(str(blob.digest) in odd for blob in one.manifest.blobs):
            continue  # a link or a folder where its blob should be: that goes first, and no manifest names it then
        if adopted.get(one.name) == one.manifest.digest or (one.name not in adopted and one.name.folded in pulled):
            staying.append(one)
    return staying


# The servers


@dataclass(frozen=True, slots=True)
class Standing:
    """How a model stands on a server, in a word. ``proved``: when it last made a token of this digest, if it did.

    Times are seconds since the epoch. ``reason``: why it fails.
    """

    digest: str
    word: str
    proved: float | None
    stale: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ServerView:
    """A server, as the daemon sees it. ``models``: by folded name. ``up``: None: nobody has asked yet."""

    name: str
    url: str
    up: bool | None
    version: str | None
    error: str | None
    models: Mapping[str, Standing] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Served:
    """A model that servers have to serve. ``digest``: None: only the registry knows it.

    ``renewed``: when right weights took the place of wrong ones under the same digest, infinity for "just now or soon";
    None: they never did.
    """

    name: ModelName
    digest: Digest | None
    renewed: float | None = None


@dataclass(frozen=True, slots=True)
class ServerWork:
    """What one server is asked: models to load anew, then models to prove."""

    server: str
    reload: tuple[ModelName, ...]
    prove: tuple[ModelName, ...]


def server_work(servers: Iterable[ServerView], models: Sequence[Served]) -> tuple[ServerWork, ...]:
    """What is still to be done, that all ``models`` are proved on all servers."""
    work = []
    for server in servers:
        reload, prove = [], []
        for model in models:
            standing = server.models.get(model.name.folded)
            # Who is down has nothing in memory: what it loads when it is back is right.
            if server.up and standing is not None and (standing.stale or _may_hold_old_bytes(standing, model)):
                reload.append(model.name)
            elif not is_proved(standing, model):
                prove.append(model.name)
        if reload or prove:
            work.append(ServerWork(server.name, tuple(reload), tuple(prove)))
    return tuple(work)


def is_proved(standing: Standing | None, model: Served) -> bool:
    """Whether this server made a token of this version, as far as is known."""
    return standing is not None and standing.proved is not None and standing.digest == str(model.digest)


def _may_hold_old_bytes(standing: Standing, model: Served) -> bool:
    """Who had a model loaded while its file was replaced has the old file mapped (ollama ``llama-mmap``)."""
    if model.renewed is None:
        return False
    if standing.proved is None:
        # A server that failed to show it may have it in memory all the same.
        return standing.word in {"loaded", "loading", "failing"}
    return standing.proved + 1 <= model.renewed  # proofs are told to the second
