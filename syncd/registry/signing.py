"""Ollama's own key, by which its registry knows who asks for a private model (ollama ``auth/auth.go``).

Apart from ``auth``, since few pulls need a key and every pull would pay for the library's start.
"""

import base64
import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key
from yarl import URL

from syncd.errors import ConfigurationError


def load_key(pem: bytes, name: str) -> Ed25519PrivateKey:
    """Ollama's key (OpenSSH PEM, no passphrase). Raise ``ConfigurationError`` naming the file ``name``."""
    try:
        key = load_ssh_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"{name} holds no private key that can be used", hint="it must be an ed25519 OpenSSH key without passphrase"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{name} is not an ed25519 key", hint="Ollama's own is ~/.ollama/id_ed25519")
    return key


def signed(key: Ed25519PrivateKey, url: URL) -> str:
    """The Authorization header of a token request, as Ollama signs it: public key, and signature over the request.

    The third part is the SHA-256, in hex and then in base64, of the empty body (ollama ``getAuthorizationToken``).
    """
    nothing = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    signature = key.sign(f"GET,{url},{nothing}".encode())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1].decode()
    return f"{public}:{base64.b64encode(signature).decode()}"
