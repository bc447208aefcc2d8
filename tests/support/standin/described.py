"""A stored model as a server knows it: its layers read, its capabilities found, its answers to tags and show."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.standin.gguf_header import BadGguf, Header, read_header, read_whole_header
from tests.support.standin.store import Manifest, Store

_LAYER = "application/vnd.ollama.image."
_DEFAULT_TEMPLATE = "{{ .Prompt }}"
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Model:
    """What ``GetModel`` makes of a manifest (``server/images.go``). Paths are resolved here and not again."""

    manifest: Manifest
    config: Mapping[str, Any]
    weights: Path | None
    projectors: tuple[Path, ...]
    texts: Mapping[str, str]
    options: Mapping[str, Any]
    capabilities: tuple[str, ...]
    train_context: int

    @property
    def shortest(self) -> str:
        return self.manifest.name.shortest

    @property
    def remote(self) -> tuple[str, str] | None:
        """Host and model that a stub stands for."""
        host, model = self.config.get("remote_host", ""), self.config.get("remote_model", "")
        return (host, model) if host and model else None

    @property
    def details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": self.config.get("model_format", ""),
            "family": self.config.get("model_family", ""),
            "families": self.config.get("model_families"),
            "parameter_size": self.config.get("model_type", ""),
            "quantization_level": self.config.get("file_type", ""),
        }


def describe(store: Store, manifest: Manifest) -> Model:
    """Read what the manifest names, but for the weights themselves. Raise ``OSError`` or ``ValueError``.

    Weights that cannot be opened are no error here: the model then has no capabilities.
    """
    config: dict[str, Any] = {}
    if digest := manifest.config.get("digest"):
        config = json.loads(store.blob(digest).read_bytes())
    paths: dict[str, list[Path]] = {}
    for layer in manifest.layers:
        kind = str(layer.get("mediaType", "")).removeprefix(_LAYER)
        paths.setdefault(kind, []).append(store.blob(layer["digest"]))
    texts: dict[str, str] = {
        kind: "\n".join(path.read_text() for path in paths[kind])
        for kind in ("template", "prompt", "system", "messages", "license")
        if kind in paths
    }
    options = json.loads(paths["params"][-1].read_bytes()) if "params" in paths else {}
    weights = paths["model"][-1] if "model" in paths else None
    header = _header_or_none(weights)
    capabilities = dict.fromkeys(config.get("capabilities") or ())
    if header is not None:
        capabilities["completion" if header.get("pooling_type") is None else "embedding"] = None
        if header.get("vision.block_count") is not None:
            capabilities["vision"] = None
    if "projector" in paths:
        capabilities["vision"] = None
    if ".Suffix" in texts.get("template", ""):
        capabilities["insert"] = None
    if ".Tools" in texts.get("template", ""):
        capabilities["tools"] = None
    train_context = int(header.get("context_length") or 0) if header is not None else 0
    projectors = tuple(paths.get("projector", ()))
    return Model(manifest, config, weights, projectors, texts, options, tuple(capabilities), train_context)


def listed(model: Model) -> dict[str, Any]:
    """Its entry in ``/api/tags``."""
    details = dict(model.details)
    header = None if model.remote else _header_or_none(model.weights)
    lengths = {
        "context_length": model.config.get("context_length") or (header and header.get("context_length")),
        "embedding_length": model.config.get("embedding_length") or (header and header.get("embedding_length")),
    }
    details.update({key: value for key, value in lengths.items() if value})
    entry: dict[str, Any] = {
        "name": model.shortest,
        "model": model.shortest,
        **_remote_fields(model),
        "modified_at": moment(model.manifest.modified),
        "size": model.manifest.size,
        "digest": model.manifest.digest,
        "details": details,
    }
    if model.capabilities:
        entry["capabilities"] = list(model.capabilities)
    return entry


def shown(model: Model) -> dict[str, Any]:
    """The answer to ``/api/show``. Raise ``OSError`` or ``BadGguf`` where the GGUF files cannot be read."""
    answer: dict[str, Any] = {
        "license": model.texts.get("license", ""),
        "modelfile": f"# FROM {model.shortest}\n\nFROM {model.weights}\n",
        "parameters": "\n".join(_parameters(model.options)),
        "template": model.texts.get("template", _DEFAULT_TEMPLATE),
        "system": model.texts.get("system", ""),
        "details": model.details,
        **_remote_fields(model),
        "model_info": {},
        "capabilities": list(model.capabilities),
        "modified_at": moment(model.manifest.modified),
    }
    if model.remote is None:
        if model.weights is None:
            raise FileNotFoundError(2, "no such file or directory", "")
        header = read_whole_header(model.weights)
        answer["model_info"] = _information(header, without=("general.name", "tokenizer.chat_template"))
        answer["tensors"] = [
            {"name": tensor.name, "type": tensor.kind, "shape": list(tensor.shape)} for tensor in header.tensors
        ]
        if model.projectors:
            answer["projector_info"] = _information(read_whole_header(model.projectors[0]), without=())
    return {key: value for key, value in answer.items() if value or key in ("model_info", "details")}


def moment(nanoseconds: int) -> str:
    """RFC 3339 as Go writes it, in UTC; ``nanoseconds`` since the epoch."""
    seconds, rest = divmod(nanoseconds, _NS)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def _header_or_none(path: Path | None) -> Header | None:
    if path is None:
        return None
    try:
        return read_header(path)
    except (OSError, BadGguf):
        return None


def _information(header: Header, without: tuple[str, ...]) -> dict[str, Any]:
    fields = {key: value for key, value in header.fields.items() if key not in without}
    return {**fields, "general.parameter_count": header.parameters}


def _parameters(options: Mapping[str, Any]) -> list[str]:
    flat = [(key, item) for key, value in options.items() for item in (value if isinstance(value, list) else [value])]
    return [f"{key:<30} {json.dumps(item)}" for key, item in flat]


def _remote_fields(model: Model) -> dict[str, Any]:
    if model.remote is None:
        return {}
    return dict(zip(("remote_host", "remote_model"), model.remote, strict=True))
