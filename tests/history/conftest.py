"""What these tests share."""

from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon


@pytest.fixture
def host(tmp_path: Path) -> RunningDaemon:
    """No daemon runs unless the test starts it."""
    made = RunningDaemon(tmp_path / "host")
    made.folder.mkdir()
    made.write_settings("")
    return made
