"""Which of two ways of decoding is the faster one here: found out while it is done."""

from __future__ import annotations

from dataclasses import dataclass, field

_TRIAL_PASSES = 8
_SETTLED_PASSES, _LONGEST_BELIEVED_PASSES = 256, 4096


@dataclass
class _Arm:
    """Tokens and seconds of the passes made in one way since the last trial began."""

    tokens: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass
class _Experience:
    """Of one number of rows: the last trial, and how long what it found is to be believed."""

    plain: _Arm = field(default_factory=_Arm)
    other: _Arm = field(default_factory=_Arm)
    passes: int = 0
    believed_passes: int = _SETTLED_PASSES

    @property
    def other_pays(self) -> bool:
        return self.other.rate > self.plain.rate


class Trial:
    """Whether another way of decoding pays, learnt from the passes themselves for each number of rows.

    Both ways are tried for some passes; then the faster one is kept, and the other tried again now
    and then: what pays for one question may not for the next. Where it loses again and again that is
    done ever more rarely, for trying costs.
    """

    def __init__(self) -> None:
        self._experiences: dict[int, _Experience] = {}

    def pays(self, rows: int) -> bool:
        """Whether to do the next pass over so many rows in the other way."""
        present = self._present(rows)
        if present.passes < _TRIAL_PASSES:
            return True
        return present.passes >= 2 * _TRIAL_PASSES and present.other_pays

    def passes_left(self, rows: int) -> int:
        """For how many passes that stays so."""
        present = self._present(rows)
        ends = (_TRIAL_PASSES, 2 * _TRIAL_PASSES, present.believed_passes)
        return next(end for end in ends if end > present.passes) - present.passes

    def observe(self, rows: int, *, other: bool, passes: int, tokens: int, seconds: float) -> None:
        """Learn from passes that only decoded, all of them in the same way."""
        present = self._present(rows)
        present.passes += passes
        arm = present.other if other else present.plain
        arm.tokens += tokens
        arm.seconds += seconds

    def _present(self, rows: int) -> _Experience:
        """What is believed; a new trial where the last is too long ago."""
        present = self._experiences.setdefault(rows, _Experience())
        if present.passes >= present.believed_passes:
            believed = _SETTLED_PASSES
            if not present.other_pays:
                believed = min(2 * present.believed_passes, _LONGEST_BELIEVED_PASSES)
            present = self._experiences[rows] = _Experience(believed_passes=believed)
        return present

    def rates(self, rows: int) -> tuple[float, float]:
        """Tokens per second in the plain and in the other way, 0 where not tried."""
        present = self._experiences.get(rows, _Experience())
        return present.plain.rate, present.other.rate
