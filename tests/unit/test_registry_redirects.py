"""Redirects and the addresses behind them: what is followed, what goes along, and what is refused at the dial."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from syncd.errors import NotFoundError, RedirectRefusedError, RegistryError, RegistryUnavailableError, SyncdError
from syncd.registry import redirects
from syncd.registry.dial import AddressClass, classify, reach_from
from syncd.registry.hosts import Credentials, RegistryConfig
from tests.unit.registry_world import (
    BLOB,
    CANARY,
    MANIFEST,
    WEIGHTS,
    Answerer,
    Asked,
    Reply,
    client,
    everything_said,
    fetched,
    name_on,
    ranged,
    reference_on,
    serving,
    with_public,
)

SIGNED = f"/cdn/weights?signature={CANARY}%2F%2Bx&expires=1"


def redirect_to(where: Callable[[], str], status: int = 307) -> Answerer:
    return lambda _: Reply(status, headers=[("Location", where()), ("Set-Cookie", f"session={CANARY}")])


# Where a redirect leads: pure.


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/other?x=1", "https://r.example/other?x=1"),
        ("other", "https://r.example/v2/other"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("https://cdn.example:8443/a%2Fb?s=a%2Bb+c&e=~", "https://cdn.example:8443/a%2Fb?s=a%2Bb+c&e=~"),
        ("https://cdn.example/x#part", "https://cdn.example/x"),
        ("https://[2001:db8::1]/x", "https://[2001:db8::1]/x"),
    ],
)
def test_a_redirect_leads_where_it_says_to_the_letter(location: str, leads_to: str) -> None:
    assert str(redirects.target(URL("https://r.example/v2/blob"), location)) == leads_to


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "http://r.example/x",
        "http://cdn.example/x",
        "file:///etc/passwd",
        "ftp://cdn.example/x",
        "gopher://cdn.example/x",
        "unix:///run/docker.sock",
        "javascript:alert(1)",
        "https://127.1/x",
        "https://2130706433/x",
        "https://user:password@cdn.example/x",
        "https://user@cdn.example/x",
        "https://cdn.example:99999/x",
        "https://cdn.example:x/x",
        "https://127.0.0.1\\@cdn.example/x",
        "https://cdn.example/with space",
        "https://cdn.example/\r\nHost: evil",
        "https://cdn.exämple/x",
        "https://[::1/x",
        "https://a,b/x",
    ],
)
def test_a_redirect_that_is_none_or_leads_down_is_refused(location: str | None) -> None:
    with pytest.raises(RedirectRefusedError):
        redirects.target(URL("https://r.example/v2/blob"), location)


PIECES = [
    "http:",
    "https:",
    "//",
    "/",
    "\\",
    "@",
    "[",
    "]",
    "::1",
    "127.0.0.1",
    "cdn.example",
    ":",
    "443",
    "%",
    "?",
    "#",
    ".",
]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_whatever_location_says_it_leads_to_an_https_address_or_is_refused(location: str) -> None:
    try:
        url = redirects.target(URL("https://r.example/v2/blob"), location)
    except RedirectRefusedError:
        return

    assert url.scheme == "https"
    assert url.raw_host
    assert url.raw_user is None
    assert url.port


def test_an_origin_is_scheme_host_and_port() -> None:
    here = URL("https://R.example/a")

    assert redirects.same_origin(here, URL("https://r.example:443/b"))
    for other in ("http://r.example/a", "https://r.example:444/a", "https://x.r.example/a", "https://r.example.evil/a"):
        assert not redirects.same_origin(here, URL(other))


@pytest.mark.parametrize(
    ("address", "is_of"),
    [
        ("8.8.8.8", AddressClass.GLOBAL),
        ("2606:4700::1", AddressClass.GLOBAL),
        ("10.1.2.3", AddressClass.PRIVATE),
        ("172.16.0.1", AddressClass.PRIVATE),
        ("192.168.1.1", AddressClass.PRIVATE),
        ("100.64.0.1", AddressClass.PRIVATE),
        ("fd00::1", AddressClass.PRIVATE),
        ("169.254.169.254", AddressClass.LINK_LOCAL),
        ("fe80::1", AddressClass.LINK_LOCAL),
        ("fe80::1%eth0", AddressClass.LINK_LOCAL),
        ("127.0.0.1", AddressClass.LOOPBACK),
        ("127.255.255.254", AddressClass.LOOPBACK),
        ("::1", AddressClass.LOOPBACK),
        ("::ffff:127.0.0.1", AddressClass.LOOPBACK),
        ("::ffff:10.0.0.1", AddressClass.PRIVATE),
        ("::ffff:169.254.169.254", AddressClass.LINK_LOCAL),
        ("::ffff:0.0.0.0", AddressClass.FORBIDDEN),
        ("64:ff9b::7f00:1", AddressClass.LOOPBACK),
        ("2002:7f00:1::", AddressClass.LOOPBACK),
        ("2002:a00:1::", AddressClass.PRIVATE),
        ("0.0.0.0", AddressClass.FORBIDDEN),  # noqa: S104 - nothing is bound
        ("0.1.2.3", AddressClass.FORBIDDEN),
        ("::", AddressClass.FORBIDDEN),
        ("224.0.0.1", AddressClass.FORBIDDEN),
        ("ff02::1", AddressClass.FORBIDDEN),
        ("240.0.0.1", AddressClass.FORBIDDEN),
        ("255.255.255.255", AddressClass.FORBIDDEN),
        ("no address", AddressClass.FORBIDDEN),
    ],
)
def test_an_address_has_the_class_of_what_it_leads_to(address: str, is_of: AddressClass) -> None:
    assert classify(address) is is_of


def test_a_host_may_redirect_to_its_own_class_and_to_global_addresses_only() -> None:
    for own in AddressClass:
        allowed = reach_from(own)
        assert allowed == {AddressClass.GLOBAL} | ({own} - {AddressClass.FORBIDDEN})
    assert reach_from(None) == {AddressClass.GLOBAL}


# On sockets.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_blob_behind_a_redirect_is_fetched(status: int) -> None:
    async with serving(ranged) as cdn, client() as it:
        async with serving(redirect_to(lambda: cdn.url + SIGNED, status)) as server:
            assert await fetched(it, name_on(server), 5, 500) == BLOB[5:500]

        assert cdn.asked[0].target == SIGNED
        assert cdn.asked[0].headers["range"] == "bytes=5-499"


async def test_neither_credentials_nor_cookies_go_to_another_origin() -> None:
    async with serving(ranged) as cdn, serving(redirect_to(lambda: cdn.url + SIGNED)) as server:
        config = RegistryConfig(credentials=Credentials(token=CANARY))
        async with client({server.authority: config}) as it:
            for start in (0, 100):
                await fetched(it, name_on(server), start, start + 10)

        assert server.asked[0].headers["authorization"] == f"Bearer {CANARY}"
        for asked in cdn.asked:
            assert not {"authorization", "cookie"} & asked.headers.keys()


async def test_who_has_left_the_origin_comes_back_without_credentials() -> None:
    async with serving(ranged) as there, serving(ranged) as server:
        there.answer = redirect_to(lambda: f"{server.url}/back")
        server.answer = lambda asked: ranged(asked) if asked.path == "/back" else redirect_to(lambda: there.url)(asked)
        async with client({server.authority: RegistryConfig(credentials=Credentials(token=CANARY))}) as it:
            assert await fetched(it, name_on(server), 0, 10) == BLOB[:10]

        assert "authorization" in server.asked[0].headers
        assert "authorization" not in server.asked[1].headers


async def test_a_redirect_within_the_origin_keeps_the_credentials() -> None:
    async with serving(ranged) as server:
        server.answer = lambda asked: ranged(asked) if asked.path == "/x" else redirect_to(lambda: "/x")(asked)
        async with client({server.authority: RegistryConfig(credentials=Credentials(token=CANARY))}) as it:
            await fetched(it, name_on(server), 0, 10)

        assert [one.headers["authorization"] for one in server.asked] == [f"Bearer {CANARY}"] * 2


async def test_the_sixth_redirect_is_not_followed() -> None:
    async with serving(redirect_to(lambda: "/round")) as server, client() as it:
        with pytest.raises(RedirectRefusedError, match="more than 5 times"):
            await fetched(it, name_on(server))

        assert len(server.asked) == 6


async def test_five_redirects_are_followed() -> None:
    async with serving(ranged) as server, client() as it:
        server.answer = lambda asked: (
            ranged(asked) if len(server.asked) == 6 else redirect_to(lambda: f"/{len(server.asked)}")(asked)
        )

        assert await fetched(it, name_on(server)) == BLOB


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", ""])
async def test_a_redirect_to_no_web_address_is_not_followed(location: str) -> None:
    async with serving(redirect_to(lambda: location)) as server, client() as it:
        with pytest.raises(RedirectRefusedError):
            await fetched(it, name_on(server))


async def test_a_manifest_may_be_redirected_too() -> None:
    async with (
        serving(lambda _: Reply(body=MANIFEST)) as cdn,
        serving(redirect_to(lambda: cdn.url)) as server,
        client() as it,
    ):
        assert (await it.manifest(reference_on(server))).manifest.raw == MANIFEST


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "trap.example",
        "two.example",
        "2130706433",
        "0x7f000001",
        "127.1",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
    ],
)
async def test_a_public_registry_cannot_redirect_to_this_host(host: str) -> None:
    names = {"trap_example": "127.0.0.1", "two_example": "127.0.0.1 ::1"} if host.endswith(".example") else {}
    async with serving(ranged) as victim:
        where = f"http://{host}:{victim.port}/secret"
        async with (
            serving(redirect_to(lambda: where), host="127.0.0.2") as server,
            client(outside=with_public("127.0.0.2", **names)) as it,
        ):
            with pytest.raises(RedirectRefusedError):
                await fetched(it, name_on(server))

        assert victim.connections == 0


@pytest.mark.parametrize(
    "host",
    ["10.0.0.1", "169.254.169.254", "[fe80::1]", "0.0.0.0", "[::]", "224.0.0.1", "[fd00::1]"],  # noqa: S104 - nothing is bound
)
async def test_nor_can_it_redirect_into_its_network_or_ours(host: str) -> None:
    async with (
        serving(redirect_to(lambda: f"http://{host}:9/x"), host="127.0.0.2") as server,
        client(outside=with_public("127.0.0.2")) as it,
    ):
        with pytest.raises(RedirectRefusedError):
            await fetched(it, name_on(server))


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "0.0.0.0", "[::ffff:10.0.0.1]"])  # noqa: S104 - nothing is bound
async def test_a_registry_on_loopback_redirects_within_loopback_only(host: str) -> None:
    async with serving(redirect_to(lambda: f"http://{host}:9/x")) as server, client() as it:
        with pytest.raises(RedirectRefusedError):
            await fetched(it, name_on(server))


async def test_a_connection_made_for_the_registry_is_not_reused_for_a_redirect_that_may_not_go_there() -> None:
    """The victim is itself a configured registry, with an idle connection in the pool."""
    async with serving(ranged) as victim:
        async with (
            serving(redirect_to(lambda: f"{victim.url}/secret"), host="127.0.0.2") as server,
            client(outside=with_public("127.0.0.2")) as it,
        ):
            await fetched(it, name_on(victim), 0, 10)
            with pytest.raises(RedirectRefusedError):
                await fetched(it, name_on(server))

        assert victim.paths() == [f"/v2/library/mistral/blobs/{WEIGHTS.digest}"]


# The address behind a redirect, remembered and forgotten.


async def test_the_next_range_goes_straight_to_where_the_last_one_came_from() -> None:
    async with serving(ranged) as cdn, serving(redirect_to(lambda: cdn.url + SIGNED)) as server, client() as it:
        for start in range(0, 50, 10):
            await fetched(it, name_on(server), start, start + 10)

        assert (len(server.asked), len(cdn.asked)) == (1, 5)


def expiring(status: int, good: list[str]) -> Answerer:
    def answer(asked: Asked) -> Reply:
        return ranged(asked) if asked.target in good else Reply(status, f'{{"error": "{asked.target}"}}'.encode())

    return answer


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_signed_address_that_has_expired_is_fetched_anew(status: int) -> None:
    good = ["/1"]
    async with serving(ranged) as cdn, client() as it:
        cdn.answer = expiring(status, good)
        async with serving(redirect_to(lambda: cdn.url + good[0])) as server:
            await fetched(it, name_on(server), 0, 10)
            good[:] = ["/2"]

            assert await fetched(it, name_on(server), 10, 20) == BLOB[10:20]

        assert cdn.paths() == ["/1", "/1", "/2"]
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, RegistryUnavailableError),
        (403, RegistryUnavailableError),
        (404, NotFoundError),
        (410, RegistryError),
    ],
)
async def test_a_fresh_address_that_is_refused_is_asked_for_once_more_and_no_oftener(
    status: int, kind: type[SyncdError]
) -> None:
    async with serving(lambda _: Reply(status)) as cdn, client() as it:
        async with serving(redirect_to(lambda: cdn.url + SIGNED)) as server:
            with pytest.raises(kind):
                await fetched(it, name_on(server), 0, 10)

        assert (len(server.asked), len(cdn.asked)) == (2, 2)


async def test_a_cdn_that_challenges_is_given_no_token() -> None:
    async with serving(ranged) as cdn, client() as it:
        challenge = ("WWW-Authenticate", f'Bearer realm="{cdn.url}/token"')
        cdn.answer = lambda _: Reply(401, headers=[challenge])
        async with serving(redirect_to(lambda: cdn.url + SIGNED)) as server:
            with pytest.raises(RegistryUnavailableError):
                await fetched(it, name_on(server))

        assert "/token" not in cdn.paths()


async def test_a_cdn_that_has_gone_is_forgotten() -> None:
    async with serving(ranged) as new, serving(ranged) as server, client() as it:
        async with serving(ranged) as old:
            server.answer = redirect_to(lambda: old.url)
            await fetched(it, name_on(server), 0, 10)
        server.answer = redirect_to(lambda: new.url)
        with pytest.raises(RegistryUnavailableError):
            await fetched(it, name_on(server), 0, 10)

        assert await fetched(it, name_on(server), 0, 10) == BLOB[:10]


FAULTS: dict[str, Answerer] = {
    "an error that quotes the address": lambda asked: Reply(
        500, f'{{"error": "cannot sign https://cdn.example{asked.target}"}}'.encode()
    ),
    "an error that quotes the signature as it was sent": lambda asked: Reply(
        400, f'{{"error": "bad {asked.target.partition("signature=")[2]}"}}'.encode()
    ),
    "an error that quotes the signature": lambda _: Reply(400, f'{{"error": "bad {CANARY}/+x"}}'.encode()),
    "refused": lambda _: Reply(403),
    "gone": lambda _: Reply(410),
    "a redirect that is refused": lambda asked: Reply(307, headers=[("Location", f"file://{asked.target}")]),
    "a range that lies": lambda _: Reply(206, b"x"),
    "another encoding": lambda _: Reply(200, BLOB, [("Content-Encoding", "gzip")]),
    "another size": lambda _: Reply(200, BLOB[1:]),
    "a break": lambda _: Reply(200, BLOB[1:], announced=len(BLOB), close=True),
    "no http": lambda _: Reply(99999, b"\x00\x01"),
    "too long a header": lambda _: Reply(200, headers=[("X", "x" * 100_000)]),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_signed_address_is_found_in_no_error(fault: str) -> None:
    async with serving(FAULTS[fault]) as cdn, client(read_timeout=0.5) as it:
        async with serving(redirect_to(lambda: cdn.url + SIGNED)) as server:
            with pytest.raises(SyncdError) as caught:
                await fetched(it, name_on(server), 10, 20 if fault == "a range that lies" else None)

        assert cdn.asked
    assert CANARY not in everything_said(caught.value)


async def test_nor_where_nobody_answers_at_that_address() -> None:
    async with serving(ranged) as cdn:
        gone = cdn.url + SIGNED
    async with serving(redirect_to(lambda: gone)) as server, client() as it:
        with pytest.raises(RegistryUnavailableError) as caught:
            await fetched(it, name_on(server))

    assert CANARY not in everything_said(caught.value)
