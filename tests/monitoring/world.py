"""What these tests share: the files of monitoring/ as data, and a real Prometheus."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml

from tests.support.daemon import ROOT, eventually
from tests.support.ports import free_port

MONITORING = ROOT / "monitoring"
RULES = (MONITORING / "recording.yml", MONITORING / "alerts.yml")
CASES = tuple(
    ROOT / "tests" / "monitoring" / name for name in ("alerts.test.yml", "alerts_long.test.yml", "alerts_days.test.yml")
)
RUNBOOK = ROOT / "docs" / "runbook.md"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "syncd.json"

_STOP_SECONDS = 45.0


def load(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text())


def rules(path: Path, kind: str) -> dict[str, dict[str, Any]]:
    """The rules of a file by name. ``kind``: ``alert`` or ``record``."""
    every = [rule for group in load(path)["groups"] for rule in group["rules"] if kind in rule]
    named = {rule[kind]: rule for rule in every}
    assert len(named) == len(every), "two rules of one name"
    return named


@dataclass(frozen=True, slots=True)
class Query:
    """An expression of the dashboard. ``panel``: its title."""

    panel: str
    ref: str
    expr: str

    def __str__(self) -> str:
        return f"{self.panel}, {self.ref}"

    @property
    def filled(self) -> str:
        """With Grafana's variables as they are when all is chosen, for a Prometheus that scrapes every second."""
        values = {"host": ".*", "model": ".*", "__rate_interval": "10s", "__range": "5m"}
        return re.sub(r"\$(\w+)", lambda found: values[found[1]], self.expr)


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> Iterator[dict[str, Any]]:
    """Those of the dashboard that show something."""
    return (panel for panel in dashboard()["panels"] if panel["type"] != "row")


def queries() -> list[Query]:
    """Of the dashboard, the one behind its annotations aside."""
    return [Query(panel["title"], one["refId"], one["expr"]) for panel in panels() for one in panel["targets"]]


def program(name: str) -> str:
    """Where this program of Debian's package prometheus is."""
    found = shutil.which(name)
    if found is None:
        assert not os.environ.get("CI"), f"{name} is not installed (Debian: apt install prometheus)"
        pytest.skip(f"NOT RUN: {name} is not installed (Debian: apt install prometheus)")
    return found


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it; whatever it says is in ``stdout``."""
    return subprocess.run(
        [program("promtool"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )


@dataclass(slots=True)
class Prometheus:
    """A real one, as ``monitoring/prometheus.yml`` has it, but for how often and whom it scrapes. A context manager."""

    folder: Path
    target: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir()
        config = load(MONITORING / "prometheus.yml")
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
        (job,) = config["scrape_configs"]
        job["static_configs"] = [{"targets": [self.target]}]
        written = self.folder / "prometheus.yml"
        written.write_text(yaml.safe_dump(config))
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={written}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            eventually(lambda: self.series("up == 1"), seconds=60)
        except BaseException as error:
            self._end(signal.SIGKILL)
            raise AssertionError(f"no sample came in; the log:\n{self.log()}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(_STOP_SECONDS)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of a good answer of its API. Anything else is an ``OSError``."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.loads(answer.read())["data"]

    def series(self, expr: str) -> list[Any]:
        """What an expression comes to now, one for each series."""
        found: list[Any] = self.ask("query", query=expr)["result"]
        return found

    def has_shown(self, expr: str) -> bool:
        """Whether a graph of the last minutes has a number in it."""
        now = float(self.ask("query", query="time()")["result"][1])
        asked = self.ask("query_range", query=expr, start=str(now - 240), end=str(now), step="1")
        return any(value != "NaN" for series in asked["result"] for _, value in series["values"])
