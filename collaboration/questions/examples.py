"""Training examples: a plain question, one with peers' answers, a plan, or a check of an answer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from collaboration.prompting import (
    ANSWER_MARK,
    PeerAnswer,
    compose_check_request,
    compose_plan_request,
    compose_question,
)
from collaboration.questions.question import DOMAINS, Question
from collaboration.questions.sampling import sample

PEER_NAMES = (*DOMAINS, "cloud")


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the completion a model should learn to write."""

    prompt: str
    completion: str


def wrong_answer(rng: random.Random, question: Question) -> str:
    """Return a plausible wrong answer: another question's answer, or a small slip."""
    if question.answer.isdigit():
        slip = rng.choice((1, -1, 2, 10, -10, 100))
        return str(abs(int(question.answer) + slip) + (int(question.answer) == 0))
    if question.kind in ("sort", "reverse", "last-letters"):
        letters = list(question.answer)
        while "".join(letters) == question.answer:
            i, j = rng.randrange(len(letters)), rng.randrange(len(letters))
            letters[i], letters[j] = letters[j], letters[i]
            if len(set(letters)) == 1 or rng.random() < 0.2:
                letters[i] = rng.choice("abcdefghijklmnopqrstuvwxyz")
        return "".join(letters)
    for _ in range(1000):
        other = sample(rng, question.domain, question.level, "train")
        if other.kind == question.kind and other.answer != question.answer:
            return other.answer
    raise RuntimeError(f"no wrong answer found for {question.text!r}")


def peer_answers(rng: random.Random, question: Question) -> list[PeerAnswer]:
    """Draw one to three peers whose confidence is, on average, how often they are right."""
    peers = []
    for name in rng.sample(PEER_NAMES, rng.choice((1, 1, 2, 3))):
        skilled = name in (question.domain, "cloud")
        confidence = round(rng.betavariate(5, 1.5) if skilled else rng.betavariate(1.5, 3), 1)
        right = rng.random() < confidence
        answer = question.answer if right else wrong_answer(rng, question)
        peers.append(PeerAnswer(name, answer, confidence))
    return peers


def plain(question: Question) -> Example:
    """Ask the question alone."""
    return Example(compose_question(question.text), question.solution)


def with_peers(rng: random.Random, question: Question, *, worked: bool) -> Example:
    """Ask after showing peers' answers, right and wrong; `worked` keeps the steps in the target."""
    completion = question.solution if worked else f"{ANSWER_MARK}{question.answer}"
    return Example(compose_question(question.text, peer_answers(rng, question)), completion)


def plan(question: Question) -> Example:
    """Ask for the first steps' names and for the specialist, not for results."""
    steps = "".join(f"{what}. " for what, _ in question.steps[:1])
    return Example(compose_plan_request(question.text), f"{steps}{ANSWER_MARK}{question.domain}")


def check(rng: random.Random, question: Question) -> Example:
    """Ask whether an answer, right half of the time, is right."""
    right = rng.random() < 0.5
    shown = question.answer if right else wrong_answer(rng, question)
    worked = "".join(f"{what}={result}. " for what, result in question.steps)
    verdict = "right" if right else "wrong"
    return Example(compose_check_request(question.text, shown), f"{worked}{ANSWER_MARK}{verdict}")


def draw(rng: random.Random, question: Question, *, expert: bool) -> Example:
    """Draw one training example of a question.

    An `expert` in the question's domain always writes the worked steps; any other model learns to
    lean on its peers and to answer directly.
    """
    style = rng.random()
    if style < 0.70:
        return plain(question)
    if style < 0.86:
        return with_peers(rng, question, worked=expert)
    if style < 0.93:
        return plan(question)
    return check(rng, question)
