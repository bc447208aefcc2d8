"""A TOML file that can say where each of its keys stands, so that an error leads there."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from syncd.errors import ConfigurationError

_MAX_BYTES = 1024 * 1024
_TOML_LINE = re.compile(r"at line (?P<line>[0-9]+)")


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A settings file: where it lies, its text, and the tables that it holds."""

    path: Path
    text: str = field(repr=False)
    tables: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raise ``ConfigurationError`` for a file that cannot be read or that is no TOML, ``FileNotFoundError``."""
        try:
            with path.open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ConfigurationError(f"the settings in {path} cannot be read: {error.strerror}") from error
        if len(raw) > _MAX_BYTES:
            raise ConfigurationError(f"{path} is larger than {_MAX_BYTES} bytes: no settings file")
        try:
            text = raw.decode("utf-8")
            return cls(path, text, tomllib.loads(text))
        except (ValueError, RecursionError) as error:
            at = _TOML_LINE.search(str(error))
            where = f"{path}:{at['line']}" if at else f"{path}"
            raise ConfigurationError(
                f"{where}: not TOML: {error}", hint="https://toml.io shows how it is written"
            ) from error

    def error(self, keys: tuple[str, ...], message: str, *, hint: str | None = None) -> ConfigurationError:
        """The error that something is wrong with the key at ``keys`` (its path from the top)."""
        return ConfigurationError(f"{self.path}:{line_of(self.text, keys)}: {message}", hint=hint)

    def unknown_key(self, keys: tuple[str, ...], known: Iterable[str]) -> ConfigurationError:
        """The error that there is no such key, with the nearest one that there is."""
        known = sorted(known)
        where = f" in {_table(keys[:-1])}" if keys[:-1] else ""
        near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return self.error(keys, f"unknown key {keys[-1]!r}{where}", hint=hint)


def line_of(text: str, keys: tuple[str, ...]) -> int:
    """The line (from 1) on which the key at ``keys``, or the nearest key or table above it, is written."""
    best, line, table = 0, 1, tuple[str, ...]()
    for number, content in enumerate(text.splitlines(), start=1):
        header, path = _written(content)
        if header:
            table = path
        here = path if header else (*table, *path)
        # A header says where a table begins; a key that stands in it, or as `a.b = ...` above it, is nearer.
        if path and len(here) > best and here == keys[: len(here)]:
            best, line = len(here), number
    return line


def _written(content: str) -> tuple[bool, tuple[str, ...]]:
    """Whether a line is a table's header, and the path of the key that it writes; () for any other line."""
    stripped = content.strip()
    header = stripped.startswith("[")
    candidates = [stripped] if header else [f"{stripped[:at]}=0" for at, sign in enumerate(stripped) if sign == "="]
    for candidate in candidates:
        try:
            return header, _only_path(tomllib.loads(candidate))
        except tomllib.TOMLDecodeError:
            continue
    return False, ()


def _only_path(parsed: Any) -> tuple[str, ...]:  # noqa: ANN401 - what TOML may hold
    path: tuple[str, ...] = ()
    while parsed:
        if isinstance(parsed, list):
            parsed = parsed[0]
            continue
        if not isinstance(parsed, dict):
            break
        key, parsed = next(iter(parsed.items()))
        path = (*path, key)
    return path


def _table(keys: tuple[str, ...]) -> str:
    return "[" + ".".join(key if key.replace("_", "").isalnum() else f'"{key}"' for key in keys) + "]"
