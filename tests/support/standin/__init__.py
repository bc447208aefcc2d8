"""A stand-in for an Ollama server: a real HTTP server over a real store folder that does what Ollama does to it.

Python's standard library and aiohttp are all that it needs, so that a bind-mounted checkout is enough in a container.
"""

from tests.support.standin.orders import Asked, Load, Order, What
from tests.support.standin.settings import Settings
from tests.support.standin.standin import StandIn

__all__ = ["Asked", "Load", "Order", "Settings", "StandIn", "What"]
