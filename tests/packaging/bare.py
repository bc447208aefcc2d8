"""A virtual environment of a test's own, in which nothing of the checkout is found."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self


def environ(**more: str) -> dict[str, str]:
    """This process's variables without what would lead Python to the checkout, or make to whoever called it."""
    misleading = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    kept = {name: value for name, value in os.environ.items() if name not in misleading and "SYNCD" not in name}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **more}


@dataclass(frozen=True, slots=True)
class Environment:
    """``folder``/venv, used from ``folder``, which is also the home folder of what runs there.

    ``own_pip``: whether the pip in it is the one that comes with its Python; else the tests' own pip works on it.
    """

    folder: Path
    own_pip: bool

    @classmethod
    def make(cls, folder: Path, python: Path, *, own_pip: bool) -> Self:
        """One with pip alone in it, or nothing: to unpack a pip takes half as long as all that it would install."""
        _run((str(python), "-m", "venv", "--without-pip", str(folder / "venv")), folder)
        if own_pip:
            # ensurepip would compile all of it.
            version = _run((str(python), "-c", "import ensurepip; print(ensurepip.version())"), folder).strip()
            cls(folder, own_pip=False).install(f"pip=={version}")
        return cls(folder, own_pip)

    @property
    def bin(self) -> Path:
        """Where its programs are."""
        return self.folder / "venv" / "bin"

    def install(self, *what: str) -> None:
        """Have pip install this, as this host's settings for pip say, in the caller's home.

        An old pip takes three times as long to choose from an index: it has what a newer one chose, and no more.
        """
        options = ("--quiet", "--disable-pip-version-check", "--prefer-binary")
        chosen: tuple[str, ...] = ()
        if self.own_pip:
            wheels = str(self.folder / "wheels")
            Environment(self.folder, own_pip=False).pip("download", *options, "--dest", wheels, *what)
            chosen = ("--no-index", "--find-links", wheels)
        # Not compiled: a small part of it is run, and that is compiled then.
        self.pip("install", *options, *chosen, "--no-compile", *what)

    def pip(self, *arguments: str) -> str:
        """Run pip on this environment, which must succeed; what it wrote to stdout."""
        python = str(self.bin / "python")
        pip = (python, "-m", "pip") if self.own_pip else (sys.executable, "-m", "pip", "--python", python)
        return _run((*pip, *arguments), self.folder)

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of this environment, which must succeed; what it wrote to stdout."""
        home = {"HOME": str(self.folder), "SYNCD_SOCKET": str(self.folder / "none.sock")}
        return _run((str(self.bin / program), *arguments), self.folder, **home)


def _run(command: tuple[str, ...], folder: Path, **more: str) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environ(PYTHONDONTWRITEBYTECODE="", **more),  # what one run has compiled the next one has
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
