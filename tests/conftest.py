"""What every test can ask for: a scriptable registry, Debian's docker-registry, an empty place for a store."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.docker_registry import BINARY, DockerRegistry
from tests.support.ollama_binary import VARIABLE, OllamaBinary
from tests.support.registry import ScriptedRegistry

# Who starts the tests in the background may have these ignored, and every process that a test starts would inherit it.
for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)


class OneMachine(LoadScopeScheduling):
    """Tests go to whichever of xdist's workers is free; those that share a machine or an Engine go to one."""

    def _split_scope(self, nodeid: str) -> str:
        return next((shared[0] for shared in _SHARED if nodeid.startswith(shared)), nodeid)


# What a booted machine, an Engine and a Prometheus are started for; archives made for, once for both; code read for.
_SHARED = (
    ("tests/systemd/",),
    ("tests/docker/",),
    ("tests/image/",),
    ("tests/monitoring/test_prometheus",),
    ("tests/packaging/test_archives", "tests/packaging/test_wheel"),
    ("tests/docs/test_reference",),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneMachine:
    # Not xdist's own groups: xdist 3.8 does not see them under pytest 9.
    return OneMachine(config, log)


def pytest_report_header() -> str:
    """Said once and not for every test: no binary of it can be in the repository."""
    if OllamaBinary.path() is None:
        return f"{VARIABLE} names no Ollama server: the stand-in for it is not held against a real one"
    return f"the stand-in for Ollama and {OllamaBinary.path()} are held to one contract"


@pytest.fixture(autouse=True)
def _logs_as_new() -> Iterator[None]:
    """What a command that ran in this process made of the logs is not for the next test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    """A scriptable registry of the test's own."""
    with ScriptedRegistry() as running:
        yield running


@pytest.fixture
def ollama_registry() -> Iterator[ScriptedRegistry]:
    """A scriptable registry that answers as Ollama's does."""
    with ScriptedRegistry(like_ollama=True) as running:
        yield running


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """Debian's docker-registry, one per test process."""
    if not DockerRegistry.is_installed():
        message = f"{BINARY} is not installed (Debian: apt install docker-registry)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with DockerRegistry(tmp_path_factory.mktemp("docker-registry")) as running:
        yield running


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Where a store may be made: nothing is there yet."""
    return tmp_path / "models"


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """In memory where that can be: a kill is a kill, however slow the disk is."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="syncd-test-", dir=memory if os.access(memory, os.W_OK) else None
    ) as folder:
        yield Path(folder).resolve()
