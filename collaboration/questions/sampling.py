"""Draw questions of a domain, level and split."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from collaboration.questions import arithmetic, knowledge, symbolic
from collaboration.questions.question import DOMAINS, LEVELS, Domain, Question, Split, split_of

_GENERATORS: dict[Domain, Callable[[random.Random, int], Question]] = {
    "mathematics": arithmetic.generate,
    "knowledge": knowledge.generate,
    "symbolic": symbolic.generate,
}
_MAX_DRAWS = 10_000
_MAX_REPEATS = 1_000


def sample(rng: random.Random, domain: Domain, level: int, split: Split) -> Question:
    """Draw one question; the split is kept by rejection, so the two splits can never overlap."""
    generate = _GENERATORS[domain]
    for _ in range(_MAX_DRAWS):
        question = generate(rng, level)
        if split_of(question.key) == split:
            return question
    raise RuntimeError(f"no {split} question among {_MAX_DRAWS} draws of {domain} level {level}")


def held_out(
    count: int,
    seed: int,
    domains: Sequence[Domain] = DOMAINS,
    levels: Sequence[int] = LEVELS,
) -> list[Question]:
    """Return `count` different held-out questions, spread evenly over domains and levels."""
    rng = random.Random(seed)
    cells = [(domain, level) for level in levels for domain in domains]
    questions: dict[str, Question] = {}
    repeated = 0
    while len(questions) < count:
        domain, level = cells[len(questions) % len(cells)]
        question = sample(rng, domain, level, "held-out")
        if question.text not in questions:
            questions[question.text] = question
            repeated = 0
            continue
        repeated += 1
        if repeated > _MAX_REPEATS:
            raise ValueError(
                f"hardly more than {len(questions)} different held-out questions exist "
                f"({domain}, level {level}); {count} were asked for"
            )
    return list(questions.values())
