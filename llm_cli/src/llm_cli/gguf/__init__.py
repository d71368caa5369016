"""Checkpoints as GGUF, the file that llama.cpp runs, by way of the `gguf` package (the extra of that name)."""
