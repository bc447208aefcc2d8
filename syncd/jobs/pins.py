"""Pins files: the very manifests that a host is to hold, so that it needs no registry which serves them by digest.

JSON, the same bytes for the same models, readable in a review. A digest is proved when the file is read.
"""

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from syncd.errors import (
    ConfigurationError,
    InvalidDigestError,
    InvalidManifestError,
    InvalidNameError,
    SyncdError,
)
from syncd.oci import strict_json
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName, case_conflict

MAX_BYTES = 256 * 2**20
_MOST = 10_000  # models


class PinnedEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model of a pins file. ``manifest``: its very bytes, which are UTF-8."""

    name: str
    digest: str
    manifest: str


class PinsDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. ``syncd_pins``: the version of its format."""

    syncd_pins: Literal[1]
    models: tuple[PinnedEntry, ...]


@dataclass(frozen=True, slots=True)
class Pin:
    """``name`` is to be this manifest, whatever any tag says."""

    name: ModelName
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Pins:
    """A pins file. ``path``: where it lies; None: there is none. ``models``: by their folded names, in that order."""

    path: Path | None = None
    models: Mapping[str, Pin] = field(default_factory=dict)

    def of(self, name: ModelName) -> Pin | None:
        """What this name is pinned to, as Ollama looks names up."""
        return self.models.get(name.folded)


@dataclass(frozen=True, slots=True)
class Drift:
    """A model that is not what it is pinned to. ``published``: what it is; None: nothing. ``by``: who has it pinned."""

    name: ModelName
    pinned: Digest
    published: Digest | None
    by: str


def pins_of(models: Iterable[Pin], path: Path | None = None) -> Pins:
    """These models, in the order in which a file has them."""
    return Pins(path, {one.name.folded: one for one in sorted(models, key=lambda one: one.name.folded)})


def drift(pinned: Iterable[tuple[Pin, str]], published: Mapping[str, Digest]) -> tuple[Drift, ...]:
    """Which of ``pinned`` (and who has each so) are not published as they should be. ``published``: by folded name."""
    return tuple(
        Drift(pin.name, pin.manifest.digest, there, by)
        for pin, by in pinned
        if (there := published.get(pin.name.folded)) != pin.manifest.digest
    )


def encoded(pins: Pins) -> bytes:
    """The file: the same bytes for the same models, whoever writes them and when."""
    models = tuple(
        PinnedEntry(one.name.qualified, str(one.manifest.digest), one.manifest.raw.decode("utf-8"))
        for one in pins.models.values()
    )
    return msgspec.json.format(msgspec.json.encode(PinsDocument(1, models)), indent=2) + b"\n"


def decoded(raw: bytes, path: Path) -> Pins:
    """What ``raw`` says, the content of the file at ``path``. Raise ``ConfigurationError`` with what is wrong."""
    try:
        document = msgspec.json.decode(raw, type=PinsDocument)
        strict_json.refuse_duplicates(raw)  # a merge that left two lists: one of them would count for nothing
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _broken(path, f"it is no pins file: {error}") from error
    except strict_json.StrictJSONError as error:
        raise _broken(path, error.message) from error
    if len(document.models) > _MOST:
        raise _broken(path, f"it has {len(document.models)} models, more than {_MOST}")
    found: dict[str, Pin] = {}
    for entry in document.models:
        pin = _pin(entry, path)
        if pin.name.folded in found:
            raise _broken(path, f"{pin.name} is there twice")
        found[pin.name.folded] = pin
    _refuse_case_variants(found.values(), path)
    return pins_of(found.values(), path)


def read(path: Path) -> Pins:
    """The pins file at ``path``. Raise ``ConfigurationError`` for one that is missing, unreadable or broken. Blocks."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigurationError(f"the pins file {path} is no file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"the pins file {path} is not there",
            hint=f"'syncd pin -o {path}' writes it; do that before settings name it",
        ) from error
    except OSError as error:
        raise ConfigurationError(f"the pins file {path} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise _broken(path, f"it has more than {MAX_BYTES} bytes")
    return decoded(raw, path)


def _pin(entry: PinnedEntry, path: Path) -> Pin:
    try:
        name, digest = ModelName.parse(entry.name), Digest.parse(entry.digest)
        raw = entry.manifest.encode("utf-8")
        if (real := Digest.of(raw)) != digest:
            raise _broken(path, f"the manifest of {name} has the digest {real}, not {digest}")
        return Pin(name, Manifest.parse(raw))
    except (InvalidNameError, InvalidDigestError, InvalidManifestError) as error:
        raise _broken(path, f"{entry.name[:200]!r}: {error.message}") from error
    except UnicodeEncodeError as error:
        raise _broken(path, f"{entry.name[:200]!r}: the manifest is no text") from error


def _refuse_case_variants(pins: Iterable[Pin], path: Path) -> None:
    spelled: dict[tuple[int, str], tuple[str, ModelName]] = {}
    for pin in pins:
        for index, part in enumerate(pin.name.parts):
            _, other = spelled.setdefault((index, part.casefold()), (part, pin.name))
            if case_conflict(pin.name, other) is not None:
                raise _broken(path, f"{pin.name} and {other} differ only in case, and Ollama would mix them up")


def _broken(path: Path, why: str) -> SyncdError:
    return ConfigurationError(
        f"the pins file {path} cannot be used: {why}",
        hint="write it anew with 'syncd pin', on a host that has the models",
    )
