"""Model names as Ollama reads and shows them (``types/model/name.go``)."""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_PARTS = (
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"),
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
)


class InvalidName(ValueError):  # noqa: N818 - the API's words
    """Not a model name."""


@dataclass(frozen=True, slots=True)
class Name:
    """The four parts of a name: also the path of its manifest."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def of(cls, parts: Iterable[str]) -> Self:
        """The name of these four parts. Raise ``InvalidName``."""
        found = tuple(parts)
        if len(found) != len(_PARTS) or not all(map(re.Pattern.fullmatch, _PARTS, found)):
            raise InvalidName("/".join(found))
        return cls(*found)

    @classmethod
    def parse(cls, text: str) -> Self:
        """What somebody typed. Raise ``InvalidName``."""
        rest, tag = text, _TAG
        if text.rfind(":") > text.rfind("/"):
            rest, _, tag = text.rpartition(":")
        rest, slash, model = rest.rpartition("/")
        host, namespace = "", ""
        if slash:
            rest, slash, namespace = rest.rpartition("/")
            host = rest.partition("://")[2] or rest
        return cls.of((host or _HOST, namespace or _NAMESPACE, model, tag))

    @property
    def parts(self) -> tuple[str, str, str, str]:
        return (self.host, self.namespace, self.model, self.tag)

    @property
    def shortest(self) -> str:
        """As Ollama shows it: without the defaults, always with the tag."""
        short = f"{self.model}:{self.tag}"
        if self.host.lower() != _HOST:
            return f"{self.host}/{self.namespace}/{short}"
        return short if self.namespace.lower() == _NAMESPACE else f"{self.namespace}/{short}"

    @property
    def folded(self) -> str:
        return "/".join(self.parts).lower()

    @property
    def is_ollamas(self) -> bool:
        """Whether it comes from Ollama's own registry."""
        return self.host.lower() == _HOST


def existing(name: Name, stored: Iterable[Name], chance: random.Random) -> Name:
    """``name`` spelled as what is stored, each part for itself (``server/routes.go`` ``getExistingName``).

    Go walks its map in random order and the last match wins: where two stored names differ in case, so does this.
    """
    parts = list(name.parts)
    shuffled = list(stored)
    chance.shuffle(shuffled)
    for other in shuffled:
        for index, part in enumerate(other.parts):
            if part.lower() == parts[index].lower():
                parts[index] = part
    return Name.of(parts)
