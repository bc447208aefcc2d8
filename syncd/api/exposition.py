"""The text of ``/metrics``. What is large, and changes seldom, is written once for as long as it stays the same."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

T = TypeVar("T")

_END = b"# EOF\n"  # OpenMetrics ends with it
_FORMATS = 4  # that are kept at once: a scraper asks for one


@dataclass(slots=True)
class _Part(Collector, Generic[T]):
    """Families that ``told`` makes of what ``read`` gives, and of nothing else."""

    read: Callable[[], T]
    told: Callable[[T], Iterable[Metric]]
    seen: T | None = None
    texts: dict[str, bytes] = field(default_factory=dict)

    def collect(self) -> Iterator[Metric]:
        """For whoever encodes it."""
        if self.seen is not None:
            yield from self.told(self.seen)

    def text(self, encode: Callable[[Collector], bytes], content_type: str) -> bytes:
        """As of now."""
        now = self.read()
        if now != self.seen or len(self.texts) >= _FORMATS:
            self.seen = now
            self.texts.clear()
        if content_type not in self.texts:
            self.texts[content_type] = encode(self).removesuffix(_END)
        return self.texts[content_type]


class Exposition:
    """All metrics: those of ``registry``, and large families beside them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._parts: list[_Part[object]] = []

    def add(self, read: Callable[[], T], told: Callable[[T], Iterable[Metric]]) -> None:
        """Families with many series: made by ``told`` of what ``read`` gives, whenever that is another value.

        ``read`` returns a value that compares by what is in it, and that nobody changes.
        """
        self._parts.append(_Part(read, told))  # type: ignore[arg-type]  # each part is fed by its own read alone

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, for an Accept header."""
        encode, content_type = choose_encoder(accept)
        large = [part.text(encode, content_type) for part in self._parts]
        return b"".join((*large, encode(self.registry))), content_type
