"""The stand-in as a process: ``python -m tests.support.standin --models DIR --port PORT``.

Prints one line of JSON (its URL) and serves until it is ended. Steered on the same port: ``POST /_standin/orders
{"what": "hang", "paths": ["/api/generate"], "model": "mistral:7b", "times": 1}``, ``DELETE /_standin/orders``,
``POST /_standin/die``, ``POST /_standin/forget``; ``GET /_standin/`` counts, ``GET /_standin/requests`` lists.
"""

import argparse
import asyncio
import json
import math
import os
import sys
from pathlib import Path

from tests.support.standin.calls import seconds
from tests.support.standin.settings import HOUR, Settings
from tests.support.standin.standin import serve

_KILLED = 137  # exit status of what SIGKILL ended


def main() -> int:
    """Serve until SIGTERM or SIGINT; exit status 1 where an Ollama server would not start."""
    options = _options()
    settings = Settings(
        models=options.models,
        host=options.host,
        port=options.port,
        prune=not options.no_prune,
        grace=options.grace,
        keep_alive=math.inf if options.keep_alive < 0 else options.keep_alive,
        num_ctx=options.num_ctx,
        max_loaded=options.max_loaded,
        version=options.version,
        slow_load=options.slow_load,
        token_seconds=options.token_seconds,
        registry=options.registry,
        part_bytes=options.part_bytes,
        verify_seconds=options.verify_seconds,
    )
    try:
        asyncio.run(
            serve(
                settings,
                announce=lambda url: print(json.dumps({"url": url}), flush=True),
                die=lambda: os._exit(_KILLED),
            )
        )
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.Namespace:
    environment = os.environ
    parser = argparse.ArgumentParser(prog="python -m tests.support.standin", description=__doc__)
    models = environment.get("OLLAMA_MODELS")
    parser.add_argument("--models", type=Path, default=models, required=models is None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--no-prune", action="store_true", default=environment.get("OLLAMA_NOPRUNE") in ("1", "true"))
    parser.add_argument("--grace", type=float, default=HOUR, help="seconds that unreferenced blobs are left at start")
    keep_alive = seconds(environment.get("OLLAMA_KEEP_ALIVE", "5m"))
    parser.add_argument("--keep-alive", type=float, default=keep_alive, help="seconds; negative: for ever")
    parser.add_argument("--num-ctx", type=int, default=4096)
    parser.add_argument("--max-loaded", type=int, default=0, help="0: no limit")
    parser.add_argument("--version", default="0.12.6", help="that it says it has")
    parser.add_argument("--slow-load", type=float, default=0.0, help="seconds of every load")
    parser.add_argument("--token-seconds", type=float, default=0.0, help="seconds of every token")
    parser.add_argument("--registry", default="", help="origin that stands for registry.ollama.ai")
    parser.add_argument("--part-bytes", type=int, default=100_000_000, help="smallest range of its own pulls")
    parser.add_argument("--verify-seconds", type=float, default=0.0, help="what its own pulls take to verify a blob")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
