"""The unit syncd.service in a booted machine, and what it is told and asked."""

import textwrap
import urllib.error
import urllib.request
from types import TracebackType
from typing import Self

from tests.support.ports import free_port
from tests.support.registry import ModelHandle
from tests.systemd.machine import Machine, eventually

UNIT = "syncd.service"
_DROP_INS = "/etc/systemd/system/syncd.service.d"
SOCKET = "/run/syncd/syncd.sock"
STORE = "/srv/ollama/models"


class Service:
    """The unit, stopped and as shipped on entry and on exit; its store is empty on entry."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.store = machine.path(STORE)
        self._settings = machine.path("/etc/syncd/syncd.toml")
        self._ops_port = free_port()

    def __enter__(self) -> Self:
        self._reset()
        self.machine.run("find", STORE, "-mindepth", "1", "-delete")
        self.configure()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        print(self.journal())  # shown where a test fails
        self._reset()

    def _reset(self) -> None:
        self.machine.run("systemctl", "stop", UNIT, check=False)
        self.machine.run("rm", "-rf", _DROP_INS, "/etc/credstore")
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "reset-failed", UNIT, check=False)
        self.machine.run("journalctl", "--quiet", "--rotate")
        self.machine.run("journalctl", "--quiet", "--vacuum-size=1")

    def configure(self, *models: ModelHandle, store: str = STORE, more: str = "") -> None:
        """Write the settings: these models are desired. ``more``: lines at the top."""
        # The network is the host's, so the ops listener has a port of this test's own.
        wanted = "".join(f'[[models]]\nname = "{model.name}"\n' for model in models)
        text = f'store = "{store}"\n{more}\n[ops]\nlisten = "127.0.0.1:{self._ops_port}"\n{wanted}'
        # In place by rename, as an editor does it.
        new = self._settings.with_name("syncd.toml.new")
        new.write_text(text)
        new.chmod(0o644)
        new.rename(self._settings)

    def drop_in(self, name: str, text: str) -> None:
        """Give the unit a drop-in."""
        path = self.machine.path(f"{_DROP_INS}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        self.machine.run("systemctl", "daemon-reload")

    def credential(self, name: str, content: str) -> None:
        """Put a secret where systemd looks for it."""
        path = self.machine.path(f"/etc/credstore/{name}")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(0o600)
        path.write_text(content)

    def start(self) -> None:
        """``systemctl start``: returns when the unit is active, and fails if it can't be."""
        self.machine.run("systemctl", "start", UNIT)

    def systemctl(self, verb: str, *options: str) -> str:
        return self.machine.run("systemctl", verb, *options, UNIT)

    def __getitem__(self, name: str) -> str:
        """A property of the unit, as ``systemctl show`` spells it."""
        return self.machine.run("systemctl", "show", "--value", f"--property={name}", UNIT)

    @property
    def pid(self) -> int:
        """Its main process inside of the machine; 0 if there is none."""
        return int(self["MainPID"])

    def journal(self) -> str:
        return self.machine.run("journalctl", "--quiet", "--no-pager", "--output=cat", f"--unit={UNIT}", check=False)

    def answers(self, path: str) -> int:
        """The status with which the ops listener answers; 0 if it does not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._ops_port}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0

    def has(self, model: ModelHandle) -> bool:
        """Whether this very version of the model is visible in the store."""
        host, *path, last = model.name.split("/")
        manifest = self.store.joinpath("manifests", host, *path, *last.split(":"))
        return manifest.is_file() and manifest.read_bytes() == model.manifest

    def until_it_has(self, model: ModelHandle, *, seconds: float = 60.0) -> None:
        eventually(lambda: self.has(model), f"{model.name} is published", seconds=seconds)

    def until(self, name: str, value: str, *, seconds: float = 60.0) -> None:
        """Wait until a property of the unit has this value."""
        eventually(lambda: self[name] == value, f"{name}={value}", seconds=seconds)
