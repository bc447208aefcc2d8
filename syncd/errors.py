"""Every exception that syncd raises: what happened, the next step, an exit code, and whether trying again may help."""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What a command's exit code says (docs: "Exit codes")."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_AUTHORISED = 4
    UNREACHABLE = 5
    INTEGRITY = 6
    NO_SPACE = 7
    BUSY = 8
    SERVER_FAILED = 9
    CONFIGURATION = 10


class SyncdError(Exception):
    """An expected failure.

    ``message`` names the thing and says what happened; ``hint`` is the next step, if there is one. ``transient``: the
    same call may succeed later without anybody changing anything. Both texts may quote what came from outside: whoever
    shows them escapes them first (``syncd.text.printable``).
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    transient: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SyncdError):
    """The caller asked for something that cannot be meant."""

    exit_code = ExitCode.USAGE


class InvalidNameError(UsageError):
    """A model name that breaks Ollama's rules, or one that Ollama could not tell from a stored one."""


class InvalidDigestError(UsageError):
    """Not ``sha256:`` and 64 lower-case hex digits."""


class NotFoundError(SyncdError):
    """A model, manifest or blob that is not there."""

    exit_code = ExitCode.NOT_FOUND


class NotAuthorisedError(SyncdError):
    """The registry, or the file system, does not let this user in."""

    exit_code = ExitCode.NOT_AUTHORISED


class RegistryError(SyncdError):
    """A registry answered, but with something that no retry will mend."""

    exit_code = ExitCode.UNREACHABLE


class RegistryUnavailableError(RegistryError):
    """A registry that cannot be reached, or that fails in a way that may pass."""

    transient = True

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float | None = None) -> None:
        """``retry_after``: seconds that the registry asked to wait (Retry-After), if it did."""
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class RedirectRefusedError(RegistryError):
    """A redirect, or the address behind it, that syncd does not follow."""


class IntegrityError(SyncdError):
    """Bytes that are not what their digest or their descriptor says."""

    exit_code = ExitCode.INTEGRITY


class InvalidManifestError(IntegrityError):
    """A manifest that is malformed, hostile, or of a kind that is not a model."""


class NoSpaceError(SyncdError):
    """The file system has no room for what was asked."""

    exit_code = ExitCode.NO_SPACE


class BusyError(SyncdError):
    """Somebody else holds what this needs."""

    exit_code = ExitCode.BUSY
    transient = True


class CancelledByRemovalError(SyncdError):
    """The model was removed while it was being pulled."""


class StoreError(SyncdError):
    """The store, or the file system under it, failed: an I/O error, a link where a file should be, a foreign layout."""


class ConfigurationError(SyncdError):
    """A setting that cannot be used."""

    exit_code = ExitCode.CONFIGURATION
