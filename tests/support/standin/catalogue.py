"""Names to models, through Ollama's three caches (``server/model_{list,show,inference}_cache.go``).

Each is keyed by the name and the digest of its manifest. What was read once is not read again while the manifest
stays: a blob that goes missing afterwards, or that comes back, is not noticed here.
"""

from typing import Any

from tests.support.standin.calls import Refused
from tests.support.standin.described import Model, describe, listed, shown
from tests.support.standin.gguf_header import BadGguf
from tests.support.standin.names import Name
from tests.support.standin.store import BadDigest, BadManifest, Store

_UNREADABLE = (BadManifest, BadDigest, ValueError, KeyError)


class Catalogue:
    """What the server would serve."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listed: dict[Name, tuple[str, dict[str, Any]]] = {}
        self._shown: dict[Name, tuple[str, dict[str, Any]]] = {}
        self._models: dict[Name, tuple[str, Model]] = {}

    def tags(self) -> list[dict[str, Any]]:
        """The newest first; a model whose config cannot be read is left out. Raise ``Refused``."""
        try:
            manifests = self._store.manifests(continue_on_error=True)
        except OSError as error:
            raise Refused(500, str(error)) from error
        for name, manifest in manifests.items():
            if self._listed.get(name, ("", {}))[0] == manifest.digest:
                continue
            self._listed.pop(name, None)
            try:
                self._listed[name] = (manifest.digest, listed(describe(self._store, manifest)))
            except (OSError, *_UNREADABLE):
                continue
        for name in self._listed.keys() - manifests.keys():
            del self._listed[name]
        newest_first = sorted(self._listed, key=lambda name: -(manifests[name].modified // 1_000_000_000))
        return [self._listed[name][1] for name in newest_first]

    def existing(self, name: Name, *, failing: Refused) -> Name:
        """``name`` as it is stored; where the listing fails, raise ``failing``."""
        try:
            return self._store.existing(name)
        except OSError as error:
            raise failing from error

    def model(self, name: Name) -> Model:
        """What a request for this very name runs. Raise ``OSError`` or ``ValueError``."""
        manifest = self._store.manifest(name)
        digest, model = self._models.get(name, ("", None))
        if model is None or digest != manifest.digest:
            model = describe(self._store, manifest)
            self._models[name] = (manifest.digest, model)
        return model

    def show(self, name: Name) -> dict[str, Any]:
        """Raise ``Refused``."""
        try:
            manifest = self._store.manifest(name)
            digest, answer = self._shown.get(name, ("", {}))
            if digest != manifest.digest:
                model = describe(self._store, manifest)
                answer = shown(model)
                if model.remote is None:
                    self._shown[name] = (manifest.digest, answer)
        except FileNotFoundError as error:
            raise Refused(404, f"model '{name.shortest}' not found") from error
        except (OSError, BadGguf, *_UNREADABLE) as error:
            raise Refused(500, str(error)) from error
        return answer

    def delete(self, name: Name, asked: str) -> None:
        """Remove it from the store. Raise ``Refused``."""
        missing = Refused(404, f"model '{asked}' not found")
        found = self.existing(name, failing=missing)
        try:
            self._store.delete(found)
        except FileNotFoundError as error:
            raise missing from error
        except (OSError, *_UNREADABLE) as error:
            raise Refused(500, str(error)) from error
