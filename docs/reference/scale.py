"""docs/scale.md: scale.md.in, with the figures that docs/benchmarks.md has found."""

import re
from pathlib import Path

from syncd.daemon.server_settings import MAX_INSTANCES
from syncd.daemon.settings import MAX_CONNECTIONS, MAX_MODELS

_HERE = Path(__file__).parent
_FIGURE = re.compile(r"\{(?P<measurement>[^{}|]+)\|(?P<goal>[^{}]+)\}")
_BOUNDS = {"MAX_MODELS": MAX_MODELS, "MAX_INSTANCES": MAX_INSTANCES, "MAX_CONNECTIONS": MAX_CONNECTIONS}


class NoFigureError(Exception):
    """The benchmarks have no row for what the page speaks of."""


def page() -> str:
    """The whole page. Raise ``NoFigureError``."""
    found = figures((_HERE.parent / "benchmarks.md").read_text())

    def figure(match: re.Match[str]) -> str:
        key = (match["measurement"].strip(), match["goal"].strip())
        if key not in found:
            raise NoFigureError(f"docs/benchmarks.md has no row {' | '.join(key)}")
        return found[key]

    text = _FIGURE.sub(figure, (_HERE / "scale.md.in").read_text())
    for name, value in _BOUNDS.items():
        text = text.replace(f"{{{name}}}", f"{value:,}")
    return text


def figures(benchmarks: str) -> dict[tuple[str, str], str]:
    """What was found, by measurement and goal: the first table of the page."""
    rows = benchmarks.partition("| measurement |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return {(measurement, goal): found for measurement, goal, found, *_ in cells}
