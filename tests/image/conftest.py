"""What these tests share: one Docker Engine whose containers have a loopback of their own, and the image, built once."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.engine import DockerEngine, needs_docker
from tests.image.network import BEFORE
from tests.image.world import Docker, build, import_base
from tests.systemd.machine import needs_debians_python


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """An Engine without images but those of the tests."""
    needs_docker()
    needs_debians_python()
    with DockerEngine(before=BEFORE) as engine:
        yield Docker(engine)


@pytest.fixture(scope="session")
def image(docker: Docker) -> str:
    """What the Dockerfile makes; what its build printed."""
    import_base(docker)
    with tempfile.TemporaryDirectory(prefix="syncd-image-") as folder:
        return build(docker, Path(folder), VERSION="1.2.3", REVISION="abc", CREATED="2026-01-02T03:04:05Z")
