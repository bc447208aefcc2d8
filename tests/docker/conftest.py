"""What these tests share: one Docker Engine of their own, without containers at the beginning of each."""

from collections.abc import Iterator

import pytest

from tests.docker.engine import DockerEngine, needs_docker


@pytest.fixture(scope="session")
def running_engine() -> Iterator[DockerEngine]:
    """Started once: that takes a second."""
    needs_docker()
    with DockerEngine() as running:
        yield running


@pytest.fixture
def docker(running_engine: DockerEngine) -> Iterator[DockerEngine]:
    """An Engine without containers."""
    yield running_engine
    running_engine.clear()
