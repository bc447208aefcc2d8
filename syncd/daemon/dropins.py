"""The settings file and the drop-ins beside it (``conf.d/*.toml``) as one document that knows where each key stands.

Drop-ins are read in the order of their names. A later file's tables are merged into what came before, its
``[[models]]`` and ``[[instances]]`` are added, and what it says otherwise counts instead of what an earlier one said.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syncd.daemon.lines import Keys
from syncd.daemon.located import TomlFile, unknown_key
from syncd.errors import ConfigurationError

FOLDER = "conf.d"
LISTS = ("models", "instances")
"""What each file adds to, instead of saying it anew."""
REGISTRIES = "registries"
_MAX_DROP_INS = 256


@dataclass(frozen=True, slots=True)
class Document:
    """What ``files`` say together. ``path``: the settings file itself, which may be missing; None: nothing was read."""

    path: Path | None = None
    files: tuple[TomlFile, ...] = ()
    tables: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def origin(self, keys: Keys) -> str | None:
        """``FILE:LINE`` of the key at ``keys`` (in the merged tables), None where no file has it."""
        file, local, depth = self._local(keys)
        return file.place(local) if file and depth == len(keys) else None

    def error(self, keys: Keys, message: str, *, hint: str | None = None) -> ConfigurationError:
        """The error that something is wrong with the key at ``keys``; it leads to the line, if there is one."""
        file, local, _ = self._local(keys)
        return file.error(local, message, hint=hint) if file else ConfigurationError(message, hint=hint)

    def unknown_key(self, keys: Keys, known: Iterable[str]) -> ConfigurationError:
        """The error that there is no such key, with the nearest one that there is."""
        message, hint = unknown_key(keys, known)
        return self.error(keys, message, hint=hint)

    def _local(self, keys: Keys) -> tuple[TomlFile | None, Keys, int]:
        """The file whose value counts for ``keys``, what the key is called there, and how much of it is there."""
        keys = self._as_written(keys)
        if len(keys) > 1 and (name := keys[0]) in LISTS and isinstance(index := keys[1], int):
            for file in self.files:
                count = len(file.tables.get(str(name), ()))
                if index < count:
                    local = (name, index, *keys[2:])
                    return file, local, _depth(file.tables, local)
                index -= count
        best, depth = (self.files[0] if self.files else None), 0
        for file in self.files:
            if (here := _depth(file.tables, keys)) >= max(depth, 1):
                best, depth = file, here
        return best, keys, depth

    def _as_written(self, keys: Keys) -> Keys:
        """``keys`` with the registry's host as a file spells it: the settings have it in lower case."""
        if keys[:1] != (REGISTRIES,) or len(keys) == 1:
            return keys
        hosts = self.tables.get(REGISTRIES)
        spelled = [host for host in hosts if host.lower() == keys[1]] if isinstance(hosts, dict) else []
        return (REGISTRIES, *spelled, *keys[2:]) if len(spelled) == 1 else keys


def read(path: Path) -> Document | None:
    """The settings file at ``path`` with its drop-ins; None where there is neither.

    Raise ``ConfigurationError`` for a file that cannot be read, is no TOML, or contradicts another one's tables.
    """
    files: list[TomlFile] = []
    with contextlib.suppress(FileNotFoundError):  # drop-ins alone are settings, too
        files.append(TomlFile.read(path))
    for drop_in in _drop_ins(path.parent / FOLDER):
        try:
            files.append(TomlFile.read(drop_in))
        except FileNotFoundError as error:
            raise ConfigurationError(f"{drop_in} leads to a file that is not there") from error
    return merged(path, files) if files else None


def merged(path: Path, files: Iterable[TomlFile]) -> Document:
    """What ``files`` say together, later ones over earlier ones. Raise ``ConfigurationError`` for contradictions."""
    tables: dict[str, Any] = {}
    taken: tuple[TomlFile, ...] = ()
    for file in files:
        for name in LISTS:
            if not isinstance(file.tables.get(name, []), list):
                hint = f'write [[{name}]] and name = "..."'
                raise file.error((name,), f"{name!r} is not a list of tables", hint=hint)
        _merge(tables, file.tables, (), file)
        taken = (*taken, file)
    return Document(path, taken, tables)


def _drop_ins(folder: Path) -> list[Path]:
    try:
        found = sorted(
            entry for entry in folder.iterdir() if entry.suffix == ".toml" and not entry.name.startswith(".")
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(f"the settings in {folder} cannot be listed: {error.strerror}") from error
    if len(found) > _MAX_DROP_INS:
        raise ConfigurationError(f"{folder} holds more than {_MAX_DROP_INS} files")
    for entry in found:
        if entry.exists() and not entry.is_file():
            raise ConfigurationError(f"{entry} is no file")
    return found


def _merge(into: dict[str, Any], tables: Mapping[str, Any], keys: Keys, file: TomlFile) -> None:
    for key, value in tables.items():
        here = (*keys, key)
        before = into.get(key)
        if before is not None and isinstance(before, dict) != isinstance(value, dict):
            raise file.error(here, f"{key!r} is a table in one settings file and none in another")
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value, here, file)
        elif len(here) == 1 and key in LISTS:
            into[key] = [*(before or ()), *value]
        else:
            into[key] = value


def _depth(tables: Any, keys: Keys) -> int:  # noqa: ANN401 - what TOML may hold
    """How many of ``keys``, from the first, lead somewhere."""
    for depth, key in enumerate(keys):
        listed = isinstance(tables, list) and isinstance(key, int) and key < len(tables)
        if not listed and not (isinstance(tables, dict) and key in tables):
            return depth
        tables = tables[key]
    return len(keys)
