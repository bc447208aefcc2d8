"""Servers to hold a contract against."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ollama_binary import VARIABLE, OllamaBinary
from tests.support.ollama_servers import Server, Start
from tests.support.standin import StandIn


@pytest.fixture(params=["stand-in", "ollama"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts servers of the kind at hand, over stores of the test's choice."""
    running: list[Server] = []
    if request.param == "ollama" and OllamaBinary.path() is None:
        pytest.skip(f"{VARIABLE} names no Ollama server: the stand-in is not held against a real one")

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
