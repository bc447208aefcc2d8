"""RegistryClient: manifests and ranges of blobs, from mirrors and origin, with every answer judged before its body."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self, TypeVar
from urllib.request import getproxies_environment

from yarl import URL

from syncd import __version__
from syncd.errors import (
    IntegrityError,
    InvalidManifestError,
    NotFoundError,
    RegistryError,
    RegistryUnavailableError,
    SyncdError,
)
from syncd.oci.digest import Digest
from syncd.oci.manifest import MANIFEST_TYPE, MAX_MANIFEST_BYTES, OCI_MANIFEST_TYPE, Descriptor, Manifest
from syncd.oci.name import ModelName, Reference
from syncd.registry import answers
from syncd.registry.answers import RangeUnsupportedError
from syncd.registry.found import FetchedManifest
from syncd.registry.hosts import Health, RegistryConfig, Site, sites
from syncd.registry.proxies import Proxies
from syncd.registry.ranges import RangeBody
from syncd.registry.recent import Recent
from syncd.registry.redirects import authority
from syncd.registry.retries import Retrying, RetryPolicy
from syncd.registry.tokens import Authoriser, TokenUnavailableError
from syncd.registry.transport import Landed, Outside, Reach, Transport
from syncd.text import printable

__all__ = ["FetchedManifest", "RangeBody", "RangeUnsupportedError", "RegistryClient"]

T = TypeVar("T")

_NO_CONFIG = RegistryConfig()
_RETRIES = RetryPolicy()
_REMEMBERED = 1024
_OK, _PARTIAL, _UNAUTHORISED, _UNSATISFIABLE = 200, 206, 401, 416
_NOT_BY_DIGEST = frozenset({404, 405})
_STALE = frozenset({401, 403, 404, 410})
_ACCEPT = {"Accept": f"{MANIFEST_TYPE}, {OCI_MANIFEST_TYPE}"}


@dataclass(frozen=True, slots=True)
class _Shortcut:
    """Where an endpoint's redirect for a blob led to last: a signed address, so it is shown nowhere."""

    url: URL = field(repr=False)
    reach: Reach


class RegistryClient:
    """Speaks to registries for as long as its ``async with`` lasts."""

    def __init__(  # noqa: PLR0913 - the settings of one client, each by its name
        self,
        configs: Mapping[str, RegistryConfig],
        *,
        default: RegistryConfig = _NO_CONFIG,
        user_agent: str = f"syncd/{__version__}",
        connect_timeout: float,
        read_timeout: float,
        random: Callable[[], float],
        retries: RetryPolicy = _RETRIES,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        outside: Outside | None = None,
    ) -> None:
        """``configs``: by host (``name[:port]``); ``default``: for every other host, mirrors included.

        Times in seconds; ``read_timeout``: from a request to the headers of its answer, and for a small body.
        ``retries``: for manifests and tokens; what ranges need is the caller's to decide. ``random``: in [0, 1).
        ``outside``: proxies (None: those of the environment), resolver, and how addresses are classed.
        """
        self._configs, self._default = dict(configs), default
        self._wall_clock, self._seconds = wall_clock, read_timeout
        self._transport = Transport(
            user_agent=user_agent,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            outside=outside or Outside(proxies=Proxies(getproxies_environment())),
        )
        self._retrying = Retrying(retries, clock=clock, random=random)
        self._authoriser = Authoriser(self._transport, self._retrying, clock=clock, wall_clock=wall_clock)
        self._health = Health(clock)
        self._shortcuts: Recent[tuple[URL, Digest], _Shortcut] = Recent(_REMEMBERED)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.close()

    async def manifest(self, reference: Reference) -> FetchedManifest:
        """The manifest that ``reference`` names, from the first endpoint that has a good one.

        Raise ``NotFoundError``, ``NotAuthorisedError``, ``InvalidManifestError``, ``IntegrityError`` (not the pinned
        digest, or not the announced one), ``RedirectRefusedError``, ``RegistryError``, or, after some retries,
        ``RegistryUnavailableError``.
        """
        return await self._retrying(
            lambda: self._from_any(
                reference.name.host, frozenset(), lambda site: self._manifest(site, reference), most_telling
            ),
            unless=(TokenUnavailableError,),
        )

    @asynccontextmanager
    async def open_range(
        self, name: ModelName, blob: Descriptor, start: int, end: int, *, avoid: frozenset[str] = frozenset()
    ) -> AsyncIterator[RangeBody]:
        """Bytes ``start`` to ``end`` (half-open) of ``blob``; leaving early closes the connection.

        ``avoid``: sources not to ask, unless there is no other. The whole blob is asked for without a Range header.
        Raise ``RangeUnsupportedError`` where it has to be asked for whole, ``NotFoundError``, ``NotAuthorisedError``,
        ``IntegrityError`` (another size announced), ``RedirectRefusedError``, ``RegistryError``, or
        ``RegistryUnavailableError``: nothing is tried again here but a new token and a new signed address, once each.
        """
        if not 0 <= start <= end <= blob.size or (start == end and blob.size):
            raise ValueError(f"no range of {blob.size} bytes: {start} to {end}")
        landed, body = await self._from_any(
            name.host, avoid, lambda site: self._range(site, name, blob, start=start, end=end), most_telling_of_blob
        )
        try:
            yield body
        finally:
            landed.answer.close()

    async def _from_any(
        self,
        host: str,
        avoid: frozenset[str],
        ask: Callable[[Site], Awaitable[T]],
        of_all: Callable[[Sequence[tuple[Site, SyncdError]]], SyncdError],
    ) -> T:
        """The first good answer of the endpoints of ``host``, else the one error that all of theirs amount to.

        Those to ``avoid`` come last, and only if no other one can be reached.
        """
        everywhere = sites(host, self._configs, self._default)
        wanted = self._health.ordered([site for site in everywhere if site.endpoint.source not in avoid])
        rest = self._health.ordered([site for site in everywhere if site.endpoint.source in avoid])
        failures: list[tuple[Site, SyncdError]] = []
        for site in (*wanted, *rest):
            if site in rest and any(not isinstance(error, RegistryUnavailableError) for _, error in failures):
                break
            try:
                result = await ask(site)
            except SyncdError as error:
                if isinstance(error, RegistryUnavailableError):
                    self._health.failed(site.endpoint, error.retry_after)
                failures.append((site, error))
            else:
                self._health.worked(site.endpoint)
                return result
        raise _and_mirrors(of_all(failures), failures)

    async def _manifest(self, site: Site, reference: Reference) -> FetchedManifest:
        name, pinned = reference.name, reference.digest
        raw: bytes | None = None
        if pinned is not None:
            raw = await self._manifest_bytes(site, name, str(pinned), unless=_NOT_BY_DIGEST)
        if raw is None:  # Ollama's registry does not serve by digest
            raw = await self._manifest_bytes(site, name, name.tag)
        if raw is None:
            raise AssertionError("by tag, every status is judged")
        if pinned is not None and (found := Digest.of(raw)) != pinned:
            raise IntegrityError(
                f"{site.endpoint.source} has {found} for {name}, not {pinned}",
                hint="the tag has moved on: pull it without the digest, or with the new one",
            )
        return FetchedManifest(Manifest.parse(raw), site.endpoint.source)

    async def _manifest_bytes(
        self, site: Site, name: ModelName, which: str, *, unless: frozenset[int] = frozenset()
    ) -> bytes | None:
        source = site.endpoint.source
        landed = await self._ask(site, name, site.endpoint.url(name.repository, "manifests", which), _ACCEPT)
        try:
            if landed.answer.status in unless:
                return None
            if landed.answer.status != _OK:
                raise await self._failure(landed, str(name))
            raw = await answers.read_body(landed.answer, MAX_MANIFEST_BYTES, seconds=self._seconds, source=source)
        except answers.BodyTooLargeError as error:
            raise InvalidManifestError(error.message) from error
        finally:
            landed.answer.close()
        for announced in landed.answer.headers.getall("Docker-Content-Digest", ()):
            if announced != str(Digest.of(raw)):
                raise IntegrityError(
                    f"{source} announces {printable(announced, limit=100)} for {name}, but sends {Digest.of(raw)}",
                    hint="something between here and the registry changes what it sends; try again, or another mirror",
                )
        return raw

    async def _range(
        self, site: Site, name: ModelName, blob: Descriptor, *, start: int, end: int
    ) -> tuple[Landed, RangeBody]:
        what = f"blob {blob.digest.short} of {name}"
        whole = (start, end) == (0, blob.size)
        landed = await self._blob(site, name, blob.digest, {} if whole else {"Range": f"bytes={start}-{end - 1}"})
        try:
            if landed.answer.status not in {_OK, _PARTIAL}:
                raise await self._range_failure(landed, what, whole=whole)  # noqa: TRY301 - the answer has to be closed
            judged = _judged(landed, blob, what, start=start, end=end)
        except BaseException:
            landed.answer.close()
            raise
        source = site.endpoint.source
        return landed, RangeBody(landed.answer, *judged, source=source, what=what)

    async def _range_failure(self, landed: Landed, what: str, *, whole: bool) -> SyncdError:
        if landed.answer.status == _UNSATISFIABLE and not whole:
            return RangeUnsupportedError(f"{authority(landed.url)} refuses a range of {what}")
        return await self._failure(landed, what)

    async def _blob(self, site: Site, name: ModelName, digest: Digest, headers: Mapping[str, str]) -> Landed:
        """Ask for a blob where the last redirect led to; at the endpoint where there was none, or it has expired."""
        key = (site.endpoint.base, digest)
        url = site.endpoint.url(name.repository, "blobs", str(digest))
        if shortcut := self._shortcuts.get(key):
            landed = await self._at(shortcut, site, key, headers)
            if landed.answer.status not in _STALE:
                return landed
            landed.answer.close()
            self._shortcuts.forget(key, shortcut)
        landed = await self._ask(site, name, url, headers)
        if shortcut is None and not landed.inside and landed.answer.status in _STALE:
            landed.answer.close()
            landed = await self._ask(site, name, url, headers)
        if not landed.inside and landed.answer.status in {_OK, _PARTIAL}:
            self._shortcuts.put(key, _Shortcut(landed.url, landed.reach))
        return landed

    async def _at(self, shortcut: _Shortcut, site: Site, key: tuple[URL, Digest], headers: Mapping[str, str]) -> Landed:
        try:
            landed = await self._transport.follow(
                shortcut.url, headers, authorization=None, reach=shortcut.reach, ca_file=site.config.ca_file
            )
        except RegistryError:
            self._shortcuts.forget(key, shortcut)
            raise
        return replace(landed, inside=False)

    async def _ask(self, site: Site, name: ModelName, url: URL, headers: Mapping[str, str]) -> Landed:
        """GET ``url`` of an endpoint with what opens it; a 401 of its own is answered once, with something new."""
        ca_file = site.config.ca_file
        sent = await self._authoriser.before(site, name.repository)
        landed = await self._transport.follow(url, headers, authorization=sent, reach=None, ca_file=ca_file)
        if landed.answer.status != _UNAUTHORISED or not landed.inside:
            return landed
        landed.answer.close()
        sent = await self._authoriser.after(site, name.repository, landed.answer, refused=sent, reach=landed.reach)
        return await self._transport.follow(url, headers, authorization=sent, reach=None, ca_file=ca_file)

    async def _failure(self, landed: Landed, wanted: str) -> SyncdError:
        source, status = authority(landed.url), landed.answer.status
        if not landed.inside and status in {401, 403}:
            return RegistryUnavailableError(
                f"{source} refuses the address for {wanted} that a redirect gave ({status})"
            )
        return await answers.failure(
            landed.answer,
            source=source,
            wanted=wanted,
            now=self._wall_clock(),
            seconds=self._seconds,
            secrets=landed.secrets,
        )


def _judged(landed: Landed, blob: Descriptor, what: str, *, start: int, end: int) -> tuple[int, int, bool]:
    """Start, end (half-open) and whether this is the whole blob regardless, by the headers of a 200 or a 206."""
    answer, source = landed.answer, authority(landed.url)
    answers.refuse_encoded(answer, source)
    if answer.status == _PARTIAL:
        answers.refuse_other_range(answer, source, start=start, end=end, size=blob.size)
        return start, end, False
    if answer.content_length not in {None, blob.size}:
        raise IntegrityError(f"{source} has {answer.content_length} bytes for {what}, the manifest says {blob.size}")
    return 0, blob.size, True


def _and_mirrors(error: SyncdError, failures: Sequence[tuple[Site, SyncdError]]) -> SyncdError:
    """``error`` with what the mirrors said: where there is one, that is where an operator looks first."""
    said = dict.fromkeys(one.message for site, one in failures if not site.endpoint.is_origin)
    others = [message for message in said if message not in error.message]
    if others:
        error.message = "; ".join((error.message, *others))
        error.args = (error.message,)
    return error


def most_telling(failures: Sequence[tuple[Site, SyncdError]]) -> SyncdError:
    """The error to raise when all of them failed: one that a whole blob may mend, else the origin's, else the last."""
    for _, error in failures:
        if isinstance(error, RangeUnsupportedError):
            return error
    return next((error for site, error in failures if site.endpoint.is_origin), failures[-1][1])


def most_telling_of_blob(failures: Sequence[tuple[Site, SyncdError]]) -> SyncdError:
    """As ``most_telling``, but ``NotFoundError`` only if all say so: a tag is the origin's word, not so bytes."""
    error = most_telling(failures)
    doubts = [one for _, one in failures if not isinstance(one, NotFoundError)]
    if not isinstance(error, NotFoundError) or not doubts:
        return error
    doubt = next((one for one in doubts if one.transient), doubts[0])
    kind = RegistryUnavailableError if doubt.transient else RegistryError
    return kind(f"{error.message}; {doubt.message}", hint=doubt.hint)
