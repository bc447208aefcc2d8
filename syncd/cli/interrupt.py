"""That a signal ended the work."""

import signal


class InterruptedBySignalError(Exception):
    """A signal asked the work to end, and it has ended. ``hint``: the next step."""

    def __init__(self, number: int, hint: str | None = None) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.hint = hint
