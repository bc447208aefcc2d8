"""``syncd list`` and ``syncd show``: what the store holds."""

import sys
import time
from datetime import datetime

import click
import msgspec

from syncd.api.catalogue import TEXTS, Blob, Listing, Shown
from syncd.cli import place, words
from syncd.cli.options import as_json, examples, shared, stored_names
from syncd.cli.session import Session
from syncd.oci.media import kind
from syncd.oci.name import ModelName
from syncd.text import printable, printable_json, size

_EXCERPT = 12  # lines of a text that people are shown
_SHORT = 12  # hex digits of a digest


@click.command("list", epilog=examples("syncd list", "syncd list --json"))
@as_json
@shared
@click.pass_context
def list_models(context: click.Context, *, as_json: bool) -> None:
    """List the models that are whole and visible, the latest first."""
    session = Session.begin(context)
    found = place.of(session).listing()
    if as_json:
        sys.stdout.write(_json(found))
        return
    sys.stdout.write(table(found, time.time()))
    for one in found.broken:
        session.notice(f"warning: manifests/{one.path} is no model: {one.problem}")


def table(found: Listing, now: float) -> str:
    """Columns as ``ollama list`` has them, without a terminal's help: ten thousand models take no longer to lay out."""
    rows = [("NAME", "DIGEST", "SIZE", "MODIFIED")]
    rows.extend(
        (
            printable(one.name),
            printable(one.digest).removeprefix("sha256:")[:_SHORT],
            size(one.size),
            words.ago(now - datetime.fromisoformat(one.modified).timestamp()),
        )
        for one in found.models
    )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = (
        "    ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])) for row in rows
    )
    return "".join(f"{line}\n" for line in lines)


@click.command(epilog=examples("syncd show mistral:7b"))
@click.argument("name", shell_complete=stored_names)
@as_json
@shared
@click.pass_context
def show(context: click.Context, name: str, *, as_json: bool) -> None:
    """Show a model: its digest, its blobs, its parameters, template and license."""
    wanted = ModelName.parse(name)
    found = place.of(Session.begin(context)).describe(wanted)
    sys.stdout.write(_json(found) if as_json else page(found))


def _json(found: Listing | Shown) -> str:
    return printable_json(msgspec.json.encode(found).decode("utf-8")) + "\n"


def page(found: Shown) -> str:
    """``found`` as text for people; whatever comes from the registry is escaped."""
    blobs = (*found.layers, found.config)
    lines = [
        f"name      {printable(found.name)}",
        f"digest    {printable(found.digest)}",
        f"size      {size(found.size)}",
        f"modified  {printable(found.modified)}",
        "",
        "blobs",
        *(_blob_line(blob) for blob in blobs),
    ]
    for what in (what for what in TEXTS if what in found.texts):
        text = found.texts[what].splitlines()
        lines += ["", what, *(f"  {printable(line, limit=200)}" for line in text[:_EXCERPT])]
        if len(text) > _EXCERPT:
            lines.append(f"  ... {len(text) - _EXCERPT} lines more")
    return "".join(f"{line}\n" for line in lines)


def _blob_line(blob: Blob) -> str:
    what, digest, status = (printable(text) for text in (kind(blob.media_type), blob.digest, blob.status))
    return f"  {what:<14} {digest}  {size(blob.size):>7}  {status}"
