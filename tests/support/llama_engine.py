"""The inference engine that a real Ollama server starts as ``llama-server``, without the inference.

With it Ollama's own scheduler can be watched on any machine. It reads the weights whole and answers with their SHA-256,
eight digits to a token: the words in which the stand-in answers too. Run as a script, by ``install``.
"""

import hashlib
import json
import shlex
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_HEX_PER_TOKEN = 8


def install(folder: Path) -> Path:
    """Put it where an Ollama server whose working folder is ``folder`` finds it. Return the log of its starts."""
    path = folder / "build/lib/ollama/llama-server"
    path.parent.mkdir(parents=True, exist_ok=True)
    log = folder / "engine.log"
    command = shlex.join([sys.executable, "-I", str(Path(__file__).resolve()), str(log)])
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)
    return log


def starts(log: Path) -> list[tuple[str, int]]:
    """For each load the weights' file name and the context length."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(name, int(num_ctx)) for name, num_ctx in map(str.split, lines)]


def main() -> None:
    """Serve until it is killed, which is how Ollama ends its runners."""
    log, *arguments = sys.argv[1:]
    if "--model" not in arguments:
        return  # asked for its devices: none
    weights = Path(arguments[arguments.index("--model") + 1])
    with Path(log).open("a") as file:
        file.write(f"{weights.name} {arguments[arguments.index('-c') + 1]}\n")
    contents = hashlib.sha256(weights.read_bytes()).hexdigest()
    tokens = [contents[start : start + _HEX_PER_TOKEN] for start in range(0, len(contents), _HEX_PER_TOKEN)]
    port = int(arguments[arguments.index("--port") + 1])
    with ThreadingHTTPServer(("127.0.0.1", port), _handler(tokens)) as server:
        server.serve_forever()


def _handler(tokens: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({"status": "ok"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize":
                self._reply({"tokens": list(range(1, 3))})
            elif self.path == "/v1/embeddings":
                self._reply({"data": [{"embedding": [0.6, 0.8]}], "usage": {"prompt_tokens": 1}})
            else:
                self._complete(int(body.get("n_predict", -1)))

        def log_message(self, *_: Any) -> None:
            """Nothing."""

        def _complete(self, limit: int) -> None:
            made = tokens[:limit] if limit > 0 else tokens
            lines: list[dict[str, Any]] = [{"content": token, "stop": False} for token in made]
            timings = {"prompt_n": 1, "prompt_ms": 1, "predicted_n": len(made), "predicted_ms": 1}
            stop_type = "limit" if len(made) < len(tokens) else "eos"
            lines.append({"content": "", "stop": True, "stop_type": stop_type, "timings": timings})
            self._send("text/event-stream", "".join(f"data: {json.dumps(line)}\n\n" for line in lines))

        def _reply(self, value: dict[str, Any]) -> None:
            self._send("application/json", json.dumps(value))

        def _send(self, kind: str, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

    return Handler


if __name__ == "__main__":
    main()
