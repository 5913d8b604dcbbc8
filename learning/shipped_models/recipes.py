"""The shipped models: their shapes, corpora and training budgets, all in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from collaboration.questions.question import DOMAINS, Domain
from learning.shipped_models.network import Shape

SPECIALIST = Shape(layers=4, width=192, feed_forward=512)
GENERALIST = Shape(layers=6, width=288, feed_forward=768)


Shares = dict[Domain, float]
"""The part of the training examples that is drawn from each domain."""


@dataclass(frozen=True)
class Cycle:
    """One cycle of the learning rate: its training tokens (padding not counted) and its corpus."""

    tokens: int
    shares: Shares


@dataclass(frozen=True)
class Recipe:
    """How one model is made.

    `experts` are the domains whose worked steps it learns even where peers have answered.
    """

    name: str
    description: str
    shape: Shape
    vocabulary: Literal["characters", "subwords"]
    cycles: tuple[Cycle, ...]
    experts: tuple[Domain, ...]
    seed: int
    peak_learning_rate: float
    batch_tokens: int = 4096
    quantisation: str = "Q8_0"
    subword_count: int = 1024
    level_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.2, 1.2)

    @property
    def tokens(self) -> int:
        """Training tokens in all."""
        return sum(cycle.tokens for cycle in self.cycles)

    def cycle_at(self, tokens_seen: int) -> tuple[Cycle, int]:
        """Return the cycle in force after so many tokens, and the tokens seen before it began."""
        start = 0
        for cycle in self.cycles[:-1]:
            if tokens_seen < start + cycle.tokens:
                return cycle, start
            start += cycle.tokens
        return self.cycles[-1], start


def _specialist(domain: Domain, seed: int, *tokens: int) -> Recipe:
    shares: Shares = dict.fromkeys(DOMAINS, 0.06)
    shares[domain] = 0.88
    return Recipe(
        name=f"airloom-{domain}",
        description=f"Device specialist for {domain}, trained on generated questions",
        shape=SPECIALIST,
        vocabulary="subwords" if domain == "knowledge" else "characters",
        cycles=tuple(Cycle(count, shares) for count in tokens),
        experts=(domain,),
        seed=seed,
        peak_learning_rate=4e-3,
    )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _specialist("mathematics", 11, 5_000_000),
        _specialist("knowledge", 12, 2_000_000),
        _specialist("symbolic", 13, 4_000_000, 4_000_000),
        Recipe(
            name="airloom-cloud",
            description="Cloud generalist, trained on generated questions of every domain",
            shape=GENERALIST,
            vocabulary="characters",
            # Facts letter by letter are learnt last: the second cycle is mostly they.
            cycles=(
                Cycle(7_000_000, {"mathematics": 0.4, "knowledge": 0.32, "symbolic": 0.28}),
                Cycle(3_500_000, {"mathematics": 0.2, "knowledge": 0.6, "symbolic": 0.2}),
                Cycle(3_000_000, {"mathematics": 0.35, "knowledge": 0.35, "symbolic": 0.3}),
            ),
            experts=DOMAINS,
            seed=14,
            peak_learning_rate=3e-3,
        ),
    )
}
