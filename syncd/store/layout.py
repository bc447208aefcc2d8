"""The name of every folder and file in a store (pure; Ollama's layout is in its ``manifest/paths.go``)."""

import hashlib
import re

from syncd.errors import InvalidNameError
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName

LAYOUT_VERSION = 1

# Ollama's two trees: nothing of ours ever lies in them.
MANIFESTS = "manifests"
BLOBS = "blobs"

# Ours, beside them on the same file system.
OWN = ".syncd"
VERSION = "version"
STAGING = "staging"
KEEP = "keep"
RECORDS = "records"
HISTORY = "history"
LEASES = "leases"
LOCKS = "locks"
TRASH = "trash"
QUARANTINE = "quarantine"
STATE = "state"

REFERENCES_LOCK = "references"
SELF_TEST_LOCK = "self-test"
DAEMON_LOCK = "daemon"
SCRUB_LOCK = "scrub"

SHARED_FOLDER_MODE = 0o755
OWN_FOLDER_MODE = 0o700
MANIFEST_MODE = 0o644
BLOB_MODE = 0o444
OWN_FILE_MODE = 0o600

_PARTIAL = ".partial"
_JOURNAL = ".journal"
_TEMPORARY = "tmp-"
_PASSING = "passing-"
_MAX_FILE_NAME = 255
_BLOB_FILE = re.compile(r"sha256-[0-9a-f]{64}")


def blob_file(digest: Digest) -> str:
    """The file of a blob in ``blobs/``, ``keep/`` and ``records/``, and of its lock in ``locks/``."""
    return f"sha256-{digest.hex}"


def digest_of_file(name: str) -> Digest | None:
    """The digest that a blob's file name stands for; None for every other name."""
    return Digest(name.removeprefix("sha256-")) if _BLOB_FILE.fullmatch(name) else None


def partial_file(digest: Digest) -> str:
    """A blob being fetched, in ``staging/``."""
    return blob_file(digest) + _PARTIAL


def journal_file(digest: Digest) -> str:
    """Which chunks are in the partial, in ``staging/``."""
    return blob_file(digest) + _JOURNAL


def digest_of_staged(name: str) -> Digest | None:
    """The digest whose partial or journal this file of ``staging/`` is; None for every other name."""
    return digest_of_file(name.removesuffix(_PARTIAL).removesuffix(_JOURNAL))


def temporary_file(token: str) -> str:
    """A file that gets its real name when it is whole; ``token`` makes it unique."""
    return _TEMPORARY + token


def is_temporary(name: str) -> bool:
    """Whether this file of ``staging/`` was made under ``temporary_file``."""
    return name.startswith(_TEMPORARY)


def passing_lease(token: str) -> str:
    """File in ``leases/`` that is worth nothing without its holder. Who does not know that takes it for any other."""
    return _PASSING + token


def is_passing_lease(name: str) -> bool:
    """Whether this file of ``leases/`` was made under ``passing_lease``."""
    return name.startswith(_PASSING)


def digest_lock(digest: Digest) -> str:
    """The lock of whoever fetches, checks or removes this blob."""
    return blob_file(digest)


def name_lock(name: ModelName) -> str:
    """The lock of whoever pulls or removes this name: one for all names that Ollama takes for one."""
    return "name-" + hashlib.sha256(name.folded.encode()).hexdigest()[:32]


def manifest_parts(name: ModelName) -> tuple[tuple[str, str, str], str]:
    """The three folders below ``manifests/``, and the file in them. Raise ``InvalidNameError`` if no disk can hold it.

    Ollama allows hosts of 350 characters; Linux ends a file name at 255 (``NAME_MAX``).
    """
    host, namespace, model, tag = name.parts
    if len(host) > _MAX_FILE_NAME:
        raise InvalidNameError(
            f"the host in {str(name)[:60]}… has {len(host)} characters: no file system can store a folder of that name",
            hint=f"a host has at most {_MAX_FILE_NAME} characters",
        )
    return (host, namespace, model), tag


def history_file(digest: Digest) -> str:
    """A manifest that was published, below ``history/<the name's four parts>/``."""
    return blob_file(digest)
