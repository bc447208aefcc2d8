"""From the tables of a settings file to frozen structs: every refusal names the key, its file and its line."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from syncd.daemon.dropins import Document
from syncd.daemon.lines import Keys
from syncd.daemon.located import table_name
from syncd.daemon.server_settings import EngineUrl, ServerUrl, SignalName
from syncd.daemon.units import Address, Rate, Seconds, Size, Window
from syncd.errors import ConfigurationError, SyncdError
from syncd.oci.name import Reference

S = TypeVar("S", bound=msgspec.Struct)

_WRITTEN = Size | Rate | Seconds | Address | Window | ServerUrl | EngineUrl | SignalName
"""Values that people write, each with a ``parse`` of its own."""

_ERROR_PATH = re.compile(r"(?P<reason>.*?)(?: - at `\$(?:\[(?P<index>[0-9]+)\])?[^`]*`)?", re.DOTALL)


def convert(document: Document, keys: Keys, value: object, kind: type[S]) -> S:
    """``value``, which stands at ``keys``, as a ``kind``. Raise ``ConfigurationError``."""
    fields = {known.name: known for known in msgspec.structs.fields(kind)}
    values = {}
    for key, inner in table(document, keys, value).items():
        if key not in fields:
            raise document.unknown_key((*keys, key), fields)
        values[key] = _value(document, (*keys, key), inner, fields[key].type)
    for known in fields.values():
        if known.required and known.name not in values:
            raise document.error(keys, f"{table_name(keys)} has no {known.name!r}")
    return kind(**values)


def table(document: Document, keys: Keys, value: object) -> Mapping[str, Any]:
    """``value`` as the table that it has to be. Raise ``ConfigurationError``."""
    if not isinstance(value, dict):
        what = table_name(keys) if isinstance(keys[-1], int) else repr(keys[-1])
        raise document.error(keys, f"{what} is not a table", hint=f"write {table_name(keys)}")
    return value


def _value(document: Document, keys: Keys, value: object, of: Any) -> object:  # noqa: ANN401 - a type, as annotated
    # An optional value that is there is read as what it is when it is there.
    kind = next((one for one in get_args(of) if one is not type(None)), of) if type(None) in get_args(of) else of
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return convert(document, keys, value, kind)
    parse = _parser(kind)
    try:
        return msgspec.convert(value, of) if parse is None or value is None else parse(value)
    except SyncdError as error:
        raise document.error(keys, f"{keys[-1]}: {error.message}", hint=error.hint) from error
    except ValueError as error:
        raise _refusal(document, keys, error) from error


def _refusal(document: Document, keys: Keys, error: ValueError) -> ConfigurationError:
    """``error``, of a parser or of msgspec (whose errors are ``ValueError``, too), with the place that it is about."""
    match = _ERROR_PATH.fullmatch(str(error))
    reason, index = (match["reason"], match["index"]) if match else (str(error), None)
    reason = reason.replace("`", "").replace(" | null", "").replace("Expected", "expected", 1)
    at = keys if index is None else (*keys, int(index))
    return document.error(at, f"{keys[-1]}: {reason}")


def _parser(kind: Any) -> Callable[[object], object] | None:  # noqa: ANN401 - a type, as annotated
    if kind is Path:
        return _path
    if kind is Reference:
        return _reference
    if isinstance(kind, type) and issubclass(kind, _WRITTEN):
        return kind.parse
    return None


def _reference(value: object) -> Reference:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a model's name")  # noqa: TRY004 - as every parser here
    return Reference.parse(value)


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
