"""The text a model reads: a question, what peers answered, and what is asked of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """Another model's answer and how sure it was (0 to 1)."""

    peer: str
    answer: str
    confidence: float


def compose_question(text: str, peers: Sequence[PeerAnswer] = ()) -> str:
    """Write a question, followed by one line for each peer's answer."""
    lines = [text, *(f"{p.peer} says {p.answer} ({p.confidence:.1f})" for p in peers)]
    return "\n".join(lines)


def compose_plan_request(text: str) -> str:
    """Ask for the steps and the specialist that a question needs, not for its answer."""
    return f"{text}\nPlan?"


def compose_check_request(text: str, answer: str) -> str:
    """Ask whether an answer to a question is right."""
    return f"{text}\nIs it {answer}?"


ANSWER_MARK = "#### "
"""Precedes the final answer in a completion, as in the GSM8K data set."""


def extract_answer(completion: str) -> str | None:
    """Return what follows the last answer mark, or None where nothing is marked."""
    _, mark, tail = completion.rpartition(ANSWER_MARK.strip())
    return tail.strip().rstrip(".") if mark else None
