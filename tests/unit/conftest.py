import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.store.root import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "models", create=True) as opened:
        yield opened


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)
