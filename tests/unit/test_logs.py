"""What a log event looks like to whoever reads it: journald's lines, and JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pull.world import ROOT

_LOGS = """
import os, sys
from pathlib import Path
import structlog
from syncd.cli import logs
logs.configure_service(0, sys.stderr, os.environ)
structlog.get_logger().info(
    "collection.put_off",
    why=("ollama-1 starts", "ollama-2 reloads"),
    models=["a:1"],
    doubts=(),
    chunks=frozenset({3}),
    store=Path("/srv/models"),
    names=("bad\\nname",),
    every=None,
    free=7,
)
"""


def _logged(into: Path, *, journal: bool) -> str:
    with into.open("w") as stream:
        found = os.fstat(stream.fileno())
        env = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT)}
        if journal:
            env["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
        subprocess.run((sys.executable, "-c", _LOGS), env=env, cwd=ROOT, stderr=stream, timeout=60, check=True)
    return into.read_text()


def test_journald_gets_several_values_as_people_write_them(tmp_path: Path) -> None:
    line = _logged(tmp_path / "log", journal=True)

    assert line == (
        '<6>collection.put_off why="ollama-1 starts, ollama-2 reloads" models=a:1 doubts="" chunks=3'
        " store=/srv/models names=bad\\nname every=None free=7\n"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("why", ["ollama-1 starts", "ollama-2 reloads"]),
        ("doubts", []),
        ("chunks", [3]),
        ("store", "/srv/models"),
        ("names", ["bad\\nname"]),
        ("every", None),
        ("free", 7),
    ],
)
def test_json_gets_lists_and_plain_values(tmp_path: Path, field: str, value: object) -> None:
    assert json.loads(_logged(tmp_path / "log", journal=False))[field] == value
