"""How long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Iterator


def full_jitter(initial_s: float, maximum_s: float, rng: random.Random) -> Iterator[float]:
    """Exponential back-off with full jitter: uniform in [0, min(maximum, initial · 2^n)].

    Many boards that lose the same cloud at once thus come back spread out (Brooker 2015).
    """
    ceiling_s = initial_s
    while True:
        yield rng.uniform(0, ceiling_s)
        ceiling_s = min(maximum_s, ceiling_s * 2)
