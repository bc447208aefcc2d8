"""A settings document as structs, checked as a whole: what contradicts itself is refused (pure)."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from syncd.daemon.convert import convert, table
from syncd.daemon.dropins import Document
from syncd.daemon.server_settings import InstanceSettings, check_instances
from syncd.daemon.settings import MAX_MODELS, ControlSettings, ModelSettings, RegistrySettings, Settings

_HOST = re.compile(r"[a-z0-9_][a-z0-9_.-]*(?::[0-9]{1,5})?|\[[0-9a-f:.]+\](?::[0-9]{1,5})?")
_MAX_SOCKET_PATH = 107  # bytes: sun_path in unix(7), without its NUL


def parse(document: Document) -> Settings:
    """The settings that ``document`` holds. Raise ``ConfigurationError`` with file, line and key of what is wrong."""
    top = dict(document.tables)
    registries = _registries(document, table(document, ("registries",), top.pop("registries", {})))
    for section in ("control", "ops"):
        if isinstance(found := top.get(section), dict) and found.get("listen") == "":
            top[section] = {**found, "listen": None}
    models = tuple(
        convert(document, ("models", index), entry, ModelSettings) for index, entry in enumerate(top.pop("models", ()))
    )
    instances = tuple(
        convert(document, ("instances", index), entry, InstanceSettings)
        for index, entry in enumerate(top.pop("instances", ()))
    )
    settings = msgspec.structs.replace(
        convert(document, (), top, Settings), registries=registries, models=models, instances=instances
    )
    _check_models(document, models)
    _check_control(document, settings.control)
    check_instances(document, instances, settings.docker)
    return settings


def _registries(document: Document, hosts: Mapping[str, Any]) -> Mapping[str, RegistrySettings]:
    registries: dict[str, RegistrySettings] = {}
    for host, value in hosts.items():
        keys = ("registries", host)
        if not _HOST.fullmatch(host.lower()):
            raise document.error(keys, f"{host!r} is not a registry's host", hint="write it as NAME or NAME:PORT")
        if host.lower() in registries:
            raise document.error(keys, f"the registry {host!r} is there twice, in different case")
        registries[host.lower()] = convert(document, keys, value, RegistrySettings)
    return registries


def _check_models(document: Document, models: Sequence[ModelSettings]) -> None:
    """Refuse two entries for one name, and names of which Ollama would find now the one, now the other."""
    if len(models) > MAX_MODELS:
        raise document.error(
            ("models", MAX_MODELS), f"there are {len(models)} models: at most {MAX_MODELS} are possible"
        )
    names: dict[str, int] = {}
    spellings: dict[tuple[int, str], tuple[str, int]] = {}  # by position in the name and folded part
    for index, name in enumerate(model.name.name for model in models):
        keys = ("models", index, "name")
        first = names.setdefault(name.folded, index)
        if first != index:
            raise document.error(keys, f"{name} is there twice: also at {document.origin(('models', first))}")
        for position, part in enumerate(name.parts):
            spelling, other = spellings.setdefault((position, part.casefold()), (part, index))
            if spelling != part:
                where = document.origin(("models", other))
                raise document.error(
                    keys,
                    f"{part!r} of {name} differs from {spelling!r} at {where} only in case",
                    hint="Ollama takes both for one: write them alike",
                )


def _check_control(document: Document, control: ControlSettings) -> None:
    if control.listen is not None and not control.listen.is_loopback and control.token_file is None:
        raise document.error(
            ("control", "listen"),
            f"listen: {control.listen} can be reached from other hosts, and there is no token_file",
            hint="name a file that holds a token, or listen on 127.0.0.1",
        )
    if control.socket is not None and len(os.fsencode(control.socket)) > _MAX_SOCKET_PATH:
        raise document.error(("control", "socket"), f"socket: a socket's path has at most {_MAX_SOCKET_PATH} bytes")
