"""Media types of layers, in a word (Ollama: ``types/model`` and ``server/create.go`` name them)."""

from syncd.text import printable

_OLLAMA = "application/vnd.ollama.image."
_KINDS = {
    _OLLAMA + "model": "weights",
    "application/vnd.docker.container.image.v1+json": "config",
    "application/vnd.oci.image.config.v1+json": "config",
}


def kind(media_type: str) -> str:
    """What a blob is, in a word, from its media type: ``weights``, ``template``, ``config``."""
    known = _KINDS.get(media_type.partition(";")[0].strip())
    return known or printable(media_type.removeprefix(_OLLAMA), limit=40)
