"""The runbook: an entry for each alert and none besides, and no command in it that there is not."""

import re

import click
import pytest

from syncd.cli.main import syncd
from tests.monitoring.world import RULES, RUNBOOK, rules

ALERTS = rules(RULES[1], "alert")
TEXT = RUNBOOK.read_text()
_COMMAND = re.compile(r"`(syncd [^`]+)`")


def entries() -> dict[str, str]:
    """What stands under each heading of the third level."""
    _, *parts = re.split(r"^### (.+)$", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors() -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", TEXT, flags=re.MULTILINE)}


def test_every_alert_has_an_entry_and_every_entry_an_alert() -> None:
    assert list(entries()) == list(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_links_to_its_entry(alert: str) -> None:
    page, _, where = ALERTS[alert]["annotations"]["runbook_url"].partition("#")

    assert page == "docs/runbook.md"
    assert where == anchor(alert)
    assert where in anchors()


@pytest.mark.parametrize("alert", ALERTS)
def test_an_entry_says_how_bad_where_to_look_what_to_do_and_when_it_clears(alert: str) -> None:
    text = entries()[alert]

    assert text.strip().startswith(f"**{ALERTS[alert]['labels']['severity'].capitalize()}.**")
    for part in ("- Look:", "- Do:", "- Clears"):
        assert part in text


def test_links_within_the_page_lead_somewhere() -> None:
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors()


@pytest.mark.parametrize("command", sorted(set(_COMMAND.findall(TEXT))))
def test_a_command_of_the_runbook_is_one(command: str) -> None:
    context = click.Context(syncd, info_name="syncd")
    words = command.split()[1:]
    found: click.Command = syncd
    while isinstance(found, click.Group):
        assert words, f"{command!r} names no command"
        inner = found.get_command(context, words.pop(0))
        assert inner is not None, f"there is no {command!r}"
        found = inner
    options = {option for parameter in found.get_params(context) for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options
