"""What the code says of itself, read from its syntax: events that it logs or tells, and docstrings of fields."""

import ast
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

_LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
_LOGGERS = ("log", "_log")


class UnreadableError(Exception):
    """Code that these pages cannot be made of: an event whose name is not written where it is logged."""


@dataclass(frozen=True, slots=True)
class Call:
    """One place that logs ``event``. ``level``: of the log; "" for an event of the API."""

    event: str
    level: str
    fields: tuple[str, ...]


Trees: TypeAlias = Mapping[Path, ast.Module]


def trees(package: Path) -> Trees:
    """The syntax of every module below ``package``."""
    return {path: ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}


def logged(sources: Trees) -> Iterator[Call]:
    """Every event that this code logs. Raise ``UnreadableError``."""
    for path, tree in sources.items():
        yield from _logged_in(path, tree)


def _logged_in(path: Path, tree: ast.Module) -> Iterator[Call]:
    bound, aliases = _bound(tree), _aliases(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        levels, logger = _levels(node.func, aliases)
        if not levels:
            continue
        names = list(_names(node.args[0])) if node.args else []
        if not names:
            names = list(_names(node.args[1])) if levels == ("any",) and len(node.args) > 1 else []
        if not names:
            raise UnreadableError(f"{path}:{node.lineno}: the event's name is not written here")
        fields = (*bound.get(logger, ()), *(one.arg or "..." for one in node.keywords if one.arg != "exc_info"))
        for name in names:
            for level in levels:
                yield Call(name, level, fields)


def _levels(function: ast.expr, aliases: Mapping[str, tuple[str, ...]]) -> tuple[tuple[str, ...], str]:
    """The levels that a call of ``function`` may log at, none if it logs nothing; and how its logger is spelled."""
    if isinstance(function, ast.Name):
        return aliases.get(function.id, ()), "log"
    if not isinstance(function, ast.Attribute):
        return (), ""
    logger = ast.unparse(function.value)
    if not logger.endswith("get_logger()") and logger.rpartition(".")[2] not in _LOGGERS:
        return (), logger
    if function.attr == "log":
        return ("any",), logger
    return ((function.attr,) if function.attr in _LEVELS else ()), logger


def _names(value: ast.expr) -> Iterator[str]:
    """The strings that ``value`` can be."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from _names(value.body)
        yield from _names(value.orelse)


def _bound(tree: ast.AST) -> dict[str, tuple[str, ...]]:
    """Fields that ``self._log = log.bind(...)`` gives to every event of that logger."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = node.value
            if isinstance(made.func, ast.Attribute) and made.func.attr == "bind":
                found[ast.unparse(node.targets[0])] = tuple(one.arg or "..." for one in made.keywords)
    return found


def _aliases(tree: ast.AST) -> dict[str, tuple[str, ...]]:
    """``note = log.debug if quiet else log.info``: names that stand for a logger's method."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = node.value
            choices = (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)
            levels = [level for one in choices for level in _levels(one, {})[0]]
            if levels:
                found[node.targets[0].id] = tuple(levels)
    return found


def told(sources: Trees, spread: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """Events of ``/syncd/v1/events``: what a chronicle is told.

    ``spread``: what may follow ``blob.`` in ``f"blob.{...}"``, and so on. Raise ``UnreadableError``.
    """
    found: set[str] = set()
    for path, tree in sources.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("chronicle.tell"):
                names = list(_names(node.args[0])) or list(_spread(node.args[0], spread))
                if not names:
                    raise UnreadableError(f"{path}:{node.lineno}: the event's name is not written here")
                found |= set(names)
    return frozenset(found)


def _spread(value: ast.expr, spread: Mapping[str, Iterable[str]]) -> Iterator[str]:
    if isinstance(value, ast.JoinedStr) and isinstance(value.values[0], ast.Constant):
        prefix = str(value.values[0].value).removesuffix(".")
        yield from (f"{prefix}.{ending}" for ending in spread.get(prefix, ()))


def field_docs(kind: type) -> dict[str, str]:
    """The docstring below each annotated field of a class, which Python itself forgets."""
    body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101 - the source of a class
    found = {}
    for field, text in pairwise(body.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            value = text.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[field.target.id] = " ".join(inspect.cleandoc(value.value).split())
    return found


def keys_compared(function: object, variable: str) -> list[str]:
    """The keys of the dict that ``function`` writes down as ``variable``."""
    source = inspect.cleandoc("\n" + inspect.getsource(function))  # type: ignore[arg-type]  # a function
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == variable
            and isinstance(node.value, ast.Dict)
        ):
            return [
                key.value for key in node.value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)
            ]
    raise UnreadableError(f"there is no dict {variable!r} in {function!r}")
