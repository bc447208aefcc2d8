"""The image, built for real: by Debian's Docker Engine, from a base image that is a small Debian with Python.

No registry is asked for images: a tree that debootstrap makes gets the name of the Dockerfile's FROM. pip has the
wheels of the lock files, fetched beforehand, from a server on loopback, as one with an index of one's own would.
"""

import functools
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.docker.engine import DockerEngine
from tests.image.network import entered
from tests.support.daemon import ROOT
from tests.systemd.machine import DEBIAN_PYTHON, debian_tree

IMAGE = "syncd:latest"
OWNER = 10001  # uid and gid in the image
SETTINGS = "/etc/syncd/syncd.toml"
STORE = "/srv/ollama/models"
LOCKS = ("requirements.lock", "requirements-image.lock")
# Debian's own, which builds by BuildKit without a plugin; another one may come first in PATH.
_DOCKER = "/usr/bin/docker"
_TREE = ("python3", "python3-venv", "ca-certificates")
_NOT_NEEDED = ("./var/lib/apt/lists/*", "./var/cache/apt/*", "./usr/share/doc/*", "./usr/share/locale/*", "./dev/*")
_PATH = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATIENCE = 300.0  # seconds
_EXTRA = ("./usr/local/bin/pip3.13", "./usr/local/lib/python3.13")  # what the tree does not have
BASES_PIP = ("/usr/local/bin/pip3.13", "/usr/local/lib/python3.13/site-packages/pip/__init__.py")


@dataclass(frozen=True, slots=True)
class Docker:
    """The ``docker`` command, told of one Engine, whose containers have a loopback of their own."""

    engine: DockerEngine

    @property
    def environment(self) -> dict[str, str]:
        """For whatever speaks to the Engine."""
        mine = {"DOCKER_HOST": self.engine.url, "DOCKER_CONFIG": str(self.engine.folder), "DOCKER_BUILDKIT": "1"}
        return {**os.environ, **mine}

    def __call__(self, *words: str, check: bool = True, stdin: Any = subprocess.DEVNULL) -> str:
        """What a ``docker`` command prints; errors too, where it may fail."""
        done = subprocess.run(
            (_DOCKER, *words),
            env=self.environment,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"docker {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.rstrip("\n") if check else (done.stdout + done.stderr).rstrip("\n")

    def inspect(self, name: str) -> Any:
        """A container or an image."""
        return json.loads(self("inspect", name))[0]

    def health(self, container: str) -> str:
        """``starting``, ``healthy`` or ``unhealthy``."""
        return str(self.inspect(container)["State"]["Health"]["Status"])

    def until(self, holds: Callable[[], object], told: Callable[[], object]) -> None:
        """Return once ``holds()`` is true. ``told()`` is what is said if that never comes."""
        deadline = time.monotonic() + _PATIENCE
        while not holds():
            assert time.monotonic() < deadline, told()
            time.sleep(0.2)  # each look is a process

    def network(self) -> Any:
        """This thread is where the containers are, while the context lasts."""
        return entered(self.engine.pid)

    def remove(self, *containers: str) -> None:
        """Them and the volumes that have no name."""
        for one in containers:
            self("rm", "--force", "--volumes", one, check=False)


def base_name() -> str:
    """What the Dockerfile builds from."""
    found = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def import_base(docker: Docker, folder: Path) -> None:
    """A Debian of this host's release with its Python, under the name of the Dockerfile's base.

    ``folder``: an empty one. A pip lies in it where the real base has one, so that it can be seen to go.
    """
    for path in BASES_PIP:
        file = folder / path.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    leave_out = [f"--exclude={pattern}" for pattern in _NOT_NEEDED]
    with (
        debian_tree(_TREE) as tree,
        subprocess.Popen(
            ("tar", "--create", *leave_out, f"--directory={tree}", ".", f"--directory={folder}", *_EXTRA),
            stdout=subprocess.PIPE,
        ) as tar,
    ):
        docker("import", "--change", _PATH, "-", base_name(), stdin=tar.stdout)
    assert tar.returncode == 0


def build(docker: Docker, folder: Path, **arguments: str) -> str:
    """What the build printed. ``folder``: an empty one, for the wheels."""
    wheels = folder / "wheels"
    _download(wheels, folder / "tools")
    with _served(docker, wheels) as url:
        settings = folder / "pip.conf"
        settings.write_text(f"[global]\nno-index = true\nfind-links = {url}\n")
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        secret = ("--secret", f"id=pip,src={settings}")
        return docker("build", "--progress=plain", "--network=host", *secret, *given, "--tag", IMAGE, str(ROOT))


def _download(wheels: Path, tools: Path) -> None:
    """The wheels of the locks for this Debian's Python, from wherever this host's pip gets its packages."""
    subprocess.run((DEBIAN_PYTHON, "-m", "venv", tools), check=True)
    locks = [word for lock in LOCKS for word in ("--requirement", str(ROOT / lock))]
    options = ("--quiet", "--require-hashes", "--only-binary=:all:", "--dest", wheels)
    subprocess.run((tools / "bin" / "python", "-m", "pip", "download", *options, *locks), check=True)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def _served(docker: Docker, folder: Path) -> Iterator[str]:
    with docker.network():
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    with server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,), name="wheels")
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            serving.join()
