"""Settings that README and docs show can be used as they stand, and shells understand what they are given."""

import re
import subprocess
from pathlib import Path

import pytest

from syncd.daemon.loaded import load

CHECKOUT = Path(__file__).parents[2]
PAGES = (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))
_BLOCK = re.compile(r"^```(?P<kind>toml|sh)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[object]:
    return [
        pytest.param(match["text"], id=f"{page.name}-{page.read_text().count(chr(10), 0, match.start()) + 1}")
        for page in PAGES
        for match in _BLOCK.finditer(page.read_text())
        if match["kind"] == kind
    ]


@pytest.mark.parametrize("text", blocks("toml"))
def test_settings_on_a_page_can_be_used(tmp_path: Path, text: str) -> None:
    file = tmp_path / "syncd.toml"
    file.write_text(text)

    assert load(file, {}).path == file


@pytest.mark.parametrize("text", blocks("sh"))
def test_a_shell_understands_what_a_page_has_one_type(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_settings_are_found() -> None:
    assert len(blocks("toml")) >= 4
    assert len(blocks("sh")) >= 5
