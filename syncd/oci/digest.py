"""Content digests as the OCI image spec has them: ``sha256:`` and 64 hex digits."""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from syncd.errors import InvalidDigestError

_SHA256 = re.compile(r"sha256:(?P<hex>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 content digest (OCI image spec, "Digests")."""

    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raise ``InvalidDigestError`` for everything but ``sha256:`` and 64 lower-case hex digits."""
        if match := _SHA256.fullmatch(text):
            return cls(match["hex"])
        raise InvalidDigestError(
            f"not a sha256 digest: {text[:100]!r}", hint="a digest is 'sha256:' and 64 lower-case hex digits"
        )

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The digest of these bytes."""
        return cls(hashlib.sha256(content).hexdigest())

    @property
    def short(self) -> str:
        """The first 12 hex digits, as Ollama shows them."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


class Hasher:
    """A digest in the making."""

    __slots__ = ("_sha256",)

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def update(self, content: bytes | bytearray | memoryview) -> None:
        """Take in the next bytes."""
        self._sha256.update(content)

    def digest(self) -> Digest:
        """The digest of all that was taken in so far."""
        return Digest(self._sha256.hexdigest())
