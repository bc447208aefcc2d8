"""The oldest dependencies that pyproject.toml allows, as constraints for pip: ``python lowest.py pyproject.toml``.

Run as a script by ``make test-lowest``, before anything is installed: the standard library has to do.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

_BOUNDED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)>=(?P<version>[0-9.]+)")


def dependencies(pyproject: Path) -> list[str]:
    """What syncd declares that it needs, as it is written there."""
    found = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [str(one) for one in found]


def constraints(declared: Iterable[str]) -> list[str]:
    """``name==version`` for each ``name>=version``. Raise ``ValueError`` for a dependency without a lower bound."""
    found = []
    for one in declared:
        if (match := _BOUNDED.fullmatch(one)) is None:
            raise ValueError(f"{one!r} is not of the form 'name>=version'")
        found.append(f"{match['name']}=={match['version']}")
    return found


if __name__ == "__main__":
    print(*constraints(dependencies(Path(sys.argv[1]))), sep="\n")
