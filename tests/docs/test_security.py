"""Every test that docs/security.md says holds an attack off is there."""

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "security.md").read_text()


def test_every_attack_is_held_off_by_tests_that_are_there() -> None:
    there = {
        name
        for file in (CHECKOUT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    _, _, table = PAGE.partition("## Attacks, and what holds each\n")
    rows = table.splitlines()[2:]
    named = [re.findall(r"`(test_\w+)`", row) for row in rows]

    assert len(rows) > 25
    assert [row for row, tests in zip(rows, named, strict=True) if not tests] == []
    assert sorted({name for tests in named for name in tests} - there) == []
