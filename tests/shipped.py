"""The shipped models, by name."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
MODELS = {
    name: ROOT / f"models/airloom-{name}.Q8_0.gguf"
    for name in ("mathematics", "knowledge", "symbolic", "cloud")
}
