"""As much of a GGUF file as a server looks at: its metadata, its tensors, and whether the file holds them all."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_FORMATS = ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d")
_TEXT, _ARRAY = 8, 9
_TENSOR_TYPES = {0: ("F32", 4), 1: ("F16", 2), 30: ("BF16", 2)}  # name, bytes of one number
_FILE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 7: "Q8_0", 15: "Q4_K_M", 32: "BF16"}
_MOST = 1 << 20  # fields, tensors, items and bytes of a text: more is not believed
_ALIGNMENT = 32


class BadGguf(ValueError):  # noqa: N818 - what the file is
    """Not a GGUF file, or one that is cut short."""


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """``fields``: the metadata, None for arrays. ``end``: bytes that a file with all its tensors has."""

    fields: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    end: int

    def get(self, key: str) -> Any:
        """A field by its full name, or by its name after the architecture's; None if there is none."""
        if key.startswith(("general.", "tokenizer.")):
            return self.fields.get(key)
        return self.fields.get(f"{self.fields.get('general.architecture')}.{key}")

    @property
    def file_type(self) -> str:
        return _FILE_TYPES.get(self.fields.get("general.file_type", -1), "unknown")

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)


def read_header(path: Path) -> Header:
    """Raise ``BadGguf``, or an ``OSError`` if the file cannot be read."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise BadGguf("invalid file magic")
        version, tensors, count = _unpack(file, "<IQQ")
        if version not in (2, 3):
            raise BadGguf(f"unsupported version {version}")
        fields = dict(_field(file) for _ in range(_believed(count)))
        found, sizes = [], [0]
        for _ in range(_believed(tensors)):
            tensor, end = _tensor(file)
            found.append(tensor)
            sizes.append(end)
        start = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
        return Header(fields, tuple(found), start + max(sizes))


def read_whole_header(path: Path) -> Header:
    """The header of a file that holds all the tensors it speaks of. Raise as ``read_header``."""
    header = read_header(path)
    size = path.stat().st_size
    if size < header.end:
        raise BadGguf(f"tensor offset+size ({header.end}) exceeds file size ({size})")
    return header


def _field(file: BinaryIO) -> tuple[str, Any]:
    key = _text(file)
    (kind,) = _unpack(file, "<I")
    if kind != _ARRAY:
        return key, _scalar(file, kind)
    kind, length = _unpack(file, "<IQ")
    if kind == _TEXT:
        for _ in range(_believed(length)):
            _text(file)
    else:
        _read(file, _believed(length) * struct.calcsize("<" + _format(kind)))
    return key, None


def _scalar(file: BinaryIO, kind: int) -> Any:
    return _text(file) if kind == _TEXT else _unpack(file, "<" + _format(kind))[0]


def _tensor(file: BinaryIO) -> tuple[Tensor, int]:
    """The tensor and where its numbers end, counted from where all numbers begin."""
    name = _text(file)
    (dimensions,) = _unpack(file, "<I")
    shape = _unpack(file, f"<{_believed(dimensions)}Q")
    kind, offset = _unpack(file, "<IQ")
    label, size = _TENSOR_TYPES.get(kind, ("unknown", 0))
    return Tensor(name, label, shape), offset + math.prod(shape) * size


def _text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    return _read(file, _believed(length)).decode("utf-8", "replace")


def _format(kind: int) -> str:
    if kind >= len(_FORMATS) or not _FORMATS[kind]:
        raise BadGguf(f"invalid type {kind}")
    return _FORMATS[kind]


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, _read(file, struct.calcsize(form)))


def _read(file: BinaryIO, length: int) -> bytes:
    raw = file.read(length)
    if len(raw) < length:
        raise BadGguf("unexpected EOF")
    return raw


def _believed(number: int) -> int:
    if number > _MOST:
        raise BadGguf(f"invalid count {number}")
    return number
