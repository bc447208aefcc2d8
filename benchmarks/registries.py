"""The servers that models come from: Debian's docker-registry, nginx over a static tree, and a relay that paces."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

from benchmarks.world import MANIFEST_TYPE, BenchmarkError, Model, World, ask, free_port, server

_DOCKER_REGISTRY = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: "{root}"}}}}
http: {{addr: "{host}"}}
"""

_NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {host};
        root {folder}/tree;
        location = /v2/ {{ return 200; }}
        location ~ /manifests/ {{ default_type {manifest}; }}
        location ~ /blobs/ {{ default_type application/octet-stream; {throttle} }}
    }}
}}
"""
_TICK = 0.01  # seconds between two portions of a paced connection
_LATENESS = 0.2  # seconds that a paced connection may be behind


@contextmanager
def docker_registry(world: World, models: Sequence[Model]) -> Iterator[str]:
    """``host:port`` of a docker-registry that has these models; their big files are linked into its storage."""
    with world.fresh("registry") as folder:
        root = folder / "docker/registry/v2"
        for model in models:
            for digest, file in model.files.items():
                place = root / "blobs/sha256" / digest[:2] / digest
                if not place.exists():  # models may share a blob
                    place.mkdir(parents=True)
                    os.link(file, place / "data")
                link = root / "repositories" / model.repository / "_layers/sha256" / digest / "link"
                link.parent.mkdir(parents=True)
                link.write_text(f"sha256:{digest}")
        host = f"127.0.0.1:{free_port()}"
        configuration = folder / "config.yml"
        configuration.write_text(_DOCKER_REGISTRY.format(root=folder, host=host))
        with server(["docker-registry", "serve", str(configuration)], host, folder / "log"):
            for model in models:
                status = ask(host, "PUT", f"/v2/{model.repository}/manifests/latest", model.manifest)
                if status != HTTPStatus.CREATED:
                    raise BenchmarkError(f"docker-registry answers {status} to the manifest of {model.name}")
            yield host


@contextmanager
def nginx(world: World, model: Model, *, rate: int | None) -> Iterator[str]:
    """``host:port`` of an nginx that serves this model from a static tree, at ``rate`` bytes a second per request."""
    with world.fresh("nginx") as folder:
        tree = folder / "tree/v2" / model.repository
        (tree / "blobs").mkdir(parents=True)
        (tree / "manifests").mkdir()
        (tree / "manifests/latest").write_bytes(model.manifest)
        for digest, file in model.files.items():
            os.link(file, tree / "blobs" / f"sha256:{digest}")
        host = f"127.0.0.1:{free_port()}"
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _NGINX.format(
                # As root nginx would change to a user that may not enter our folder.
                user="user root;" if os.geteuid() == 0 else "",
                folder=folder,
                host=host,
                manifest=MANIFEST_TYPE,
                throttle=f"limit_rate {rate};" if rate else "",
            )
        )
        binary = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") or "nginx"
        with server([binary, "-c", str(configuration), "-p", str(folder)], host, folder / "error.log"):
            yield host


@contextmanager
def paced(upstream: str, rate: int) -> Iterator[str]:
    """``host:port`` of a relay to ``upstream`` where each connection gets ``rate`` bytes a second, with no burst."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    accepting = threading.Thread(target=_accept, args=(listener, upstream, rate), name="relay", daemon=True)
    accepting.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread, which close alone does not
        listener.close()
        accepting.join()


def _accept(listener: socket.socket, upstream: str, rate: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_relay, args=(client, upstream, rate), daemon=True).start()


def _relay(client: socket.socket, upstream: str, rate: int) -> None:
    name, _, port = upstream.partition(":")
    with client, socket.create_connection((name, int(port))) as there, suppress(OSError):
        asking = threading.Thread(target=_copy, args=(client, there), daemon=True)
        asking.start()
        _paced_copy(there, client, rate)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        asking.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)


def _paced_copy(source: socket.socket, target: socket.socket, rate: int) -> None:
    """Portions of a tick's worth. What this thread sleeps too long it makes up for; what nobody asked for is lost."""
    buffer = memoryview(bytearray(max(int(rate * _TICK), 1)))
    free_at = time.monotonic()
    while True:
        asked = time.monotonic()
        count = source.recv_into(buffer)
        now = time.monotonic()
        if not count:
            return
        earned = _TICK if now - asked > _TICK else _LATENESS
        free_at = max(free_at, now - earned) + count / rate
        if free_at > now:
            time.sleep(free_at - now)
        target.sendall(buffer[:count])


def blob_path(model: Model) -> str:
    """Where a registry has the model's weights."""
    return f"/v2/{model.repository}/blobs/{model.weights.digest}"


def reference(host: str, model: Model) -> str:
    """What ``syncd pull`` calls it."""
    return f"{host}/{model.repository}:latest"


def blobs_folder(store: Path) -> Path:
    """Where a store has its blobs."""
    return store / "blobs"
