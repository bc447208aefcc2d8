"""The command line as another user: ``python -m tests.pull.as_user UID GID pull NAME``, started by root.

Everything is imported first, since that user may not be able to read this Python.
"""

import encodings.idna  # noqa: F401 - imported at the first connection otherwise
import os
import sys

import syncd.cli.adopting
import syncd.cli.bundling
import syncd.cli.checking
import syncd.cli.failure
import syncd.cli.here
import syncd.cli.models
import syncd.cli.pulling
import syncd.cli.pulling_here
import syncd.cli.remote_streams
import syncd.cli.removing
import syncd.cli.status
import syncd.cli.stores
import syncd.cli.there  # noqa: F401 - the commands are imported when they are called otherwise
from syncd.cli.main import run


def main() -> None:
    """Become that user for good, then do what the rest of the arguments say."""
    uid, gid, *arguments = sys.argv[1:]
    os.chdir("/")
    os.setgroups([])
    os.setresgid(int(gid), int(gid), int(gid))
    os.setresuid(int(uid), int(uid), int(uid))
    sys.exit(run(arguments))


if __name__ == "__main__":
    main()
