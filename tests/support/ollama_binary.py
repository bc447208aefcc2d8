"""A real Ollama server as a process, where the machine has one: ``OLLAMA_BINARY`` names the file."""

import http.client
import os
import subprocess
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.support import llama_engine
from tests.support.ports import free_port

VARIABLE = "OLLAMA_BINARY"
_READY_SECONDS = 30.0
_END_SECONDS = 10.0
_NOWHERE = "http://127.0.0.1:9"  # nobody listens there: what it would fetch from outside fails at once


class OllamaBinary:
    """``ollama serve`` on a loopback port over ``models``; ``home`` takes keys, logs and engine. A context manager."""

    def __init__(self, models: Path, home: Path, *, prune: bool = True) -> None:
        self._models = models
        self._home = home
        self._prune = prune
        self._process: subprocess.Popen[bytes] | None = None
        self._engine_log = llama_engine.install(home)
        self._port = free_port()

    @staticmethod
    def path() -> str | None:
        return os.environ.get(VARIABLE)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Raise ``OSError`` if it ends before it answers."""
        environment = {
            "HOME": str(self._home),
            "PATH": os.environ.get("PATH", ""),
            "OLLAMA_HOST": f"127.0.0.1:{self._port}",
            "OLLAMA_MODELS": str(self._models),
            "OLLAMA_NOPRUNE": "0" if self._prune else "1",
            "HTTPS_PROXY": _NOWHERE,
        }
        with (self._home / "ollama.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.path()), "serve"],
                cwd=self._home,
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + _READY_SECONDS
        while not self._answers():
            if self._process.poll() is not None:
                raise OSError(f"ollama ended with {self._process.returncode}")
            if time.monotonic() > deadline:
                self.stop()
                raise OSError("ollama does not answer")
            time.sleep(0.02)  # it tells nobody when it listens

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()  # it ends its engines
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def restart(self) -> None:
        """Raise ``OSError`` as ``start`` does."""
        self.stop()
        self.start()

    @property
    def contexts(self) -> list[int]:
        """The context length of each load so far."""
        return [num_ctx for _, num_ctx in llama_engine.starts(self._engine_log)]

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=5)
        try:
            connection.request("GET", "/api/version")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()
