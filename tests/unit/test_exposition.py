"""The text of /metrics is always of now, and what is large is written only when it has changed."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from syncd.api.exposition import Exposition

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class Shelf:
    """Books and their pages."""

    def __init__(self) -> None:
        self.pages = {"one": 1.0}
        self.told = 0

    def families(self, pages: tuple[tuple[str, float], ...]) -> Iterator[Metric]:
        self.told += 1
        family = GaugeMetricFamily("pages", "Of each book.", labels=("book",))
        for book, number in pages:
            family.add_metric((book,), number)
        yield family


def shelf() -> tuple[Shelf, Exposition]:
    made, exposition = Shelf(), Exposition(CollectorRegistry())
    exposition.add(lambda: tuple(made.pages.items()), made.families)
    return made, exposition


def test_what_stays_the_same_is_written_once_and_what_changed_anew() -> None:
    books, exposition = shelf()

    first, again = exposition.render(""), exposition.render("")
    assert (first, books.told) == (again, 1)
    assert 'pages{book="one"} 1.0' in first[0].decode()

    books.pages["two"] = 2.0
    changed = exposition.render("")[0].decode()
    assert 'pages{book="two"} 2.0' in changed
    assert books.told == 2


def test_each_format_is_whole_and_ends_once() -> None:
    books, exposition = shelf()
    counter = Counter("sold", "Books.", registry=exposition.registry)
    counter.inc()

    for _ in range(2):
        text, content_type = exposition.render(OPEN_METRICS)
        families = {one.name: one for one in text_string_to_metric_families(text.decode())}
        assert content_type.startswith("application/openmetrics-text")
        assert text.count(b"# EOF") == 1
        assert {"pages", "sold"} <= families.keys()

    plain, content_type = exposition.render("text/plain")
    assert content_type.startswith("text/plain")
    assert b"# EOF" not in plain
    assert b"sold_total 1.0" in plain
    assert books.told == 2
