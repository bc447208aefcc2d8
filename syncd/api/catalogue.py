"""What a store holds, as ``syncd list --json`` and ``syncd show --json`` tell it; daemon and command share it."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from syncd.errors import NotFoundError
from syncd.oci.manifest import Descriptor
from syncd.oci.media import kind
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStatus
from syncd.store.models import BrokenModel, StoredModel
from syncd.store.root import Store
from syncd.text import printable

TEXTS = ("params", "system", "template", "license")
"""The kinds of layers that are text for people, in the order in which they are shown."""

_MAX_TEXT = 64 * 1024  # bytes of the text layers of a kind that are read


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
    """The object that ``list --json`` writes: the models, the latest first."""

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
    """The object that ``show --json`` writes. ``texts``: the layers that are text, by kind, cut at 64 KiB a kind."""

    name: str
    digest: str
    size: int
    modified: str
    config: Blob
    layers: tuple[Blob, ...]
    texts: dict[str, str]


def rfc3339(seconds: float) -> str:
    """A time since the epoch, in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def listing(store: Store) -> Listing:
    """Every model that is visible. Blocks; raise ``SyncdError``."""
    found = store.models.list()
    models = sorted(
        (one for one in found if isinstance(one, StoredModel)), key=lambda one: (-one.modified, str(one.name))
    )
    return Listing(
        printable(str(store.path), limit=4096),
        tuple(
            Listed(str(one.name), str(one.manifest.digest), one.manifest.size, rfc3339(one.modified)) for one in models
        ),
        tuple(Broken(printable(one.path), printable(one.problem)) for one in found if isinstance(one, BrokenModel)),
    )


def describe(store: Store, wanted: ModelName) -> Shown:
    """All that the store knows of a model. Blocks; raise ``NotFoundError``."""
    model = stored(store, wanted)
    manifest = model.manifest
    return Shown(
        name=str(model.name),
        digest=str(manifest.digest),
        size=manifest.size,
        modified=rfc3339(model.modified),
        config=_blob(store, manifest.config),
        layers=tuple(_blob(store, layer) for layer in manifest.layers),
        texts=texts(store, manifest.layers),
    )


def stored(store: Store, wanted: ModelName) -> StoredModel:
    """The model that Ollama takes for ``wanted``. Raise ``NotFoundError``, ``IntegrityError`` if it is broken."""
    name = store.models.find(wanted)
    model = next((one for one in store.models.list() if one.name == name and isinstance(one, StoredModel)), None)
    if model is None:
        if name is not None:
            store.models.read(name)  # says what is wrong with it
        raise NotFoundError(
            f"{wanted} is not in {store.path}", hint=f"'syncd list' shows what is; 'syncd pull {wanted}' fetches it"
        )
    return model


def texts(store: Store, layers: Iterable[Descriptor], limit: int = _MAX_TEXT) -> dict[str, str]:
    """The layers that are text, by kind, the layers of a kind together cut at ``limit`` bytes."""
    by_kind: dict[str, list[Descriptor]] = {}
    for layer in layers:
        if (what := kind(layer.media_type)) in TEXTS:
            by_kind.setdefault(what, []).append(layer)
    found = {what: text_of(store, those, limit, verified=True) for what, those in by_kind.items()}
    return {what: "\n".join(parts) for what, parts in found.items() if parts}


def text_of(store: Store, layers: Iterable[Descriptor], limit: int, *, verified: bool = False) -> list[str]:
    """What these text layers say, one after another until ``limit`` bytes are read.

    A manifest may name one layer thousands of times. ``verified``: only those that are stored for good.
    """
    found: list[str] = []
    for layer in layers:
        if limit <= 0:
            break
        if verified and store.blobs.status(layer) is not BlobStatus.STORED:
            continue
        text = content(store, layer, limit)
        if text is not None:
            found.append(text.decode("utf-8", "replace"))
            limit -= len(text) + 1  # what joins them
    return found


def content(store: Store, blob: Descriptor, limit: int) -> bytes | None:
    """The first ``limit`` bytes of a blob; None if it is not there."""
    check = store.blobs.open_check(blob)
    if check is None:
        return None
    with check:
        return os.pread(check.fd, limit, 0)


def _blob(store: Store, blob: Descriptor) -> Blob:
    return Blob(printable(blob.media_type), str(blob.digest), blob.size, store.blobs.status(blob).value)
