"""docs/configuration.md, from the settings' own structs, docstrings and bounds."""

import enum
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from docs.reference.said import field_docs, keys_compared
from docs.reference.words import cell, code, table
from syncd.daemon.in_force import needs_restart
from syncd.daemon.server_settings import MAX_INSTANCES, EngineUrl, ServerUrl, SignalName
from syncd.daemon.settings import MAX_MODELS, Settings
from syncd.daemon.units import Address, Rate, Seconds, Size, Window, as_written
from syncd.oci.name import Reference

_WRITTEN: Mapping[type, str] = {
    Size: "size",
    Rate: "rate",
    Seconds: "time",
    Window: "window",
    Address: "address",
    ServerUrl: "server URL",
    EngineUrl: "Engine URL",
    SignalName: "signal",
}
_PLAIN: Mapping[type, str] = {str: "text", bool: "true or false", int: "integer", Path: "path", Reference: "model name"}
_MOST = {"models": MAX_MODELS, "instances": MAX_INSTANCES}

_HEAD = """# Settings

Made from the settings' own structs by `make docs`; a test holds both to each other. The README shows [one file with
all of it](../README.md#settings), and `syncd config show` prints what counts on a host and where each value comes
from. `syncd config check [FILE]` says whether a file can be used: an unknown key, a wrong value or a secret that
cannot be read ends with file, line and exit code 10.

The file is the one of `--config`, of `SYNCD_CONFIG`, `/etc/syncd/syncd.toml`, or `syncd/syncd.toml` below
`XDG_CONFIG_HOME` (`~/.config`); the first of them counts, and none is needed. `conf.d/*.toml` beside it are read
after it.

All of it is applied while the daemon runs, except for what is opened once: {restart}. These need a restart, and
`syncd status` says so.

In the environment: `SYNCD_CONFIG` (the file), `SYNCD_STORE` (the store, before what the file says), `SYNCD_SOCKET`
(the daemon's socket, likewise), `SYNCD_REGISTRY_<HOST>_USERNAME`, `_PASSWORD` and `_TOKEN` (of a registry that the
file has a table for, or of Ollama's: its host in capitals, with `_` for what is no letter or digit), and what others
have defined: `OLLAMA_MODELS`, `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, `DOCKER_TLS_VERIFY`, `DOCKER_CERT_PATH`,
`XDG_CONFIG_HOME`, `XDG_RUNTIME_DIR`.
"""


@dataclass(frozen=True, slots=True)
class _Type:
    """How a value is written, and within which bounds."""

    words: str
    bounds: str = ""


def page() -> str:
    """The whole page."""
    restart = ", ".join(map(code, keys_compared(needs_restart, "changed")))
    sections = [_HEAD.format(restart=restart), *_sections(Settings, ""), _kinds()]
    return "\n".join(sections)


def _sections(kind: type[msgspec.Struct], heading: str) -> Iterator[str]:
    """The table of a struct, and of those within it, in the order of the settings."""
    inner: list[tuple[type[msgspec.Struct], str]] = []
    rows = []
    docs = field_docs(kind)
    for known in msgspec.structs.fields(kind):
        struct, how = _struct_in(known.type)
        if struct is not None:
            inner.append((struct, _heading(heading, known.name, how)))
            if heading or known.name in docs:
                most = f"at most {_MOST[known.name]} entries" if known.name in _MOST else ""
                rows.append((code(known.name), how, "", most, cell(docs.get(known.name, "See below."))))
        else:
            of = _type(known.type)
            rows.append((code(known.name), of.words, _default(known), of.bounds, cell(docs[known.name])))
    title = f"## {code(heading)}" if heading else "## At the top"
    described = f"\n{_told(kind)}\n" if heading else ""
    yield f"{title}\n{described}\n{table(('key', 'type', 'default', 'bounds', 'meaning'), rows)}{_choices(kind)}"
    for struct, name in inner:
        yield from _sections(struct, name)


def _choices(kind: type[msgspec.Struct]) -> str:
    """What each word of an enum means: the comment behind it."""
    parts = []
    for known in msgspec.structs.fields(kind):
        bare, _ = _unwrapped(known.type)
        if isinstance(bare, type) and issubclass(bare, enum.Enum):
            found = re.findall(r'= "(\w+)"  # (.+)', inspect.getsource(bare))
            parts.append("\n" + "".join(f'- `{known.name} = "{word}"`: {said}\n' for word, said in found))
    return "".join(parts)


def _struct_in(of: Any) -> tuple[type[msgspec.Struct] | None, str]:  # noqa: ANN401 - a type, as annotated
    """The struct that a value is, or is made of, and what holds it."""
    if isinstance(of, type) and issubclass(of, msgspec.Struct):
        return of, "table"
    arguments = [one for one in get_args(of) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    if not arguments:
        return None, ""
    return arguments[0], "tables by host" if get_origin(of) is not tuple else "list of tables"


def _heading(above: str, name: str, how: str) -> str:
    if above:
        return f"{above.strip('[]')}.{name}"
    return {"table": f"[{name}]", "list of tables": f"[[{name}]]"}.get(how, f'[{name}."HOST"]')


def _told(kind: type) -> str:
    """What a struct's docstring says of it, without the name that the heading has already."""
    text = " ".join((inspect.getdoc(kind) or "").split())
    text = re.sub(r"^``[^`]+``(?: of a model)?: ", "", text)
    return cell(text[:1].upper() + text[1:])


def _default(known: msgspec.structs.FieldInfo) -> str:
    if known.required:
        return "must be there"
    value = known.default if known.default is not msgspec.NODEFAULT else known.default_factory()
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, Size | Rate | Seconds):
        return code(f'"{as_written(value)}"')
    if isinstance(value, tuple):
        return code("[]")
    return code(str(value) if isinstance(value, int) else f'"{value}"')


def _type(of: Any) -> _Type:  # noqa: ANN401 - a type, as annotated
    bare, metas = _unwrapped(of)
    bounds = _bounds(metas)
    if get_origin(bare) is Literal:
        return _Type(" or ".join(code(f'"{one}"') for one in get_args(bare)))
    if get_origin(bare) is tuple:
        inner = _type(get_args(bare)[0])
        each = f"each: {inner.bounds}" if inner.bounds else ""
        return _Type(f"list of {inner.words}", "; ".join(filter(None, (bounds.replace("characters", "entries"), each))))
    if issubclass(bare, enum.Enum):
        return _Type(" or ".join(code(f'"{one.value}"') for one in bare))
    if issubclass(bare, Seconds):
        return _Type("[time](#time)", f"{_span(bare.least)} to {_span(bare.most)}")
    for kind, words in _WRITTEN.items():
        if issubclass(bare, kind):
            return _Type(f"[{words}](#{words.lower().replace(' ', '-')})", bounds)
    return _Type(_PLAIN[bare], bounds)


def _unwrapped(of: Any) -> tuple[Any, list[msgspec.Meta]]:  # noqa: ANN401 - types, as annotated
    """``Annotated[X, ...] | None`` as X and what it is annotated with."""
    metas: list[msgspec.Meta] = []
    while True:
        choices = [one for one in get_args(of) if one is not type(None)]
        if type(None) in get_args(of) and len(choices) == 1:
            of = choices[0]
        elif get_origin(of) is Annotated:
            of, *more = get_args(of)
            metas += more
        else:
            return of, metas


def _bounds(metas: Iterable[msgspec.Meta]) -> str:
    parts = []
    for meta in metas:
        if meta.ge is not None or meta.le is not None:
            parts.append(f"{meta.ge} to {meta.le}")
        if meta.max_length is not None:
            least = f"{meta.min_length} to" if meta.min_length else "at most"
            parts.append(f"{least} {meta.max_length} characters")
        if meta.pattern is not None:
            parts.append(code(meta.pattern).replace("|", "\\|"))
    return "; ".join(parts)


def _span(seconds: float) -> str:
    return as_written(Seconds(seconds)) if seconds else "0s"


def _kinds() -> str:
    """How values are written: from the docstrings of what reads them."""
    parts = ["## How values are written\n"]
    for kind, words in _WRITTEN.items():
        parse: Any = getattr(kind, "parse")  # noqa: B009 - each of them has one, which no base class promises
        written = " ".join((inspect.getdoc(parse) or "").split()).partition(" Raise ")[0]
        described = " ".join((inspect.getdoc(kind) or "").split()).removesuffix(", within ``least`` and ``most``.")
        both = f"{described.rstrip('.')}. {'' if written.startswith('Raise') else f'Written {written}'}"
        parts.append(f"### {words[:1].upper() + words[1:]}\n{cell(both).strip()}\n")
    return "\n".join(parts)
