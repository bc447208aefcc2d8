"""The Ollama servers that read the store, and the containers that they run in."""
