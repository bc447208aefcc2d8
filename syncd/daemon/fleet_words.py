"""How servers and the models on them stand, as the API tells it."""

from syncd.api.catalogue import rfc3339
from syncd.api.v1 import InstanceInfo, InstanceModel
from syncd.instances.probe import Cell, Row
from syncd.text import printable


def instance_info(row: Row) -> InstanceInfo:
    """A server."""
    return InstanceInfo(
        name=row.instance.name,
        url=printable(row.instance.url),
        up=row.up,
        version=row.version,
        error=printable(row.fault.message) if row.fault else None,
        models=tuple(_model(cell) for cell in row.cells),
    )


def _model(cell: Cell) -> InstanceModel:
    return InstanceModel(
        name=str(cell.model),
        digest=f"sha256:{cell.digest}",
        state=cell.word.value,
        available=cell.available,
        proved=None if cell.proved_at is None else rfc3339(cell.proved_at),
        stale=cell.stale,
        stale_until=None if cell.stale_until is None else rfc3339(cell.stale_until),
        reason=cell.fault.reason.value if cell.fault else None,
        message=printable(cell.fault.message) if cell.fault else None,
    )
