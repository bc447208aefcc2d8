"""The header of a GGUF file: its metadata and the shapes of its tensors (ggml docs/gguf.md, versions 2 and 3).

A header comes from whoever made the model: every length is bounded before anything is read or kept, and nothing in it
is taken for true beyond being shown.
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from syncd.errors import IntegrityError

ReadAt = Callable[[int, int], bytes]
"""``read(offset, length)``: up to ``length`` bytes; none at the end of the file."""

Scalar = int | float | bool | str
Value = Scalar | list[Scalar] | None

# The largest that there are: a vocabulary of 260,000 words with their merges, 15 MB.
MAX_HEADER = 32 * 1024 * 1024  # bytes
_MAX_FIELDS = 10_000
_MAX_TENSORS = 200_000
_MAX_NAME = 64 * 1024  # bytes of a key or of a tensor's name
_MAX_TEXT = 4 * 1024 * 1024  # bytes of a text
_MAX_ITEMS = 2_000_000  # of all arrays whose items have to be looked at one by one
_MAX_DIMENSIONS = 8
_MAX_PARAMETERS = 1 << 46  # of one tensor: with that, all of them together fit into 64 bits
_WINDOW = 256 * 1024  # bytes of one read

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_TEXT, _ARRAY = 8, 9
_FORMATS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
# By number; "-" for numbers that are not in use.
_FILE_TYPES = (  # noqa: SIM905 - a table, read by position
    "F32 F16 Q4_0 Q4_1 - - - Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ2_XXS"
    " IQ2_XS Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M BF16 - - - TQ1_0 TQ2_0"
    " MXFP4_MOE"
).split()
_TENSOR_TYPES = (  # noqa: SIM905 - likewise
    "F32 F16 Q4_0 Q4_1 - - Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL"
    " IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 - - - TQ1_0 TQ2_0 - - - MXFP4"
).split()


class GgufError(IntegrityError):
    """Not a GGUF file, or a header that cannot be meant."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """``kind``: its number format, as ggml calls it."""

    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """``fields``: the metadata in the file's order; an array is None unless arrays were asked for."""

    fields: Mapping[str, Value]
    tensors: tuple[Tensor, ...]

    @property
    def parameters(self) -> int:
        """The number of numbers in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def architecture(self) -> str:
        """What the file says it is; empty if it says nothing."""
        found = self.fields.get("general.architecture")
        return found if isinstance(found, str) else ""

    @property
    def quantization(self) -> str:
        """``Q4_K_M`` and the like; empty if the file says nothing that is known."""
        found = self.fields.get("general.file_type")
        return _named(_FILE_TYPES, found) if isinstance(found, int) else ""


def read_header(read: ReadAt, *, arrays: bool = False) -> Header:
    """The header of the file behind ``read``. ``arrays``: keep their items. Raise ``GgufError``."""
    cursor = _Cursor(read)
    if cursor.take(4) != _MAGIC:
        raise GgufError("it is no GGUF file")
    if cursor.peek(4)[2:] != b"\0\0":
        cursor.order = ">"  # a version is a small number
    version = cursor.number("I")
    if version not in _VERSIONS:
        raise GgufError(f"it is GGUF of version {version}")
    tensors = _bounded(cursor.number("Q"), _MAX_TENSORS, "tensors")
    count = _bounded(cursor.number("Q"), _MAX_FIELDS, "fields")
    fields: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.text(_MAX_NAME)
        if key in fields:
            raise GgufError("it has a field twice")
        fields[key] = _value(cursor, int(cursor.number("I")), arrays=arrays)
    return Header(fields, tuple(_tensor(cursor) for _ in range(tensors)))


class _Cursor:
    def __init__(self, read: ReadAt) -> None:
        self._read = read
        self._window = b""
        self._start = 0  # offset of the window in the file
        self._at = 0  # offset in the window
        self.items = 0
        self.order = "<"

    def peek(self, length: int) -> bytes:
        if len(self._window) - self._at < length:
            self._start += self._at
            self._at = 0
            _bounded(self._start + length, MAX_HEADER, "bytes")
            self._window = self._read(self._start, max(length, _WINDOW))
            if len(self._window) < length:
                raise GgufError("its header is cut short")
        return self._window[self._at : self._at + length]

    def take(self, length: int) -> bytes:
        taken = self.peek(length)
        self._at += length
        return taken

    def skip(self, length: int) -> None:
        """Pass over bytes without reading them."""
        _bounded(self._start + self._at + length, MAX_HEADER, "bytes")
        self._at += length
        if self._at > len(self._window):
            self._start += self._at
            self._at = 0
            self._window = b""

    def number(self, form: str) -> int:
        form = self.order + form
        found: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return found

    def text(self, limit: int) -> str:
        return self.take(_bounded(self.number("Q"), limit, "bytes of text")).decode("utf-8", "replace")

    def scalar(self, kind: int) -> Scalar:
        if kind == _TEXT:
            return self.text(_MAX_TEXT)
        if kind not in _FORMATS:
            raise GgufError(f"it has a field of type {kind}")
        return self.number(_FORMATS[kind])

    def count(self, items: int) -> None:
        self.items += items
        _bounded(self.items, _MAX_ITEMS, "items")


def _value(cursor: _Cursor, kind: int, *, arrays: bool) -> Value:
    if kind != _ARRAY:
        return cursor.scalar(kind)
    item = int(cursor.number("I"))
    length = cursor.number("Q")
    if item != _TEXT and item not in _FORMATS:
        raise GgufError(f"it has an array of type {item}")
    if arrays:
        cursor.count(length)
        return [cursor.scalar(item) for _ in range(length)]
    if item == _TEXT:
        cursor.count(length)
        for _ in range(length):
            cursor.skip(_bounded(cursor.number("Q"), _MAX_TEXT, "bytes of text"))
    else:
        cursor.skip(_bounded(length, MAX_HEADER, "items") * struct.calcsize("=" + _FORMATS[item]))
    return None


def _tensor(cursor: _Cursor) -> Tensor:
    name = cursor.text(_MAX_NAME)
    dimensions = _bounded(cursor.number("I"), _MAX_DIMENSIONS, "dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))
    _bounded(math.prod(shape), _MAX_PARAMETERS, "numbers in a tensor")
    kind = _named(_TENSOR_TYPES, cursor.number("I")) or "unknown"
    cursor.skip(8)  # where its numbers begin
    return Tensor(name, kind, shape)


def _named(names: list[str], number: int) -> str:
    name = names[number] if 0 <= number < len(names) else "-"
    return "" if name == "-" else name


def _bounded(number: int, limit: int, what: str) -> int:
    if number > limit:
        raise GgufError(f"it says that it has {number} {what}")
    return number
