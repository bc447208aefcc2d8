from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.store.root import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "models", create=True) as opened:
        yield opened
