"""The settings that count, and where each of them comes from: found, read, and pinned by the pins file."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from syncd.daemon import dropins
from syncd.daemon.dropins import Document
from syncd.daemon.held_names import held_by
from syncd.daemon.lines import Keys
from syncd.daemon.located import TomlFile
from syncd.daemon.settings import MAX_MODELS, ModelSettings, Settings
from syncd.daemon.settings_parse import parse
from syncd.errors import BusyError, ConfigurationError
from syncd.jobs import pins as pins_files
from syncd.jobs.pins import Pins
from syncd.oci.name import ModelName, Reference

SYSTEM_FILE = Path("/etc/syncd/syncd.toml")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and the files they came from; without any, these are the defaults.

    ``pins``: what the pins file says; the models of ``settings`` are pinned by it, and those that it alone names are
    among them, behind the others.
    """

    settings: Settings = field(default_factory=Settings)
    document: Document = field(default_factory=Document)
    pins: Pins = field(default_factory=Pins)

    @property
    def path(self) -> Path | None:
        """The settings file, whose drop-ins lie beside it. None: there is neither."""
        return self.document.path

    @property
    def files(self) -> tuple[TomlFile, ...]:
        """Every file that was read, in that order."""
        return self.document.files

    def origin(self, keys: Keys) -> str | None:
        """``FILE:LINE`` of the key at ``keys`` (``("download", "connections")``), None where it has its default."""
        if keys[:1] == ("models",) and self._is_only_pinned(keys[1:2]):
            return str(self.pins.path)
        return self.document.origin(keys)

    def _is_only_pinned(self, index: Keys) -> bool:
        """Whether the model of this index is there by the pins file alone."""
        return bool(index) and self.document.origin(("models", *index)) is None and self.pins.path is not None

    def for_another_store(self) -> "Loaded":
        """What counts for a store that these settings are not about: which models are wanted says nothing of it.

        Nor do their pins: the file is neither read nor written for that store.
        """
        return replace(self, settings=msgspec.structs.replace(self.settings, models=(), pins=None), pins=Pins())

    def where(self, name: ModelName) -> str | None:
        """``FILE:LINE`` of the entry that asks for ``name``, as Ollama looks names up; None: no entry does."""
        for index, model in enumerate(self.settings.models):
            if model.name.name.folded == name.folded:
                return self.origin(("models", index))
        return None

    def resolved(self, reference: Reference) -> Reference:
        """``reference``, pinned as the pins file has its name, unless it names a version itself."""
        pin = self.pins.of(reference.name) if reference.digest is None else None
        return reference if pin is None else Reference(reference.name, pin.manifest.digest)

    def refuse_other_than_pinned(self, reference: Reference) -> None:
        """Raise ``BusyError`` if an entry pins this name to something else: a pull would only be undone."""
        for index, model in enumerate(self.settings.models):
            pin = model.name.digest
            if model.name.name.folded == reference.name.folded and pin not in {None, reference.digest}:
                if self.pins.of(reference.name) is not None:
                    raise BusyError(
                        f"{reference.name} is pinned by {self.pins.path} to {pin}",
                        hint=f"'syncd unpin {reference.name}' releases it",
                    )
                raise BusyError(
                    f"{reference.name} is pinned by the settings at {self.document.origin(('models', index))} to {pin}",
                    hint=f"'syncd pull {model.name}' pulls that one; for another, change the pin there",
                )

    def error(self, keys: Keys, message: str, *, hint: str | None = None) -> ConfigurationError:
        """The error that the value at ``keys`` cannot be used; it leads to the line, if there is one."""
        return self.document.error(keys, message, hint=hint)


def load(named: Path | None, environ: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> Loaded:
    """The settings of ``named`` (``--config``), else of ``SYNCD_CONFIG``, the system's file, the user's, else defaults.

    Raise ``ConfigurationError`` for a named file that is missing, and for every file that cannot be used as it stands.
    """
    document = found(named, environ, system_file=system_file)
    return Loaded() if document is None else loaded_of(document)


def found(named: Path | None, environ: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> Document | None:
    """The settings file that ``load`` goes by, as it is written; None: there is none. Raise ``ConfigurationError``."""
    paths, must_exist = candidates(named, environ, system_file=system_file)
    for path in paths:
        document = dropins.read(path)
        if must_exist and (document is None or path not in (file.path for file in document.files)):
            raise ConfigurationError(f"there are no settings at {path}", hint=_named_hint(named))
        if document is not None:
            return document
    return None


def loaded_of(document: Document) -> Loaded:
    """What ``document`` says, with the pins file that it names. Raise ``ConfigurationError``. Blocks."""
    settings = parse(document)
    if settings.pins is None:
        return Loaded(settings, document)
    try:
        pins = pins_files.read(settings.pins)
    except ConfigurationError as error:
        raise document.error(("pins",), error.message, hint=error.hint) from error
    models = _pinned(document, settings.models, pins)
    return Loaded(msgspec.structs.replace(settings, models=models), document, pins)


def _pinned(document: Document, models: Sequence[ModelSettings], pins: Pins) -> tuple[ModelSettings, ...]:
    """``models`` as ``pins`` has them, and behind them those that it alone names. Refuse what contradicts itself."""
    references = held_by(document, [model.name for model in models], pins)
    if len(references) > MAX_MODELS:
        raise document.error(
            ("pins",), f"with {pins.path} there are {len(references)} models: at most {MAX_MODELS} are possible"
        )
    named = (msgspec.structs.replace(model, name=name) for model, name in zip(models, references, strict=False))
    return (*named, *(ModelSettings(name=name) for name in references[len(models) :]))


def candidates(
    named: Path | None, environ: Mapping[str, str], *, system_file: Path = SYSTEM_FILE
) -> tuple[Sequence[Path], bool]:
    """Where settings are looked for, the first that is there counts; and whether somebody named it: then it must be."""
    if named is not None:
        return [named], True
    if environ.get("SYNCD_CONFIG"):
        return [Path(environ["SYNCD_CONFIG"])], True
    home = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - raises nothing without HOME
    return [system_file, Path(home) / "syncd" / "syncd.toml"], False


def _named_hint(named: Path | None) -> str:
    return f"{'--config' if named else 'SYNCD_CONFIG'} names that file: make it, or leave that out"
