"""Models as Ollama's registry has them: the README's five with real GGUF weights, and big synthetic ones."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from tests.support.content import Content, Generated, InMemory, content
from tests.support.gguf_files import Shape, embedder, language_model, projector

MIB = 1 << 20

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.ollama.image."


@dataclass(frozen=True, slots=True)
class Model:
    """One model. ``name`` as people type it (``mistral:7b``); ``weights``, ``config``, ``digest`` are ``sha256:…``."""

    name: str
    manifest: bytes
    blobs: Mapping[str, Content]
    weights: str
    config: str

    @property
    def digest(self) -> str:
        """The manifest's own digest."""
        return InMemory(self.manifest).digest

    @property
    def size(self) -> int:
        """Bytes of all blobs, each counted once."""
        return sum(blob.size for blob in self.blobs.values())

    @property
    def weights_size(self) -> int:
        return self.blobs[self.weights].size

    def layers(self, kind: str) -> list[str]:
        """Digests of the layers of a kind: ``model``, ``projector``, ``template``, …"""
        layers = json.loads(self.manifest)["layers"]
        return [layer["digest"] for layer in layers if layer["mediaType"] == _LAYER + kind]


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What tells one of the five from another. ``weights`` writes the GGUF file."""

    family: str
    parameters: str
    context_length: int
    license: str
    template: str | None = None
    params: Mapping[str, Any] | None = None
    weights: Callable[[Shape], bytes] = language_model
    has_projector: bool = False


_APACHE = "Apache License, Version 2.0\nhttps://www.apache.org/licenses/LICENSE-2.0\n"
_LLAMA2 = "LLAMA 2 COMMUNITY LICENSE AGREEMENT\nhttps://ai.meta.com/llama/license/\n"
_LLAMA3 = "LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\nhttps://www.llama.com/llama3_2/license/\n"
_INSTRUCT = "[INST] {{ if .System }}{{ .System }} {{ end }}{{ .Prompt }} [/INST] {{ .Response }}"
_INSTRUCT_STOPS = {"stop": ["[INST]", "[/INST]"]}

_FIVE: Mapping[str, _Recipe] = MappingProxyType(
    {
        "mistral:7b": _Recipe("llama", "7.2B", 32768, _APACHE, _INSTRUCT, _INSTRUCT_STOPS),
        "llama3.2:3b": _Recipe(
            "llama",
            "3.2B",
            131072,
            _LLAMA3,
            "<|start_header_id|>user<|end_header_id|>\n\n{{ .Prompt }}<|eot_id|>",
            {"stop": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]},
        ),
        "codellama:7b": _Recipe(
            "llama", "6.7B", 16384, _LLAMA2, _INSTRUCT, {"rope_frequency_base": 1000000, **_INSTRUCT_STOPS}
        ),
        "llava:7b": _Recipe("llama", "7.2B", 32768, _APACHE, _INSTRUCT, _INSTRUCT_STOPS, has_projector=True),
        "nomic-embed-text:v1.5": _Recipe(
            "nomic-bert", "137M", 2048, _APACHE, params={"num_ctx": 8192}, weights=embedder
        ),
    }
)


def model_from(name: str, layers: list[tuple[str, bytes | Content]], config: dict[str, Any] | None = None) -> Model:
    """A model of these layers, each a kind (``model``, ``template``, …) and its content; first the weights."""
    held = [(kind, content(blob)) for kind, blob in layers]
    settings = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "7B",
        "file_type": "F16",
        "architecture": "amd64",
        "os": "linux",
        **(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [blob.digest for _, blob in held]},
    }
    settings_blob = content(_json(settings))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, settings_blob),
        "layers": [_descriptor(_LAYER + kind, blob) for kind, blob in held],
    }
    return Model(
        name=name,
        manifest=_json(manifest),
        blobs=MappingProxyType({blob.digest: blob for blob in (*(blob for _, blob in held), settings_blob)}),
        weights=held[0][1].digest,
        config=settings_blob.digest,
    )


@lru_cache(maxsize=32)
def build_model(name: str, weights_bytes: int = MIB, seed: int = 1) -> Model:
    """One of the five, with GGUF weights of about ``weights_bytes``; another ``seed`` gives other weights."""
    recipe = _FIVE[name]
    shape = Shape(recipe.family, name, recipe.context_length, weights_bytes, seed=hash_of(name) + seed)
    layers: list[tuple[str, bytes | Content]] = [("model", recipe.weights(shape))]
    families = [recipe.family]
    if recipe.has_projector:
        layers.append(("projector", projector(Shape("clip", name, 0, weights_bytes // 8, shape.seed))))
        families.append("clip")
    layers.append(("license", recipe.license.encode()))
    if recipe.template is not None:
        layers.append(("template", recipe.template.encode()))
    if recipe.params is not None:
        layers.append(("params", _json(dict(recipe.params))))
    config = {"model_family": recipe.family, "model_families": families, "model_type": recipe.parameters}
    return model_from(name, layers, config)


def hash_of(name: str) -> int:
    """A number that follows from a name, the same in every process."""
    return int.from_bytes(name.encode()[:6], "big")


def five_models(weights_bytes: int = MIB) -> list[Model]:
    """The README's five. Three share a template (all of mistral's kind), three a licence (Apache's)."""
    return [build_model(name, weights_bytes) for name in _FIVE]


def synthetic_model(name: str = "mistral:7b", weights_bytes: int = 64 * MIB, seed: int = 1) -> Model:
    """A model whose weights are made on demand (no GGUF): for blobs of many chunks that cost no memory."""
    return model_from(
        name,
        [("model", Generated(weights_bytes, seed)), ("template", _INSTRUCT.encode()), ("license", _APACHE.encode())],
    )


def _descriptor(media_type: str, blob: Content) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


def _json(value: dict[str, Any]) -> bytes:
    """Compact, as Go writes it."""
    return json.dumps(value, separators=(",", ":")).encode()
