"""Train the shipped models from nothing and write them as GGUF (needs the `train` extra)."""
