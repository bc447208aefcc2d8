"""Models, and a store that has them."""

from pathlib import Path

import pytest

from tests.bundles.world import filled
from tests.support.models import Model, build_model


@pytest.fixture(scope="session")
def mistral() -> Model:
    return build_model("mistral:7b", 256 * 1024)


@pytest.fixture(scope="session")
def llava() -> Model:
    """Shares its template with mistral."""
    return build_model("llava:7b", 64 * 1024)


@pytest.fixture
def store_path(tmp_path: Path, mistral: Model, llava: Model) -> Path:
    """A store that has both."""
    return filled(tmp_path / "models", mistral, llava)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Where another host's store may be made: nothing is there yet."""
    return tmp_path / "other"
