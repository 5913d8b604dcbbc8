"""Symbolic reasoning: last letters, coin flips, sorting, reversal, boolean expressions.

The level (1 to 5) sets the size: words, people, letters or operators.
"""

from __future__ import annotations

import random

from collaboration.questions.question import Question

_PEOPLE = ("Ada", "Ben", "Cleo", "Dev", "Eva", "Finn", "Gia", "Hugo")
_CONSONANTS = "bcdfghjklmnprstvwz"
_VOWELS = "aeiou"


def _word(rng: random.Random, length: int) -> str:
    start = rng.randrange(2)
    letters = (_CONSONANTS, _VOWELS)
    return "".join(rng.choice(letters[(start + i) % 2]) for i in range(length))


def _question(
    kind: str, level: int, key: str, text: str, steps: list[tuple[str, str]], answer: str
) -> Question:
    return Question(
        domain="symbolic",
        kind=kind,
        level=level,
        key=f"symbolic/{kind}/{key}",
        text=text,
        steps=tuple(steps),
        answer=answer,
    )


def _last_letters(rng: random.Random, level: int) -> Question:
    words = [_word(rng, rng.randint(3, 6)) for _ in range(level + 1)]
    phrase = " ".join(words)
    return _question(
        "last-letters",
        level,
        phrase,
        f"Join the last letters of: {phrase}",
        [(word, word[-1]) for word in words],
        "".join(word[-1] for word in words),
    )


def _coin(rng: random.Random, level: int) -> Question:
    people = rng.sample(_PEOPLE, level + 1)
    flips = [rng.random() < 0.5 for _ in people]
    up = True
    clauses: list[str] = []
    steps: list[tuple[str, str]] = []
    for person, flipped in zip(people, flips, strict=True):
        up = up != flipped
        clauses.append(f"{person} {'flips' if flipped else 'keeps'}")
        steps.append((person, "heads" if up else "tails"))
    text = f"A coin is heads. {', '.join(clauses)}. Heads or tails?"
    return _question("coin", level, ",".join(clauses), text, steps, steps[-1][1])


def _sorting(rng: random.Random, level: int) -> Question:
    letters = rng.sample("abcdefghijklmnopqrstuvwxyz", level * 2 + 2)
    shown = " ".join(letters)
    return _question("sort", level, shown, f"Sort: {shown}", [], "".join(sorted(letters)))


def _reversal(rng: random.Random, level: int) -> Question:
    word = _word(rng, level * 2 + 3)
    return _question("reverse", level, word, f"Reverse: {word}", [], word[::-1])


def _boolean(rng: random.Random, level: int) -> Question:
    values = [rng.random() < 0.5 for _ in range(level + 1)]
    negated = [rng.random() < 0.4 for _ in values]
    operators = [rng.choice(("and", "or")) for _ in range(level)]
    terms = [
        ("not " if inverted else "") + str(value)
        for value, inverted in zip(values, negated, strict=True)
    ]
    text = terms[0]
    result = values[0] != negated[0]
    steps = [(terms[0], str(result))]
    for operator, term, value, inverted in zip(
        operators, terms[1:], values[1:], negated[1:], strict=True
    ):
        text += f" {operator} {term}"
        operand = value != inverted
        result = (result and operand) if operator == "and" else (result or operand)
        steps.append((f"{operator} {term}", str(result)))
    question = f"Evaluate from left to right: {text}"
    return _question("boolean", level, text, question, steps, str(result))


_KINDS = (_last_letters, _coin, _sorting, _reversal, _boolean)


def generate(rng: random.Random, level: int) -> Question:
    """Draw one symbolic question of the level (1 to 5)."""
    return rng.choice(_KINDS)(rng, level)
