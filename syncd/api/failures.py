"""An error on its way to a client: its status over HTTP, and the error that its exit code stands for there."""

from syncd.api.events import Failed
from syncd.errors import (
    BusyError,
    ConfigurationError,
    ExitCode,
    IntegrityError,
    NoSpaceError,
    NotAuthorisedError,
    NotFoundError,
    RegistryError,
    SyncdError,
    UsageError,
)

_ERRORS: dict[int, type[SyncdError]] = {
    ExitCode.USAGE: UsageError,
    ExitCode.NOT_FOUND: NotFoundError,
    ExitCode.NOT_AUTHORISED: NotAuthorisedError,
    ExitCode.UNREACHABLE: RegistryError,
    ExitCode.INTEGRITY: IntegrityError,
    ExitCode.NO_SPACE: NoSpaceError,
    ExitCode.BUSY: BusyError,
    ExitCode.CONFIGURATION: ConfigurationError,
}

_STATUS: dict[int, int] = {
    ExitCode.USAGE: 400,
    ExitCode.NOT_FOUND: 404,
    ExitCode.NOT_AUTHORISED: 403,
    ExitCode.UNREACHABLE: 502,
    ExitCode.INTEGRITY: 500,
    ExitCode.NO_SPACE: 507,
    ExitCode.BUSY: 409,
    ExitCode.CONFIGURATION: 500,
}


def error_of(told: Failed) -> SyncdError:
    """An error that the daemon told of, with the exit code that it has there."""
    return _ERRORS.get(told.exit_code, SyncdError)(told.message, hint=told.hint)


def http_status(error: SyncdError) -> int:
    """The status that an error has over HTTP, on both halves of the API."""
    return _STATUS.get(error.exit_code, 500)
