"""A store for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.store.root import Store


@pytest.fixture
def store(store_path: Path) -> Iterator[Store]:
    with Store.open(store_path, create=True) as opened:
        yield opened
