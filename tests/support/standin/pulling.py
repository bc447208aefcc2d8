"""A server's own pull (``server/download.go``, ``server/images.go`` ``PullModel``): no locks, no fsync, no care.

Ranges go straight into a file in blobs/, the blob gets its name before it is verified, a blob that exists is trusted,
the manifest is overwritten in place. One process pulls a digest once; of other processes it knows nothing.
"""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from tests.support.standin.names import Name
from tests.support.standin.settings import Settings
from tests.support.standin.store import BadManifest, Store

_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_PARTS, _LARGEST_PART = 16, 1_000_000_000
_RETRIES = 6
_PIECE = 1 << 16
_PART_FILE = re.compile(r"-partial-[0-9]+$")


class PullError(Exception):
    """What the stream's last line says."""


@dataclass(slots=True)
class _Part:
    """A range, as its own small file in blobs/ keeps it."""

    N: int
    Offset: int
    Size: int
    Completed: int = 0


class Puller:
    """Pulls of one process."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._downloads: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Break off what is under way."""
        tasks = list(self._downloads.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def pull(self, name: Name, *, insecure: bool) -> AsyncIterator[dict[str, Any]]:
        """The lines of the answer, the last of them success or an error."""
        try:
            async for line in self._pull(name, insecure=insecure):
                yield line
        except (PullError, OSError, BadManifest, ValueError, KeyError, aiohttp.ClientError) as error:
            yield {"error": str(error) or type(error).__name__}

    async def _pull(self, name: Name, *, insecure: bool) -> AsyncIterator[dict[str, Any]]:
        replaced = self._replaced(name)
        base = self._base(name, insecure=insecure)
        yield {"status": "pulling manifest"}
        raw = await self._manifest(f"{base}/manifests/{name.tag}")
        manifest = json.loads(raw)
        digests = [layer["digest"] for layer in (*manifest["layers"], manifest["config"])]
        fresh = set()
        for digest in digests:
            path = self._store.blob(digest)
            line = {"status": f"pulling {digest[7:19]}", "digest": digest}
            if path.exists():  # a hit is trusted, and never verified
                size = path.stat().st_size
            else:
                fresh.add(digest)
                yield line
                await self._download(path, f"{base}/blobs/{digest}", digest)
                size = path.stat().st_size if path.exists() else 0
            yield {**line, "total": size, "completed": size}
        yield {"status": "verifying sha256 digest"}
        for digest in digests:
            if digest in fresh:
                await self._verify(digest)
        yield {"status": "writing manifest"}
        self._store.write_manifest(name, raw)
        if unused := replaced - set(digests):
            yield {"status": "removing unused layers"}
            self._store.delete_unused(unused)
        yield {"status": "success"}

    def _replaced(self, name: Name) -> set[str]:
        if not self._settings.prune:
            return set()
        try:
            return set(self._store.manifest(name).digests)
        except (OSError, BadManifest):
            return set()

    def _base(self, name: Name, *, insecure: bool) -> str:
        origin = f"{'http' if insecure else 'https'}://{name.host}"
        if name.is_ollamas and self._settings.registry:
            origin = self._settings.registry
        return f"{origin}/v2/{name.namespace}/{name.model}"

    async def _manifest(self, url: str) -> bytes:
        async with _session() as session, session.get(url, headers={"Accept": _MANIFEST_TYPE}) as response:
            if response.status == 404:
                raise PullError("pull model manifest: file does not exist")
            if response.status >= 400:
                raise PullError(f"pull model manifest: {response.status}: {await response.text()}")
            return await response.read()

    async def _verify(self, digest: str) -> None:
        path = self._store.blob(digest)
        found = await asyncio.to_thread(_sha256, path)
        await asyncio.sleep(self._settings.verify_seconds)
        if found != digest:
            path.unlink(missing_ok=True)
            raise PullError(f"digest mismatch, file must be downloaded again: want {digest}, got {found}")

    async def _download(self, path: Path, url: str, digest: str) -> None:
        """As ``downloadBlob``: who asks for a digest that this process downloads already waits for that."""
        task = self._downloads.get(digest)
        if task is None:
            task = asyncio.create_task(self._fetch(path, url), name=f"download {digest}")
            self._downloads[digest] = task
            task.add_done_callback(lambda _: self._downloads.pop(digest, None))
        await asyncio.shield(task)

    async def _fetch(self, path: Path, url: str) -> None:
        async with _session() as session:
            parts = await self._parts(session, path, url)
            partial = Path(f"{path}-partial")
            descriptor = os.open(partial, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            try:
                # The size that the part files add up to: another server may not have written all of its own yet.
                os.ftruncate(descriptor, sum(part.Size for part in parts))
                direct = await _direct_url(session, url)
                async with asyncio.TaskGroup() as group:
                    for part in parts:
                        if part.Completed < part.Size:
                            group.create_task(self._fill(session, direct, path, part, descriptor))
            except* (PullError, OSError, aiohttp.ClientError) as errors:
                raise PullError(str(errors.exceptions[0])) from errors
            finally:
                os.close(descriptor)
        for index in range(len(parts)):
            _part_path(path, index).unlink()
            await asyncio.sleep(0)
        partial.rename(path)

    async def _parts(self, session: aiohttp.ClientSession, path: Path, url: str) -> list[_Part]:
        stored = sorted(each for each in path.parent.glob(f"{path.name}-partial-*") if _PART_FILE.search(each.name))
        parts = [_Part(**json.loads(each.read_bytes())) for each in stored]
        if parts:
            return parts
        async with session.head(url, allow_redirects=True) as response:
            response.raise_for_status()
            total = int(response.headers["Content-Length"])
        size = min(max(total // _PARTS, self._settings.part_bytes), _LARGEST_PART)
        for index, offset in enumerate(range(0, total, size)):
            part = _Part(index, offset, min(size, total - offset))
            _write_part(path, part)
            parts.append(part)
            await asyncio.sleep(0)
        return parts

    async def _fill(self, session: aiohttp.ClientSession, url: str, path: Path, part: _Part, descriptor: int) -> None:
        for attempt in range(_RETRIES):
            try:
                await self._range(session, url, path, part, descriptor)
            except (OSError, aiohttp.ClientError) as error:
                failure = error
                await asyncio.sleep(self._settings.retry_seconds * 2**attempt)
            else:
                return
        raise PullError(f"max retries exceeded: {failure}")

    async def _range(self, session: aiohttp.ClientSession, url: str, path: Path, part: _Part, descriptor: int) -> None:
        start = part.Offset + part.Completed
        end = part.Offset + part.Size
        moved = 0
        async with session.get(url, headers={"Range": f"bytes={start}-{end - 1}"}) as response:
            response.raise_for_status()
            async for piece in response.content.iter_chunked(_PIECE):
                wanted = piece[: end - start - moved]
                os.pwrite(descriptor, wanted, start + moved)
                moved += len(wanted)
        # Only now does the part's file say so: what a kill breaks off is fetched again.
        part.Completed += moved
        _write_part(path, part)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None, sock_read=30))


async def _direct_url(session: aiohttp.ClientSession, url: str) -> str:
    """Where the registry sends us for the bytes; Ollama fails where it does not redirect, this does not."""
    async with session.get(url, allow_redirects=False) as response:
        response.raise_for_status()
        location = response.headers.get("Location")
        return str(response.url.join(URL(location))) if location else url


def _part_path(path: Path, index: int) -> Path:
    return Path(f"{path}-partial-{index}")


def _write_part(path: Path, part: _Part) -> None:
    _part_path(path, part.N).write_text(json.dumps(asdict(part)))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
