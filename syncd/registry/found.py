"""What a registry's answer comes to: pure values, for those who never speak to one as well."""

from dataclasses import dataclass

from syncd.oci.manifest import Manifest


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest and the endpoint (``host[:port]``) that it came from."""

    manifest: Manifest
    source: str
