"""The settings: a TOML file as frozen structs, and the store that a command means (design, "Settings").

Only what syncd does is a key here. Units stand in the docstrings; a key that nobody knows is refused.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from syncd.daemon import dropins
from syncd.daemon.convert import convert, table
from syncd.daemon.dropins import Document
from syncd.daemon.held_names import held_by
from syncd.daemon.integrity_settings import CollectSettings, PolicySettings, ScrubSettings
from syncd.daemon.lines import Keys
from syncd.daemon.located import TomlFile
from syncd.daemon.server_settings import (
    DockerSettings,
    InstanceSettings,
    ProbeSettings,
    ReloadSettings,
    check_instances,
)
from syncd.daemon.units import Address, Rate, Seconds, Size, Window
from syncd.errors import BusyError, ConfigurationError
from syncd.jobs import pins as pins_files
from syncd.jobs.pins import Pins
from syncd.oci.name import ModelName, Reference

__all__ = [  # Address, Window and what the servers have, too: part of what the settings say
    "MAX_CONNECTIONS",
    "MAX_MODELS",
    "SYSTEM_FILE",
    "SYSTEM_SOCKET",
    "Address",
    "CollectSettings",
    "ControlSettings",
    "DockerSettings",
    "DownloadSettings",
    "InstanceSettings",
    "KeepPartials",
    "Loaded",
    "ModelSettings",
    "OpsSettings",
    "PolicySettings",
    "ProbeSettings",
    "RegistrySettings",
    "ReloadSettings",
    "ScrubSettings",
    "Settings",
    "StallTimeout",
    "StoreChoice",
    "UpdateInterval",
    "UpdateSettings",
    "Window",
    "choose_store",
    "load",
    "parse",
    "socket_candidates",
    "socket_path",
]

SYSTEM_FILE = Path("/etc/syncd/syncd.toml")
SYSTEM_SOCKET = Path("/run/syncd/syncd.sock")
MAX_CONNECTIONS = 64
MAX_MODELS = 10_000

_HOST = re.compile(r"[a-z0-9_][a-z0-9_.-]*(?::[0-9]{1,5})?|\[[0-9a-f:.]+\](?::[0-9]{1,5})?")
HostName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_\[][A-Za-z0-9_.:\]-]*$", max_length=255)]

_DAY = 86400.0
_MAX_SOCKET_PATH = 107  # bytes: sun_path in unix(7), without its NUL


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
    """Connections open at once, over all blobs of the process."""
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


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and the files they came from; without any, these are the defaults.

    ``pins``: what the pins file says; the models of ``settings`` are pinned by it, and those that it alone names are
    among them, behind the others.
    """

    settings: Settings = field(default_factory=Settings)
    document: Document = field(default_factory=Document)
    pins: Pins = field(default_factory=Pins)

    @property
    def path(self) -> Path | None:
        """The settings file, whose drop-ins lie beside it. None: there is neither."""
        return self.document.path

    @property
    def files(self) -> tuple[TomlFile, ...]:
        """Every file that was read, in that order."""
        return self.document.files

    def origin(self, keys: Keys) -> str | None:
        """``FILE:LINE`` of the key at ``keys`` (``("download", "connections")``), None where it has its default."""
        if keys[:1] == ("models",) and self._is_only_pinned(keys[1:2]):
            return str(self.pins.path)
        return self.document.origin(keys)

    def _is_only_pinned(self, index: Keys) -> bool:
        """Whether the model of this index is there by the pins file alone."""
        return bool(index) and self.document.origin(("models", *index)) is None and self.pins.path is not None

    def where(self, name: ModelName) -> str | None:
        """``FILE:LINE`` of the entry that asks for ``name``, as Ollama looks names up; None: no entry does."""
        for index, model in enumerate(self.settings.models):
            if model.name.name.folded == name.folded:
                return self.origin(("models", index))
        return None

    def resolved(self, reference: Reference) -> Reference:
        """``reference``, pinned as the pins file has its name, unless it names a version itself."""
        pin = self.pins.of(reference.name) if reference.digest is None else None
        return reference if pin is None else Reference(reference.name, pin.manifest.digest)

    def refuse_other_than_pinned(self, reference: Reference) -> None:
        """Raise ``BusyError`` if an entry pins this name to something else: a pull would only be undone."""
        for index, model in enumerate(self.settings.models):
            pin = model.name.digest
            if model.name.name.folded == reference.name.folded and pin not in {None, reference.digest}:
                if self.pins.of(reference.name) is not None:
                    raise BusyError(
                        f"{reference.name} is pinned by {self.pins.path} to {pin}",
                        hint=f"'syncd unpin {reference.name}' releases it",
                    )
                raise BusyError(
                    f"{reference.name} is pinned by the settings at {self.document.origin(('models', index))} to {pin}",
                    hint=f"'syncd pull {model.name}' pulls that one; for another, change the pin there",
                )

    def error(self, keys: Keys, message: str, *, hint: str | None = None) -> ConfigurationError:
        """The error that the value at ``keys`` cannot be used; it leads to the line, if there is one."""
        return self.document.error(keys, message, hint=hint)


def load(named: Path | None, environ: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> Loaded:
    """The settings of ``named`` (``--config``), else of ``SYNCD_CONFIG``, the system's file, the user's, else defaults.

    Raise ``ConfigurationError`` for a named file that is missing, and for every file that cannot be used as it stands.
    """
    paths, must_exist = candidates(named, environ, system_file=system_file)
    for path in paths:
        document = dropins.read(path)
        if must_exist and (document is None or path not in (file.path for file in document.files)):
            raise ConfigurationError(f"there are no settings at {path}", hint=_named_hint(named))
        if document is not None:
            return loaded_of(document)
    return Loaded()


def loaded_of(document: Document) -> Loaded:
    """What ``document`` says, with the pins file that it names. Raise ``ConfigurationError``. Blocks."""
    settings = parse(document)
    if settings.pins is None:
        return Loaded(settings, document)
    try:
        pins = pins_files.read(settings.pins)
    except ConfigurationError as error:
        raise document.error(("pins",), error.message, hint=error.hint) from error
    models = _pinned(document, settings.models, pins)
    return Loaded(msgspec.structs.replace(settings, models=models), document, pins)


def _pinned(document: Document, models: Sequence[ModelSettings], pins: Pins) -> tuple[ModelSettings, ...]:
    """``models`` as ``pins`` has them, and behind them those that it alone names. Refuse what contradicts itself."""
    references = held_by(document, [model.name for model in models], pins)
    if len(references) > MAX_MODELS:
        raise document.error(
            ("pins",), f"with {pins.path} there are {len(references)} models: at most {MAX_MODELS} are possible"
        )
    named = (msgspec.structs.replace(model, name=name) for model, name in zip(models, references, strict=False))
    return (*named, *(ModelSettings(name=name) for name in references[len(models) :]))


def candidates(
    named: Path | None, environ: Mapping[str, str], *, system_file: Path = SYSTEM_FILE
) -> tuple[Sequence[Path], bool]:
    """Where settings are looked for, the first that is there counts; and whether somebody named it: then it must be."""
    if named is not None:
        return [named], True
    if environ.get("SYNCD_CONFIG"):
        return [Path(environ["SYNCD_CONFIG"])], True
    home = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - raises nothing without HOME
    return [system_file, Path(home) / "syncd" / "syncd.toml"], False


def _named_hint(named: Path | None) -> str:
    return f"{'--config' if named else 'SYNCD_CONFIG'} names that file: make it, or leave that out"


def parse(document: Document) -> Settings:
    """The settings that ``document`` holds. Raise ``ConfigurationError`` with file, line and key of what is wrong."""
    top = dict(document.tables)
    registries = _registries(document, table(document, ("registries",), top.pop("registries", {})))
    for section in ("control", "ops"):
        if isinstance(found := top.get(section), dict) and found.get("listen") == "":
            top[section] = {**found, "listen": None}
    models = tuple(
        convert(document, ("models", index), entry, ModelSettings) for index, entry in enumerate(top.pop("models", ()))
    )
    instances = tuple(
        convert(document, ("instances", index), entry, InstanceSettings)
        for index, entry in enumerate(top.pop("instances", ()))
    )
    settings = msgspec.structs.replace(
        convert(document, (), top, Settings), registries=registries, models=models, instances=instances
    )
    _check_models(document, models)
    _check_control(document, settings.control)
    check_instances(document, instances, settings.docker)
    return settings


def _registries(document: Document, hosts: Mapping[str, Any]) -> Mapping[str, RegistrySettings]:
    registries: dict[str, RegistrySettings] = {}
    for host, value in hosts.items():
        keys = ("registries", host)
        if not _HOST.fullmatch(host.lower()):
            raise document.error(keys, f"{host!r} is not a registry's host", hint="write it as NAME or NAME:PORT")
        if host.lower() in registries:
            raise document.error(keys, f"the registry {host!r} is there twice, in different case")
        registries[host.lower()] = convert(document, keys, value, RegistrySettings)
    return registries


def _check_models(document: Document, models: Sequence[ModelSettings]) -> None:
    """Refuse two entries for one name, and names of which Ollama would find now the one, now the other."""
    if len(models) > MAX_MODELS:
        raise document.error(
            ("models", MAX_MODELS), f"there are {len(models)} models: at most {MAX_MODELS} are possible"
        )
    names: dict[str, int] = {}
    spellings: dict[tuple[int, str], tuple[str, int]] = {}  # by position in the name and folded part
    for index, name in enumerate(model.name.name for model in models):
        keys = ("models", index, "name")
        first = names.setdefault(name.folded, index)
        if first != index:
            raise document.error(keys, f"{name} is there twice: also at {document.origin(('models', first))}")
        for position, part in enumerate(name.parts):
            spelling, other = spellings.setdefault((position, part.casefold()), (part, index))
            if spelling != part:
                where = document.origin(("models", other))
                raise document.error(
                    keys,
                    f"{part!r} of {name} differs from {spelling!r} at {where} only in case",
                    hint="Ollama takes both for one: write them alike",
                )


def _check_control(document: Document, control: ControlSettings) -> None:
    if control.listen is not None and not control.listen.is_loopback and control.token_file is None:
        raise document.error(
            ("control", "listen"),
            f"listen: {control.listen} can be reached from other hosts, and there is no token_file",
            hint="name a file that holds a token, or listen on 127.0.0.1",
        )
    if control.socket is not None and len(os.fsencode(control.socket)) > _MAX_SOCKET_PATH:
        raise document.error(("control", "socket"), f"socket: a socket's path has at most {_MAX_SOCKET_PATH} bytes")


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """The store that a command means, and what named it, in words. ``asked``: somebody did, it is no mere default."""

    path: Path
    origin: str
    asked: bool = True


def choose_store(option: Path | None, environ: Mapping[str, str], loaded: Loaded) -> StoreChoice:
    """``--store``, ``SYNCD_STORE``, the settings, ``OLLAMA_MODELS``, then Ollama's own default (``envconfig.Models``).

    Raise ``ConfigurationError`` where there is no home folder to have the default in.
    """
    if option is not None:
        return StoreChoice(option.absolute(), "--store")
    if environ.get("SYNCD_STORE"):
        return StoreChoice(Path(environ["SYNCD_STORE"]).absolute(), "SYNCD_STORE")
    if loaded.settings.store is not None:
        return StoreChoice(loaded.settings.store, _origin_of_store(loaded))
    # Ollama trims quotes and blanks from its variables (envconfig.Var).
    models = environ.get("OLLAMA_MODELS", "").strip("\"' \t\r\n")
    if models:
        return StoreChoice(Path(models).absolute(), "OLLAMA_MODELS")
    try:
        return StoreChoice(Path.home() / ".ollama" / "models", "Ollama's default", asked=False)
    except RuntimeError as error:
        raise ConfigurationError("this user has no home folder", hint="name the store with --store") from error


def _origin_of_store(loaded: Loaded) -> str:
    place = loaded.origin(("store",))
    return place.rpartition(":")[0] if place else "settings"


def socket_candidates(
    settings: Settings, environ: Mapping[str, str], *, system_socket: Path = SYSTEM_SOCKET
) -> list[Path]:
    """Where a daemon's control socket may be: a client takes the first that exists.

    One that ``SYNCD_SOCKET`` or the settings name is the only one.
    """
    if environ.get("SYNCD_SOCKET"):
        return [Path(environ["SYNCD_SOCKET"]).absolute()]
    if settings.control.socket is not None:
        return [settings.control.socket]
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    own = [Path(runtime) / "syncd" / "syncd.sock"] if runtime.startswith("/") else []
    return [system_socket, *own]


def socket_path(
    settings: Settings, environ: Mapping[str, str], euid: int, *, system_socket: Path = SYSTEM_SOCKET
) -> Path:
    """Where the daemon of user ``euid`` binds its control socket: the first candidate that this user may make.

    Raise ``ConfigurationError`` for a user who has no folder for one.
    """
    first, *own = socket_candidates(settings, environ, system_socket=system_socket)
    if first != system_socket or euid == 0 or os.access(system_socket.parent, os.W_OK | os.X_OK):
        return first
    if own:
        return own[0]
    raise ConfigurationError(
        f"this user can make no socket in {system_socket.parent}, and has no XDG_RUNTIME_DIR",
        hint="name one: [control] socket, or SYNCD_SOCKET",
    )
