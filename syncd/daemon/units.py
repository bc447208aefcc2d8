"""Sizes, rates and times as people write them: ``512 MiB``, ``200 MB/s``, ``6h``. MB is decimal, MiB binary."""

import re
from fractions import Fraction
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
