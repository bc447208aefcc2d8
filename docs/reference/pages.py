"""Which pages there are, and what each consists of."""

from collections.abc import Callable, Mapping
from pathlib import Path

from structlog.testing import capture_logs

from docs.reference import errors, metrics, scale, settings

DOCS = Path(__file__).parents[1]

PAGES: Mapping[str, Callable[[], str]] = {
    "configuration.md": settings.page,
    "metrics.md": metrics.page,
    "errors.md": errors.page,
    "scale.md": scale.page,
}


def made(name: str) -> str:
    """What the page should be, by the code as it is."""
    with capture_logs():  # a daemon that is put together for its metrics has things to say
        return PAGES[name]()


def write() -> list[Path]:
    """Write every page that is not what it should be; those."""
    written = []
    for name in PAGES:
        path, text = DOCS / name, made(name)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            written.append(path)
    return written
