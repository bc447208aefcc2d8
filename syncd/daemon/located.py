"""A TOML file that can say where each of its keys stands, so that an error leads there."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from syncd.daemon.lines import Keys, Lines
from syncd.errors import ConfigurationError

_MAX_BYTES = 1024 * 1024
_MAX_DEPTH = 32  # of tables and lists
_TOML_LINE = re.compile(r"at line (?P<line>[0-9]+)")


@dataclass(frozen=True)
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
            tables = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            at = _TOML_LINE.search(str(error))
            where = f"{path}:{at['line']}" if at else f"{path}"
            raise ConfigurationError(
                f"{where}: not TOML: {error}", hint="https://toml.io shows how it is written"
            ) from error
        if _deeper(tables, _MAX_DEPTH):
            raise ConfigurationError(f"{path}: its tables lie more than {_MAX_DEPTH} deep in each other")
        return cls(path, text, tables)

    def place(self, keys: Keys) -> str:
        """``FILE:LINE`` of the key at ``keys``, or of the nearest one above it."""
        return f"{self.path}:{self._lines.of_key(keys)}"

    @cached_property
    def _lines(self) -> Lines:
        return Lines.of(self.text)

    def error(self, keys: Keys, message: str, *, hint: str | None = None) -> ConfigurationError:
        """The error that something is wrong with the key at ``keys``."""
        return ConfigurationError(f"{self.place(keys)}: {message}", hint=hint)


def _deeper(tables: Mapping[str, Any], depth: int) -> bool:
    level: list[Any] = [tables]
    for _ in range(depth):
        within = (below for one in level for below in (one.values() if isinstance(one, dict) else one))
        level = [below for below in within if isinstance(below, dict | list)]
    return bool(level)


def unknown_key(keys: Keys, known: Iterable[str]) -> tuple[str, str]:
    """What to say of a key that nobody knows, and a hint: the nearest one that there is."""
    key, known = str(keys[-1]), sorted(known)
    where = f" in {table_name(keys[:-1])}" if keys[:-1] else ""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return f"unknown key {key!r}{where}", hint


def table_name(keys: Keys) -> str:
    """A table's name as it is written in the file: ``[download]``, ``[registries."a.b"]``, ``[[models]]``."""
    if keys and isinstance(keys[-1], int):
        return f"[{table_name(keys[:-1])}]"
    names = [key for key in keys if isinstance(key, str)]
    return "[" + ".".join(key if key.replace("_", "").isalnum() else f'"{key}"' for key in names) + "]"
