"""Hosts, mirrors, proxies and certificates: who is asked, in which order, and how."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from yarl import URL

from syncd.errors import (
    ConfigurationError,
    InvalidNameError,
    NotAuthorisedError,
    RegistryError,
    RegistryUnavailableError,
    SyncdError,
)
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName, Reference
from syncd.registry.answers import BareNotFoundError
from syncd.registry.client import RangeUnsupportedError
from syncd.registry.hosts import Credentials, RegistryConfig, endpoints
from syncd.registry.proxies import Proxies
from syncd.registry.redirects import same_origin
from syncd.registry.transport import Outside
from tests.unit.registry_world import (
    BLOB,
    CANARY,
    MANIFEST,
    ONCE,
    WEIGHTS,
    Answerer,
    Reply,
    Server,
    client,
    everything_said,
    fetched,
    name_on,
    ranged,
    reference_on,
    registry,
    serving,
)

# Which endpoints there are: pure.


@pytest.mark.parametrize(
    ("host", "plain_http", "base"),
    [
        ("registry.ollama.ai", None, "https://registry.ollama.ai"),
        ("r.example:5000", None, "https://r.example:5000"),
        ("r.example:5000", True, "http://r.example:5000"),
        ("10.0.0.1:5000", None, "https://10.0.0.1:5000"),
        ("localhost", None, "http://localhost"),
        ("LOCALHOST:5000", None, "http://localhost:5000"),
        ("127.0.0.1:5000", None, "http://127.0.0.1:5000"),
        ("127.9.9.9", None, "http://127.9.9.9"),
        ("localhost:5000", False, "https://localhost:5000"),
        ("localhost.example", None, "https://localhost.example"),
        ("127.0.0.1.example", None, "https://127.0.0.1.example"),
        ("r.example:443", None, "https://r.example"),
        ("r.example:80", True, "http://r.example"),
    ],
)
def test_http_is_spoken_on_loopback_and_where_the_settings_say_so(
    host: str, plain_http: bool | None, base: str
) -> None:
    (origin,) = endpoints(host, RegistryConfig(plain_http=plain_http))

    assert same_origin(origin.base, URL(base))
    assert origin.is_origin


@pytest.mark.parametrize("host", ["", "a:b", "a:99999", "a:1:2", "a/b", "user@a", "a?b", "a b", "[::1"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidNameError):
        endpoints(host, RegistryConfig())


def test_mirrors_come_before_the_origin_each_with_its_own_scheme_and_path() -> None:
    config = RegistryConfig(mirrors=("http://mirror.lan:5000", "https://harbor.example/proxy/"))

    found = endpoints("r.example", config)

    assert [one.source for one in found] == ["mirror.lan:5000", "harbor.example", "r.example"]
    assert [one.is_origin for one in found] == [False, False, True]
    assert str(found[1].url("library/m", "manifests", "1")) == "https://harbor.example/proxy/v2/library/m/manifests/1"


@pytest.mark.parametrize(
    "mirror",
    ["mirror.lan", "ftp://mirror.lan", f"http://user:{CANARY}@mirror.lan", "http://", "http://m/?x=1", "http://m:x"],
)
def test_a_mirror_that_is_no_base_url_is_a_configuration_error(mirror: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        endpoints("r.example", RegistryConfig(mirrors=(mirror,)))

    assert CANARY not in everything_said(caught.value)


# Mirrors, on sockets.


@contextlib.asynccontextmanager
async def mirrored(mirror: Answerer, origin: Answerer = registry) -> AsyncIterator[tuple[Server, Server, dict]]:
    async with serving(mirror) as one, serving(origin) as other:
        yield one, other, {other.authority: RegistryConfig(mirrors=(one.url,))}


async def test_a_mirror_that_has_it_spares_the_origin() -> None:
    async with mirrored(registry) as (mirror, origin, configs), client(configs) as it:
        assert (await it.manifest(reference_on(origin))).source == mirror.authority
        async with it.open_range(name_on(origin), WEIGHTS, 0, 10) as body:
            assert body.source == mirror.authority

        assert origin.asked == []


BAD_MIRRORS: dict[str, Answerer] = {
    "not there": lambda _: Reply(404),
    "failing": lambda _: Reply(500),
    "busy": lambda _: Reply(429),
    "closed": lambda _: Reply(401),
    "no manifest": lambda _: Reply(body=b"x"),
    "another digest": lambda _: Reply(body=MANIFEST, headers=[("Docker-Content-Digest", "sha256:0")]),
    "a redirect": lambda _: Reply(302, headers=[("Location", "file:///x")]),
    "encoded": lambda _: Reply(body=MANIFEST, headers=[("Content-Encoding", "gzip")]),
    "no http": lambda _: Reply(99999),
}


@pytest.mark.parametrize("fault", BAD_MIRRORS)
async def test_a_mirror_that_cannot_help_leaves_it_to_the_origin(fault: str) -> None:
    async with mirrored(BAD_MIRRORS[fault]) as (mirror, origin, configs), client(configs) as it:
        assert (await it.manifest(reference_on(origin))).source == origin.authority
        assert await fetched(it, name_on(origin), 5, 50) == BLOB[5:50]

        assert mirror.asked


async def test_a_mirror_that_lies_about_ranges_leaves_them_to_the_origin() -> None:
    async with mirrored(lambda _: Reply(416)) as (_, origin, configs), client(configs) as it:
        assert await fetched(it, name_on(origin), 5, 50) == BLOB[5:50]


async def test_a_mirror_that_is_down_is_asked_last_for_a_while() -> None:
    now = [0.0]
    async with mirrored(lambda _: Reply(500)) as (mirror, origin, configs), client(configs, clock=lambda: now[0]) as it:
        for now[0] in (0.0, 30.0, 59.0):
            await it.manifest(reference_on(origin))
        assert len(mirror.asked) == 1

        now[0], mirror.answer = 61.0, registry

        assert (await it.manifest(reference_on(origin))).source == mirror.authority


async def test_a_mirror_never_gets_the_origins_credentials_but_its_own() -> None:
    async with mirrored(registry) as (mirror, origin, _):
        configs = {
            origin.authority: RegistryConfig(mirrors=(mirror.url,), credentials=Credentials(token=CANARY)),
            mirror.authority: RegistryConfig(credentials=Credentials(token="mirrors-own")),
        }
        async with client(configs) as it:
            await it.manifest(reference_on(origin))
        async with client({origin.authority: configs[origin.authority]}) as it:
            await it.manifest(reference_on(origin))

        assert [one.headers.get("authorization") for one in mirror.asked] == ["Bearer mirrors-own", None]


async def test_sources_to_avoid_are_avoided_unless_there_is_no_other() -> None:
    async with mirrored(registry) as (mirror, origin, configs), client(configs) as it:
        for avoid, source in (
            (frozenset({mirror.authority}), origin.authority),
            (frozenset({origin.authority}), mirror.authority),
            (frozenset({mirror.authority, origin.authority}), mirror.authority),
        ):
            async with it.open_range(name_on(origin), WEIGHTS, 0, 10, avoid=avoid) as body:
                assert body.source == source


@pytest.mark.parametrize(
    ("mirror", "origin", "kind"),
    [
        (404, 404, BareNotFoundError),
        (404, 503, RegistryUnavailableError),
        (503, 404, RegistryUnavailableError),
        (401, 503, RegistryUnavailableError),
        (503, 401, NotAuthorisedError),
        (416, 503, RangeUnsupportedError),
        (416, 404, RangeUnsupportedError),
    ],
)
async def test_of_several_errors_the_most_telling_is_raised(mirror: int, origin: int, kind: type[SyncdError]) -> None:
    async with mirrored(lambda _: Reply(mirror), lambda _: Reply(origin)) as (_, asked, configs), client(configs) as it:
        with pytest.raises(kind) as caught:
            await fetched(it, name_on(asked), 5, 50)

    assert type(caught.value) is kind


async def test_who_fails_with_its_mirror_names_both() -> None:
    async with mirrored(lambda _: Reply(503), lambda _: Reply(404)) as (mirror, origin, configs), client(configs) as it:
        with pytest.raises(BareNotFoundError) as caught:
            await it.manifest(reference_on(origin))

    assert mirror.authority in caught.value.message
    assert origin.authority in caught.value.message
    assert str(caught.value) == caught.value.message


async def test_settings_are_found_whatever_the_case_of_the_host() -> None:
    async with serving(registry) as server:
        config = RegistryConfig(credentials=Credentials(token=CANARY))
        async with client({f"LocalHost:{server.port}": config}) as it:
            await it.manifest(Reference(ModelName(f"localhost:{server.port}", "library", "mistral", "7b")))

        assert server.asked[0].headers["authorization"] == f"Bearer {CANARY}"


# Proxies.


@contextlib.asynccontextmanager
async def proxying(upstream: Server) -> AsyncIterator[tuple[str, list[str]]]:
    """A forward proxy that takes every name for ``upstream``, with what it was asked: first lines and credentials."""
    seen: list[str] = []
    open_ones: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones[task] = (writer,)
        head = await reader.readuntil(b"\r\n\r\n")
        first, *headers = head.decode().split("\r\n")
        seen.append(first)
        seen.extend(line for line in headers if line.lower().startswith("proxy-authorization"))
        there_reader, there_writer = await asyncio.open_connection(upstream.host, upstream.port)
        open_ones[task] = (writer, there_writer)
        if first.startswith("CONNECT"):
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        else:
            method, target, version = first.split(" ")
            there_writer.write("\r\n".join([f"{method} {URL(target).raw_path_qs} {version}", *headers]).encode())
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, there_writer))
            group.create_task(pump(there_reader, writer))

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", seen
    finally:
        listener.close()
        for writers in open_ones.values():
            for writer in writers:
                writer.transport.abort()
        await asyncio.gather(*open_ones, return_exceptions=True)


def through(**found: str) -> Outside:
    return Outside(proxies=Proxies(found))


REMOTE = ModelName("r.example", "library", "mistral", "7b")
PLAIN = {"r.example": RegistryConfig(plain_http=True)}


async def test_http_goes_through_the_proxy_with_its_credentials() -> None:
    async with (
        serving(registry) as server,
        proxying(server) as (proxy, seen),
        client(PLAIN, outside=through(http=f"http://user:p%40ss@{proxy}")) as it,
    ):
        assert await fetched(it, REMOTE, 0, 10) == BLOB[:10]

    assert seen[0] == f"GET http://r.example/v2/library/mistral/blobs/{WEIGHTS.digest} HTTP/1.1"
    assert seen[1] == "Proxy-Authorization: Basic dXNlcjpwQHNz"


async def test_https_goes_through_a_tunnel_and_the_registry_sees_no_proxy_credentials(tmp_path: Path) -> None:
    ca_file, context = certified(tmp_path, "r.example")
    async with serving(registry, context=context) as server, proxying(server) as (proxy, seen):
        configs = {"r.example": RegistryConfig(ca_file=ca_file)}
        async with client(configs, outside=through(https=f"http://user:{CANARY}@{proxy}")) as it:
            assert await fetched(it, REMOTE, 0, 10) == BLOB[:10]

        assert "proxy-authorization" not in server.asked[0].headers
    assert seen[0] == "CONNECT r.example:443 HTTP/1.1"
    assert seen[1].startswith("Proxy-Authorization: Basic ")


@pytest.mark.parametrize(
    ("url", "no_proxy", "used"),
    [
        ("https://r.example/", "", True),
        ("https://r.example/", "r.example", False),
        ("https://r.example/", "other, .example", False),
        ("https://r.example:5000/", "r.example:5000", False),
        ("https://r.example/", "*", False),
        ("https://xr.example/", "r.example", True),
        ("http://r.example/", "", False),
        ("https://localhost/", "", False),
        ("https://127.0.0.1:5000/", "", False),
        ("https://[::1]:5000/", "", False),
    ],
)
def test_a_proxy_is_for_its_scheme_and_not_for_loopback_nor_what_no_proxy_names(
    url: str, no_proxy: str, used: bool
) -> None:
    found = Proxies({"https": "proxy.example:3128", "no": no_proxy}).for_url(URL(url))

    assert (found is not None) == used
    if found is not None:
        assert str(found.url) == "http://proxy.example:3128"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
async def test_the_environment_is_heeded_in_both_cases(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    async with serving(registry) as server, proxying(server) as (proxy, seen):
        monkeypatch.setenv(variable, proxy)
        async with client(PLAIN, outside=None) as it:
            await fetched(it, REMOTE, 0, 10)

    assert seen


@pytest.mark.parametrize("setting", [f"socks5://user:{CANARY}@p:1", f"http://user:{CANARY}@p:x", "http://"])
async def test_a_proxy_that_is_none_is_a_configuration_error(setting: str) -> None:
    async with client(outside=through(https=setting)) as it:
        with pytest.raises(ConfigurationError) as caught:
            await fetched(it, REMOTE)

    assert CANARY not in everything_said(caught.value)


async def test_a_proxy_that_is_down_or_says_no_is_named_as_the_cause() -> None:
    async with (
        serving(lambda _: Reply(407)) as proxy,
        client(outside=through(https=f"http://user:{CANARY}@{proxy.authority}")) as it,
    ):
        with pytest.raises(RegistryUnavailableError, match="proxy in front of it answers 407") as refused:
            await fetched(it, REMOTE)
    async with client(outside=through(https=f"http://user:{CANARY}@{proxy.authority}")) as it:
        with pytest.raises(RegistryUnavailableError, match="proxy in front of it cannot be reached") as down:
            await fetched(it, REMOTE)

    assert CANARY not in everything_said(refused.value) + everything_said(down.value)


async def test_behind_a_proxy_a_redirect_dialled_directly_may_be_global_only() -> None:
    async with serving(ranged) as victim, serving(registry) as server, proxying(server) as (proxy, _):
        server.answer = lambda _: Reply(307, headers=[("Location", victim.url)])
        async with client(PLAIN, outside=through(http=f"http://{proxy}")) as it:
            with pytest.raises(RegistryError, match="may not lead to"):
                await fetched(it, REMOTE)

        assert victim.connections == 0


async def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login user password {CANARY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with serving(registry) as server, client() as it:
        await fetched(it, name_on(server), 0, 10)

        assert "authorization" not in server.asked[0].headers


# Certificates.


def _usage(*, ca: bool) -> x509.KeyUsage:
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    return x509.KeyUsage(
        digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, decipher_only=False, **dict.fromkeys(unused, False)
    )


def certified(folder: Path, host: str) -> tuple[Path, ssl.SSLContext]:
    """A CA of one's own, in a file, and the context of a server with a certificate from it."""
    now = dt.datetime.now(dt.UTC)

    def certificate(name: str, issuer: x509.Name | None, key: object, signer: object, *, ca: bool) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            # Python 3.13 and newer insist on these (VERIFY_X509_STRICT).
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .add_extension(_usage(ca=ca), critical=True)
        )
        if not ca:
            try:
                general: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
            except ValueError:
                general = x509.DNSName(host)
            builder = builder.add_extension(x509.SubjectAlternativeName([general]), critical=False)
        return builder.sign(signer, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = certificate("a CA", None, ca_key, ca_key, ca=True)
    leaf = certificate("a server", ca.subject, key, ca_key, ca=False)
    ca_file, chain = folder / "ca.pem", folder / "server.pem"
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    chain.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + leaf.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    return ca_file, context


async def test_a_registry_with_a_ca_of_ones_own_is_trusted_where_the_settings_say_so(tmp_path: Path) -> None:
    ca_file, context = certified(tmp_path, "127.0.0.1")
    async with (
        serving(registry, context=context) as server,
        client({server.authority: RegistryConfig(plain_http=False, ca_file=ca_file)}) as it,
    ):
        assert (await it.manifest(reference_on(server))).manifest == Manifest.parse(MANIFEST)
        assert await fetched(it, name_on(server)) == BLOB


async def test_and_nowhere_else(tmp_path: Path) -> None:
    _, context = certified(tmp_path, "127.0.0.1")
    async with (
        serving(registry, context=context) as server,
        client({server.authority: RegistryConfig(plain_http=False)}) as it,
    ):
        with pytest.raises(RegistryError, match="not trusted") as caught:
            await it.manifest(reference_on(server))

    assert not isinstance(caught.value, RegistryUnavailableError)
    assert caught.value.hint is not None
    assert "ca_file" in caught.value.hint


async def test_a_certificate_for_another_host_is_not_trusted(tmp_path: Path) -> None:
    ca_file, context = certified(tmp_path, "r.example")
    async with (
        serving(registry, context=context) as server,
        client({server.authority: RegistryConfig(plain_http=False, ca_file=ca_file)}) as it,
    ):
        with pytest.raises(RegistryError, match="not trusted"):
            await it.manifest(reference_on(server))


async def test_from_https_no_redirect_leads_to_http(tmp_path: Path) -> None:
    ca_file, context = certified(tmp_path, "127.0.0.1")
    async with serving(ranged) as plain, serving(registry, context=context) as server:
        server.answer = lambda _: Reply(307, headers=[("Location", f"{plain.url}/x")])
        async with client({server.authority: RegistryConfig(plain_http=False, ca_file=ca_file)}) as it:
            with pytest.raises(RegistryError, match="https to http"):
                await fetched(it, name_on(server))

        assert plain.asked == []


async def test_from_https_no_token_is_fetched_over_http(tmp_path: Path) -> None:
    ca_file, context = certified(tmp_path, "127.0.0.1")
    async with serving(ranged) as plain, serving(registry, context=context) as server:
        challenge = ("WWW-Authenticate", f'Bearer realm="{plain.url}/token"')
        server.answer = lambda _: Reply(401, headers=[challenge])
        config = RegistryConfig(plain_http=False, ca_file=ca_file, auth_hosts=(plain.authority,))
        async with client({server.authority: config}) as it:
            with pytest.raises(RegistryError, match="over 'http'"):
                await fetched(it, name_on(server))

        assert plain.asked == []


@pytest.mark.parametrize("what", ["missing", "no pem", "a folder"])
async def test_a_ca_file_that_cannot_be_used_is_named(what: str, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if what == "no pem":
        path.write_text("x")
    if what == "a folder":
        path.mkdir()
    async with client({"r.example": RegistryConfig(ca_file=path)}) as it:
        with pytest.raises(ConfigurationError, match=r"ca\.pem"):
            await fetched(it, REMOTE)


async def test_a_plain_http_registry_taken_for_https_gets_a_hint() -> None:
    async with (
        serving(registry) as server,
        client({server.authority: RegistryConfig(plain_http=False)}, retries=ONCE) as it,
    ):
        with pytest.raises(RegistryError) as caught:
            await it.manifest(reference_on(server))

    assert caught.value.hint is not None
    assert "plain_http" in caught.value.hint


async def test_a_name_that_nobody_knows_is_unavailable() -> None:
    async with client(retries=ONCE) as it:
        with pytest.raises(RegistryUnavailableError, match="cannot be resolved"):
            await it.manifest(Reference(ModelName("nobody.invalid", "library", "m", "1")))


async def test_the_user_agent_is_ours_to_choose() -> None:
    async with serving(registry) as server, client(user_agent="ollama/0.9.1") as it:
        await it.manifest(reference_on(server))

        assert server.asked[0].headers["user-agent"] == "ollama/0.9.1"
