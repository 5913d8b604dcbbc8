"""What a question is, and the one rule that keeps training and held-out questions apart."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from collaboration.prompting import ANSWER_MARK

Domain = Literal["mathematics", "knowledge", "symbolic"]
Split = Literal["train", "held-out"]

DOMAINS: tuple[Domain, ...] = ("mathematics", "knowledge", "symbolic")
LEVELS = (1, 2, 3, 4, 5)
TRAINING_LEVELS = LEVELS[:-1]
"""The last level is larger than anything that models are trained on."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its reference solution.

    `key` names what the question is about, independent of chance wording; the split is decided
    on it alone. `steps` are worked steps, each `(what, result)`.
    """

    domain: Domain
    kind: str
    level: int
    key: str
    text: str
    steps: tuple[tuple[str, str], ...]
    answer: str

    @property
    def id(self) -> str:
        """A short stable name, the same on every machine."""
        digest = hashlib.sha256(f"{self.key}|{self.text}".encode()).hexdigest()[:8]
        return f"{self.domain}-{self.level}-{digest}"

    @property
    def solution(self) -> str:
        """The worked steps and the marked answer, as a model should write them."""
        worked = "".join(f"{what}={result}. " for what, result in self.steps)
        return f"{worked}{ANSWER_MARK}{self.answer}"


def split_of(key: str) -> Split:
    """Say which split a question belongs to: one key in eight is held out, decided by SHA-256."""
    first_byte = hashlib.sha256(f"airloom-split-1|{key}".encode()).digest()[0]
    return "held-out" if first_byte < 32 else "train"
