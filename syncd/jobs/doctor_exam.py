"""What a doctor has seen, all of it, as one frozen value; and what it makes of it. No I/O, no clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from syncd.instances.containers import Container
from syncd.instances.ollama import Tagged
from syncd.jobs.damage import Damage
from syncd.jobs.doctor_kind import Kind, Severity
from syncd.jobs.surroundings import RegistryPlace, SecretFile
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName, Reference
from syncd.registry.clock import TimeThere
from syncd.store.ground import Ground
from syncd.store.models import StoredModel
from syncd.store.sweep import QuarantinedFile, StagedFile
from syncd.store.trees import Spot


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. ``subject``: which; ``what``: what is wrong with it, a sentence's end.

    Both may come from outside. ``mends``: whether ``--fix`` does something about it. ``severity``: the kind's, if it is
    no other here.
    """

    kind: Kind
    subject: str
    what: str
    mends: bool = False
    severity: Severity = Severity.NOTE
    spot: Spot | None = None
    damage: Damage | None = None

    @classmethod
    def of(cls, kind: Kind, subject: str, what: str, *, severity: Severity | None = None) -> "Finding":
        """One that only people can mend."""
        return cls(kind, subject, what, severity=severity or kind.severity)

    @property
    def key(self) -> tuple[str, str]:
        """What it is known by from one look to the next."""
        return self.kind.id, self.subject


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSeen:
    """A server at one moment. ``tags``: None: it would not list them. ``trouble``: why something is not known.

    ``container``: None: it is in none that is known; ``gone``: the settings name one that the Engine does not know.
    """

    name: str
    version: str | None = None
    tags: tuple[Tagged, ...] | None = None
    trouble: str | None = None
    container: Container | None = None
    gone: str | None = None


@dataclass(frozen=True, slots=True)
class SocketSeen:
    """A control socket that is there: its mode and its folder's."""

    path: Path
    mode: int
    folder_mode: int


@dataclass(frozen=True, slots=True)
class UnitSeen:
    """A systemd unit of syncd. ``writable``: what it may write to, as far as its files say."""

    path: Path
    writable: tuple[str, ...]
    strict: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """Everything that was seen. Times: seconds since the epoch; sizes: bytes.

    ``owner``: the uid that owns the store. ``requires``: the version that a model's config asks for, in its words.
    ``leases``: how many keep nothing any more. ``leased``: what live or fresh ones keep. ``holds``: what tags are held
    at. ``scrubbed``: when the last scrub of everything ended; ``since``: when this store was begun. ``daemon``: whether
    one did this. ``engine_fault``: why the Docker Engine tells nothing; ``local_engine``: its paths are this host's.
    """

    store: Path
    owner: int
    now: float
    ground: Ground
    daemon: bool = False
    floor: int = 0
    odd: tuple[Spot, ...] = ()
    models: tuple[StoredModel, ...] = ()
    requires: Mapping[ModelName, str] = field(default_factory=dict)
    damages: tuple[Damage, ...] = ()
    staged: tuple[StagedFile, ...] = ()
    quarantined: tuple[QuarantinedFile, ...] = ()
    leases: int = 0
    trash: int = 0
    wanted: tuple[Reference, ...] = ()
    holds: Mapping[ModelName, Digest] = field(default_factory=dict)
    scrub_every: float | None = None
    scrubbed: float | None = None
    since: float | None = None
    servers: tuple[ServerSeen, ...] = ()
    discovers: bool = False
    local_engine: bool = False
    engine_fault: str | None = None
    sockets: tuple[SocketSeen, ...] = ()
    units: tuple[UnitSeen, ...] = ()
    clocks: tuple[TimeThere, ...] = ()
    secrets: tuple[SecretFile, ...] = ()
    registries: Mapping[str, RegistryPlace] = field(default_factory=dict)
