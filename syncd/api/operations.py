"""Every operation that there is. Who adds one adds it here, and it has its route and its way through the daemon."""

from collections.abc import Sequence
from typing import Any

from syncd.api.history import HISTORY
from syncd.api.operation import Operation

OPERATIONS: Sequence[Operation[Any, Any]] = (HISTORY,)
