"""Challenges, tokens, keys: who is sent what, and who is not."""

import asyncio
import base64
import contextlib
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, parse_qsl

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from syncd.errors import (
    ConfigurationError,
    NotAuthorisedError,
    RedirectRefusedError,
    RegistryError,
    RegistryUnavailableError,
    SyncdError,
)
from syncd.registry import auth
from syncd.registry.auth import Challenge, Token, TokenService
from syncd.registry.hosts import Credentials, RegistryConfig
from syncd.registry.tokens import TokenUnavailableError
from tests.unit.registry_world import (
    BLOB,
    CANARY,
    ONCE,
    Answerer,
    Asked,
    Reply,
    Server,
    client,
    everything_said,
    fetched,
    name_on,
    reference_on,
    registry,
    serving,
    with_public,
)

if TYPE_CHECKING:
    from collections.abc import Callable

BASIC = f"Basic {base64.b64encode(f'user:{CANARY}'.encode()).decode()}"
WITH_PASSWORD = RegistryConfig(credentials=Credentials(username="user", password=CANARY))


# The header: pure.


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", ()),
        ("Basic", (Challenge("basic"),)),
        ('Basic realm="r"', (Challenge("basic", {"realm": "r"}),)),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"',
            (Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"}),),
        ),
        (
            'BEARER  Realm = "https://a/t" , Service=s',
            (Challenge("bearer", {"realm": "https://a/t", "service": "s"}),),
        ),
        (
            'Basic realm="a, b", Bearer realm="https://a/t"',
            (Challenge("basic", {"realm": "a, b"}), Challenge("bearer", {"realm": "https://a/t"})),
        ),
        (
            'Negotiate YWJj==, Bearer realm="x"',
            (Challenge("negotiate"), Challenge("bearer", {"realm": "x"})),
        ),
        (r'Bearer realm="a\"b\\c"', (Challenge("bearer", {"realm": 'a"b\\c'}),)),
        ('Bearer realm="first",realm="second"', (Challenge("bearer", {"realm": "first"}),)),
        ('Bearer realm="never closed', (Challenge("bearer"),)),
        ("=,=,;", ()),
    ],
)
def test_a_header_holds_its_challenges(header: str, found: tuple[Challenge, ...]) -> None:
    assert auth.challenges(header)[: len(found)] == found
    assert bool(auth.challenges(header)) == bool(found)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("bit", ["a ", 'a="', "a=", ',"\\', "\\", "a,", '"', "a=b "])
def test_a_hostile_header_takes_no_time(bit: str) -> None:
    auth.challenges(f"Bearer {bit * 10_000}")


HTTPS, HTTP = URL("https://r.example"), URL("http://r.example:5000")


def service(realm: str, registry: URL = HTTPS) -> TokenService:
    return TokenService.of(Challenge("bearer", {"realm": realm}), registry=registry, repository="a/b")


@pytest.mark.parametrize(
    "realm",
    [
        "",
        "http://r.example/token",
        "file:///token",
        "ftp://r.example/token",
        "//r.example/token",
        "/token",
        "https://",
        "https://user:password@r.example/token",
        "https://r.example/to ken",
        "https://r.example:99999/token",
    ],
)
def test_a_realm_over_http_or_anything_odd_is_refused(realm: str) -> None:
    with pytest.raises(RegistryError):
        service(realm)


def test_a_realm_over_http_is_good_for_a_registry_over_http_only() -> None:
    assert service("http://r.example:5000/token", HTTP).trusted(HTTP, ())
    with pytest.raises(RegistryError):
        service("gopher://r.example/token", HTTP)


def test_credentials_may_go_to_the_registry_itself_and_to_hosts_named_for_it() -> None:
    assert service("https://R.example:443/token").trusted(HTTPS, ())
    assert service("https://auth.example/token").trusted(HTTPS, ("Auth.example",))
    for realm in (
        "https://auth.example/t",
        "https://r.example:444/t",
        "https://r.example.evil/t",
        "https://xr.example/t",
    ):
        assert not service(realm).trusted(HTTPS, ("other.example",))


def test_the_request_asks_for_service_and_each_scope() -> None:
    parameters = {
        "realm": "https://r.example/t?x=a%2Fb",
        "service": "s p",
        "scope": "repository:a/b:pull repository:c:pull",
    }
    url = TokenService.of(Challenge("bearer", parameters), registry=HTTPS, repository="a/b").url()

    assert parse_qsl(url.raw_query_string) == [
        ("scope", "repository:a/b:pull"),
        ("scope", "repository:c:pull"),
        ("service", "s p"),
        ("x", "a/b"),
    ]


def test_a_challenge_without_a_scope_is_asked_for_the_right_to_pull() -> None:
    assert parse_qs(service("https://r.example/t").url().raw_query_string) == {"scope": ["repository:a/b:pull"]}


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"token": CANARY}, 60),
        ({"access_token": CANARY, "expires_in": 300}, 300),
        ({"token": CANARY, "access_token": "other", "expires_in": 0}, 60),
        ({"token": CANARY, "expires_in": -5}, 60),
        ({"token": CANARY, "expires_in": True}, 60),
        ({"token": CANARY, "expires_in": "300"}, 60),
        ({"token": CANARY, "expires_in": 1 << 63}, 3600),
    ],
)
def test_a_token_and_how_long_it_holds(body: object, seconds: float) -> None:
    token = Token.parse(json.dumps(body).encode(), "r.example")

    assert (token.authorization, token.seconds) == (f"Bearer {CANARY}", seconds)
    assert CANARY not in repr(token)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"no json " + CANARY.encode(),
        b'{"token": 5}',
        b'{"token": ["' + CANARY.encode() + b'"]}',
        b'{"token": ""}',
        b"{}",
        json.dumps({"token": f"{CANARY}\r\nX: y"}).encode(),
        json.dumps({"token": f"{CANARY} x"}).encode(),
        json.dumps({"token": f"{CANARY}ä"}).encode(),
        json.dumps({"token": CANARY * 10_000}).encode(),
        f'{{"token": "{CANARY}", "token": "b"}}'.encode(),
        b"[" * 50_000,
    ],
)
def test_what_is_no_token_is_refused_and_not_quoted(body: bytes) -> None:
    with pytest.raises(RegistryError) as caught:
        Token.parse(body, "r.example")

    assert CANARY not in everything_said(caught.value)


def test_nothing_that_holds_a_secret_shows_it() -> None:
    credentials = Credentials(username="user", password=CANARY, token=CANARY)

    assert CANARY not in f"{credentials!r}{credentials}{RegistryConfig(credentials=credentials)!r}"


# On sockets.


class Guarded:
    """A registry that wants a bearer token, and its token service, which may be elsewhere."""

    def __init__(self) -> None:
        self.realm = ""
        self.valid = "token-1"
        self.grant: Callable[[Asked], Reply] = self.granted
        self.expires_in = 300
        self.also = ""

    def granted(self, _: Asked) -> Reply:
        return Reply(body=json.dumps({"token": self.valid, "expires_in": self.expires_in}).encode())

    def __call__(self, asked: Asked) -> Reply:
        if asked.path == "/token":
            return self.grant(asked)
        if asked.headers.get("authorization") == f"Bearer {self.valid}":
            return registry(asked)
        challenge = f'Bearer realm="{self.realm}",service="s",scope="repository:library/mistral:pull"{self.also}'
        return Reply(401, headers=[("WWW-Authenticate", challenge)])


def tokens_asked(server: Server) -> list[Asked]:
    return [one for one in server.asked if one.path == "/token"]


async def test_an_anonymous_token_is_fetched_and_used() -> None:
    guarded = Guarded()
    async with serving(guarded) as server, client() as it:
        guarded.realm = f"{server.url}/token"

        await it.manifest(reference_on(server))
        assert await fetched(it, name_on(server), 0, 10) == BLOB[:10]

        (asked,) = tokens_asked(server)
        assert parse_qs(asked.target.partition("?")[2]) == {
            "service": ["s"],
            "scope": ["repository:library/mistral:pull"],
        }
        assert "authorization" not in asked.headers


async def test_all_who_need_a_token_share_one_request_for_it() -> None:
    guarded = Guarded()
    async with serving(guarded) as server, client() as it:
        guarded.realm = f"{server.url}/token"

        parts = await asyncio.gather(*(fetched(it, name_on(server), n, n + 10) for n in range(16)))

        assert parts == [BLOB[n : n + 10] for n in range(16)]
        assert len(tokens_asked(server)) == 1


async def test_a_cancelled_request_for_a_token_leaves_the_others_theirs() -> None:
    guarded = Guarded()
    async with serving(guarded) as server, client() as it:
        guarded.realm = f"{server.url}/token"
        guarded.grant = lambda _: Reply(hang=True, announced=10)
        first = asyncio.create_task(fetched(it, name_on(server), 0, 10))
        while not tokens_asked(server):
            await asyncio.sleep(0.01)
        second = asyncio.create_task(fetched(it, name_on(server), 0, 10))
        await asyncio.sleep(0.1)
        guarded.grant = guarded.granted

        first.cancel()

        assert await second == BLOB[:10]
        assert len(tokens_asked(server)) == 2


async def test_a_token_that_is_refused_in_mid_blob_is_replaced_once_for_all() -> None:
    guarded = Guarded()
    async with serving(guarded) as server, client() as it:
        guarded.realm = f"{server.url}/token"
        await fetched(it, name_on(server), 0, 10)
        guarded.valid = "token-2"

        await asyncio.gather(*(fetched(it, name_on(server), n, n + 10) for n in range(8)))

        assert len(tokens_asked(server)) == 2


async def test_a_token_is_renewed_before_its_time_is_over() -> None:
    now = [0.0]
    guarded = Guarded()
    guarded.expires_in = 100
    async with serving(guarded) as server, client(clock=lambda: now[0]) as it:
        guarded.realm = f"{server.url}/token"
        refused = []
        for now[0] in (0.0, 80.0, 95.0, 150.0):
            await fetched(it, name_on(server), 0, 10)
            refused.append(len([one for one in server.asked if one.path != "/token"]))

        assert len(tokens_asked(server)) == 2
        assert refused == [2, 3, 4, 5]  # only the first request met a 401


async def test_a_token_that_never_helps_ends_in_a_clear_error() -> None:
    guarded = Guarded()
    guarded.grant = lambda _: Reply(body=json.dumps({"token": CANARY}).encode())
    async with serving(guarded) as server, client() as it:
        guarded.realm = f"{server.url}/token"
        with pytest.raises(NotAuthorisedError) as caught:
            await fetched(it, name_on(server))

        assert caught.value.hint is not None
        assert server.authority in caught.value.hint
        assert len(tokens_asked(server)) == 1
    assert CANARY not in everything_said(caught.value)


async def test_a_password_goes_to_the_registrys_own_token_service_and_nowhere_else() -> None:
    guarded = Guarded()
    async with serving(guarded) as server:
        guarded.realm = f"{server.url}/token"
        async with client({server.authority: WITH_PASSWORD}) as it:
            await fetched(it, name_on(server), 0, 10)

        assert tokens_asked(server)[0].headers["authorization"] == BASIC
        assert [one.headers.get("authorization") for one in server.asked if one.path != "/token"] == [
            None,
            "Bearer token-1",
        ]


async def test_a_token_service_elsewhere_is_asked_without_credentials(tmp_path: Path) -> None:
    guarded = Guarded()
    key = write_key(tmp_path)
    async with serving(guarded) as server, serving(guarded) as elsewhere:
        guarded.realm = f"{elsewhere.url}/token"
        config = RegistryConfig(credentials=WITH_PASSWORD.credentials, key_file=key)
        async with client({server.authority: config}) as it:
            await fetched(it, name_on(server), 0, 10)

        assert "authorization" not in tokens_asked(elsewhere)[0].headers
        assert "nonce" not in elsewhere.asked[0].target


async def test_unless_the_settings_name_it() -> None:
    guarded = Guarded()
    async with serving(guarded) as server, serving(guarded) as elsewhere:
        guarded.realm = f"{elsewhere.url}/token"
        config = RegistryConfig(credentials=WITH_PASSWORD.credentials, auth_hosts=(elsewhere.authority,))
        async with client({server.authority: config}) as it:
            await fetched(it, name_on(server), 0, 10)

        assert tokens_asked(elsewhere)[0].headers["authorization"] == BASIC


async def test_a_public_registry_cannot_send_us_to_this_host_for_a_token() -> None:
    guarded = Guarded()
    async with serving(guarded, host="127.0.0.2") as server, serving(guarded) as victim:
        guarded.realm = f"{victim.url}/token"
        async with client({server.authority: WITH_PASSWORD}, outside=with_public("127.0.0.2")) as it:
            with pytest.raises(RedirectRefusedError):
                await fetched(it, name_on(server))

        assert victim.connections == 0


async def test_unless_the_settings_name_that_too() -> None:
    guarded = Guarded()
    async with serving(guarded, host="127.0.0.2") as server, serving(guarded) as elsewhere:
        guarded.realm = f"{elsewhere.url}/token"
        config = RegistryConfig(auth_hosts=(elsewhere.authority,))
        async with client({server.authority: config}, outside=with_public("127.0.0.2")) as it:
            assert await fetched(it, name_on(server), 0, 10) == BLOB[:10]


async def test_a_refusal_there_says_how_to_allow_it() -> None:
    guarded = Guarded()
    guarded.grant = lambda _: Reply(401)
    async with serving(guarded) as server, serving(guarded) as elsewhere:
        guarded.realm = f"{elsewhere.url}/token"
        async with client({server.authority: WITH_PASSWORD}) as it:
            with pytest.raises(NotAuthorisedError) as caught:
                await fetched(it, name_on(server))

    assert caught.value.hint is not None
    assert "auth_hosts" in caught.value.hint


async def test_a_token_service_that_redirects_is_not_followed() -> None:
    guarded = Guarded()
    async with serving(guarded) as server, serving(guarded) as trap:
        guarded.realm = f"{server.url}/token"
        guarded.grant = lambda _: Reply(302, headers=[("Location", f"{trap.url}/token")])
        async with client({server.authority: WITH_PASSWORD}) as it:
            with pytest.raises(RedirectRefusedError):
                await fetched(it, name_on(server))

        assert trap.asked == []


async def test_an_endless_token_is_cut() -> None:
    guarded = Guarded()
    async with serving(guarded) as server, client() as it:
        guarded.realm = f"{server.url}/token"
        guarded.grant = lambda _: Reply(endless=b"x" * 65536)
        with pytest.raises(RegistryError, match="1048576"):
            await fetched(it, name_on(server))

        assert server.sent < 16 * 1024 * 1024


async def test_a_compressed_token_is_refused() -> None:
    guarded = Guarded()
    async with serving(guarded) as server, client() as it:
        guarded.realm = f"{server.url}/token"
        guarded.grant = lambda _: Reply(body=b"\x1f\x8b", headers=[("Content-Encoding", "gzip")])
        with pytest.raises(RegistryError, match="encoded"):
            await fetched(it, name_on(server))


async def test_a_token_service_that_fails_for_a_moment_is_asked_again() -> None:
    guarded = Guarded()
    async with serving(guarded) as server, client() as it:
        guarded.realm = f"{server.url}/token"
        guarded.grant = lambda asked: guarded.granted(asked) if len(tokens_asked(server)) == 3 else Reply(503)

        assert await fetched(it, name_on(server), 0, 10) == BLOB[:10]


async def test_but_a_manifest_does_not_ask_it_more_often_for_that() -> None:
    guarded = Guarded()
    async with serving(guarded) as server, client() as it:
        guarded.realm = f"{server.url}/token"
        guarded.grant = lambda _: Reply(503)
        with pytest.raises(TokenUnavailableError):
            await it.manifest(reference_on(server))

        assert len(tokens_asked(server)) == 3


async def test_a_ready_token_is_sent_at_once_and_goes_before_all_else(tmp_path: Path) -> None:
    guarded = Guarded()
    guarded.valid = CANARY
    config = RegistryConfig(
        credentials=Credentials(username="u", password="p", token=CANARY), key_file=write_key(tmp_path)
    )
    async with serving(guarded) as server, client({server.authority: config}) as it:
        await fetched(it, name_on(server), 0, 10)

        assert len(server.asked) == 1


async def test_a_ready_token_that_is_refused_is_an_error_without_that_token() -> None:
    guarded = Guarded()
    async with serving(guarded) as server:
        guarded.realm = f"{server.url}/token"
        async with client({server.authority: RegistryConfig(credentials=Credentials(token=CANARY))}) as it:
            with pytest.raises(NotAuthorisedError, match="does not accept") as caught:
                await fetched(it, name_on(server))

        assert tokens_asked(server) == []
    assert CANARY not in everything_said(caught.value)


@pytest.mark.parametrize("token", [f"{CANARY}\n", f"{CANARY} x", ""])
async def test_a_ready_token_that_is_none_is_a_configuration_error(token: str) -> None:
    async with (
        serving(registry) as server,
        client({server.authority: RegistryConfig(credentials=Credentials(token=token))}) as it,
    ):
        with pytest.raises(ConfigurationError) as caught:
            await fetched(it, name_on(server))

    assert CANARY not in everything_said(caught.value)


def wanting_basic(asked: Asked) -> Reply:
    if asked.headers.get("authorization") == BASIC:
        return registry(asked)
    return Reply(401, headers=[("WWW-Authenticate", 'Basic realm="r"')])


async def test_basic_auth_answers_a_basic_challenge_and_then_goes_first() -> None:
    async with serving(wanting_basic) as server, client({server.authority: WITH_PASSWORD}) as it:
        await fetched(it, name_on(server), 0, 10)
        await fetched(it, name_on(server), 10, 20)

        assert [one.headers.get("authorization") for one in server.asked] == [None, BASIC, BASIC]


@pytest.mark.parametrize(
    "config",
    [
        RegistryConfig(),
        RegistryConfig(credentials=Credentials(username="user")),
        RegistryConfig(credentials=Credentials(username="user", password=f"{CANARY}x")),
    ],
)
async def test_a_challenge_without_an_answer_says_where_credentials_go(config: RegistryConfig) -> None:
    async with serving(wanting_basic) as server, client({server.authority: config}) as it:
        with pytest.raises(NotAuthorisedError) as caught:
            await fetched(it, name_on(server))

        assert caught.value.hint is not None
        assert f'[registries."{server.authority}"]' in caught.value.hint
        assert len(server.asked) <= 2
    assert CANARY not in everything_said(caught.value)


ECHOES: dict[str, Answerer] = {
    "token": lambda asked: Reply(403, json.dumps({"error": f"bad {asked.headers.get('authorization')}"}).encode()),
    "oci": lambda asked: Reply(
        418, json.dumps({"errors": [{"message": f"bad {asked.headers.get('authorization', '')[7:]}"}]}).encode()
    ),
    "unavailable": lambda asked: Reply(503, json.dumps({"error": f"{asked.headers.get('authorization')}"}).encode()),
}


@pytest.mark.parametrize("echo", ECHOES)
async def test_a_registry_that_repeats_the_token_in_its_error_is_not_quoted_on_that(echo: str) -> None:
    async with serving(ECHOES[echo]) as server:
        config = RegistryConfig(credentials=Credentials(token=CANARY))
        async with client({server.authority: config}, retries=ONCE) as it:
            with pytest.raises(SyncdError) as caught:
                await it.manifest(reference_on(server))

        assert server.asked[0].headers["authorization"] == f"Bearer {CANARY}"
    assert CANARY not in everything_said(caught.value)


async def test_nor_is_one_that_repeats_the_password() -> None:
    def answer(asked: Asked) -> Reply:
        refused = Reply(403, json.dumps({"error": f"user:{CANARY} is not known"}).encode())
        return refused if "authorization" in asked.headers else wanting_basic(asked)

    async with serving(answer) as server, client({server.authority: WITH_PASSWORD}) as it:
        with pytest.raises(NotAuthorisedError, match="is not known") as caught:
            await it.manifest(reference_on(server))

    assert CANARY not in everything_said(caught.value)


@given(
    st.text()
    | st.lists(st.sampled_from(["Bearer ", "Basic", "realm", "=", '"', ",", "\\", " ", "x", "=="])).map("".join)
)
def test_no_header_trips_the_parser(header: str) -> None:
    for challenge in auth.challenges(header):
        with contextlib.suppress(RegistryError):
            TokenService.of(challenge, registry=HTTPS, repository="a/b").url()


async def test_a_token_service_that_repeats_the_password_is_not_quoted_either(
    capfd: pytest.CaptureFixture[str],
) -> None:
    guarded = Guarded()
    guarded.grant = lambda asked: Reply(503, json.dumps({"error": f"bad {asked.headers['authorization']}"}).encode())
    async with serving(guarded) as server:
        guarded.realm = f"{server.url}/token?key={CANARY}"
        async with client({server.authority: WITH_PASSWORD}) as it:
            with pytest.raises(RegistryUnavailableError) as caught:
                await it.manifest(reference_on(server))

    shown = everything_said(caught.value) + "".join(capfd.readouterr())  # what stamina logs of a retry included
    assert CANARY not in shown
    assert BASIC.removeprefix("Basic ") not in shown


# Ollama's key.


def write_key(folder: Path, key: Ed25519PrivateKey | rsa.RSAPrivateKey | None = None) -> Path:
    path = folder / "id_ed25519"
    path.write_bytes(
        (key or Ed25519PrivateKey.generate()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
    )
    return path


def verified(asked: Asked, server: Server) -> bool:
    """What Ollama's registry checks: the signature is over the very address that it is asked at."""
    public, _, signature = asked.headers["authorization"].partition(":")
    nothing = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    raw = base64.b64decode(public)
    assert raw.startswith(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20")
    Ed25519PublicKey.from_public_bytes(raw[-32:]).verify(
        base64.b64decode(signature), f"GET,{server.url}{asked.target},{nothing}".encode()
    )
    return True


async def test_a_private_models_token_is_asked_for_with_ollamas_key(tmp_path: Path) -> None:
    guarded = Guarded()
    config = RegistryConfig(key_file=write_key(tmp_path))
    async with serving(guarded) as server:
        guarded.realm = f"{server.url}/token"
        async with client({server.authority: config}, wall_clock=lambda: 1_700_000_000.9) as it:
            await fetched(it, name_on(server), 0, 10)

        (asked,) = tokens_asked(server)
        query = parse_qs(asked.target.partition("?")[2])
        assert query["ts"] == ["1700000000"]
        assert len(query["nonce"][0]) == 22
        assert verified(asked, server)


async def test_a_key_that_was_read_beforehand_needs_no_file(tmp_path: Path) -> None:
    guarded = Guarded()
    config = RegistryConfig(key_pem=write_key(tmp_path).read_bytes())
    async with serving(guarded) as server:
        guarded.realm = f"{server.url}/token"
        async with client({server.authority: config}) as it:
            await fetched(it, name_on(server), 0, 10)

        assert verified(tokens_asked(server)[0], server)
    assert "PRIVATE" not in repr(config)


async def test_a_password_goes_before_the_key(tmp_path: Path) -> None:
    guarded = Guarded()
    config = RegistryConfig(credentials=WITH_PASSWORD.credentials, key_file=write_key(tmp_path))
    async with serving(guarded) as server:
        guarded.realm = f"{server.url}/token"
        async with client({server.authority: config}) as it:
            await fetched(it, name_on(server), 0, 10)

        assert tokens_asked(server)[0].headers["authorization"] == BASIC


@pytest.mark.parametrize("what", ["missing", "no key", "rsa", "a folder"])
async def test_a_key_that_cannot_be_used_is_named(what: str, tmp_path: Path) -> None:
    path = tmp_path / "id_ed25519"
    match what:
        case "no key":
            path.write_text(f"-----BEGIN {CANARY}")
        case "rsa":
            write_key(tmp_path, rsa.generate_private_key(public_exponent=65537, key_size=2048))
        case "a folder":
            path.mkdir()
    guarded = Guarded()
    async with serving(guarded) as server:
        guarded.realm = f"{server.url}/token"
        async with client({server.authority: RegistryConfig(key_file=path)}) as it:
            with pytest.raises(ConfigurationError, match="id_ed25519") as caught:
                await fetched(it, name_on(server))

    assert CANARY not in everything_said(caught.value)
