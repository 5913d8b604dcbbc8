"""Multi-step arithmetic and word problems with worked steps.

Level 1: one sum or difference of two-digit numbers. Level 2: a product and a sum.
Level 3: a two-step word problem. Level 4: a three-step word problem with larger numbers.
Level 5: level 3 with larger numbers than it is trained on.

Sums are worked column by column from the right (`47+85:7+5=12,4+8+1=13=132`), as children write
them: each column is a fact that a small model can know, where the whole sum is not.
"""

from __future__ import annotations

import random
import re

from collaboration.questions.question import Question

NAMES = ("Ada", "Ben", "Cleo", "Dev", "Eva", "Finn", "Gia", "Hugo")
THINGS = ("pens", "eggs", "nuts", "coins", "books", "cups", "bolts", "seeds")


def _columns(what: str) -> list[str]:
    """Work out `a+b`, `a-b` (a ≥ b) or `a*b` (b of one digit) from the right, a column each."""
    match = re.fullmatch(r"(\d+)([-+*])(\d+)", what)
    assert match is not None
    a, operator, b = int(match[1]), match[2], int(match[3])
    columns: list[str] = []
    carry = 0
    for i in range(len(match[1]) if operator == "*" else max(len(match[1]), len(match[3]))):
        x = a // 10**i % 10
        y = b if operator == "*" else b // 10**i % 10
        if operator == "-":
            x -= carry
            carry = int(x < y)
            x += 10 * carry
            columns.append(f"{x}-{y}={x - y}")
            continue
        value = x * y if operator == "*" else x + y
        carried = f"+{carry}" if carry else ""
        columns.append(f"{x}{operator}{y}{carried}={value + carry}")
        carry = (value + carry) // 10
    return columns


def _question(
    kind: str, level: int, numbers: tuple[int, ...], text: str, steps: list[tuple[str, int]]
) -> Question:
    return Question(
        domain="mathematics",
        kind=kind,
        level=level,
        key=f"mathematics/{kind}/{'/'.join(map(str, numbers))}",
        text=text,
        steps=tuple((f"{what}:{','.join(_columns(what))}", str(result)) for what, result in steps),
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
    c = rng.randint(2, 60)
    if level == 5:
        a, c = a + 20, c + 60
    product = a * b
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
    a, b, c = rng.randint(11, 99), rng.randint(3, 9), rng.randint(20, 999)
    product = a * b
    total = product + c
    if rng.random() < 0.5:
        d = rng.randint(11, total - 1)
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
    d = rng.randint(2, 9)
    text = (
        f"{name} has {a} rows of {b} {thing} and {c} more; {other} has {d} times as many. "
        f"How many {thing} has {other}?"
    )
    steps = [(f"{a}*{b}", product), (f"{product}+{c}", total), (f"{total}*{d}", total * d)]
    return _question("times-as-many", level, (a, b, c, d), text, steps)


_BY_LEVEL = {1: _sum, 2: _product_and_sum, 3: _two_steps, 4: _three_steps, 5: _two_steps}


def generate(rng: random.Random, level: int) -> Question:
    """Draw one mathematics question of the level (1 to 5)."""
    return _BY_LEVEL[level](rng, level)
