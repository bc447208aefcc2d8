"""Whether a process of this user, on this host, can go by settings: what they name must be there and readable."""

import grp
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from syncd.daemon.access import Access, ollama_key, registry_access, secret_line
from syncd.daemon.loaded import Loaded
from syncd.errors import ConfigurationError

_CREDENTIAL = "ollama_key"  # as the unit's LoadCredential= names it


def service_access(loaded: Loaded, environ: Mapping[str, str]) -> Access:
    """``usable`` for the service: the key of its unit's credentials, else that of its own user. Blocks."""
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    own_key = Path(credentials) / _CREDENTIAL if credentials else None
    if own_key is None or not own_key.exists():
        own_key = ollama_key()
    return usable(loaded, environ, own_key=own_key)


def usable(loaded: Loaded, environ: Mapping[str, str], *, own_key: Path | None) -> Access:
    """What opens the registries, once everything else that the settings name has been looked at, too.

    Raise ``ConfigurationError`` for what cannot be used. ``own_key``: as ``registry_access`` takes it.
    """
    control = loaded.settings.control
    if control.group is not None:
        try:
            grp.getgrnam(control.group)
        except KeyError as error:
            raise loaded.error(
                ("control", "group"),
                f"group: there is no group {control.group!r} on this host",
                hint=f"'groupadd --system {control.group}' makes it",
            ) from error
    if control.token_file is not None:
        try:
            secret_line(control.token_file)
        except ConfigurationError as error:
            raise loaded.error(("control", "token_file"), f"token_file: {error.message}", hint=error.hint) from error
    access = registry_access(loaded, environ, own_key=own_key, asked=_hosts(loaded))
    return replace(access, notices=(*_notices(loaded), *access.notices))


def _hosts(loaded: Loaded) -> Iterable[str]:
    return {model.name.name.host for model in loaded.settings.models}


def _notices(loaded: Loaded) -> Iterable[str]:
    control = loaded.settings.control
    if control.listen is None and (control.token_file is not None or control.allowed_hosts):
        yield "[control] token_file and allowed_hosts do nothing: there is no listen"
    for index, model in enumerate(loaded.settings.models):
        if model.name.digest is not None and loaded.origin(("models", index, "update")):
            yield f"{model.name.name} is pinned: its update does nothing ({loaded.where(model.name.name)})"
