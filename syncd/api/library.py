"""What the store says to Ollama's clients: its models, and what one of them is made of."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
import structlog

from syncd.api import catalogue, wire
from syncd.oci import strict_json
from syncd.oci.digest import Digest
from syncd.oci.gguf import GgufError, Header, read_header
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store.layout import BLOBS, blob_file
from syncd.store.models import StoredModel
from syncd.store.root import Store

log = structlog.get_logger()

T = TypeVar("T")

_OLLAMA = "application/vnd.ollama.image."
_MAX_JSON = 1024 * 1024  # bytes of a config, of all parameters, of all messages
_MAX_TEXT = 1024 * 1024  # bytes of all text layers of a kind
_MAX_CONFIGS = 4096


class Library:
    """Reads a store. Everything here blocks and may be called from any one thread at a time or from many."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._configs: OrderedDict[Digest, wire.Config] = OrderedDict()

    def tags(self) -> wire.Tags:
        """``/api/tags``."""
        models = [one for one in self._store.models.list() if isinstance(one, StoredModel)]
        return wire.tags((model, self._config(model.manifest.config)) for model in models)

    def show(self, wanted: ModelName, *, verbose: bool, system: str | None, with_path: bool) -> wire.Show:
        """``/api/show``. ``with_path``: tell where the weights lie. Raise as ``catalogue.stored`` does."""
        model = catalogue.stored(self._store, wanted)
        layers: dict[str, list[Descriptor]] = {}
        for layer in model.manifest.layers:
            layers.setdefault(layer.media_type.removeprefix(_OLLAMA), []).append(layer)
        weights = layers.get("model", [])
        projectors = layers.get("projector", [])
        # Of templates and systems the last one counts.
        templates = self._texts([*layers.get("prompt", []), *layers.get("template", [])][-1:])
        systems = self._texts(layers.get("system", [])[-1:])
        where = self._store.path / BLOBS / blob_file(weights[0].digest) if weights and with_path else model.name
        parts = wire.Parts(
            config=self._config(model.manifest.config),
            licenses=tuple(self._texts(layers.get("license", []))),
            template=templates[0] if templates else None,
            system=system or "".join(systems),
            parameters=self._parameters(layers.get("params", [])),
            messages=self._messages(layers.get("messages", [])),
            weights=self._header(weights[0], arrays=verbose) if weights else None,
            projector=self._header(projectors[0], arrays=verbose) if projectors else None,
            source=str(where),
        )
        return wire.show(model, parts, verbose=verbose)

    def _config(self, blob: Descriptor) -> wire.Config:
        found = self._configs.get(blob.digest)
        if found is None:
            found = self._json(blob, wire.Config)
            if found is None:
                return wire.Config()  # it may be whole at the next look
            self._configs[blob.digest] = found
            if len(self._configs) > _MAX_CONFIGS:
                self._configs.popitem(last=False)
        return found

    def _parameters(self, blobs: list[Descriptor]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for blob in _within(blobs, _MAX_JSON):
            found |= self._json(blob, dict[str, Any]) or {}
        return found

    def _messages(self, blobs: list[Descriptor]) -> tuple[wire.Message, ...]:
        found: list[wire.Message] = []
        for blob in _within(blobs, _MAX_JSON):
            found += self._json(blob, list[wire.Message]) or []
        return tuple(found)

    def _texts(self, blobs: list[Descriptor]) -> list[str]:
        return catalogue.text_of(self._store, blobs, _MAX_TEXT)

    def _json(self, blob: Descriptor, kind: type[T]) -> T | None:
        """None where the blob is not there, or is no such thing: what else is known of the model is shown."""
        raw = catalogue.content(self._store, blob, _MAX_JSON)
        if raw is None:
            return None
        try:
            return msgspec.convert(strict_json.parse(raw), kind)
        except (strict_json.StrictJSONError, msgspec.ValidationError) as error:
            log.debug("show.unreadable_layer", digest=str(blob.digest), error=str(error))
            return None

    def _header(self, blob: Descriptor, *, arrays: bool) -> Header | None:
        check = self._store.blobs.open_check(blob)
        if check is None:
            return None
        with check:
            try:
                return read_header(lambda offset, length: os.pread(check.fd, length, offset), arrays=arrays)
            except (GgufError, OSError) as error:
                log.debug("show.no_gguf_header", digest=str(blob.digest), error=str(error))
                return None


def _within(blobs: list[Descriptor], limit: int) -> Iterator[Descriptor]:
    """The first ones, as long as they are no more than ``limit`` bytes together."""
    for blob in blobs:
        limit -= blob.size + 1  # an empty one costs something, too
        if limit < 0:
            return
        yield blob
