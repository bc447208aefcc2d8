"""A TOML file that can say where each of its keys stands, so that an error leads there."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

from syncd.errors import ConfigurationError

Keys: TypeAlias = tuple[str | int, ...]
"""The path of a key from the top of a file: names of tables and of the key, and numbers of a list's entries from 0."""

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

    def place(self, keys: Keys) -> str:
        """``FILE:LINE`` of the key at ``keys``, or of the nearest one above it."""
        return f"{self.path}:{line_of(self.text, keys)}"

    def error(self, keys: Keys, message: str, *, hint: str | None = None) -> ConfigurationError:
        """The error that something is wrong with the key at ``keys``."""
        return ConfigurationError(f"{self.place(keys)}: {message}", hint=hint)


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


def line_of(text: str, keys: Keys) -> int:
    """The line (from 1) on which the key at ``keys``, or the nearest key or table above it, is written."""
    best, line = 0, 1
    for number, here in _written(text):
        # A header says where a table begins; a key that stands in it, or as `a.b = ...` above it, is nearer.
        if len(here) > best and here == keys[: len(here)]:
            best, line = len(here), number
    return line


def _written(text: str) -> Iterator[tuple[int, Keys]]:
    """Each line that writes a table's header, a key, or an element of a list of more lines, with its path."""
    table: Keys = ()
    counts: dict[Keys, int] = {}  # of the entries of each list so far
    open_list: Keys | None = None
    for number, content in enumerate(text.split("\n"), start=1):
        if open_list is not None and (elements := _elements(content)) is not None:
            for _ in range(elements):
                yield number, _next_entry(open_list, counts)
            continue
        header, listed, path = _key(content)
        if not path:
            continue
        if header:
            here = _inside(path, counts)
            table = here = _next_entry(here, counts) if listed else here
        else:
            here = (*table, *path)
        yield number, here
        open_list = here if not header and _opens_list(content) else None


def _next_entry(of: Keys, counts: dict[Keys, int]) -> Keys:
    counts[of] = counts.get(of, 0) + 1
    return (*of, counts[of] - 1)


def _inside(path: Keys, counts: Mapping[Keys, int]) -> Keys:
    """``path`` as a header writes it, with the number of the entry where it goes through a list: always its latest."""
    here: Keys = ()
    for position, key in enumerate(path):
        here = (*here, key)
        if here in counts and position < len(path) - 1:
            here = (*here, counts[here] - 1)
    return here


def _key(content: str) -> tuple[bool, bool, Keys]:
    """Whether a line is a table's header, whether it is one of a list, and the path that it writes: () for nothing."""
    stripped = content.strip()
    header = stripped.startswith("[")
    candidates = [stripped] if header else [f"{stripped[:at]}=0" for at, sign in enumerate(stripped) if sign == "="]
    for candidate in candidates:
        try:
            return header, stripped.startswith("[["), _only_path(tomllib.loads(candidate))
        except tomllib.TOMLDecodeError:
            continue
    return False, False, ()


def _opens_list(content: str) -> bool:
    """Whether the value that this line gives to its key is a list that goes on below, one or more elements a line."""
    key, equals, value = content.partition("=")
    return bool(key and equals) and value.strip().partition("#")[0].strip() == "["


def _elements(content: str) -> int | None:
    """How many whole elements of a list stand on this line; None: the list ends here, or goes on in halves."""
    try:
        found = tomllib.loads(f"x = [{content}\n]")["x"]
    except tomllib.TOMLDecodeError:
        return None
    return len(found)


def _only_path(parsed: Any) -> Keys:  # noqa: ANN401 - what TOML may hold
    path: Keys = ()
    while parsed:
        if isinstance(parsed, list):
            parsed = parsed[0]
            continue
        if not isinstance(parsed, dict):
            break
        key, parsed = next(iter(parsed.items()))
        path = (*path, key)
    return path
