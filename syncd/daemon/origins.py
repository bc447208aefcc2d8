"""The settings as they count for a process, each value with what said so: a file's line, a variable, or the default."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit, urlunsplit

import msgspec

from syncd.daemon.access import variable
from syncd.daemon.dropins import LISTS
from syncd.daemon.lines import Keys
from syncd.daemon.loaded import Loaded
from syncd.daemon.places import StoreChoice
from syncd.daemon.units import Rate, Seconds, Size, as_written
from syncd.oci.name import DEFAULT_HOST

MASKED = "***"
DEFAULT = "default"
_BARE = re.compile(r"[A-Za-z0-9_-]+")

Shown: TypeAlias = str | int | bool | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Effective:
    """A value at ``keys`` as the file would write it, secrets masked; None: not set. ``origin``: what said so.

    ``secret``: it comes from the environment, and has no key of its own in the file.
    """

    keys: Keys
    value: Shown
    origin: str
    secret: bool = False


def effective(
    loaded: Loaded, environ: Mapping[str, str], *, store: StoreChoice, socket: Path | None
) -> Iterator[Effective]:
    """Every value, in the order in which a file has them: the top's own first. ``socket``: where the daemon binds."""
    for one in _of_struct(loaded, (), loaded.settings):
        if one.keys == ("store",):
            named = one.value is not None and store.origin not in ("--store", "SYNCD_STORE")
            yield Effective(one.keys, str(store.path), one.origin if named else store.origin)
        elif one.keys == ("control", "socket"):
            by_variable = bool(environ.get("SYNCD_SOCKET"))
            yield Effective(one.keys, str(socket) if socket else None, "SYNCD_SOCKET" if by_variable else one.origin)
        else:
            yield one
    for host in dict.fromkeys((*loaded.settings.registries, DEFAULT_HOST)):
        yield from _of_registry(loaded, host, environ)
    for index, model in enumerate(loaded.settings.models):
        yield from _of_struct(loaded, ("models", index), model)
    for index, instance in enumerate(loaded.settings.instances):
        yield from _of_struct(loaded, ("instances", index), instance)


def _of_registry(loaded: Loaded, host: str, environ: Mapping[str, str]) -> Iterator[Effective]:
    keys = ("registries", host)
    given = {what.lower(): variable(host, what) for what in ("USERNAME", "PASSWORD", "TOKEN")}
    given = {what: name for what, name in given.items() if environ.get(name)}
    if host in loaded.settings.registries:
        for one in _of_struct(loaded, keys, loaded.settings.registries[host]):
            if one.keys[-1] != "username" or "username" not in given:
                yield one
    for what, name in given.items():
        secret = what != "username"
        yield Effective((*keys, what), MASKED if secret else environ[name], name, secret=secret)


def _of_struct(loaded: Loaded, keys: Keys, struct: msgspec.Struct) -> Iterator[Effective]:
    nested: list[tuple[str, msgspec.Struct]] = []
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, msgspec.Struct):
            nested.append((field.name, value))
        elif (*keys, field.name) not in (("registries",), *((name,) for name in LISTS)):
            origin = loaded.origin((*keys, field.name)) or DEFAULT
            yield Effective((*keys, field.name), _shown(field.name, value), origin)
    for name, inner in nested:
        yield from _of_struct(loaded, (*keys, name), inner)


def _shown(key: str, value: object) -> Shown:
    if key == "mirrors" and isinstance(value, tuple):
        return tuple(_masked(str(url)) for url in value)
    if key == "listen" and value is None:
        return ""  # which is how a file says that there is none
    if isinstance(value, Size | Rate | Seconds):
        return as_written(value)
    if isinstance(value, tuple):
        return tuple(str(one) for one in value)
    return value if value is None or isinstance(value, bool | int) else str(value)


def _masked(url: str) -> str:
    """``url`` without what may open a door: user and password, and the query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASKED
    user, at, host = parts.netloc.rpartition("@")
    netloc = f"{MASKED}@{host}" if user or at else host
    return urlunsplit((parts.scheme, netloc, parts.path, parts.query and MASKED, ""))


def as_toml(values: Iterator[Effective]) -> str:
    """``values`` as a settings file, with the origin of each as a comment."""
    lines: list[str] = []
    table: Keys = ()
    for one in values:
        within, name = _table_of(one.keys)
        if within != table:
            table = within
            header = f"[[{table[0]}]]" if table[0] in LISTS else f"[{'.'.join(_key(key) for key in table)}]"
            lines += ["", header]
        if one.secret:
            lines.append(f"# {name}: {one.value}  # {one.origin}")
        elif one.value is None:
            lines.append(f"# {name} is not set")
        else:
            lines.append(f"{name} = {_value(one.value)}  # {_safe(one.origin)}")
    return "".join(f"{line}\n" for line in lines)


def dotted(keys: Keys) -> str:
    """``keys`` in one word, for programs: ``download.connections``, ``models[0].update.every``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{_key(key)}" for key in keys).removeprefix(".")


def _table_of(keys: Keys) -> tuple[Keys, str]:
    """The table that a key stands in, and what it is called there."""
    depth = 2 if keys[0] in ("registries", *LISTS) else len(keys) - 1
    return keys[:depth], ".".join(_key(key) for key in keys[depth:])


def _key(key: str | int) -> str:
    return str(key) if _BARE.fullmatch(str(key)) else _text(str(key))


def _value(value: str | int | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_text(one) for one in value)}]"
    if isinstance(value, str):
        return _text(value)
    return str(value).lower()


def _text(text: str) -> str:
    return '"' + _safe(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _safe(text: str) -> str:
    """``text`` with what a terminal should not see as TOML's own escapes."""
    return "".join(character if character.isprintable() else f"\\U{ord(character):08x}" for character in text)
