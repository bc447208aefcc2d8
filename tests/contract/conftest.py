"""Servers to hold a contract against."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ollama_binary import OllamaBinary
from tests.support.ollama_servers import Server, Start
from tests.support.standin import StandIn

_KINDS = ["stand-in"] if OllamaBinary.path() is None else ["stand-in", "ollama"]


@pytest.fixture(params=_KINDS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts servers of the kind at hand, over stores of the test's choice."""
    running: list[Server] = []

    def begin(store: Path, *, prune: bool = True) -> Server:
        server: Server
        if request.param == "ollama":
            server = OllamaBinary(store, tmp_path, prune=prune)
        else:
            server = StandIn(store, prune=prune)
        server.__enter__()
        running.append(server)
        return server

    yield begin
    for server in running:
        server.__exit__(None, None, None)


@pytest.fixture
def store(store_path: Path) -> Path:
    """An empty store."""
    (store_path / "blobs").mkdir(parents=True)
    (store_path / "manifests").mkdir()
    return store_path
