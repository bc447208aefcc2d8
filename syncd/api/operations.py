"""Every operation that there is. Who adds one adds it here, and it has its route and its way through the daemon."""

from collections.abc import Sequence
from typing import Any

from syncd.api.collect import COLLECT
from syncd.api.doctor import DOCTOR
from syncd.api.history import HISTORY
from syncd.api.operation import Operation
from syncd.api.pins import PIN, UNPIN
from syncd.api.repair import MEND
from syncd.api.rollback import ROLLBACK
from syncd.api.scrub import SCRUB

OPERATIONS: Sequence[Operation[Any, Any]] = (COLLECT, DOCTOR, HISTORY, MEND, PIN, ROLLBACK, SCRUB, UNPIN)
