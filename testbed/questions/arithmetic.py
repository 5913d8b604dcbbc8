"""Multi-step arithmetic and word problems with worked steps.

Level 1: one sum or difference of two-digit numbers. Level 2: a product and a sum.
Level 3: a two-step word problem. Level 4: a three-step word problem with larger numbers.

A step writes its result's digits lowest first and then as usual (`47+85=231>132`): carries then run in
the order of writing, which is what lets a small model learn them.
"""

from __future__ import annotations

import random

from testbed.questions.question import Question

NAMES = ("Ada", "Ben", "Cleo", "Dev", "Eva", "Finn", "Gia", "Hugo")
THINGS = ("pens", "eggs", "nuts", "coins", "books", "cups", "bolts", "seeds")


def _question(
    kind: str, level: int, numbers: tuple[int, ...], text: str, steps: list[tuple[str, int]]
) -> Question:
    return Question(
        domain="mathematics",
        kind=kind,
        level=level,
        key=f"mathematics/{kind}/{'/'.join(map(str, numbers))}",
        text=text,
        steps=tuple((what, f"{str(result)[::-1]}>{result}") for what, result in steps),
        answer=str(steps[-1][1]),
    )


def _sum(rng: random.Random, level: int) -> Question:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    if rng.random() < 0.5:
        return _question("add", level, (a, b), f"What is {a}+{b}?", [(f"{a}+{b}", a + b)])
    a, b = max(a, b), min(a, b)
    return _question("subtract", level, (a, b), f"What is {a}-{b}?", [(f"{a}-{b}", a - b)])


def _product_and_sum(rng: random.Random, level: int) -> Question:
    a, b, c = rng.randint(3, 29), rng.randint(2, 9), rng.randint(10, 99)
    product = a * b
    if rng.random() < 0.5 or product < c:
        steps = [(f"{a}*{b}", product), (f"{product}+{c}", product + c)]
        return _question("multiply-add", level, (a, b, c), f"What is {a}*{b}+{c}?", steps)
    steps = [(f"{a}*{b}", product), (f"{product}-{c}", product - c)]
    return _question("multiply-subtract", level, (a, b, c), f"What is {a}*{b}-{c}?", steps)


def _two_steps(rng: random.Random, level: int) -> Question:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(3, 19), rng.randint(2, 9)
    product = a * b
    c = rng.randint(2, 60)
    if rng.random() < 0.5:
        text = f"{name} buys {a} boxes of {b} {thing} and finds {c} more. How many {thing}?"
        steps = [(f"{a}*{b}", product), (f"{product}+{c}", product + c)]
        return _question("boxes-and-more", level, (a, b, c), text, steps)
    c = min(c, product - 1)
    text = f"{name} has {a} bags of {b} {thing} and gives away {c}. How many {thing} are left?"
    steps = [(f"{a}*{b}", product), (f"{product}-{c}", product - c)]
    return _question("bags-given-away", level, (a, b, c), text, steps)


def _three_steps(rng: random.Random, level: int) -> Question:
    name, other, thing = rng.choice(NAMES), rng.choice(NAMES), rng.choice(THINGS)
    a, b, c = rng.randint(11, 49), rng.randint(3, 9), rng.randint(20, 199)
    product = a * b
    total = product + c
    if rng.random() < 0.5:
        d = rng.randint(11, min(total - 1, 150))
        text = (
            f"{name} packs {a} crates of {b} {thing}, gets {c} more from {other} "
            f"and sells {d}. How many {thing} are left?"
        )
        steps = [
            (f"{a}*{b}", product),
            (f"{product}+{c}", total),
            (f"{total}-{d}", total - d),
        ]
        return _question("crates-sold", level, (a, b, c, d), text, steps)
    d = rng.randint(2, 4)
    text = (
        f"{name} has {a} rows of {b} {thing} and {c} more; {other} has {d} times as many. "
        f"How many {thing} has {other}?"
    )
    steps = [(f"{a}*{b}", product), (f"{product}+{c}", total), (f"{total}*{d}", total * d)]
    return _question("times-as-many", level, (a, b, c, d), text, steps)


_BY_LEVEL = {1: _sum, 2: _product_and_sum, 3: _two_steps, 4: _three_steps}


def generate(rng: random.Random, level: int) -> Question:
    """Draw one mathematics question of the level (1 to 4)."""
    return _BY_LEVEL[level](rng, level)
