"""What docs/openapi.yaml says of operations is made from them: ``python -m tests.api.described`` writes it anew."""

import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

from syncd.api.operation import Operation
from syncd.api.operations import OPERATIONS

FILE = Path(__file__).parents[2] / "docs" / "openapi.yaml"
_SCHEMAS = "#/components/schemas/"


def kinds(operation: Operation[Any, Any]) -> tuple[type[msgspec.Struct], ...]:
    """What it says, the last line at the end."""
    return (*operation.lines.values(), operation.ended[1])


def path_item(operation: Operation[Any, Any]) -> dict[str, Any]:
    """Its route, as OpenAPI describes one."""
    ended = operation.ended[1].__name__
    words = " ".join((operation.asked.__doc__ or "").split())
    error = {"$ref": "#/components/responses/Error"}
    lines = [{"$ref": _SCHEMAS + kind.__name__} for kind in kinds(operation)] + [{"$ref": _SCHEMAS + "Failed"}]
    body = {"application/json": {"schema": {"$ref": _SCHEMAS + operation.asked.__name__}}}
    answer = {"application/x-ndjson": {"schema": {"type": "string"}, "x-line": {"anyOf": lines}}}
    return {
        "post": {
            "operationId": operation.path,
            "tags": ["syncd"],
            "summary": words,
            "description": f"The last line is `{ended}` or `Failed`. It ends when its reader goes.",
            "requestBody": {"required": True, "content": body},
            "responses": {"200": {"description": "How it goes.", "content": answer}, "4XX": error, "5XX": error},
        }
    }


def paths() -> dict[str, Any]:
    """The routes of all operations."""
    return {f"/syncd/v1/{one.path}": path_item(one) for one in OPERATIONS}


def schemas() -> dict[str, Any]:
    """The shapes of all operations, without those that other routes have too."""
    types = [kind for one in OPERATIONS for kind in (one.asked, *kinds(one))]
    return msgspec.json.schema_components(types, ref_template=_SCHEMAS + "{name}")[1]


def _section(text: str, mark: str, made: dict[str, Any], indent: int) -> str:
    begin, end = f"# {mark}: made from syncd.api.operations\n", f"# {mark}: end\n"
    pattern = re.compile(rf"^( *){re.escape(begin)}.*?^ *{re.escape(end)}", re.DOTALL | re.MULTILINE)
    pad = " " * indent
    # Through JSON, so that what YAML would write as anchors, tags or tuples is plain.
    plain = msgspec.json.decode(msgspec.json.encode(made))
    content = yaml.safe_dump(plain, sort_keys=False, width=110, allow_unicode=True) if made else ""
    lines = "".join(f"{pad}{line}\n" for line in content.splitlines())
    found, count = pattern.subn(lambda _: f"{pad}{begin}{lines}{pad}{end}", text)
    if count != 1:
        raise ValueError(f"{FILE.name} has no place for {mark}")
    return found


def written(text: str) -> str:
    """``text``, a description of the API, with what operations are now."""
    known = _others(text)
    text = _section(text, "operations", paths(), 2)
    return _section(text, "their shapes", {name: one for name, one in schemas().items() if name not in known}, 4)


def _others(text: str) -> set[str]:
    """The shapes that are described by hand."""
    head, _, rest = text.partition("# their shapes: made from")
    tail = rest.partition("# their shapes: end")[2]
    return set(re.findall(r"^    (\w+):", (head + tail).partition("\n  schemas:")[2], re.MULTILINE))


if __name__ == "__main__":
    FILE.write_text(written(FILE.read_text()))
