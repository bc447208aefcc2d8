"""What the crash tests share."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.scene import Puller, Scene
from tests.support.registry import ScriptedRegistry


@pytest.fixture(scope="session")
def puller() -> Iterator[Puller]:
    """A process per worker of xdist that forks pulls."""
    with Puller() as started:
        yield started


@pytest.fixture(scope="session")
def quick_folder() -> Iterator[Path]:
    """In memory where that can be: a fault is injected into the call, so what is below it need not be slow."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="syncd-crash-", dir=memory if os.access(memory, os.W_OK) else None))
    yield folder.resolve()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def scene(puller: Puller, quick_folder: Path) -> Iterator[Scene]:
    with ScriptedRegistry() as registry:
        yield Scene(registry, puller, quick_folder)
