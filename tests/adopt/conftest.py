"""Places that adoptions need."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.store.root import Store
from tests.adopt.world import lay
from tests.support.models import Model, build_model


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def mistral() -> Model:
    return build_model("mistral:7b", 64 * 1024)


@pytest.fixture(scope="session")
def llava() -> Model:
    """Shares its template with mistral."""
    return build_model("llava:7b", 64 * 1024)


@pytest.fixture
def source(tmp_path: Path, mistral: Model, llava: Model) -> Path:
    """Another Ollama's models folder, with two models."""
    return lay(tmp_path / "source", mistral, llava)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    """A file system that can reflink, on a loop device."""
    mkfs = shutil.which("mkfs.btrfs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if mkfs is None or os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("reflinks are tested with mkfs.btrfs and by root only")
    image, mount = tmp_path / "btrfs.img", tmp_path / "btrfs"
    with image.open("wb") as file:
        file.truncate(256 * 1024 * 1024)
    mount.mkdir()
    subprocess.run([mkfs, "-q", image], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], check=False, capture_output=True).returncode != 0:
        pytest.skip("btrfs cannot be mounted here")
    yield mount
    subprocess.run(["umount", mount], check=True)
