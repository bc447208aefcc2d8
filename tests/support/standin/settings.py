"""How a stand-in is set up: what Ollama takes from its environment, and how fast it pretends to be."""

from dataclasses import dataclass
from pathlib import Path

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are seconds, sizes bytes."""

    models: Path
    """``OLLAMA_MODELS``."""
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free one, kept over restarts."""
    prune: bool = True
    """False is ``OLLAMA_NOPRUNE=1``."""
    grace: float = HOUR
    """How young an unreferenced blob must be to be left alone at start; 0 as in releases before April 2026."""
    keep_alive: float = 300.0
    """``OLLAMA_KEEP_ALIVE``; infinity: for ever."""
    num_ctx: int = 4096
    """The context length of a model for which nobody asks for another."""
    max_loaded: int = 0
    """``OLLAMA_MAX_LOADED_MODELS``; 0: as many as are asked for."""
    version: str = "0.12.6"
    slow_load: float = 0.0
    """What every load takes."""
    token_seconds: float = 0.0
    """What every token takes."""
    registry: str = ""
    """Origin that stands for registry.ollama.ai when this server pulls by itself; empty: the real one."""
    part_bytes: int = 100_000_000
    """Its own pull's smallest range."""
    retry_seconds: float = 1.0
    """Its own pull's first pause; each further one is twice as long."""
    verify_seconds: float = 0.0
    """What its own pull takes to verify a blob, on top of reading it: real weights are thousands of times as big."""
    seed: int = 1
    """Of the random order in which it looks at stored names."""
