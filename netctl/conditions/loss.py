"""Loss models: what decides which packets are lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Uniform = Callable[[], float]
"""Draws a number in [0, 1)."""


def _check_probabilities(**probabilities: float) -> None:
    for name, value in probabilities.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, not {value}")


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """A good and a bad state (Gilbert 1960, Elliott 1963), as sch_netem's `loss gemodel` has them.

    A packet meets the present state; then the state changes: good to bad with probability `p`, back
    with `r`. The steps are packets, not seconds: a link that is idle stays as it is.
    """

    p: float
    r: float
    loss_bad: float = 1.0
    """1 - h: how many are lost while the state is bad."""
    loss_good: float = 0.0
    """1 - k: how many are lost while it is good."""

    def __post_init__(self) -> None:
        _check_probabilities(p=self.p, r=self.r, loss_bad=self.loss_bad, loss_good=self.loss_good)
        if self.p + self.r == 0:
            raise ValueError("p and r must not both be zero: the state would never change")

    @classmethod
    def bursts(cls, mean_loss: float, mean_burst_packets: float) -> GilbertElliott:
        """Lose a share of all packets, in bursts of a mean length: r = 1/B, p = L / (B (1 - L))."""
        if mean_burst_packets < 1:
            raise ValueError(f"a burst has at least 1 packet on average, not {mean_burst_packets}")
        if not 0 <= mean_loss < 1:
            raise ValueError(f"bursts need a loss from 0 to below 1, not {mean_loss}")
        p = mean_loss / (mean_burst_packets * (1 - mean_loss))
        if p > 1:
            longest = mean_loss / (1 - mean_loss)
            raise ValueError(
                f"a loss of {mean_loss:.0%} comes in bursts of {longest:.3g} packets at least, "
                f"not {mean_burst_packets:g}"
            )
        return cls(p, 1 / mean_burst_packets)

    @property
    def mean(self) -> float:
        """The share of packets lost in the long run."""
        bad = self.p / (self.p + self.r)
        return bad * self.loss_bad + (1 - bad) * self.loss_good

    @property
    def mean_burst_packets(self) -> float:
        """The mean number of packets lost one after another."""
        # A burst ends where a packet comes through: chances of being lost in (good, bad) after a
        # loss, as a two-state absorbing chain started in the states that losses begin in.
        good_lost, bad_lost = self.loss_good, self.loss_bad
        bad = self.p / (self.p + self.r)
        # The states before a packet whose predecessor came through.
        through = (1 - bad) * (1 - good_lost), bad * (1 - bad_lost)
        total = sum(through)
        if total == 0:
            return math.inf
        good_next = (through[0] * (1 - self.p) + through[1] * self.r) / total
        begin = good_next * good_lost, (1 - good_next) * bad_lost
        begins = sum(begin)
        if begins == 0:
            return 0.0
        # Expected further losses from (good, bad), each given that this packet was lost.
        a, b = (1 - self.p) * good_lost, self.p * bad_lost
        c, d = self.r * good_lost, (1 - self.r) * bad_lost
        determinant = (1 - a) * (1 - d) - b * c
        if determinant <= 0:
            return math.inf
        from_good = (1 - d + b) / determinant
        from_bad = (1 - a + c) / determinant
        return (begin[0] * from_good + begin[1] * from_bad) / begins

    def lost(self, uniform: Uniform) -> Iterator[bool]:
        """Say of each packet whether it is lost, for ever."""
        bad = False
        while True:
            if bad:
                leaves, lost = uniform() < self.r, uniform() < self.loss_bad
                bad = not leaves
            else:
                bad, lost = uniform() < self.p, uniform() < self.loss_good
            yield lost


@dataclass(frozen=True, slots=True)
class FourState:
    """The four-state Markov chain of sch_netem's `loss state` (Salsano, Ludovici and Ordine 2009).

    State 1 receives in a gap, 2 receives within a burst, 3 loses within a burst, 4 loses one packet
    in a gap. `p13` is the probability to go from 1 to 3, and so on.
    """

    p13: float
    p31: float
    p32: float = 0.0
    p23: float = 1.0
    p14: float = 0.0

    def __post_init__(self) -> None:
        _check_probabilities(p13=self.p13, p31=self.p31, p32=self.p32, p23=self.p23, p14=self.p14)
        for one, other in (("p13", "p14"), ("p31", "p32")):
            if getattr(self, one) + getattr(self, other) > 1:
                raise ValueError(f"{one} and {other} together must not exceed 1")
        if self.p13 and self.p31 + self.p32 == 0:
            raise ValueError("p31 and p32 must not both be zero: a burst would never end")
        if self.p32 and not self.p23:
            raise ValueError(
                "p23 must not be zero where p32 is not: a burst would never lose again"
            )

    @property
    def _stationary(self) -> tuple[float, float, float, float]:
        """How often each state is (1 to 4)."""
        if self.p13 == 0:
            one = 1 / (1 + self.p14)
            return one, 0.0, 0.0, one * self.p14
        # Relative to state 3: flow out of each state equals the flow into it.
        two = self.p32 / self.p23 if self.p32 else 0.0
        one = self.p31 / self.p13
        four = one * self.p14
        total = one + two + 1 + four
        return one / total, two / total, 1 / total, four / total

    @property
    def mean(self) -> float:
        """The share of packets lost in the long run."""
        _, _, three, four = self._stationary
        return three + four

    @property
    def mean_burst_packets(self) -> float:
        """The mean number of packets lost one after another."""
        if self.mean == 0:
            return 0.0
        _, _, three, four = self._stationary
        leaves = three * (self.p31 + self.p32) + four
        return (three + four) / leaves if leaves else math.inf

    def lost(self, uniform: Uniform) -> Iterator[bool]:
        """Say of each packet whether it is lost, for ever."""
        state = 1
        while True:
            draw = uniform()
            if state == 1:
                state = 4 if draw < self.p14 else 3 if draw < self.p14 + self.p13 else 1
            elif state == 2:
                state = 3 if draw < self.p23 else 2
            elif state == 3:
                state = 2 if draw < self.p32 else 1 if draw < self.p32 + self.p31 else 3
            else:
                state = 1
            yield state in (3, 4)


LossModel = GilbertElliott | FourState
