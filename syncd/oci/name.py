"""Model names by Ollama's rules (``types/model/name.go``), and references: a name with an optional pinned digest."""

import re
from dataclasses import dataclass
from typing import Self

from syncd.errors import InvalidNameError
from syncd.oci.digest import Digest

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_PARTS = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
}
_RULE = "a name is [host/][namespace/]model[:tag]: letters, digits, '_', '-' and '.', each part at most 80 characters"


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """A fully qualified model name. ``str`` gives it as short as Ollama shows it, always with its tag."""

    host: str
    namespace: str
    model: str
    tag: str

    def __post_init__(self) -> None:
        for kind, pattern in _PARTS.items():
            part: str = getattr(self, kind)
            if not pattern.fullmatch(part):
                raise InvalidNameError(f"not a model name: {kind} {part[:100]!r}", hint=_RULE)

    @classmethod
    def parse(cls, text: str) -> Self:
        """``text`` with Ollama's defaults for what it leaves out. Raise ``InvalidNameError``."""
        rest, tag = text, DEFAULT_TAG
        if ":" in text.rpartition("/")[2]:
            rest, _, tag = text.rpartition(":")
        host, namespace = DEFAULT_HOST, DEFAULT_NAMESPACE
        rest, slash, model = rest.rpartition("/")
        if slash:
            rest, slash, namespace = rest.rpartition("/")
            if slash:
                host = rest
        try:
            return cls(host, namespace, model, tag)
        except InvalidNameError as error:
            raise InvalidNameError(f"not a model name: {text[:200]!r}", hint=_RULE) from error

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Host, namespace, model, tag: the path of the manifest below ``manifests/``."""
        return (self.host, self.namespace, self.model, self.tag)

    @property
    def repository(self) -> str:
        """``namespace/model``: what a registry's URLs call the name."""
        return f"{self.namespace}/{self.model}"

    @property
    def qualified(self) -> str:
        """All four parts: ``host/namespace/model:tag``."""
        return f"{self.host}/{self.repository}:{self.tag}"

    @property
    def folded(self) -> str:
        """The same for all names that Ollama takes for one: it looks names up without regard to case."""
        return self.qualified.casefold()

    def __str__(self) -> str:
        short = f"{self.model}:{self.tag}"
        if self.host.casefold() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{short}"
        if self.namespace.casefold() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{short}"
        return short


@dataclass(frozen=True, slots=True)
class Reference:
    """What a user asks for: a name, and the manifest digest it is pinned to, if it is."""

    name: ModelName
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """``NAME`` or ``NAME@sha256:<hex>``. Raise ``InvalidNameError`` or ``InvalidDigestError``."""
        name, at, digest = text.partition("@")
        return cls(ModelName.parse(name), Digest.parse(digest) if at else None)

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else str(self.name)


def case_conflict(name: ModelName, stored: ModelName) -> str | None:
    """The part of ``name`` that differs from the same part of a ``stored`` name only in case, if there is one.

    Ollama rewrites a looked-up name part by part against all stored names (``server/routes.go`` ``getExistingName``),
    so that such a pair makes lookups of either fail at random.
    """
    for mine, theirs in zip(name.parts, stored.parts, strict=True):
        if mine != theirs and mine.casefold() == theirs.casefold():
            return mine
    return None
