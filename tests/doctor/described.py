"""docs/doctor.md is made from the kinds of findings: ``python -m tests.doctor.described`` writes it anew."""

from itertools import groupby
from pathlib import Path

from syncd.jobs.doctor import KINDS
from syncd.jobs.doctor_kind import Area, Kind

FILE = Path(__file__).parents[2] / "docs" / "doctor.md"
_HEAD = """\
# What `syncd doctor` finds

`syncd doctor` looks at store, servers, host and settings, with a daemon and without one. It reads no blob: rot is found
by `syncd scrub` and `syncd verify`, and what those have found is told of here. `--fix` does what loses nothing: what it
takes out of sight lies in `.syncd/quarantine` afterwards, and what nobody can mend stays as it is. `--fix --dry-run`
shows the plan. `--offline` asks no registry what time it is; else the one or two that most models come from get one
request each, without credentials.

Exit code 0: nothing worse than a note remains. 6: errors remain in the store (the first two tables). 1: other errors,
or warnings, remain.

With `--json` each finding is a line: `{"event": "finding", "id", "area", "severity", "subject", "what", "why", "todo",
"fix"}`; each step of `--fix` is a line before it is done (`remedy`) and one after it (`treated`); the last line is
`doctored`, with counts of what remains. Ids stay the same from version to version. What is said of containers is known
where `[docker] url` names an Engine, and how they see the store where that is this host's; which version a model needs,
where its config says so (`requires`).
"""
_TITLES = {
    Area.MODELS: "Models: `manifests/` and `blobs/`",
    Area.STORE: "The store: its file system, and what lies in `.syncd`",
    Area.SERVERS: "Servers",
    Area.HOST: "The host",
    Area.SETTINGS: "Settings",
}


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for area, kinds in groupby(KINDS, key=lambda one: one.area):
        parts.append(f"\n## {_TITLES[area]}\n\n| id | | what it is, and why it matters | what to do | `--fix` |\n")
        parts.append("|---|---|---|---|---|\n")
        parts += map(_row, kinds)
    return "".join(parts)


def _row(kind: Kind) -> str:
    cells = (f"`{kind.id}`", kind.severity.value, f"{kind.title}: {kind.why}", kind.todo, kind.fix or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    FILE.write_text(page())
