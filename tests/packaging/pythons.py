"""The Pythons of this machine that syncd says it runs on: on the PATH, and pyenv's."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OLDEST = 11  # of Python 3
_NEWEST_TO_LOOK_FOR = 20
_CAN = "import ensurepip, sys, venv; print(*sys.version_info[:2], sys.version_info.releaselevel)"


def pythons() -> dict[str, Path]:
    """An interpreter for each version ("3.11") that can make virtual environments. The running one is among them."""
    found: dict[str, Path] = {}
    for path in _candidates():
        version = _version(path)
        if version is not None:
            found.setdefault(version, path)
    return dict(sorted(found.items(), key=lambda one: int(one[0].removeprefix("3."))))


def _candidates() -> Iterator[Path]:
    yield Path(sys.executable)
    names = [f"python3.{minor}" for minor in range(OLDEST, _NEWEST_TO_LOOK_FOR)]
    for name in names:
        if (path := shutil.which(name)) is not None:
            yield Path(path)
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for name in names:
        yield from sorted(versions.glob(f"3.*/bin/{name}"))


def _version(python: Path) -> str | None:
    """What this interpreter is: None for one that does not run (a shim of pyenv's), has no venv or is no release."""
    asked = subprocess.run((python, "-I", "-c", _CAN), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    words = asked.stdout.decode().split()
    if asked.returncode or len(words) != 3 or words[2] != "final":
        return None
    major, minor = int(words[0]), int(words[1])
    return f"3.{minor}" if major == 3 and minor >= OLDEST else None
