"""On which line of a TOML text each of its keys is written."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

Keys: TypeAlias = tuple[str | int, ...]
"""The path of a key from the top of a file: names of tables and of the key, and numbers of a list's entries from 0."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines (from 1) on which a text writes its keys."""

    headed: Mapping[Keys, int]
    """Of what has a header or an assignment of its own, or is an element of a list on a line of its own."""
    implied: Mapping[Keys, int]
    """Of the tables that only others' names tell of: ``a`` and ``a.b`` in ``a.b.c = 1``."""

    @classmethod
    def of(cls, text: str) -> Self:
        """Where the keys of ``text``, which is TOML, stand."""
        headed: dict[Keys, int] = {}
        implied: dict[Keys, int] = {}
        for number, keys in _written(text):
            headed.setdefault(keys, number)
            for depth in range(1, len(keys)):
                implied.setdefault(keys[:depth], number)
        return cls(headed, implied)

    def of_key(self, keys: Keys) -> int:
        """The line on which the key at ``keys``, or the nearest key or table above it, is written."""
        for depth in range(len(keys), 0, -1):
            line = self.headed.get(keys[:depth]) or self.implied.get(keys[:depth])
            if line is not None:
                return line
        return 1


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
