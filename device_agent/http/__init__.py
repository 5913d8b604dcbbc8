"""OpenAI's HTTP API on this agent's engine, its health and its metrics."""
