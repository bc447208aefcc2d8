"""What these tests share: a host whose commands are processes, and a model that was published in several versions."""

import json
from typing import Any

from tests.support.daemon import RunningDaemon
from tests.support.models import build_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ScriptedRegistry
from tests.support.registry.scripted import ModelHandle


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


class Versions:
    """A model that the host has pulled in several versions, the oldest first."""

    def __init__(self, host: RunningDaemon, registry: ScriptedRegistry, count: int = 3) -> None:
        self.host = host
        self.registry = registry
        self.handles: list[ModelHandle] = []
        for seed in range(1, count + 1):
            self.publish(seed)

    @property
    def name(self) -> str:
        return self.handles[0].name

    def publish(self, seed: int) -> ModelHandle:
        """The registry's tag moves, and the model is pulled."""
        handle = self.registry.add(build_model("mistral:7b", seed=seed))
        self.handles.append(handle)
        run(self.host, "pull", handle.name)
        return handle

    def visible(self) -> str:
        """The digest that is published; all of the store is whole."""
        return assert_store_whole(self.host.store)[self.name]
