"""Values as people write them: ``512 MiB``, ``200 MB/s``, ``6h``, ``127.0.0.1:9811``, ``01:00-05:00``.

MB is decimal, MiB binary.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from ipaddress import IPv6Address, ip_address
from typing import ClassVar, Self

_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SECONDS = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600), "d": Fraction(86400)}
_QUANTITY = re.compile(r"\s*(?P<number>[0-9]{1,19}(?:\.[0-9]{1,9})?)\s*(?P<unit>[A-Za-z]+)?(?P<per>\s*/\s*s)?\s*")
_ADDRESS = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]{0,252})):(?P<port>[0-9]{1,5})"
)
_MAX_PORT = 65535
_WINDOW = re.compile(r"(?P<h1>[0-9]{2}):(?P<m1>[0-9]{2})-(?P<h2>[0-9]{2}):(?P<m2>[0-9]{2})")


class Size(int):
    """A number of bytes."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """``"16 MiB"``, ``"1.5GB"``, or an integer of bytes. Raise ``ValueError`` with a reason for people."""
        if type(value) is int:
            number = Fraction(value)
        else:
            number, unit, per = _quantity(value, 'a size such as "512 MiB" or "10 GB"')
            if per or unit not in _BYTES:
                raise ValueError(f'{value!r} is not a size such as "512 MiB" or "10 GB"')
            number *= _BYTES[unit]
        if not 0 <= number < 2**63:
            raise ValueError(f"{value!r} is not between 0 and 8 EiB")
        return cls(number)


class Rate(float):
    """Bytes a second, at least 1 kB/s."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """``"200 MB/s"`` or ``"16MiB/s"``. Raise ``ValueError`` with a reason for people."""
        number, unit, per = _quantity(value, 'a rate such as "200 MB/s"')
        if not per or unit not in _BYTES:
            raise ValueError(f'{value!r} is not a rate such as "200 MB/s" (bytes: "B", not bits)')
        rate = number * _BYTES[unit]
        if not 1000 <= rate < 2**63:  # noqa: PLR2004 - 1 kB/s: below it a download would not end in anybody's lifetime
            raise ValueError(f"{value!r} is less than 1 kB/s, or more than there is")
        return cls(rate)


class Seconds(float):
    """A time span in seconds, within ``least`` and ``most``."""

    least: ClassVar[float] = 0.0
    most: ClassVar[float] = 366 * 86400.0

    @classmethod
    def parse(cls, value: object) -> Self:
        """``"30s"``, ``"1.5 h"``, ``"250ms"``. Raise ``ValueError`` with a reason for people."""
        number, unit, per = _quantity(value, 'a time such as "30s" or "6h"')
        if per or unit not in _SECONDS:
            raise ValueError(f'{value!r} is not a time such as "30s" or "6h"')
        seconds = number * _SECONDS[unit]
        if not cls.least <= seconds <= cls.most:
            raise ValueError(f"{value!r} is not between {cls.least:g} and {cls.most:g} seconds")
        return cls(seconds)


def _quantity(value: object, wanted: str) -> tuple[Fraction, str, bool]:
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not {wanted}")
    return Fraction(match["number"]), match["unit"] or "", match["per"] is not None


@dataclass(frozen=True, slots=True)
class Address:
    """Where a TCP listener listens: an IP address or a host name without brackets, and a port (0: any free one)."""

    host: str
    port: int

    @classmethod
    def parse(cls, value: object) -> Self:
        """``"127.0.0.1:9811"``, ``"[::1]:9811"``, ``"host:9811"``. Raise ``ValueError`` with a reason for people."""
        match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
        if match is None or int(match["port"]) > _MAX_PORT:
            raise ValueError(f'{value!r} is not an address such as "127.0.0.1:9811" or "[::1]:9811"')
        bracketed, name = match["v6"], match["host"]
        # What consists of digits and dots must be an IPv4 address: resolvers read "127.1" each in their own way.
        if bracketed is not None or re.fullmatch(r"[0-9.]+", name):
            try:
                ip_address(name) if bracketed is None else IPv6Address(bracketed)
            except ValueError:
                raise ValueError(f"{value!r} is not an IP address and a port") from None
        return cls(bracketed or name, int(match["port"]))

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it: a loopback address, or ``localhost``."""
        if self.host.lower() == "localhost":
            return True
        try:
            address = ip_address(self.host)
        except ValueError:
            return False  # a name: where it leads may change
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return address.is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Window:
    """A part of every day, from ``start`` up to, not including, ``end``: minutes after midnight in local time.

    It wraps midnight where ``end`` is before ``start``.
    """

    start: int
    end: int

    @classmethod
    def parse(cls, value: object) -> Self:
        """``"01:00-05:00"``, ``"22:30-04:00"``. Raise ``ValueError`` with a reason for people."""
        match = _WINDOW.fullmatch(value) if isinstance(value, str) else None
        times = [] if match is None else [(int(match[f"h{n}"]), int(match[f"m{n}"])) for n in (1, 2)]
        if not times or any(hour > 23 or minute > 59 for hour, minute in times):  # noqa: PLR2004 - a clock's
            raise ValueError(f'{value!r} is not a part of the day such as "01:00-05:00"')
        start, end = (hour * 60 + minute for hour, minute in times)
        if start == end:
            raise ValueError(f"{value!r} is no time at all: leave it out for the whole day")
        return cls(start, end)

    def holds(self, minute: int) -> bool:
        """Whether ``minute`` (after midnight, 0 to 1439) lies in it."""
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def __str__(self) -> str:
        return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (self.start, self.end))


def as_written(value: Size | Rate | Seconds) -> str:
    """``value`` in the shortest form that ``parse`` reads as just that: ``512 MiB``, ``200 MB/s``, ``6h``."""
    exact = Fraction(value)
    if isinstance(value, Seconds):
        forms = [f"{exact / seconds}{unit}" for unit, seconds in _SECONDS.items() if exact % seconds == 0]
        rest = f"{value:.9f}".rstrip("0") + "s"
    else:
        per = "/s" if isinstance(value, Rate) else ""
        forms = [f"{exact / size} {unit}{per}" for unit, size in _BYTES.items() if exact % size == 0]
        rest = f"{value:.9f}".rstrip("0") + f" B{per}"
    return min(forms, key=len, default=rest)
