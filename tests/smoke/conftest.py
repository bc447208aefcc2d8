from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.smoke.world import Smoker, place
from tests.support.models import build_model
from tests.support.standin import StandIn

_WEIGHTS = 64 * 1024  # bytes: a stand-in reads them, and makes nothing of them


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model that makes text and one that makes embeddings."""
    names = ("mistral:7b", "nomic-embed-text:v1.5")
    return place(tmp_path_factory.mktemp("store") / "models", [build_model(name, _WEIGHTS) for name in names])


@pytest.fixture
def server(models: Path) -> Iterator[StandIn]:
    with StandIn(models, prune=False) as running:
        yield running


@pytest.fixture
def other(models: Path) -> Iterator[StandIn]:
    with StandIn(models, prune=False) as running:
        yield running


@pytest.fixture
def smoke(tmp_path: Path) -> Smoker:
    return Smoker(tmp_path)
