"""What time it is at a registry: the Date header (RFC 9110, section 6.6.1) of one answer, whatever that says."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.request import getproxies_environment

from yarl import URL

from syncd import __version__
from syncd.errors import SyncdError
from syncd.registry.hosts import RegistryConfig, endpoints
from syncd.registry.proxies import Proxies
from syncd.registry.transport import Outside, Transport


@dataclass(frozen=True, slots=True)
class TimeThere:
    """``host``: who said so. ``ahead``: seconds by which this host's clock is before the registry's; may be negative.

    A header has whole seconds, and the answer takes its time: both are less than ``slack`` seconds.
    """

    host: str
    ahead: float
    slack: float


async def compare(
    host: str,
    *,
    plain_http: bool | None,
    ca_file: Path | None,
    patience: float,
    now: Callable[[], float] = time.time,
) -> TimeThere | None:
    """Ask ``host`` once, without credentials. None: it cannot be reached, or does not say. Raises nothing."""
    try:
        *_, origin = endpoints(host, RegistryConfig(plain_http=plain_http))
        transport = Transport(
            user_agent=f"syncd/{__version__}",
            connect_timeout=patience,
            read_timeout=patience,
            outside=Outside(proxies=Proxies(getproxies_environment())),
        )
        try:
            begun = now()
            answer = await transport.get(URL(f"{str(origin.base).rstrip('/')}/v2/"), {}, reach=None, ca_file=ca_file)
            ended = now()
            said = answer.headers.get("Date")
            answer.close()
        finally:
            await transport.close()
        there = None if said is None else parsedate_to_datetime(said).timestamp()
    except (SyncdError, ValueError, OverflowError):
        return None
    return None if there is None else TimeThere(origin.source, (begun + ended) / 2 - there, 1 + abs(ended - begun))
