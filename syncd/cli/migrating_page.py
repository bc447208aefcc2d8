"""How ``syncd migrate`` looks: the plan, a line for each step, and at the end a table of servers and their models."""

import sys
from collections.abc import Sequence
from typing import Protocol

import msgspec

from syncd.api import events, migrations, v1
from syncd.api.migrations import Migrated, MigrationPlanned, MigrationStep, ModelOnServer
from syncd.cli import adopting_page, words
from syncd.jobs.migrate import Quarantined, Taken
from syncd.jobs.migration import Plan
from syncd.text import printable, size

_STUB = "hosted elsewhere"  # the only models that servers are not asked for
_MARKS = {"served": "served", "loaded": "loaded", "hosted": "hosted"}
_STEPS = {
    "hash": "hashing what lies in the store",
    "quarantine": "taking away what is no whole part of a model",
    "adopt": "adopting",
    "pull": "pulling what is missing, one model at a time",
    "verify": "verifying",
    "servers": "servers, one after another",
}


class View(Protocol):
    """Shows a migration's own part; adopting, pulling and verifying have views of theirs."""

    def plan(self, plan: Plan, told: MigrationPlanned) -> None:
        """What is going to be done, or would be."""

    def step(self, step: MigrationStep) -> None:
        """A step begins."""

    def quarantined(self, one: Quarantined) -> None:
        """Something was taken away."""

    def tried(self, line: v1.ReloadTried) -> None:
        """A model was tried on a server."""

    def migrated(self, told: Migrated) -> None:
        """The end."""


def view(*, quiet: bool, as_json: bool) -> View:
    """What fits where the output goes."""
    return _Programs() if as_json else _People(quiet=quiet)


class _Programs:
    def plan(self, plan: Plan, told: MigrationPlanned) -> None:  # noqa: ARG002 - the protocol's
        self._write(told)

    def step(self, step: MigrationStep) -> None:
        self._write(step)

    def quarantined(self, one: Quarantined) -> None:
        self._write(migrations.quarantined(one))

    def tried(self, line: v1.ReloadTried) -> None:
        self._write(line)

    def migrated(self, told: Migrated) -> None:
        self._write(told)

    def _write(self, event: msgspec.Struct) -> None:
        sys.stdout.write(events.line(event))
        sys.stdout.flush()


class _People:
    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def plan(self, plan: Plan, told: MigrationPlanned) -> None:
        """On stdout where it is the result, else on stderr."""
        text = plan_text(plan, told)
        if told.dry_run:
            sys.stdout.write(text)
        else:
            self._say(text)

    def step(self, step: MigrationStep) -> None:
        self._say(f"{_STEPS[step.step]}\n")

    def quarantined(self, one: Quarantined) -> None:
        self._say(f"{_path(one.path)}: {printable(one.what)}: {_TAKEN[one.taken]}\n")

    def tried(self, line: v1.ReloadTried) -> None:
        reason = f": {printable(line.reason)}" if line.reason else ""
        self._say(f"{printable(line.instance)}: {printable(line.model)}: {printable(line.result)}{reason}\n")

    def migrated(self, told: Migrated) -> None:
        sys.stdout.write(end_text(told))
        sys.stdout.flush()

    def _say(self, text: str) -> None:
        if not self._quiet:
            sys.stderr.write(text)
            sys.stderr.flush()


_TAKEN = {
    Taken.MOVED: "in the quarantine",
    Taken.SET_ASIDE: "kept in the quarantine; a whole one takes its place",
    Taken.LEFT: "stays: somebody else has it in hand",
}


def plan_text(plan: Plan, told: MigrationPlanned) -> str:
    """What is to go, to come and to be asked, a line each."""
    lines = []
    for misfit in told.quarantine:
        how = "to the quarantine, when a whole one takes its place" if misfit.replaced else "to the quarantine"
        lines.append(f"{misfit.path}: {misfit.what}: {how}")
    lines += [f"{one}: stays, see to it yourself" for one in told.stays]
    text = "".join(f"{line}\n" for line in lines)
    if plan.adoption.scans:
        text += adopting_page.plan_text(plan.adoption, dry_run=told.dry_run, delete=told.adopt.delete_source)
    text += "".join(f"{printable(pull.name)}: to be pulled: {printable(pull.why)}\n" for pull in told.pull)
    for server in told.servers:
        parts = [f"{what} {', '.join(names)}" for what, names in _asked(server.reload, server.prove) if names]
        text += f"{printable(server.server)}: {'; '.join(parts)}\n"
    if not plan.changes and not told.servers:
        text += "there is nothing to do\n"
    if not told.daemon:
        text += "no daemon runs: servers are not touched\n"
    return text


def _asked(reload: Sequence[str], prove: Sequence[str]) -> Sequence[tuple[str, Sequence[str]]]:
    return (("to load anew", reload), ("to prove", prove))


def end_text(told: Migrated) -> str:
    """The table: servers by models, and the disk."""
    if told.servers is None:
        text = "".join(f"{printable(name)}    published\n" for name in told.models)
        text += (
            "servers: none was touched, for no daemon runs. Next: let them mount this store alone and read-only\n"
            "(docs/migration.md), 'systemctl start syncd', and run the same command again: it proves every model.\n"
        )
    else:
        rows = [["SERVER", "CONNECTION", *map(printable, told.models)]]
        for server in told.servers:
            cells = {one.name: cell_text(one) for one in server.models}
            rows.append([server.name, _connection(server), *(cells.get(name, _STUB) for name in told.models)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        text = "".join(
            "    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
            for row in rows
        )
        if not told.servers:
            text = "servers: the settings name none ([[instances]])\n"
    disk = told.disk
    text += f"disk: {size(disk.before)} before, {size(disk.after)} after"
    text += f" ({size(disk.quarantine)} of it in the quarantine)" if disk.quarantine else ""
    text += f"; {size(disk.saved)} saved"
    text += f", {size(disk.savable)} more with --delete-source" if disk.savable else ""
    return f"{text}; {words.took(told.seconds)}\n"


def cell_text(one: ModelOnServer) -> str:
    """A check mark and a word."""
    if one.proved:
        return "✓ proved"
    if one.state in _MARKS:
        return f"✓ {_MARKS[one.state]}"
    return f"✗ {printable(one.reason or one.state, limit=40)}"


def _connection(server: migrations.MigratedServer) -> str:
    if server.up is None:
        return "? nobody has asked"
    if not server.up:
        return f"✗ {printable(server.error or 'does not answer', limit=60)}"
    return f"✓ Ollama {printable(server.version or '?')}"


def _path(path: str) -> str:
    return printable(path, limit=4096)
