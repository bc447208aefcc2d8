"""What opens the registries: settings and secrets, read once, by the user who started the process.

Secrets come from files or from the environment, never from a command line. They are read at once: a process that root
started may have become the store's owner, who may not read them, by the time that a registry asks.
"""

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from syncd.daemon.loaded import Loaded
from syncd.daemon.settings import RegistrySettings
from syncd.errors import ConfigurationError, SyncdError
from syncd.oci.name import DEFAULT_HOST
from syncd.registry.hosts import Credentials, RegistryConfig, endpoints

_MAX_SECRET = 64 * 1024  # bytes
_VARIABLES = ("USERNAME", "PASSWORD", "TOKEN")


@dataclass(frozen=True, slots=True)
class Access:
    """``configs``: by host. ``default``: for every other one. ``notices``: what the user should know, for people."""

    configs: Mapping[str, RegistryConfig]
    default: RegistryConfig
    notices: tuple[str, ...] = field(default=())


def variable(host: str, what: str) -> str:
    """The environment variable for a secret of ``host``: ``SYNCD_REGISTRY_REG_LAN_5000_TOKEN``."""
    return f"SYNCD_REGISTRY_{re.sub('[^A-Z0-9]', '_', host.upper())}_{what}"


def registry_access(
    loaded: Loaded, environ: Mapping[str, str], *, own_key: Path | None, asked: Iterable[str] = ()
) -> Access:
    """How every registry is spoken to. Raise ``ConfigurationError`` for a setting or a file that cannot be used.

    ``own_key``: Ollama's key of this user, which opens every registry that has no other, if the file exists.
    ``asked``: the hosts of the names that the user gave. Two hosts can share a variable's name (``a-b.c``, ``a.b-c``),
    so the environment opens only the default registry and the hosts that have a table in the settings.
    """
    notices: list[str] = []
    key_pem = _own_key(own_key, notices)
    default = RegistryConfig(key_file=own_key if key_pem else None, key_pem=key_pem)
    tables = {DEFAULT_HOST: RegistrySettings(), **loaded.settings.registries}
    _refuse_shared_variables(loaded, tables, environ)
    for host in {host.lower() for host in asked} - tables.keys():
        notices.extend(
            f'{variable(host, what)} is not used: the settings have no [registries."{host}"]'
            for what in _VARIABLES
            if environ.get(variable(host, what))
        )
    configs = {}
    for host, table in tables.items():
        config = _config(loaded, host, table, environ, notices)
        own = config.has_key
        configs[host] = config if own else replace(config, key_file=default.key_file, key_pem=default.key_pem)
    return Access(configs, default, tuple(notices))


def _own_key(path: Path | None, notices: list[str]) -> bytes | None:
    if path is None:
        return None
    try:
        return _read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        notices.append(f"{path} cannot be read ({_reason(error)}): private models of Ollama's registry stay closed")
        return None


def _config(
    loaded: Loaded, host: str, table: RegistrySettings, environ: Mapping[str, str], notices: list[str]
) -> RegistryConfig:
    def secret(key: str, path: Path | None) -> str | None:
        return None if path is None else _secret(loaded, host, key, path, notices).decode("utf-8")

    keys = ("registries", host)
    password = environ.get(variable(host, "PASSWORD")) or secret("password_file", table.password_file)
    username = environ.get(variable(host, "USERNAME")) or table.username
    token = environ.get(variable(host, "TOKEN")) or secret("token_file", table.token_file)
    if (password is None) != (username is None):
        given, missing = ("username", "password") if password is None else ("password", "username")
        raise loaded.error(
            keys,
            f"{host} has a {given}, but no {missing}",
            hint=f"set {'password_file' if password is None else 'username'} or {variable(host, missing.upper())}",
        )
    if table.ca_file is not None:
        _check_readable(loaded, (*keys, "ca_file"), table.ca_file)
    key_file = table.key_file
    config = RegistryConfig(
        mirrors=table.mirrors,
        plain_http=table.plain_http,
        ca_file=table.ca_file,
        auth_hosts=table.auth_hosts,
        credentials=Credentials(username=username, password=password, token=token) if username or token else None,
        key_file=key_file,
        key_pem=_secret(loaded, host, "key_file", key_file, notices) if key_file else None,
    )
    try:
        endpoints(host, config)
    except SyncdError as error:
        raise loaded.error((*keys, "mirrors"), error.message, hint=error.hint) from error
    return config


def _secret(loaded: Loaded, host: str, key: str, path: Path, notices: list[str]) -> bytes:
    """The bytes of a file that holds one secret, without the newline at its end."""
    try:
        content = _read(path)
        kept = content if key == "key_file" else _one_line(content)
        open_to_all = path.stat().st_mode & stat.S_IROTH
    except (OSError, ValueError) as error:
        raise loaded.error(("registries", host, key), f"{key} {path} cannot be used: {_reason(error)}") from error
    if open_to_all:
        notices.append(f"{path} can be read by everybody: chmod 600 it")
    return kept


def secret_line(path: Path) -> str:
    """The one line of text that a file holds. Raise ``ConfigurationError``."""
    try:
        return _one_line(_read(path)).decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be used: {_reason(error)}") from error


def _one_line(content: bytes) -> bytes:
    kept = content.rstrip(b"\r\n")
    if not kept:
        raise ValueError("it is empty")
    if not kept.decode("utf-8").isprintable():
        raise ValueError("it holds more than one line of text")
    return kept


def _check_readable(loaded: Loaded, keys: tuple[str, ...], path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise loaded.error(keys, f"{keys[-1]} {path} cannot be used: {_reason(error)}") from error


def _read(path: Path) -> bytes:
    # Non-blocking: a FIFO in place of the file must not hang the process.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - a descriptor
        content = file.read(_MAX_SECRET + 1) or b""
    if len(content) > _MAX_SECRET:
        raise ValueError(f"it is larger than {_MAX_SECRET} bytes")
    return content


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it is no text" if isinstance(error, UnicodeDecodeError) else str(error)


def _refuse_shared_variables(loaded: Loaded, hosts: Iterable[str], environ: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for host in hosts:
        for what in _VARIABLES:
            name = variable(host, what)
            other = seen.setdefault(name, host)
            if other != host and environ.get(name):
                raise loaded.error(
                    ("registries", host),
                    f"{name} could mean {other} as well as {host}",
                    hint="use password_file or token_file for both",
                )


def ollama_key() -> Path | None:
    """Where ``ollama`` keeps this user's key; None for a user without a home folder."""
    try:
        return Path.home() / ".ollama" / "id_ed25519"
    except RuntimeError:
        return None
