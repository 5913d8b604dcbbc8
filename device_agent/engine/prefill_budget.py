"""How a pass through the model is shared: prompts with prompts, and prompts with generations."""

from __future__ import annotations

from collections.abc import Sequence

_SMALLEST_SHARE = 16
_MEMORY = 0.8


def share_out(budget: int, wanted: Sequence[int]) -> list[int]:
    """Split a budget so that nobody gets more than wanted and the least served get equally much.

    Max-min fairness: a short prompt is read whole while a long one waits no longer than it must.
    """
    shares = [0] * len(wanted)
    left = sorted(range(len(wanted)), key=lambda index: wanted[index])
    while left and budget > 0:
        share = max(1, budget // len(left))
        index = left.pop(0)
        shares[index] = min(wanted[index], share, budget)
        budget -= shares[index]
    return shares


class PrefillBudget:
    """How many prompt tokens a pass may read.

    While nobody is decoding, as many as a batch holds. Else so many that running generations stall
    for about `stall_s`, by the speed of the passes so far: a 512-token pass takes 2 s on a desktop
    core and ten on a small board. Where more wait for their first token than for their next one,
    the stall may be longer in proportion: larger passes read prompts faster.
    """

    def __init__(self, batch_tokens: int, stall_s: float) -> None:
        self._batch_tokens = batch_tokens
        self._stall_s = stall_s
        self._token_s: float | None = None

    def tokens(self, *, decoding: int, reading: int) -> int:
        """The budget of the next pass for so many prompts, beside so many generations."""
        if not decoding or self._token_s is None:
            return self._batch_tokens
        affordable = int(self._stall_s * max(1.0, reading / decoding) / self._token_s)
        return max(_SMALLEST_SHARE, min(self._batch_tokens, affordable))

    def observe(self, tokens: int, duration_s: float) -> None:
        """Learn from a pass over so many tokens, those of prompts and of generations together."""
        if tokens < _SMALLEST_SHARE:
            return
        token_s = duration_s / tokens
        old = self._token_s
        self._token_s = token_s if old is None else _MEMORY * old + (1 - _MEMORY) * token_s
