"""What others see of syncd: JSON for programs, Ollama's API, the control socket, the ops listener."""
