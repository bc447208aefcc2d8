"""Which addresses a redirect may lead to: judged where the socket is made, so that no name and no literal slips by.

aiohttp asks its resolver for names only, never for IP literals; its socket factory sees every address that is dialled.
"""

import socket
from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, TypeAlias

_THIS_NETWORK = ip_network("0.0.0.0/8")
_NAT64 = ip_network("64:ff9b::/96")

# What aiohappyeyeballs hands over: family, type, protocol, canonical name, socket address.
AddressInfo: TypeAlias = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
SocketFactory: TypeAlias = Callable[[AddressInfo], socket.socket]


class AddressClass(Enum):
    """How far an address reaches."""

    GLOBAL = "global"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    LOOPBACK = "loopback"
    FORBIDDEN = "no host's"  # unspecified, multicast, reserved, or no address at all


Classify: TypeAlias = Callable[[str], AddressClass]


class AddressRefusedError(OSError):
    """The guard said no. An OSError, for that is all that aiohttp's connector expects of a socket factory.

    Its text is always the same, so that several refused addresses of one host stay recognisable as this error.
    """

    def __init__(self) -> None:
        super().__init__("the address is not one that this registry may redirect to")


def classify(address: str) -> AddressClass:
    """The class of an IP address in text form. An IPv6 address that carries an IPv4 one is judged by that one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return AddressClass.FORBIDDEN
    found = _unwrapped(parsed)
    # 0.0.0.0/8 is "this network": Linux takes all of it for addresses of its own.
    nobody = isinstance(found, IPv4Address) and (found.is_reserved or found in _THIS_NETWORK)
    classes = (
        (found.is_loopback, AddressClass.LOOPBACK),
        (nobody or found.is_unspecified or found.is_multicast, AddressClass.FORBIDDEN),
        (found.is_link_local, AddressClass.LINK_LOCAL),
        (found.is_global, AddressClass.GLOBAL),
    )
    return next((address_class for applies, address_class in classes if applies), AddressClass.PRIVATE)


def _unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that a mapped, NAT64, 6to4 or Teredo address leads to."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour or address


def reach_from(dialled: AddressClass | None) -> frozenset[AddressClass]:
    """Where a redirect may lead from a host that was dialled at an address of this class.

    Anywhere global, and to its own class. ``None``: a proxy dialled, so that the class is not known; then global only.
    """
    if dialled is None or dialled is AddressClass.FORBIDDEN:
        return frozenset({AddressClass.GLOBAL})
    return frozenset({AddressClass.GLOBAL, dialled})


def guarded(reach: frozenset[AddressClass], judge: Classify) -> SocketFactory:
    """A socket factory that makes sockets for addresses within ``reach`` only, else raises ``AddressRefusedError``."""

    def make(info: AddressInfo) -> socket.socket:
        family, kind, protocol, _, address = info
        if judge(str(address[0])) not in reach:
            raise AddressRefusedError
        return socket.socket(family, kind, protocol)

    return make
