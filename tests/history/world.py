"""What these tests share: models in several versions, commands as processes, and rollbacks in this one."""

import json
from pathlib import Path
from typing import Any

from syncd.jobs.progress import PullOutcome
from syncd.jobs.rollback import plan, roll_back
from syncd.store.root import Store
from tests.pull.world import blob_file, means, model_name, pulled
from tests.support.daemon import RunningDaemon
from tests.support.models import build_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry


def run(host: RunningDaemon, *arguments: str) -> str:
    """What a command that goes well prints."""
    done = host.command(*arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def told(host: RunningDaemon, *arguments: str) -> Any:
    """The last line of what it says in JSON."""
    return json.loads(run(host, *arguments, "--json").splitlines()[-1])


def refused(host: RunningDaemon, *arguments: str, code: int) -> str:
    """What a command that fails with this exit code says."""
    done = host.command(*arguments)
    assert done.returncode == code, (done.returncode, done.stderr, done.stdout)
    return done.stderr


def version(registry: ScriptedRegistry, seed: int) -> ModelHandle:
    """The registry's tag moves to this version."""
    return registry.add(build_model("mistral:7b", seed=seed))


async def versions(registry: ScriptedRegistry, store: Path, count: int = 3) -> list[ModelHandle]:
    """Pulled one after the other, the oldest first."""
    handles = []
    for seed in range(1, count + 1):
        handles.append(version(registry, seed))
        await pulled(handles[-1].name, store)
    return handles


async def rolled_back(store: Path, name: str, wanted: str | None = None) -> PullOutcome:
    """A rollback, as a process of its own would do it."""
    with Store.open(store, create=False) as opened:
        async with means(opened) as everything:
            planned = plan(opened, model_name(name), wanted, everything.policy)
            return await roll_back(planned, everything, "a test", lambda _: None)


def held(store: Path, name: str) -> str | None:
    """What the tag is held at."""
    with Store.open(store, create=False) as opened:
        hold = opened.holds.of(model_name(name))
        return None if hold is None else str(hold.manifest.digest)


def visible(store: Path) -> dict[str, str]:
    """What is published; all of it is whole."""
    return assert_store_whole(store)


def forget(store: Path, digest: str) -> None:
    """As a collection leaves it: nothing of the blob is on the disk."""
    for folder in ("blobs", ".syncd/keep", ".syncd/records"):
        (store / folder / blob_file(digest)).unlink(missing_ok=True)
