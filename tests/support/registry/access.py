"""Who may read: bearer tokens, basic credentials, Ollama's ed25519 signatures, and signed URLs that expire."""

import base64
import hashlib
import secrets
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from yarl import URL

# ollama server/auth.go getAuthorizationToken: the hex SHA-256 of an empty body, in base64.
_EMPTY_BODY = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
_KEY_TYPE = b"ssh-ed25519"
_MAX_SKEW = 300.0  # seconds between a signed request's ts and now


@dataclass(frozen=True, slots=True)
class TokenRules:
    """How the token service behaves. ``lifetime`` in seconds; ``uses``: so many requests to the registry per token."""

    realm: str
    service: str
    login: tuple[str, str] | None
    keys: tuple[bytes, ...]  # raw ed25519 public keys; any one of them may sign
    lifetime: float | None
    uses: int | None
    field: str  # of the answer: "token" or "access_token"


@dataclass(slots=True)
class _Pass:
    scope: str
    expires: float
    uses_left: int


@dataclass(slots=True)
class Access:
    """The registry's doors. ``issued``: every token and URL signature ever given out, for tests that look for leaks."""

    basic: tuple[str, str] | None = None
    tokens: TokenRules | None = None
    issued: list[str] = field(default_factory=list)
    _passes: dict[str, _Pass] = field(default_factory=dict)
    _nonces: set[str] = field(default_factory=set)

    def challenge(self, authorization: str | None, scope: str) -> str | None:
        """What WWW-Authenticate asks for, or None if this request may pass."""
        if self.tokens is not None:
            if self._token_passes(authorization, scope):
                return None
            return f'Bearer realm="{self.tokens.realm}",service="{self.tokens.service}",scope="{scope}"'
        if self.basic is not None and authorization != basic_header(*self.basic):
            return 'Basic realm="the registry"'
        return None

    def grant(self, url: URL, authorization: str | None) -> str | None:
        """A new token for a request to the token service, or None if it may not have one."""
        rules = self.tokens
        if rules is None or url.query.get("service") != rules.service:
            return None
        if rules.login is not None and authorization != basic_header(*rules.login):
            return None
        if rules.keys and not self._is_signed(url, authorization, rules.keys):
            return None
        lifetime = float("inf") if rules.lifetime is None else rules.lifetime
        uses = 1 << 60 if rules.uses is None else rules.uses
        return self._issue(" ".join(url.query.getall("scope", [])), lifetime, uses)

    def sign(self, path: str, lifetime: float | None, uses: int | None) -> str:
        """A signature under which the CDN serves ``path``."""
        return self._issue(path, float("inf") if lifetime is None else lifetime, 1 << 60 if uses is None else uses)

    def signature_passes(self, signature: str | None, path: str) -> bool:
        return self._use(signature, path)

    def expire_all(self) -> None:
        """Every token and signature given out so far is void."""
        self._passes.clear()

    def _token_passes(self, authorization: str | None, scope: str) -> bool:
        kind, _, token = (authorization or "").partition(" ")
        return kind == "Bearer" and self._use(token, scope)

    def _issue(self, scope: str, lifetime: float, uses: int) -> str:
        value = f"canary-{secrets.token_hex(16)}"
        self._passes[value] = _Pass(scope, time.monotonic() + lifetime, uses)
        self.issued.append(value)
        return value

    def _use(self, value: str | None, scope: str) -> bool:
        held = self._passes.get(value or "")
        if held is None or held.scope != scope or held.expires <= time.monotonic() or held.uses_left <= 0:
            return False
        held.uses_left -= 1
        return True

    def _is_signed(self, url: URL, authorization: str | None, keys: tuple[bytes, ...]) -> bool:
        """As ollama.com: ``<public key>:<signature>`` over method, URL and body; recent, and with a fresh nonce."""
        nonce, stamp = url.query.get("nonce", ""), url.query.get("ts", "")
        if len(nonce) < 22 or nonce in self._nonces:  # 16 bytes in base64url
            return False
        if not stamp.isdecimal() or abs(int(stamp) - time.time()) > _MAX_SKEW:
            return False
        key_text, _, signature_text = (authorization or "").partition(":")
        try:
            key = _wire_key(base64.b64decode(key_text, validate=True))
            if key not in keys:
                return False
            signed = f"GET,{url},{_EMPTY_BODY}".encode()
            Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(signature_text, validate=True), signed)
        except (ValueError, struct.error, InvalidSignature):
            return False
        self._nonces.add(nonce)
        return True


def basic_header(user: str, password: str) -> str:
    """RFC 7617."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def token_body(token: str, rules: TokenRules) -> Mapping[str, object]:
    """The token service's answer (distribution, "Token Authentication Specification")."""
    return {rules.field: token, **({"expires_in": int(rules.lifetime)} if rules.lifetime else {})}


def _wire_key(blob: bytes) -> bytes:
    """The 32 bytes in an SSH wire-format key (RFC 4253, section 6.6; RFC 8709, section 4)."""
    type_length = struct.unpack_from(">I", blob)[0]
    key_type = blob[4 : 4 + type_length]
    key_length = struct.unpack_from(">I", blob, 4 + type_length)[0]
    key = blob[8 + type_length :]
    if key_type != _KEY_TYPE or key_length != 32 or len(key) != 32:
        raise ValueError("not an ed25519 key")
    return key
