"""What a measurement found, and how it is written down. Pure."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure, measured several times, in one unit."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def spread(self, unit: str, digits: int = 2) -> str:
        """Median and extremes, for people."""
        if len(self.values) == 1:
            return f"{self.median:.{digits}f} {unit}"
        return f"{self.median:.{digits}f} {unit} ({min(self.values):.{digits}f} to {max(self.values):.{digits}f})"


@dataclass(frozen=True, slots=True)
class Goal:
    """What was asked for and what was found. ``met`` is None for a figure that only informs."""

    wanted: str
    found: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Section:
    """One measurement: its goals, its raw figures as rows under ``columns``, and what one has to know to read them."""

    title: str
    goals: Sequence[Goal]
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()


def size_text(size: int) -> str:
    """``2 GiB``, ``256 MiB``."""
    return f"{size // GIB} GiB" if size % GIB == 0 else f"{size // MIB} MiB"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def verdict(goal: Goal) -> str:
    return {True: "met", False: "**missed**", None: "informs"}[goal.met]


def summary(sections: Iterable[Section]) -> str:
    """One line: how many goals are met, and which are not."""
    goals = [goal for section in sections for goal in section.goals if goal.met is not None]
    missed = [f"{goal.wanted} (found {goal.found})" for goal in goals if not goal.met]
    counted = f"{len(goals) - len(missed)} of {len(goals)} goals met"
    return counted + (f"; missed: {'; '.join(missed)}" if missed else "")
