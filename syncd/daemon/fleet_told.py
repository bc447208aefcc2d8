"""What happens to servers, told once: to the log, and to whoever follows the events."""

import structlog

from syncd.daemon.chronicle import Chronicle
from syncd.instances.probe import Fault, Look
from syncd.oci.name import ModelName

log = structlog.get_logger()


class Told:
    """For one server, ``instance``."""

    def __init__(self, instance: str, chronicle: Chronicle) -> None:
        self._instance = instance
        self._chronicle = chronicle

    def looked(self, before: Look | None, now: Look) -> None:
        """It came or went."""
        was_up = None if before is None else before.fault is None
        if now.fault is not None and was_up is not False:
            log.warning(
                "instance.down", instance=self._instance, reason=now.fault.reason.value, error=now.fault.message
            )
            self._chronicle.tell("instance.down", detail=now.fault.message)
        elif now.fault is None and was_up is not True:
            log.info("instance.up", instance=self._instance, version=now.version)
            self._chronicle.tell("instance.up", detail=f"{self._instance}: Ollama {now.version}")

    def started_anew(self, why: str) -> None:
        """It is, or will be, another process."""
        log.info("instance.started_anew", instance=self._instance, known_by=why)

    def probed(self, model: ModelName, before: Fault | None, now: Fault | None) -> None:
        """A model fails, for another reason than before."""
        if now is not None and (before is None or before.reason is not now.reason):
            name, reason = str(model), now.reason.value
            log.warning("instance.failing", instance=self._instance, name=name, reason=reason, error=now.message)
            self._chronicle.tell("instance.failing", name=name, detail=now.message)
