"""What these tests share: a Docker Engine whose containers have a loopback of their own, and the image, built once."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.engine import DockerEngine, needs_docker
from tests.image.network import BEFORE
from tests.image.world import Docker, build, import_base
from tests.support.registry import ScriptedRegistry
from tests.systemd.machine import needs_debians_python

# What Docker hands a container with a GPU to. It finds no GPU here, and what it was told of is seen in the container.
_HOOK = "nvidia-container-runtime-hook"
_ROOM = 4 * 2**30  # bytes; the images and what is built take less than one GiB


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """An Engine without images but those of the tests, on which GPUs can be reserved."""
    needs_docker()
    needs_debians_python()
    programs = tmp_path_factory.mktemp("programs")
    hook = programs / _HOOK
    hook.write_text("#!/bin/sh\nexit 0\n")
    hook.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    folder = Path(tempfile.mkdtemp(prefix="syncd-docker-", dir=roomy()))
    with DockerEngine(folder, before=BEFORE, environment={**os.environ, "PATH": path}) as engine:
        yield Docker(engine)


def roomy() -> str | None:
    """Memory, for the Engine's images: tens of thousands of files that are soon gone. None: the usual place."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > _ROOM else None


@pytest.fixture(scope="session")
def image(docker: Docker) -> Iterator[str]:
    """What the build of the image printed."""
    with tempfile.TemporaryDirectory(prefix="syncd-image-") as name:
        folder = Path(name)
        import_base(docker, folder / "base")
        yield build(docker, folder, VERSION="1.2.3", REVISION="abc", CREATED="2026-01-02T03:04:05Z")


@pytest.fixture(scope="module")
def near(docker: Docker) -> Iterator[ScriptedRegistry]:
    """A registry that the containers can reach."""
    with docker.network():
        running = ScriptedRegistry()
        running.__enter__()
    try:
        yield running
    finally:
        running.__exit__(None, None, None)
