"""The scriptable registry as a process, steered over a second port: what the demo and benchmarks start.

``python -m tests.support.registry --models five`` prints one line of JSON (host, control URL, models) and serves until
it is ended. ``POST <control>/throttle {"bytes_per_second": 1e6}`` calls that method of the registry, ``GET <control>/``
tells what it was asked.
"""

import argparse
import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.models import MIB, Model, five_models, synthetic_model
from tests.support.registry import ModelHandle, ScriptedRegistry

_METHODS = frozenset(
    {"answer", "drop_after", "drop_connections", "expire", "flip", "forget_requests", "heal", "stall", "throttle"}
)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = _options()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with ScriptedRegistry(like_ollama=options.like_ollama, port=options.port) as registry:
        models = [registry.add(model) for model in _models(options)]
        with _control(registry, options.control_port) as control_url:
            print(json.dumps(_introduction(registry, control_url, models)), flush=True)
            ended.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.support.registry", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the registry; 0: any free one")
    parser.add_argument("--control-port", type=int, default=0, help="where it is steered; 0: any free one")
    parser.add_argument("--models", choices=["five", "one", "none"], default="five", help="one: synthetic, no GGUF")
    parser.add_argument("--weights-mib", type=int, default=1, help="about the size of each model's weights")
    parser.add_argument("--like-ollama", action="store_true", help="answer as Ollama's registry does")
    return parser.parse_args()


def _models(options: argparse.Namespace) -> list[Model]:
    size = options.weights_mib * MIB
    match options.models:
        case "five":
            return five_models(size)
        case "one":
            return [synthetic_model(weights_bytes=size)]
        case _:
            return []


def _introduction(registry: ScriptedRegistry, control_url: str, models: list[ModelHandle]) -> dict[str, Any]:
    return {
        "host": registry.host,
        "url": registry.url,
        "control": control_url,
        "models": [
            {
                "name": model.name,
                "digest": model.digest,
                "size": model.size,
                "weights": model.weights,
                "blobs": {digest: blob.size for digest, blob in model.blobs.items()},
            }
            for model in models
        ],
    }


def _counts(registry: ScriptedRegistry) -> dict[str, Any]:
    return {
        "requests": len(registry.requests),
        "manifest_requests": len(registry.manifest_requests()),
        "blob_requests": len(registry.blob_requests()),
        "bytes": registry.bytes_served(),
        "served": {digest: registry.bytes_served(digest) for digest in registry.shelves.blobs},
        "fired": [rule.fired for rule in registry.shelves.rules],
    }


@contextlib.contextmanager
def _control(registry: ScriptedRegistry, port: int) -> Iterator[str]:
    class Control(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(200, _counts(registry))

        def do_POST(self) -> None:
            method = self.path.strip("/")
            arguments = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            if method not in _METHODS:
                self._reply(404, {"error": f"not one of {sorted(_METHODS)}"})
                return
            try:
                getattr(registry, method)(**arguments)
            except TypeError as error:
                self._reply(400, {"error": str(error)})
            else:
                self._reply(200, {})

        def log_message(self, *_: Any) -> None:
            """Nothing: stdout is for the introduction, stderr for what goes wrong."""

        def _reply(self, status: int, value: dict[str, Any]) -> None:
            raw = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    with ThreadingHTTPServer(("127.0.0.1", port), Control) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,), name="control")
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


if __name__ == "__main__":
    main()
