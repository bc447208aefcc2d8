"""Ollama's JSON (``api/types.go``), as far as a store has something to say. Pure; ``api.library`` reads the store.

Fields that Go leaves out when they are empty are left out here; where a model's config lacks a field, what the weights'
header says stands in, else the field is empty as Ollama has it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from syncd.oci.gguf import Header
from syncd.store.models import StoredModel

_BILLION, _MILLION, _THOUSAND = 10**9, 10**6, 10**3


class Details(msgspec.Struct, frozen=True):
    """``ModelDetails``. ``families`` is null where the config has none."""

    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: tuple[str, ...] | None = None
    parameter_size: str = ""
    quantization_level: str = ""


class Tag(msgspec.Struct, frozen=True, omit_defaults=True):
    """``ListModelResponse``. ``digest``: of the manifest, bare hex."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details
    remote_model: str = ""
    remote_host: str = ""


class Tags(msgspec.Struct, frozen=True):
    """``ListResponse``."""

    models: tuple[Tag, ...]


class Message(msgspec.Struct, frozen=True):
    """``Message``, as far as a model stores it."""

    role: str
    content: str


class TensorShape(msgspec.Struct, frozen=True):
    """``Tensor``."""

    name: str
    type: str
    shape: tuple[int, ...]


class Show(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """``ShowResponse``."""

    license: str = ""
    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    system: str = ""
    renderer: str = ""
    parser: str = ""
    details: Details
    messages: tuple[Message, ...] = ()
    remote_model: str = ""
    remote_host: str = ""
    model_info: dict[str, Any]
    projector_info: dict[str, Any] | None = None
    tensors: tuple[TensorShape, ...] = ()
    capabilities: tuple[str, ...] = ()
    modified_at: str
    requires: str = ""


class Version(msgspec.Struct, frozen=True):
    """``/api/version``."""

    version: str


class PullRequest(msgspec.Struct, frozen=True):
    """``PullRequest``; null counts as left out, as in Go. ``name``: the older spelling of ``model``."""

    model: str | None = None
    name: str | None = None
    insecure: bool | None = None
    stream: bool | None = None


class ShowRequest(msgspec.Struct, frozen=True):
    """``ShowRequest``."""

    model: str | None = None
    name: str | None = None
    system: str | None = None
    verbose: bool | None = None


class DeleteRequest(msgspec.Struct, frozen=True):
    """``DeleteRequest``."""

    model: str | None = None
    name: str | None = None


class Config(msgspec.Struct, frozen=True):
    """A model's config blob (``types/model/config.go``); every field may be missing, or null."""

    model_format: str | None = None
    model_family: str | None = None
    model_families: tuple[str, ...] | None = None
    model_type: str | None = None
    file_type: str | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    remote_host: str | None = None
    remote_model: str | None = None
    capabilities: tuple[str, ...] | None = None

    @property
    def details(self) -> Details:
        """What it says of the model."""
        return Details(
            format=self.model_format or "",
            family=self.model_family or "",
            families=self.model_families,
            parameter_size=self.model_type or "",
            quantization_level=self.file_type or "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What ``show`` is made of. ``weights`` and ``projector``: headers, where the layer is GGUF.

    ``parameters``: the params layer. ``source``: what stands behind FROM in the modelfile.
    """

    config: Config
    licenses: tuple[str, ...]
    template: str | None
    system: str
    parameters: Mapping[str, Any]
    messages: tuple[Message, ...]
    weights: Header | None
    projector: Header | None
    source: str


def timestamp(seconds: float) -> str:
    """A time since the epoch as RFC 3339 with microseconds, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def tags(models: Iterable[tuple[StoredModel, Config]]) -> Tags:
    """``/api/tags``: the latest first."""
    ordered = sorted(models, key=lambda one: (-one[0].modified, str(one[0].name)))
    return Tags(
        tuple(
            Tag(
                name=str(model.name),
                model=str(model.name),
                modified_at=timestamp(model.modified),
                size=model.manifest.size,
                digest=model.manifest.digest.hex,
                details=config.details,
                remote_model=config.remote_model or "",
                remote_host=config.remote_host or "",
            )
            for model, config in ordered
        )
    )


def show(model: StoredModel, parts: Parts, *, verbose: bool) -> Show:
    """``/api/show``."""
    weights = parts.weights
    template = parts.template
    if template is None:
        # Ollama server/routes.go selectedModelTemplate; template.DefaultTemplate.
        template = _text(weights, "tokenizer.chat_template") or "{{ .Prompt }}"
    return Show(
        license="\n".join(parts.licenses),
        modelfile=_modelfile(model, parts, template),
        parameters="\n".join(
            f"{key:<30} {json.dumps(value, ensure_ascii=False)}" for key, value in _flat(parts.parameters)
        ),
        template=template,
        system=parts.system,
        renderer=parts.config.renderer or "",
        parser=parts.config.parser or "",
        details=_details(parts),
        messages=parts.messages,
        remote_model=parts.config.remote_model or "",
        remote_host=parts.config.remote_host or "",
        model_info=_metadata(weights) if weights else {},
        projector_info=_metadata(parts.projector) if parts.projector else None,
        tensors=tuple(TensorShape(one.name, one.kind, one.shape) for one in weights.tensors)
        if weights and verbose
        else (),
        capabilities=capabilities(parts),
        modified_at=timestamp(model.modified),
        requires=parts.config.requires or "",
    )


def capabilities(parts: Parts) -> tuple[str, ...]:
    """What the model can do, by its config, its weights' header and its template (``server/images.go``)."""
    found = list(parts.config.capabilities or ())
    template = parts.template
    if parts.weights:
        kind = parts.weights.architecture
        chat = _text(parts.weights, "tokenizer.chat_template")
        if template is None and ("tools" in chat or "tool_call" in chat):
            found.append("tools")
        if template is None and "<think>" in chat and "</think>" in chat:
            found.append("thinking")
        found.append("embedding" if f"{kind}.pooling_type" in parts.weights.fields else "completion")
        found += [word for word in ("vision", "audio") if f"{kind}.{word}.block_count" in parts.weights.fields]
    if parts.projector:
        found.append("vision")
    variables = {name.lower() for action in _actions(template or "") for name in _names(action)}
    found += [
        word for word, name in (("tools", "tools"), ("insert", "suffix"), ("thinking", "thinking")) if name in variables
    ]
    return tuple(dict.fromkeys(found))


def _actions(template: str) -> Iterator[str]:
    """What stands between ``{{`` and ``}}``. No regular expression: one would look again from each unclosed brace."""
    start = template.find("{{")
    while start >= 0 and (end := template.find("}}", start + 2)) >= 0:
        yield template[start + 2 : end]
        start = template.find("{{", end + 2)


def _names(action: str) -> list[str]:
    # A string without an end is passed over as if it had one, for the same reason.
    return re.findall(r"\.([A-Za-z]+)", re.sub(r'"(?:[^"\\]++|\\.)*+"?|`[^`]*`', "", action))


def _details(parts: Parts) -> Details:
    told = parts.config.details
    weights = parts.weights
    if weights is None:
        return told
    kind = weights.architecture
    quantization = told.quantization_level
    return msgspec.structs.replace(
        told,
        format=told.format or "gguf",
        family=told.family or kind,
        families=told.families if told.families is not None or not kind else (kind,),
        parameter_size=told.parameter_size or human_number(weights.parameters),
        quantization_level=weights.quantization or quantization if quantization in {"", "unknown"} else quantization,
    )


def human_number(number: int) -> str:
    """``7.2B``, ``137M``, ``22.70M`` (``format.HumanNumber``)."""
    for unit, letter, digits in ((_BILLION, "B", 1), (_MILLION, "M", 2)):
        if number >= unit:
            return f"{number // unit}{letter}" if number % unit == 0 else f"{number / unit:.{digits}f}{letter}"
    return f"{number / _THOUSAND:.0f}K" if number >= _THOUSAND else str(number)


def _metadata(header: Header) -> dict[str, Any]:
    """Without what is shown elsewhere, and with the count that Ollama adds."""
    hidden = {"general.name", "tokenizer.chat_template"}
    found: dict[str, Any] = {key: value for key, value in header.fields.items() if key not in hidden}
    return {**found, "general.parameter_count": header.parameters}


def _text(header: Header | None, key: str) -> str:
    found = header.fields.get(key) if header else None
    return found if isinstance(found, str) else ""


def _flat(parameters: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """A list stands for one parameter many times."""
    return [
        (key, item) for key, value in parameters.items() for item in (value if isinstance(value, list) else [value])
    ]


def _modelfile(model: StoredModel, parts: Parts, template: str) -> str:
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {model.name}",
        "",
        f"FROM {parts.source}",
        f"TEMPLATE {_quoted(template)}",
    ]
    if parts.system:
        lines.append(f"SYSTEM {_quoted(parts.system)}")
    for key, value in (("RENDERER", parts.config.renderer), ("PARSER", parts.config.parser)):
        if value:
            lines.append(f"{key} {_quoted(value)}")
    lines += [f"PARAMETER {key} {_quoted(_plain(value))}" for key, value in _flat(parts.parameters)]
    lines += [f"LICENSE {_quoted(text)}" for text in parts.licenses]
    lines += [f"MESSAGE {one.role} {_quoted(one.content)}" for one in parts.messages]
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    """As Ollama's parser reads it back (``parser.quote``)."""
    if "\n" in text or text.startswith(" ") or text.endswith(" "):
        return f'"""{text}"""' if '"' in text else f'"{text}"'
    return text
