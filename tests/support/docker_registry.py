"""Debian's docker-registry (distribution 2.8) as a real process on a loopback port, its storage in a folder."""

import http.client
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.content import Content, Generated, InMemory, OnDisk, content, whole
from tests.support.models import MANIFEST_TYPE, Model
from tests.support.ports import free_port
from tests.support.registry import ModelHandle

BINARY = "docker-registry"
_READY_SECONDS = 60.0
_START_ATTEMPTS = 3
_PUSHABLE = 64 << 20  # bytes: larger blobs are placed in its storage

_CONFIGURATION = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: "{root}"}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@dataclass(slots=True)
class DockerRegistry:
    """The process. A context manager; ``folder`` takes its configuration, log and storage."""

    folder: Path
    host: str = ""
    _process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_installed() -> bool:
        return shutil.which(BINARY) is not None

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> Self:
        for attempt in range(_START_ATTEMPTS):  # somebody may take the port between our choice and its listening
            try:
                self._start()
            except RuntimeError:
                if attempt == _START_ATTEMPTS - 1:
                    raise
            else:
                return self
        raise AssertionError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def add(self, model: Model) -> ModelHandle:
        """Push a model as a client would; weights too big to push quickly go straight into its storage."""
        path, _, tag = model.name.rpartition(":")
        repository = path if "/" in path else f"library/{path}"
        for digest, blob in model.blobs.items():
            if blob.size > _PUSHABLE:
                self.place_blob(blob, repository)
            else:
                self._push_blob(whole(blob), digest, repository)
        status, text = self._ask(
            "PUT", f"/v2/{repository}/manifests/{tag}", model.manifest, {"Content-Type": MANIFEST_TYPE}
        )
        if status != 201:
            raise RuntimeError(f"docker-registry refused the manifest: {status} {text!r}")
        return ModelHandle(
            name=f"{self.host}/{repository}:{tag}",
            repository=repository,
            tag=tag,
            manifest=model.manifest,
            blobs=model.blobs,
            weights=model.weights,
            config=model.config,
        )

    def place_blob(self, blob: bytes | Path | Content, repository: str) -> str:
        """Put a blob into its storage by hand, as distribution's filesystem driver lays it out. Return the digest."""
        held = content(blob)
        hex_digest = held.digest.removeprefix("sha256:")
        root = self.folder / "storage" / "docker/registry/v2"
        target = root / "blobs/sha256" / hex_digest[:2] / hex_digest / "data"
        target.parent.mkdir(parents=True, exist_ok=True)
        match held:
            case Generated():
                held.write_to(target)
            case OnDisk():
                shutil.copyfile(held.path, target)
            case InMemory():
                target.write_bytes(held.raw)
        link = root / "repositories" / repository / "_layers/sha256" / hex_digest / "link"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.write_text(held.digest)
        return held.digest

    def _start(self) -> None:
        port = free_port()
        self.host = f"127.0.0.1:{port}"
        storage = self.folder / "storage"
        storage.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "config.yml"
        configuration.write_text(_CONFIGURATION.format(root=storage, port=port))
        with (self.folder / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(
                [BINARY, "serve", str(configuration)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if self._ask("GET", "/v2/")[0] == 200:
                    return
            except OSError:
                time.sleep(0.02)
        self.__exit__(None, None, None)
        raise RuntimeError(f"docker-registry did not start: {(self.folder / 'registry.log').read_text()[-2000:]}")

    def _push_blob(self, raw: bytes, digest: str, repository: str) -> None:
        """OCI distribution spec, "Pushing a blob monolithically": POST, then PUT."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request("POST", f"/v2/{repository}/blobs/uploads/")
            response = connection.getresponse()
            response.read()
            location = response.headers["Location"].removeprefix(self.url)
            joint = "&" if "?" in location else "?"
            connection.request(
                "PUT",
                f"{location}{joint}digest={digest}",
                raw,
                {"Content-Type": "application/octet-stream", "Content-Length": str(len(raw))},
            )
            response = connection.getresponse()
            text = response.read()
            if response.status != 201:
                raise RuntimeError(f"docker-registry refused {digest}: {response.status} {text!r}")
        finally:
            connection.close()

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
