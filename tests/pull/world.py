"""What the tests of whole pulls share: a store, a registry and everything between, as the command line wires them."""

import asyncio
import os
import random
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from syncd.download.fetch import Fetcher
from syncd.download.means import FetchSettings
from syncd.jobs.progress import PullOutcome, PullProgress
from syncd.jobs.pull import PullMeans, pull
from syncd.oci.name import ModelName, Reference
from syncd.registry.client import RegistryClient
from syncd.registry.hosts import RegistryConfig
from syncd.registry.retries import RetryPolicy
from syncd.registry.transport import Outside
from syncd.store.root import Store
from tests.support import commands

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can become another user")
# A rate that nobody reaches, in place of None, makes bodies come through the event loop, as over TLS.
NO_LIMIT: float | None = None
THROUGH_THE_LOOP = 1e12

QUICK = FetchSettings(stall_timeout=1.0, attempts=6, backoff=0.02, longest_backoff=0.2)


@asynccontextmanager
async def means(
    store: Store,
    *,
    settings: FetchSettings = QUICK,
    configs: dict[str, RegistryConfig] | None = None,
    floor: int = 0,
    outside: Outside | None = None,
) -> AsyncIterator[PullMeans]:
    async with RegistryClient(
        configs or {},
        connect_timeout=5,
        read_timeout=5,
        random=random.random,
        retries=RetryPolicy(attempts=4, seconds=10, first_wait=0.02, longest_wait=0.2),
        outside=outside,
    ) as registry:
        limited = replace(settings, max_rate=settings.max_rate or NO_LIMIT)
        fetcher = Fetcher(registry, limited, clock=time.monotonic, random=random.random)
        yield PullMeans(store=store, registry=registry, fetcher=fetcher, floor=floor)


async def pulled(
    name: str,
    path: Path,
    *,
    report: Callable[[PullProgress], None] = lambda _: None,
    settings: FetchSettings = QUICK,
    configs: dict[str, RegistryConfig] | None = None,
    floor: int = 0,
    outside: Outside | None = None,
) -> PullOutcome:
    """One pull of ``name`` into the store at ``path``, as a process of its own would do it."""
    with Store.open(path, create=True) as store:
        async with means(store, settings=settings, configs=configs, floor=floor, outside=outside) as everything:
            return await pull(Reference.parse(name), everything, report)


def model_name(name: str) -> ModelName:
    return Reference.parse(name).name


def blob_file(digest: str) -> str:
    """The file of ``sha256:…`` in blobs/ and keep/."""
    return digest.replace(":", "-")


def tag_file(path: Path, name: str) -> Path:
    """Where Ollama has the manifest of ``name`` in the store at ``path``."""
    return path.joinpath("manifests", *model_name(name).parts)


def write_as_ollama(path: Path, name: str, manifest: bytes) -> None:
    """Another program publishes a manifest under a tag."""
    file = tag_file(path, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = path / "from-outside"
    temporary.write_bytes(manifest)
    temporary.chmod(0o644)
    temporary.rename(file)


def prune_as_ollama(path: Path, digests: Iterable[str]) -> None:
    """Another program deletes blobs."""
    for digest in digests:
        (path / "blobs" / blob_file(digest)).unlink(missing_ok=True)


async def until(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Wait for ``condition()``, or fail."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


class ActingAfter:
    """``it``, but each call of its method ``name`` that ends well is followed by ``act``."""

    def __init__(self, it: Any, name: str, act: Callable[[], None]) -> None:
        self._it, self._name, self._act = it, name, act

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._it, name)
        if name != self._name:
            return found

        def then(*args: Any, **kwargs: Any) -> Any:
            result = found(*args, **kwargs)
            self._act()
            return result

        return then


def command(*arguments: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
    """A syncd command, as this user, which is root, or as another one."""
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "SYNCD_SOCKET": "/nonexistent/syncd.sock"}
    return commands.completed(*arguments, environ=environ, cwd=Path("/"), user=user)
