"""The shipped unit, before it runs: how much of the host it can reach, and that systemd reads it without a word."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from syncd.daemon.loaded import load

UNITS = Path(__file__).parents[2] / "systemd"
_HIGHEST_EXPOSURE = 15  # of 100


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        why = "NO UNIT WAS ANALYSED: systemd-analyze is not installed (Debian: apt install systemd)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    return found


def test_the_unit_is_exposed_as_little_as_a_service_with_a_network_can_be(systemd_analyze: str) -> None:
    done = _run(
        systemd_analyze, "security", "--offline=true", f"--threshold={_HIGHEST_EXPOSURE}", str(UNITS / "syncd.service")
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("drop_in", [None, "docker.conf", "store.conf"])
def test_verify_has_nothing_to_say(systemd_analyze: str, drop_in: str | None, tmp_path: Path) -> None:
    # The program need not be installed here: something that is stands for it.
    unit = tmp_path / "syncd.service"
    unit.write_text((UNITS / unit.name).read_text().replace("/usr/local/bin/syncd", "/bin/true"))
    if drop_in is not None:
        (tmp_path / "syncd.service.d").mkdir()
        shutil.copy(UNITS / drop_in, tmp_path / "syncd.service.d")

    done = _run(systemd_analyze, "verify", str(unit))

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_example_settings_can_be_used_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "syncd.toml"
    shutil.copy(UNITS / "syncd.toml", file)

    assert load(file, {}).settings.store == Path("/srv/ollama/models")


def test_every_line_that_the_example_settings_offer_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "syncd.toml"
    offered = re.sub(r"^# (?=\[|\w+ = )", "", (UNITS / "syncd.toml").read_text(), flags=re.MULTILINE)
    file.write_text(offered)

    settings = load(file, {}).settings

    assert set(settings.registries) == {"registry.example.com"}
    assert settings.control.token_file is not None
    assert len(settings.models) == 1


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
