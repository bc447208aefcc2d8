"""The settings as frozen structs, a section each. Those of the servers and of integrity have modules of their own.

Only what syncd does is a key here. Units stand in the docstrings; a key that nobody knows is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec

from syncd.daemon.integrity_settings import CollectSettings, PolicySettings, ScrubSettings
from syncd.daemon.server_settings import DockerSettings, InstanceSettings, ProbeSettings, ReloadSettings
from syncd.daemon.units import Address, Rate, Seconds, Size, Window
from syncd.oci.name import Reference

MAX_CONNECTIONS = 64
MAX_MODELS = 10_000
HostName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_\[][A-Za-z0-9_.:\]-]*$", max_length=255)]

_DAY = 86400.0


class StallTimeout(Seconds):
    """Between a second and an hour."""

    least, most = 1.0, 3600.0


class KeepPartials(Seconds):
    """Between an hour and a year."""

    least, most = 3600.0, 366 * _DAY


class UpdateInterval(Seconds):
    """Between a minute and thirty days."""

    least, most = 60.0, 30 * _DAY


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[registries."host"]``: how one registry is spoken to. Files: absolute paths, or ``~/...``."""

    mirrors: tuple[str, ...] = ()
    """Base URLs that are tried before the registry itself, in this order."""
    plain_http: bool | None = None
    """Whether the registry speaks http instead of https. Unset: only on loopback."""
    ca_file: Path | None = None
    """A PEM file with a CA of one's own, beside the system's."""
    auth_hosts: tuple[str, ...] = ()
    """Other hosts that may be sent this registry's credentials: its token service."""
    username: str | None = None
    """The user for basic auth; the password comes from ``password_file`` or the environment."""
    password_file: Path | None = None
    """A file that holds the password, and nothing else."""
    token_file: Path | None = None
    """A file that holds a ready bearer token, and nothing else."""
    key_file: Path | None = None
    """An ed25519 key as ``ollama`` makes it. Unset: ``~/.ollama/id_ed25519``, if there is one."""


class DownloadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[download]``: how blobs are fetched."""

    connections: Annotated[int, msgspec.Meta(ge=1, le=MAX_CONNECTIONS)] = 8
    """Connections open at once, over all blobs of the process; fewer for a blob while its hash is what limits."""
    max_rate: Rate | None = None
    """Bytes a second over all connections. Unset: no limit."""
    stall_timeout: StallTimeout = StallTimeout(30)
    """Seconds without a byte after which a connection is dropped and its range asked for again."""
    keep_partials: KeepPartials = KeepPartials(7 * _DAY)
    """Seconds for which what an interrupted pull fetched is kept."""


class UpdateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``update`` of a model: how its tag is followed. A pinned model is not."""

    every: UpdateInterval = UpdateInterval(6 * 3600)
    """Seconds between two looks at the tag, give or take some jitter."""
    window: Window | None = None
    """The part of the day (local time) in which a new version is applied. Unset: at once."""
    apply: Literal["auto", "notify"] = "auto"
    """``notify``: a new version is only shown as pending, until somebody pulls it."""


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[[models]]``: a model that the store shall hold."""

    name: Reference
    """The model's name by Ollama's rules; ``NAME@sha256:...`` pins it."""
    update: UpdateSettings = UpdateSettings()
    prewarm: bool = False
    """Whether every server loads it after it started or was reloaded, and after an update."""


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[control]``: where the daemon takes commands."""

    socket: Path | None = None
    """The unix socket. Unset: ``/run/syncd/syncd.sock``, or ``syncd/syncd.sock`` below ``XDG_RUNTIME_DIR``."""
    group: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*\$?$", max_length=32)] | None = None
    """The group of the socket and its folder. Unset: ``syncd`` if there is such a group, else the process's own."""
    listen: Address | None = None
    """An additional TCP listener. Anything but loopback needs ``token_file``. Unset, or ``""``: none."""
    token_file: Path | None = None
    """A file that holds the bearer token that the TCP listener asks for, and nothing else."""
    allowed_hosts: Annotated[tuple[HostName, ...], msgspec.Meta(max_length=64)] = ()
    """More names that a request over TCP may have in its Host header, without port."""


class OpsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[ops]``: what monitoring asks."""

    listen: Address | None = Address("127.0.0.1", 9811)
    """Where ``/metrics``, ``/healthz`` and ``/readyz`` are. ``""``: nowhere."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    store: Path | None = None
    """The models folder. Unset: ``OLLAMA_MODELS``, or Ollama's own default."""
    allow_network_filesystem: bool = False
    """Whether the store may lie on a network file system, where locks prove nothing between hosts."""
    min_free: Size = Size(512 * 2**20)
    """Bytes of free space that a pull leaves on the store's file system."""
    registries: Mapping[str, RegistrySettings] = msgspec.field(default_factory=dict)
    """By host: ``name`` or ``name:port``, in lower case."""
    download: DownloadSettings = DownloadSettings()
    models: tuple[ModelSettings, ...] = ()
    """What the store shall hold; no two names that Ollama could take for one."""
    pins: Path | None = None
    """A pins file of ``syncd pin``: what it names is held at exactly that version. Unset: tags are followed."""
    prune: bool = False
    """Whether a model that the daemon published, and that has left the settings, is removed."""
    control: ControlSettings = ControlSettings()
    ops: OpsSettings = OpsSettings()
    instances: tuple[InstanceSettings, ...] = ()
    """The servers that read the store; no two with one name or one address."""
    docker: DockerSettings = DockerSettings()
    probes: ProbeSettings = ProbeSettings()
    reload: ReloadSettings = ReloadSettings()
    policy: PolicySettings = PolicySettings()
    scrub: ScrubSettings = ScrubSettings()
    collect: CollectSettings = CollectSettings()
