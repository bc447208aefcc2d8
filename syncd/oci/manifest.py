"""Image manifests as Ollama's registry sends them (OCI image spec, "Image Manifest"; docker schema 2)."""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

from syncd.errors import InvalidDigestError, InvalidManifestError
from syncd.oci import strict_json
from syncd.oci.digest import Digest

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_LAYERS = 4096
MAX_BLOB_BYTES = 1 << 46  # 64 TiB: far above any model, far below what overflows a file offset

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
LIST_TYPES = frozenset(
    {
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.index.v1+json",
    }
)
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_LONGEST_TYPE = 255  # characters, without parameters
_MODEL_LAYER = "application/vnd.ollama.image.model"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of one blob. ``size`` in bytes. Foreign ``urls`` are ignored (CVE-2020-15157)."""

    media_type: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest and the very bytes it was parsed from: they are what is stored and what is hashed."""

    raw: bytes = field(repr=False)
    digest: Digest
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raise ``InvalidManifestError``, saying what is wrong, for everything that is not one model's manifest."""
        if len(raw) > MAX_MANIFEST_BYTES:
            raise InvalidManifestError(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes")
        try:
            document = strict_json.parse(raw)
        except strict_json.StrictJSONError as error:
            raise InvalidManifestError(f"the manifest cannot be used: {error.message}") from error
        if not isinstance(document, dict):
            raise InvalidManifestError("the manifest is not a JSON object")
        _refuse_lists(document)
        if document.get("schemaVersion") != 2 or isinstance(document.get("schemaVersion"), bool):  # noqa: PLR2004 - the schema's number
            raise InvalidManifestError(f"the manifest has schema version {document.get('schemaVersion')!r}, not 2")
        layers = document.get("layers")
        if layers is None and "layers" in document:
            layers = []  # Go writes an empty list so: an Ollama's own manifest of a model that runs elsewhere
        if not isinstance(layers, list):
            raise InvalidManifestError("the manifest has no list of layers")
        if len(layers) > MAX_LAYERS:
            raise InvalidManifestError(f"the manifest has {len(layers)} layers, more than {MAX_LAYERS}")
        manifest = cls(
            raw=raw,
            digest=Digest.of(raw),
            config=_descriptor(document.get("config"), "config"),
            layers=tuple(_descriptor(layer, f"layer {index}") for index, layer in enumerate(layers)),
        )
        manifest._refuse_contradictions()
        return manifest

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Layers, then config; each digest once."""
        return tuple({blob.digest: blob for blob in (*self.layers, self.config)}.values())

    @property
    def size(self) -> int:
        """Bytes of all blobs, each counted once."""
        return sum(blob.size for blob in self.blobs)

    @property
    def weights(self) -> tuple[Descriptor, ...]:
        """The layers that hold the model's own weights."""
        return tuple(layer for layer in self.layers if layer.media_type == _MODEL_LAYER)

    def _refuse_contradictions(self) -> None:
        sizes: dict[str, int] = {}
        for blob in (*self.layers, self.config):
            if sizes.setdefault(blob.digest.hex, blob.size) != blob.size:
                raise InvalidManifestError(f"the manifest gives {blob.digest} two sizes")


def is_list(raw: bytes) -> bool:
    """Whether this is a list of manifests (an OCI image index), which is no model and yet nothing broken."""
    try:
        document = strict_json.parse(raw)
    except strict_json.StrictJSONError:
        return False
    return isinstance(document, dict) and _is_list(document)


def _is_list(document: dict[str, Any]) -> bool:
    media_type = document.get("mediaType")
    return (isinstance(media_type, str) and media_type in LIST_TYPES) or "manifests" in document


def _refuse_lists(document: dict[str, Any]) -> None:
    if _is_list(document):
        raise InvalidManifestError(
            "this is a list of manifests (an image index), not one model",
            hint="pull one of the models it lists by its own tag; syncd, as Ollama, stores single manifests only",
        )


def _is_media_type(text: str) -> bool:
    head = text if len(text) <= _LONGEST_TYPE else text.partition(";")[0].strip()
    return len(head) <= _LONGEST_TYPE and _is_short_media_type(head)


@lru_cache(maxsize=64)  # there are a dozen or so, in every manifest the same
def _is_short_media_type(text: str) -> bool:
    return _MEDIA_TYPE.fullmatch(text.partition(";")[0].strip()) is not None


def _descriptor(value: object, what: str) -> Descriptor:
    if not isinstance(value, dict):
        raise InvalidManifestError(f"the manifest's {what} is not a descriptor")
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(media_type, str) or not _is_media_type(media_type):
        raise InvalidManifestError(f"the manifest's {what} has no valid media type")
    if not isinstance(digest, str):
        raise InvalidManifestError(f"the manifest's {what} has no digest")
    # bool is an int in Python, and 1.0 == 1: only a JSON integer is a size.
    if type(size) is not int or not 0 <= size <= MAX_BLOB_BYTES:
        raise InvalidManifestError(f"the manifest's {what} has an impossible size: {str(size)[:40]}")
    try:
        return Descriptor(media_type, Digest.parse(digest), size)
    except InvalidDigestError as error:
        raise InvalidManifestError(f"the manifest's {what} has {error.message}") from error
