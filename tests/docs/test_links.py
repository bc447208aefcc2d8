"""Links of README and docs lead somewhere, and no page names a place of the machine that it was written on."""

import re
import sys
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((CHECKOUT / "docs").rglob("*.md"))
_FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\((?P<target>[^()\s]+)\)")
_EVERYBODYS = {Path(path) for path in ("/", "/opt", "/srv", "/root", "/usr/src", "/var/lib", "/tmp")}
_ELSEWHERE = re.compile(r"[a-z]+:")


def prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text())


def links(page: Path) -> list[str]:
    return [match["target"] for match in _LINK.finditer(_SPAN.sub("", prose(page)))]


@cache
def anchors(page: Path) -> frozenset[str]:
    """As GitHub makes them of headings: a second one of the same name is numbered."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = found[anchor] = found.get(anchor, -1) + 1
        if count:
            found[f"{anchor}-{count}"] = 0
    return frozenset(found)


def broken(page: Path) -> list[str]:
    wrong = []
    for target in links(page):
        if _ELSEWHERE.match(target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_a_page_names_no_place_of_this_machine(page: Path) -> None:
    places = {CHECKOUT, CHECKOUT.parent, *([Path(sys.prefix)] if sys.prefix != sys.base_prefix else [])} - _EVERYBODYS
    text = page.read_text()

    assert [str(place) for place in places if re.search(rf"{re.escape(str(place))}(?![\w.-])", text)] == []
    assert re.findall(r"/(?:home|Users)/[a-z]\w*", text) == []


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Other\n## A `part`, twice\n## A part twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n[a](other.md) [b](other.md#a-part-twice-1) [c](#page) [d](https://example.com/x) `[e](in-code.md)`\n"
        "[f](gone.md) [g](other.md#gone) [h](#gone)\n"
    )

    assert broken(page) == ["gone.md", "other.md#gone", "#gone"]


def test_every_page_is_in_the_index() -> None:
    index = CHECKOUT / "docs" / "README.md"
    listed = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}

    assert [page.name for page in index.parent.glob("*.md") if page != index and page.resolve() not in listed] == []
