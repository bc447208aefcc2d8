"""What runs in containers whose content does not matter: a Python that tells of signals, and ends when asked."""

import sys

from tests.docker.engine import DockerEngine

_PROGRAM = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.signal(signal.SIGHUP, lambda *_: print("hung up", flush=True))
print("ready", flush=True)
while True:
    signal.pause()
"""

COMMAND = (sys.executable, "-c", _PROGRAM)


def ready(docker: DockerEngine, container: str, *, times: int = 1) -> None:
    """Wait until it has begun for the ``times``-th time."""
    docker.until(lambda: docker.output(container).count("ready") >= times, f"{container} has begun {times} times")
