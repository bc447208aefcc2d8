"""From the tables of a settings file to frozen structs: every refusal names the key, its file and its line."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from syncd.daemon.dropins import Document
from syncd.daemon.located import Keys, table_name
from syncd.daemon.units import Address, Rate, Seconds, Size, Window
from syncd.errors import ConfigurationError, SyncdError
from syncd.oci.name import Reference

S = TypeVar("S", bound=msgspec.Struct)

_ERROR_PATH = re.compile(r"(?P<reason>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(?P<key>[^.\[]+)|\[(?P<index>[0-9]+)\]")
_MISSING = re.compile(r"Object missing required field `(?P<key>[^`]*)`")


def convert(document: Document, keys: Keys, value: object, kind: type[S]) -> S:
    """``value``, which stands at ``keys``, as a ``kind``. Raise ``ConfigurationError``."""
    _refuse_unknown(document, keys, value, kind)
    try:
        return msgspec.convert(value, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise _refusal(document, keys, error) from error


def table(document: Document, keys: Keys, value: object) -> Mapping[str, Any]:
    """``value`` as the table that it has to be. Raise ``ConfigurationError``."""
    if not isinstance(value, dict):
        raise document.error(keys, f"{keys[-1]!r} is not a table", hint=f"write {table_name(keys)}")
    return value


def _refuse_unknown(document: Document, keys: Keys, value: object, kind: type[msgspec.Struct]) -> None:
    fields = {known.name: known.type for known in msgspec.structs.fields(kind)}
    for key, inner in table(document, keys, value).items():
        if key not in fields:
            raise document.unknown_key((*keys, key), fields)
        of = fields[key]
        if isinstance(of, type) and issubclass(of, msgspec.Struct):
            _refuse_unknown(document, (*keys, key), inner, of)


def _refusal(document: Document, keys: Keys, error: msgspec.ValidationError) -> ConfigurationError:
    match = _ERROR_PATH.fullmatch(str(error))
    reason, path = (match["reason"], match["path"] or "") if match else (str(error), "")
    steps: Keys = tuple(step["key"] or int(step["index"]) for step in _STEP.finditer(path))
    if missing := _MISSING.fullmatch(reason):
        where = table_name((*keys, *steps))
        return document.error((*keys, *steps), f"{where} has no {missing['key']!r}")
    label = ".".join(step for step in steps if isinstance(step, str))
    reason = reason.replace("`", "").replace(" | null", "").replace("Expected", "expected", 1)
    return document.error((*keys, *steps), f"{label}: {reason}", hint=_hint(error))


def _hint(error: BaseException | None) -> str | None:
    """The hint of the error of ours that msgspec has wrapped, if one is behind ``error``."""
    while error is not None:
        if isinstance(error, SyncdError):
            return error.hint
        error = error.__cause__
    return None


def _decode(kind: type[Any], value: object) -> object:
    if kind is Path:
        return _path(value)
    if kind is Reference:
        return _reference(value)
    if issubclass(kind, Size | Rate | Seconds | Address | Window):
        return kind.parse(value)
    raise NotImplementedError(kind)


def _reference(value: object) -> Reference:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a model's name")  # noqa: TRY004 - the error that msgspec gives a path
    try:
        return Reference.parse(value)
    except SyncdError as error:
        raise ValueError(error.message) from error


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is not a path")
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        path = Path(value)  # a user without a home folder
    if not path.is_absolute():
        raise ValueError(f"{value!r} is not an absolute path")
    return path
