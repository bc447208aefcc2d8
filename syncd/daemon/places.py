"""Where the store and the control socket are: by option, environment, settings, or default (design, "Settings")."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from syncd.daemon.loaded import Loaded
from syncd.daemon.settings import Settings
from syncd.errors import ConfigurationError

SYSTEM_SOCKET = Path("/run/syncd/syncd.sock")
BY_OPTION = "--store"


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
        return StoreChoice(option.absolute(), BY_OPTION)
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
