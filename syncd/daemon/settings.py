"""The settings: a TOML file as frozen structs, and the store that a command means (design, "Settings").

Only what syncd does is a key here. Units stand in the docstrings; a key that nobody knows is refused.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from syncd.daemon.located import TomlFile
from syncd.daemon.units import Rate, Seconds, Size
from syncd.errors import ConfigurationError

SYSTEM_FILE = Path("/etc/syncd/syncd.toml")
MAX_CONNECTIONS = 64

S = TypeVar("S", bound=msgspec.Struct)

_HOST = re.compile(r"[a-z0-9_][a-z0-9_.-]*(?::[0-9]{1,5})?|\[[0-9a-f:.]+\](?::[0-9]{1,5})?")
_ERROR_PATH = re.compile(r"(?P<reason>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?", re.DOTALL)


class StallTimeout(Seconds):
    """Between a second and an hour."""

    least, most = 1.0, 3600.0


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


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and the file they came from (None: there is none, and these are the defaults)."""

    settings: Settings = field(default_factory=Settings)
    file: TomlFile | None = None

    def error(self, keys: tuple[str, ...], message: str, *, hint: str | None = None) -> ConfigurationError:
        """The error that the value at ``keys`` cannot be used; it leads to the line, if there is one."""
        return self.file.error(keys, message, hint=hint) if self.file else ConfigurationError(message, hint=hint)


def load(named: Path | None, environ: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> Loaded:
    """The settings of ``named`` (``--config``), else of ``SYNCD_CONFIG``, the system's file, the user's, else defaults.

    Raise ``ConfigurationError`` for a named file that is missing, and for every file that cannot be used as it stands.
    """
    for path, must_exist in _candidates(named, environ, system_file):
        try:
            file = TomlFile.read(path)
        except FileNotFoundError as error:
            if must_exist:
                raise ConfigurationError(f"there are no settings at {path}", hint=_named_hint(named)) from error
        else:
            return Loaded(parse(file), file)
    return Loaded()


def _candidates(named: Path | None, environ: Mapping[str, str], system_file: Path) -> list[tuple[Path, bool]]:
    if named is not None:
        return [(named, True)]
    if environ.get("SYNCD_CONFIG"):
        return [(Path(environ["SYNCD_CONFIG"]), True)]
    home = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - raises nothing without HOME
    return [(system_file, False), (Path(home) / "syncd" / "syncd.toml", False)]


def _named_hint(named: Path | None) -> str:
    return f"{'--config' if named else 'SYNCD_CONFIG'} names that file: make it, or leave that out"


def parse(file: TomlFile) -> Settings:
    """The settings that ``file`` holds. Raise ``ConfigurationError`` with file, line and key of what is wrong."""
    top = dict(file.tables)
    hosts = _table(file, ("registries",), top.pop("registries", {}))
    registries: dict[str, RegistrySettings] = {}
    for host, table in hosts.items():
        keys = ("registries", host)
        if not _HOST.fullmatch(host.lower()):
            raise file.error(keys, f"{host!r} is not a registry's host", hint="write it as NAME or NAME:PORT")
        if host.lower() in registries:
            raise file.error(keys, f"the registry {host!r} is there twice, in different case")
        registries[host.lower()] = _convert(file, keys, table, RegistrySettings)
    download = _convert(file, ("download",), top.pop("download", {}), DownloadSettings)
    rest = _convert(file, (), top, Settings)
    return msgspec.structs.replace(rest, registries=registries, download=download)


def _convert(file: TomlFile, keys: tuple[str, ...], table: object, kind: type[S]) -> S:
    names = {known.name for known in msgspec.structs.fields(kind)}
    for key in (values := _table(file, keys, table)):
        if key not in names:
            raise file.unknown_key((*keys, key), names)
    try:
        return msgspec.convert(values, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        match = _ERROR_PATH.fullmatch(str(error))
        reason, path = (match["reason"], match["path"] or "") if match else (str(error), "")
        key = re.split(r"[.\[]", path, maxsplit=1)[0]
        reason = reason.replace("`", "").replace(" | null", "").replace("Expected", "expected", 1)
        raise file.error((*keys, key), f"{key}: {reason}") from error


def _table(file: TomlFile, keys: tuple[str, ...], value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise file.error(keys, f"{keys[-1]!r} is not a table", hint=f"write [{'.'.join(keys)}]")
    return value


def _decode(kind: type[Any], value: object) -> object:
    if issubclass(kind, Size | Rate | Seconds):
        return kind.parse(value)
    if kind is Path:
        return _path(value)
    raise NotImplementedError(kind)


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is not a path")
    path = Path(os.path.expanduser(value))  # noqa: PTH111 - Path.expanduser raises where there is no home
    if not path.is_absolute():
        raise ValueError(f"{value!r} is not an absolute path")
    return path


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """The store that a command means, and what named it, in words."""

    path: Path
    origin: str


def choose_store(option: Path | None, environ: Mapping[str, str], loaded: Loaded) -> StoreChoice:
    """``--store``, ``SYNCD_STORE``, the settings, ``OLLAMA_MODELS``, then Ollama's own default (``envconfig.Models``).

    Raise ``ConfigurationError`` where there is no home folder to have the default in.
    """
    if option is not None:
        return StoreChoice(option.absolute(), "--store")
    if environ.get("SYNCD_STORE"):
        return StoreChoice(Path(environ["SYNCD_STORE"]).absolute(), "SYNCD_STORE")
    if loaded.settings.store is not None:
        return StoreChoice(loaded.settings.store, str(loaded.file.path) if loaded.file else "settings")
    # Ollama trims quotes and blanks from its variables (envconfig.Var).
    models = environ.get("OLLAMA_MODELS", "").strip("\"' \t\r\n")
    if models:
        return StoreChoice(Path(models).absolute(), "OLLAMA_MODELS")
    try:
        return StoreChoice(Path.home() / ".ollama" / "models", "Ollama's default")
    except RuntimeError as error:
        raise ConfigurationError("this user has no home folder", hint="name the store with --store") from error
