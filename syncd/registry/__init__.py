"""The way in: HTTP to registries, their mirrors and their CDNs."""

import os

# Before anything here imports aiohttp. Its C parser copies every body once more than its Python parser does, which for
# gigabytes costs more than the parsing of a few headers saves (docs/adr/0006).
os.environ.setdefault("AIOHTTP_NO_EXTENSIONS", "1")
