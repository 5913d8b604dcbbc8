"""A trace like a cellular one: a rate that wanders, with fades; for where no recorded one is at hand."""

from __future__ import annotations

import math
import random
from pathlib import Path

_STEP_MS = 50


def write(path: Path, *, seed: int, duration_s: int = 60) -> Path:
    """Write opportunities of a log-normal random walk around 6 Mbit/s, now and then faded to nothing."""
    draw = random.Random(seed)
    level, credit, faded_steps = 0.0, 0.0, 0
    lines = []
    for start_ms in range(0, duration_s * 1000, _STEP_MS):
        level = 0.97 * level + draw.gauss(0, 0.2)
        if faded_steps == 0 and draw.random() < 0.01:
            faded_steps = draw.randint(4, 30)
        faded_steps = max(0, faded_steps - 1)
        rate_per_ms = 0.0 if faded_steps else 0.5 * math.exp(level)
        for offset_ms in range(_STEP_MS):
            credit += rate_per_ms
            while credit >= 1:
                credit -= 1
                lines.append(start_ms + offset_ms)
    lines.append(duration_s * 1000)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    return path
