"""``syncd list`` and ``syncd show``: what the store holds."""

import os
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime

import click
import msgspec

from syncd.cli import words
from syncd.cli.options import as_json, examples, shared
from syncd.cli.session import Session
from syncd.errors import NotFoundError
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStatus
from syncd.store.models import BrokenModel, StoredModel
from syncd.store.root import Store
from syncd.text import printable, size

_TEXTS = ("params", "system", "template", "license")
_MAX_TEXT = 64 * 1024  # bytes of a text layer that are read
_EXCERPT = 12  # lines of it that people are shown


class Listed(msgspec.Struct, frozen=True):
    """A model in ``list --json``. ``modified``: RFC 3339, UTC; ``size``: bytes, each blob counted once."""

    name: str
    digest: str
    size: int
    modified: str


class Broken(msgspec.Struct, frozen=True):
    """What lies where a manifest should be (``path``, below manifests/), and what is wrong with it."""

    path: str
    problem: str


class Listing(msgspec.Struct, frozen=True):
    """The object that ``list --json`` writes."""

    store: str
    models: tuple[Listed, ...]
    broken: tuple[Broken, ...]


class Blob(msgspec.Struct, frozen=True):
    """A layer, or the config. ``status``: stored, unverified (there, not hashed yet) or absent."""

    media_type: str
    digest: str
    size: int
    status: str


class Shown(msgspec.Struct, frozen=True):
    """The object that ``show --json`` writes. ``texts``: the layers that are text, by kind, cut at 64 KiB each."""

    name: str
    digest: str
    size: int
    modified: str
    config: Blob
    layers: tuple[Blob, ...]
    texts: dict[str, str]


@click.command("list", epilog=examples("syncd list", "syncd list --json"))
@as_json
@shared
@click.pass_context
def list_models(context: click.Context, *, as_json: bool) -> None:
    """List the models that are whole and visible, the latest first."""
    session = Session.begin(context)
    with session.open_store(writes=False) as store:
        found = store.models.list()
    models = sorted(
        (one for one in found if isinstance(one, StoredModel)), key=lambda one: (-one.modified, str(one.name))
    )
    broken = [one for one in found if isinstance(one, BrokenModel)]
    if as_json:
        listing = Listing(
            printable(str(session.choice.path), limit=4096),
            tuple(Listed(str(one.name), str(one.manifest.digest), one.manifest.size, _time(one)) for one in models),
            tuple(Broken(printable(one.path), printable(one.problem)) for one in broken),
        )
        sys.stdout.write(msgspec.json.encode(listing).decode("utf-8") + "\n")
        return
    sys.stdout.write(table(models, time.time()))
    for one in broken:
        session.notice(f"warning: manifests/{one.path} is no model: {one.problem}")


def table(models: Iterable[StoredModel], now: float) -> str:
    """Columns as ``ollama list`` has them, without a terminal's help: ten thousand models take no longer to lay out."""
    rows = [("NAME", "DIGEST", "SIZE", "MODIFIED")]
    rows.extend(
        (str(one.name), one.manifest.digest.short, size(one.manifest.size), words.ago(now - one.modified))
        for one in models
    )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = (
        "    ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])) for row in rows
    )
    return "".join(f"{line}\n" for line in lines)


@click.command(epilog=examples("syncd show mistral:7b"))
@click.argument("name")
@as_json
@shared
@click.pass_context
def show(context: click.Context, name: str, *, as_json: bool) -> None:
    """Show a model: its digest, its blobs, its parameters, template and license."""
    wanted = ModelName.parse(name)
    with Session.begin(context).open_store(writes=False) as store:
        found = describe(store, wanted)
    sys.stdout.write(msgspec.json.encode(found).decode("utf-8") + "\n" if as_json else page(found))


def describe(store: Store, wanted: ModelName) -> Shown:
    """All that the store knows of a model. Raise ``NotFoundError``."""
    name = store.models.find(wanted)
    model = next((one for one in store.models.list() if one.name == name and isinstance(one, StoredModel)), None)
    if model is None:
        if name is not None:
            store.models.read(name)  # says what is wrong with it
        raise NotFoundError(
            f"{wanted} is not in {store.path}", hint=f"'syncd list' shows what is; 'syncd pull {wanted}' fetches it"
        )
    manifest = model.manifest
    return Shown(
        name=str(model.name),
        digest=str(manifest.digest),
        size=manifest.size,
        modified=_time(model),
        config=_blob(store, manifest.config),
        layers=tuple(_blob(store, layer) for layer in manifest.layers),
        texts=_texts(store, manifest.layers),
    )


def _blob(store: Store, blob: Descriptor) -> Blob:
    return Blob(printable(blob.media_type), str(blob.digest), blob.size, store.blobs.status(blob).value)


def _texts(store: Store, layers: Iterable[Descriptor]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for layer in layers:
        kind = words.kind(layer.media_type)
        if kind in _TEXTS and store.blobs.status(layer) is BlobStatus.STORED:
            check = store.blobs.open_check(layer)
            if check is not None:
                with check:
                    text = os.pread(check.fd, _MAX_TEXT, 0).decode("utf-8", "replace")
                texts[kind] = f"{texts[kind]}\n{text}" if kind in texts else text
    return texts


def page(found: Shown) -> str:
    """``found`` as text for people; whatever comes from the registry is escaped."""
    blobs = (*found.layers, found.config)
    lines = [
        f"name      {found.name}",
        f"digest    {found.digest}",
        f"size      {size(found.size)}",
        f"modified  {found.modified}",
        "",
        "blobs",
        *(f"  {words.kind(blob.media_type):<14} {blob.digest}  {size(blob.size):>7}  {blob.status}" for blob in blobs),
    ]
    for kind in (kind for kind in _TEXTS if kind in found.texts):
        text = found.texts[kind].splitlines()
        lines += ["", kind, *(f"  {printable(line, limit=200)}" for line in text[:_EXCERPT])]
        if len(text) > _EXCERPT:
            lines.append(f"  ... {len(text) - _EXCERPT} lines more")
    return "".join(f"{line}\n" for line in lines)


def _time(model: StoredModel) -> str:
    return datetime.fromtimestamp(model.modified, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
