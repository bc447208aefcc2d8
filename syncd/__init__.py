"""syncd: owns the shared, content-addressed model store of a host's Ollama servers."""

__version__ = "0.1.0"
