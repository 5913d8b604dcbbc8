"""The shipped models: their shapes, corpora and training budgets, all in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from testbed.questions.question import DOMAINS, Domain
from testbed.training.network import Shape

SPECIALIST = Shape(layers=4, width=192, feed_forward=512)
GENERALIST = Shape(layers=6, width=288, feed_forward=768)


@dataclass(frozen=True)
class Recipe:
    """How one model is made.

    `shares` is the part of the training examples drawn from each domain; `experts` are the
    domains whose worked steps it learns even where peers have answered.
    """

    name: str
    description: str
    shape: Shape
    vocabulary: Literal["characters", "subwords"]
    shares: dict[Domain, float]
    experts: tuple[Domain, ...]
    cycles: tuple[int, ...]
    """Training tokens of each learning-rate cycle, padding not counted."""
    seed: int
    peak_learning_rate: float
    batch_tokens: int = 4096
    quantisation: str = "Q8_0"
    subword_count: int = 1024
    level_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.2, 1.2)

    @property
    def tokens(self) -> int:
        """Training tokens in all."""
        return sum(self.cycles)


def _specialist(domain: Domain, seed: int, *cycles: int) -> Recipe:
    shares: dict[Domain, float] = dict.fromkeys(DOMAINS, 0.06)
    shares[domain] = 0.88
    return Recipe(
        name=f"airloom-{domain}",
        description=f"Device specialist for {domain}, trained on generated questions",
        shape=SPECIALIST,
        vocabulary="subwords" if domain == "knowledge" else "characters",
        shares=shares,
        experts=(domain,),
        cycles=cycles,
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
            shares={"mathematics": 0.4, "knowledge": 0.32, "symbolic": 0.28},
            experts=DOMAINS,
            cycles=(7_000_000, 6_000_000),
            seed=14,
            peak_learning_rate=3e-3,
        ),
    )
}
