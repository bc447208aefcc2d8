"""What every measurement works in: a RAM-backed folder, generated models, and real servers that serve them."""

import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.figures import MIB

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER_TYPE = "application/vnd.ollama.image."
_READY_SECONDS = 20.0
_SLICE = 8 * MIB


class BenchmarkError(Exception):
    """A measurement that could not be made."""


@dataclass(frozen=True, slots=True)
class Blob:
    """``hex``: its SHA-256. ``size``: bytes."""

    media_type: str
    hex: str
    size: int

    @property
    def digest(self) -> str:
        return f"sha256:{self.hex}"

    def descriptor(self) -> dict[str, object]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Model:
    """``library/<name>:latest`` of one layer of random bytes. ``files`` holds its blobs by hex digest."""

    name: str
    manifest: bytes
    weights: Blob
    config: Blob
    files: Mapping[str, Path]

    @property
    def repository(self) -> str:
        return f"library/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """``folder`` is RAM-backed and ours alone; ``size`` and ``large`` are bytes of weights; ``seed`` drives chance."""

    folder: Path
    size: int
    large: int
    rounds: int
    seed: int
    say: Callable[[str], None] = field(repr=False)

    @property
    def environ(self) -> dict[str, str]:
        """No proxy, no settings, no key of the machine has a say in what is measured."""
        settings = self.folder / "syncd.toml"
        settings.touch()
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "SYNCD_CONFIG": str(settings),
            "SYNCD_SOCKET": str(self.folder / "syncd.sock"),
        }

    def syncd(self, *arguments: str | Path) -> list[str]:
        """The command line of this interpreter's syncd."""
        return [sys.executable, "-m", "syncd.cli.main", *map(str, arguments)]

    def call(self, command: Sequence[str]) -> str:
        """Run to the end; what it wrote to stdout."""
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"{command[0]} left {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
        return done.stdout

    def timed(self, command: Sequence[str]) -> float:
        """Seconds of wall time from start to end."""
        started = time.perf_counter()
        self.call(command)
        return time.perf_counter() - started

    @contextmanager
    def fresh(self, name: str) -> Iterator[Path]:
        """A path below the folder where nothing is, before and after."""
        path = self.folder / name
        _remove(path)
        try:
            yield path
        finally:
            _remove(path)

    def require(self, size: int) -> None:
        """Raise ``BenchmarkError`` unless this many bytes more fit, in the folder and in memory."""
        free = min(shutil.disk_usage(self.folder).free, available_memory())
        if free < size + 1024 * MIB:  # the processes need something, too
            raise BenchmarkError(
                f"needs {size // MIB + 1024} MiB of memory-backed space below {self.folder}, {free // MIB} MiB are free"
            )

    def touch_memory(self, size: int) -> None:
        """Write and free so many bytes, so that what is measured next gets memory that this machine really has.

        A virtual machine may have given freed pages back to its host, and then pays for each when it is touched again.
        """
        with self.fresh("touched") as path, path.open("wb", buffering=0) as file:
            for start in range(0, size, _SLICE):
                file.write(bytes(min(_SLICE, size - start)))

    @contextmanager
    def model(self, name: str, size: int) -> Iterator[Model]:
        """A model with ``size`` random bytes as its weights, gone afterwards."""
        self.say(f"writing {size // MIB} MiB of random bytes")
        with self.fresh(f"blobs-{name}") as folder:
            folder.mkdir()
            weights = _random_file(folder, size, seed=f"{self.seed} {name}")
            config = json.dumps({"model_format": "gguf", "model_family": "llama", "file_type": "F16", "name": name})
            settings = _small_file(folder, _CONFIG_TYPE, config.encode())
            template = _small_file(folder, _LAYER_TYPE + "template", b"{{ .Prompt }}")
            yield Model(
                name,
                manifest(settings, (weights, template)),
                weights,
                settings,
                {blob.hex: folder / blob.hex for blob in (weights, settings, template)},
            )


def _remove(path: Path) -> None:
    if path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def manifest(config: Blob, layers: Sequence[Blob]) -> bytes:
    """An image manifest as Ollama's registry has them."""
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config.descriptor(),
        "layers": [layer.descriptor() for layer in layers],
    }
    return json.dumps(value, separators=(",", ":")).encode()


def small_blob(kind: str, content: bytes) -> Blob:
    """The descriptor of a layer of this kind (``template``, …), or of a ``config``."""
    media_type = _CONFIG_TYPE if kind == "config" else _LAYER_TYPE + kind
    return Blob(media_type, hashlib.sha256(content).hexdigest(), len(content))


def available_memory() -> int:
    """Bytes that could still be used without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError("/proc/meminfo has no MemAvailable")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port: int = chosen.getsockname()[1]
        return port


def ask(host: str, method: str, path: str, body: bytes | None = None, kind: str = MANIFEST_TYPE) -> int:
    """One request; its status."""
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": kind} if body else {})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


@contextmanager
def server(command: Sequence[str], host: str, log: Path) -> Iterator[str]:
    """A process that answers ``/v2/`` on ``host`` (given back) until the block ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not _answers(host):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"{command[0]} does not answer: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield host
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(host: str) -> bool:
    try:
        return ask(host, "GET", "/v2/") == http.HTTPStatus.OK
    except OSError:
        return False


def _small_file(folder: Path, media_type: str, content: bytes) -> Blob:
    blob = Blob(media_type, hashlib.sha256(content).hexdigest(), len(content))
    (folder / blob.hex).write_bytes(content)
    return blob


def _random_file(folder: Path, size: int, *, seed: str) -> Blob:
    """Bytes that nothing can compress, the same for the same seed: AES in counter mode, which is fast."""
    key = hashlib.sha256(seed.encode()).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    zeros, hasher, path = bytes(_SLICE), hashlib.sha256(), folder / "weights"
    with path.open("wb") as file:
        for start in range(0, size, _SLICE):
            part = stream.update(zeros[: size - start])
            hasher.update(part)
            file.write(part)
    path.rename(folder / hasher.hexdigest())
    return Blob(_LAYER_TYPE + "model", hasher.hexdigest(), size)
