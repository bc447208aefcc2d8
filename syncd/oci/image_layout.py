"""An OCI image layout: its members and its index (OCI image spec, "Image Layout Specification"); pure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from syncd.errors import InvalidDigestError, InvalidManifestError, InvalidNameError
from syncd.oci import strict_json
from syncd.oci.digest import Digest
from syncd.oci.manifest import LIST_TYPES, MAX_MANIFEST_BYTES, OCI_MANIFEST_TYPE
from syncd.oci.name import ModelName

MARKER = "oci-layout"
INDEX = "index.json"
BLOBS = "blobs"
ALGORITHM = "sha256"
MAX_MARKER_BYTES = 4096
MAX_INDEX_BYTES = MAX_MANIFEST_BYTES
MAX_MANIFESTS_BYTES = 64 * 1024 * 1024
"""Of all manifests of a layout, each counted once: all of them are held in memory."""

MARKER_CONTENT = b'{"imageLayoutVersion":"1.0.0"}'
"""What ``oci-layout`` holds."""

REF_NAME = "org.opencontainers.image.ref.name"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_VERSION = "1."
_PREFIX = f"{BLOBS}/{ALGORITHM}/"


@dataclass(frozen=True, slots=True, order=True)
class Image:
    """A manifest that an index names. ``ref``: its ``org.opencontainers.image.ref.name``; None: it has none."""

    digest: Digest
    size: int
    ref: str | None
    is_list: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    """``index.json``, or an index that one names."""

    images: tuple[Image, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raise ``InvalidManifestError`` with what is wrong."""
        if len(raw) > MAX_INDEX_BYTES:
            raise InvalidManifestError(f"the index is larger than {MAX_INDEX_BYTES} bytes")
        document = _document(raw, "index")
        listed = document.get("manifests")
        if document.get("schemaVersion") != 2 or not isinstance(listed, list):  # noqa: PLR2004 - the schema's number
            raise InvalidManifestError("the index is none: it has no list of manifests")
        return cls(tuple(_image(entry, number) for number, entry in enumerate(listed)))


def blob_member(digest: Digest) -> str:
    """The member that holds a blob, or a manifest."""
    return _PREFIX + digest.hex


def digest_of_member(name: str) -> Digest | None:
    """The digest that a member's name stands for; None for every other name."""
    if not name.startswith(_PREFIX):
        return None
    try:
        return Digest.parse(f"{ALGORITHM}:{name.removeprefix(_PREFIX)}")
    except InvalidDigestError:
        return None


def index_of(models: Iterable[tuple[ModelName, Digest, int]]) -> bytes:
    """The index of these models: name, the manifest's digest and its size. The same models give the same bytes.

    Every manifest is announced as an OCI one, whatever media type it gives itself: thus skopeo copies it verbatim. One
    that is announced as Docker's, skopeo refuses for its layers ("unsupported docker v2s2 media type"), umoci at all.
    """
    manifests = [
        {
            "mediaType": OCI_MANIFEST_TYPE,
            "digest": str(digest),
            "size": size,
            "annotations": {REF_NAME: name.qualified},
        }
        for name, digest, size in sorted(models)
    ]
    document = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": manifests}
    return json.dumps(document, separators=(",", ":")).encode()


def check_marker(raw: bytes) -> None:
    """Raise ``InvalidManifestError`` if ``oci-layout`` is not that of a layout that is known here."""
    version = _document(raw, MARKER).get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith(_VERSION):
        raise InvalidManifestError(f"the image layout has version {str(version)[:40]!r}, and only 1.x is known")


def full_name(ref: str | None) -> ModelName | None:
    """The model that a reference name means, where it is one in full: what is shorter may be a mere tag."""
    try:
        name = ModelName.parse(ref or "")
    except InvalidNameError:
        return None
    return name if name.qualified == ref else None


def _document(raw: bytes, what: str) -> dict[str, Any]:
    try:
        document = strict_json.parse(raw)
    except strict_json.StrictJSONError as error:
        raise InvalidManifestError(f"the {what} cannot be used: {error.message}") from error
    if not isinstance(document, dict):
        raise InvalidManifestError(f"the {what} is not a JSON object")
    return document


def _image(entry: object, number: int) -> Image:
    what = f"entry {number} of the index"
    if not isinstance(entry, dict):
        raise InvalidManifestError(f"{what} is not a descriptor")
    digest, size, notes = entry.get("digest"), entry.get("size"), entry.get("annotations")
    if not isinstance(digest, str):
        raise InvalidManifestError(f"{what} has no digest")
    if type(size) is not int or not 0 <= size <= MAX_MANIFEST_BYTES:
        raise InvalidManifestError(f"{what} has an impossible size: {str(size)[:40]}")
    ref = notes.get(REF_NAME) if isinstance(notes, dict) else None
    try:
        return Image(
            Digest.parse(digest),
            size,
            ref if isinstance(ref, str) else None,
            is_list=entry.get("mediaType") in LIST_TYPES,
        )
    except InvalidDigestError as error:
        raise InvalidManifestError(f"{what} has {error.message}") from error
