"""A status as people read it: what stands where, in words; pure. How it looks is ``status_table``'s business."""

from dataclasses import dataclass, replace
from datetime import datetime

from syncd.api import v1
from syncd.api.collected import CollectionInfo
from syncd.api.pinned import PinDrift, PinsInfo
from syncd.api.repairs import WaitingRepair
from syncd.api.scrubbed import ScrubDamage, ScrubInfo
from syncd.cli import status_servers, words
from syncd.cli.sheets import Row, Sheet, Tone, row
from syncd.text import printable, size

_SHORT = 12  # hex digits of a digest
_ENDED_JOBS = 5  # that are shown


@dataclass(frozen=True, slots=True)
class Page:
    """All of it. ``head``: a label and a text each. Every text is escaped."""

    head: tuple[Row, ...]
    sheets: tuple[Sheet, ...]


def page(found: v1.Status, now: float) -> Page:
    """``found`` in words. ``now``: seconds since the epoch."""
    sheets = (_models(found, now), *status_servers.sheets(found, now), _unmanaged(found), _jobs(found, now))
    return Page(_head(found, now), tuple(sheet for sheet in sheets if sheet.rows))


def text(shown: Page) -> str:
    """``shown`` in plain columns."""
    blocks = [_columns([row.cells for row in shown.head], gap=2)]
    blocks += [_columns([sheet.header, *(row.cells for row in sheet.rows)], gap=4) for sheet in shown.sheets]
    return "\n".join(blocks)


def faults(found: v1.Status) -> list[str]:
    """What is not well, in words."""
    told = ["no daemon runs"] if found.daemon is None else []
    told += [f"settings: {found.settings.fault}"] if found.settings.fault else []
    told += [f"{one.name}: {one.reason or one.state}" for one in found.models if one.state in {"failing", "held"}]
    told += [f"{words.count(found.store.broken, 'manifest')} cannot be read"] if found.store.broken else []
    told += [_damage(one) for one in found.scrub.damaged] if found.scrub else []
    told += [_waiting(one) for one in _only_waiting(found)]
    told += [_drift(one) for one in found.pins.drift] if found.pins else []
    told += [f"docker: {fault}" for fault in found.docker]
    return told + status_servers.faults(found)


def _head(found: v1.Status, now: float) -> tuple[Row, ...]:
    daemon, settings, store = found.daemon, found.settings, found.store
    if daemon is None:
        rows = [Row(("daemon", "none runs: this is what the store and the settings say"), Tone.BAD)]
    else:
        started = words.ago(now - _seconds(daemon.started))
        rows = [Row(("daemon", f"syncd {daemon.version}, pid {daemon.pid}, started {started}"))]
    files = ", ".join(settings.files) or "none: the defaults"
    loaded = f", read {words.ago(now - _seconds(settings.loaded))}" if daemon else ""
    rows.append(Row(("settings", files + loaded)))
    if settings.fault:
        rows.append(Row(("FAULT", f"the new settings are not in force: {settings.fault}"), Tone.BAD))
    if settings.needs_restart:
        rows.append(Row(("RESTART", f"not in force until then: {', '.join(settings.needs_restart)}"), Tone.BAD))
    rows.append(Row(("store", store.path)))
    held = f"{words.count(store.models, 'model')}, {words.count(store.blobs, 'blob')}, {size(store.size)}"
    rows.append(Row(("", f"{held}; {size(store.saved)} saved by sharing, {size(store.free)} free")))
    if store.broken:
        broken = f"{words.count(store.broken, 'manifest')} cannot be read: 'syncd list' names them"
        rows.append(Row(("BROKEN", broken), Tone.BAD))
    rows += [Row(("DOCKER", fault), Tone.BAD) for fault in found.docker]
    rows += _scrub(found.scrub, now)
    rows += _repairs(found)
    rows += _collection(found.collection, now)
    rows += _pins(found.pins)
    return tuple(Row(tuple(printable(cell, limit=1000) for cell in row.cells), row.tone) for row in rows)


def _pins(found: PinsInfo | None) -> list[Row]:
    """What is pinned beside the settings, and what is something else all the same."""
    if found is None:
        return []
    file = f"{found.file}, " if found.file else ""
    drifted = [Row(("DRIFT", _drift(one)), Tone.BAD) for one in found.drift]
    return [Row(("pins", f"{file}{words.count(found.models, 'model')} pinned")), *drifted]


def _drift(one: PinDrift) -> str:
    there = _short(one.published) if one.published else "not here"
    return f"{one.name} is {there}, and not {_short(one.pinned)}, to which {one.by} has it pinned"


def _scrub(found: ScrubInfo | None, now: float) -> list[Row]:
    """When everything was read over, and what came of it, where there is anything to say of it."""
    if found is None:
        return []
    parts = []
    if found.now is not None:
        parts.append(f"running: {_progress(found.now.done, found.now.size)}")
    elif found.interrupted:
        parts.append("interrupted: the next one goes on there")
    if last := found.last:
        came = f"{words.count(last.damaged, 'blob')} damaged" if last.damaged else "every byte right"
        came += ", and none is now" if last.damaged and not found.damaged else ""
        parts.append(f"last {words.ago(now - _seconds(last.ended))}: {words.count(last.blobs, 'blob')}, {came}")
        parts += [f"{words.count(last.buffered, 'blob')} read through the page cache"] if last.buffered else []
    if found.next and found.now is None:
        parts.append(f"next {_until(_seconds(found.next) - now)}")
    rows = _labelled("scrub", parts, [Row(("", f"failed: {found.failure}"), Tone.BAD)] if found.failure else [])
    return rows + [Row(("DAMAGED", _damage(one)), Tone.BAD) for one in found.damaged]


def _repairs(found: v1.Status) -> list[Row]:
    """What is damaged and was not found by a scrub, and why what is damaged is not mended yet."""
    rows = [Row(("DAMAGED", _waiting(one)), Tone.BAD) for one in _only_waiting(found)]
    return rows + [
        Row(("", f"not mended: {one.reason}; next try {one.next_try or 'by hand'}"), Tone.BAD)
        for one in found.repairs
        if one.reason
    ]


def _only_waiting(found: v1.Status) -> list[WaitingRepair]:
    scrubbed = {one.digest for one in found.scrub.damaged} if found.scrub else set()
    return [one for one in found.repairs if one.digest not in scrubbed]


def _waiting(one: WaitingRepair) -> str:
    return f"{', '.join(one.models)}: {one.detail}: {one.digest}"


def _damage(one: ScrubDamage) -> str:
    return f"{', '.join(one.models)}: {one.kind.replace('_', ' ')}: {one.digest}"


def _collection(found: CollectionInfo | None, now: float) -> list[Row]:
    """What ``syncd gc`` did and would do, where there is anything to say of it."""
    if found is None:
        return []
    parts = [f"last {words.ago(now - _seconds(found.last))}"] if found.last else []
    parts += [f"{size(found.reclaimable)} for 'syncd gc'"] if found.reclaimable else []
    parts += [f"{size(found.quarantine)} in quarantine"] if found.quarantine else []
    return _labelled("collection", parts, [Row(("", f"waits: {why}")) for why in found.waiting])


def _labelled(label: str, parts: list[str], more: list[Row]) -> list[Row]:
    """``parts`` in a row, and ``more`` below it; whichever comes first says what it is about."""
    rows = [Row(("", ", ".join(parts))), *more] if parts else more
    return [replace(one, cells=(label, *one.cells[1:])) for one in rows[:1]] + rows[1:]


def _models(found: v1.Status, now: float) -> Sheet:
    return Sheet(
        ("MODEL", "STATE", "DIGEST", "SIZE", "CHECKED", "NEXT CHECK", "WHY"),
        tuple(_model(one, now) for one in found.models),
    )


def _model(one: v1.DesiredModel, now: float) -> Row:
    pulling = one.state == "pulling"
    calm = one.state in {"published", "pinned"}
    tone = Tone.BAD if one.state in {"failing", "held"} else Tone.CALM if calm else Tone.MOVING
    why = one.reason or ""
    if one.pending:
        why = f"{_short(one.pending)} waits{f': {why}' if why else ''}"
    if one.moved_back:
        why = f"{why}{'; ' if why else ''}the registry's tag has moved back to it"
    if one.failures:
        why = f"{why} ({words.count(one.failures, 'failure')})"
    return row(
        tone,
        one.name,
        one.state,
        _short(one.digest),
        _progress(one.done, one.size) if pulling else size(one.size) if one.size else "-",
        words.ago(now - _seconds(one.last_check)) if one.last_check else "-",
        _until(_seconds(one.next_check) - now) if one.next_check else "-",
        why,
    )


def _unmanaged(found: v1.Status) -> Sheet:
    header = ("UNMANAGED", "DIGEST", "SIZE", "") if any(one.left_over for one in found.unmanaged) else _UNMANAGED
    rows = (
        row(Tone.CALM, one.name, _short(one.digest), size(one.size), "left the settings" if one.left_over else "")
        for one in found.unmanaged
    )
    return Sheet(header, tuple(Row(row.cells[: len(header)], row.tone) for row in rows))


_UNMANAGED = ("UNMANAGED", "DIGEST", "SIZE")


def _jobs(found: v1.Status, now: float) -> Sheet:
    running = [job for job in found.jobs if job.state == "running"]
    ended = [job for job in found.jobs if job.state != "running"][:_ENDED_JOBS]
    return Sheet(
        ("JOB", "MODEL", "STATE", "PROGRESS", "ASKED FOR BY", "BEGAN", "ERROR"),
        tuple(
            row(
                Tone.MOVING if job.state == "running" else Tone.BAD if job.state == "failed" else Tone.CALM,
                job.id,
                job.name,
                job.phase or job.state if job.state == "running" else job.state,
                _progress(job.done, job.size),
                job.asked_by,
                words.ago(now - _seconds(job.started)),
                job.error or "",
            )
            for job in (*running, *ended)
        ),
    )


def _short(digest: str | None) -> str:
    return digest.removeprefix("sha256:")[:_SHORT] if digest else "-"


def _progress(done: int, whole: int) -> str:
    return f"{100 * done // whole}% of {size(whole)}" if whole else "-"


def _until(seconds: float) -> str:
    return f"in {words.left(seconds)}" if seconds >= 1 else "now"


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _columns(rows: list[tuple[str, ...]], *, gap: int) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ((" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)
