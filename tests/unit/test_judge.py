"""The judge keeps its two promises, over many links measured as the prober does."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from netctl.backends.userspace_link.shaper import DirectionShaper
from netctl.conditions.jitter import Distribution
from netctl.conditions.link import DirectionConditions
from netctl.measure.certificate import judge
from netctl.measure.judge import judge_share, judge_value, share_samples
from netctl.measure.prober import Arrival, DirectionMeasurement, tell, tell_rate
from netctl.measure.statistics import Estimate, wilson

LINKS = 200
PROBE_BYTES, FULL_BYTES = 128, 1500


def passed(
    link: DirectionConditions, seed: int, count: int, size: int, gap_s: float
) -> list[Arrival]:
    """What arrives of packets that a link is sent at equal steps."""
    shaper: DirectionShaper[tuple[int, int]] = DirectionShaper(link, seed)
    arrivals = []

    def take(until_s: float) -> None:
        for due_s, _, (number, sent_ns) in shaper.take_timed(until_s):
            arrivals.append(Arrival(number, sent_ns, round(due_s * 1e9)))

    for number in range(count):
        now_s = number * gap_s
        take(now_s)
        shaper.offer((number, round(now_s * 1e9)), size, now_s)
    take(float("inf"))
    return arrivals


def measured(link: DirectionConditions, seed: int, probes: int) -> DirectionMeasurement:
    spread = 2.2 if link.distribution == "uniform" else 8.0
    spaced_s = max(2.0, 10 * link.transmission_ms(PROBE_BYTES), spread * link.jitter_ms) / 1e3
    dense_s = max(2.0, 2 * link.transmission_ms(PROBE_BYTES)) / 1e3
    spaced = passed(link, seed, 200, PROBE_BYTES, spaced_s)
    dense = passed(link, seed + 1, probes, PROBE_BYTES, dense_s)
    found = tell(link, spaced, 200, dense, probes)
    if link.rate_bps is not None:
        gap_s = link.transmission_ms(FULL_BYTES) / 1e3 * (1 - link.loss) / 1.15
        full = passed(link, seed + 2, 400, FULL_BYTES, gap_s)
        found = replace(found, rate_bps=tell_rate(full, link.deviation_ms))
    return replace(found, delay_probe_s=spaced_s, loss_probe_s=dense_s, rate_s=1.0)


def any_link(chance: random.Random) -> DirectionConditions:
    """From NB-IoT to fibre, as the profiles have them."""
    delay_ms = chance.choice((3, 12, 40, 150, 600, 1500))
    distribution: Distribution = chance.choice(("uniform", "normal", "pareto"))
    return DirectionConditions(
        rate_bps=chance.choice((None, 26_000, 300_000, 4_000_000, 40_000_000)),
        delay_ms=delay_ms,
        jitter_ms=chance.choice((0.0, 0.1, 0.3)) * delay_ms,
        loss=chance.choice((0.0, 0.005, 0.02)),
        distribution=distribution,
        queue_bytes=1 << 22,
    )


def outcomes(
    wrong: Callable[[DirectionConditions], DirectionConditions], quantity: str | None = None
) -> Counter[str]:
    """How many links get which outcome, all of them or one quantity, where they are `wrong`."""
    chance, found = random.Random(3), Counter[str]()
    for number in range(LINKS):
        asked = any_link(chance)
        link = wrong(asked)
        probes = max(1000, share_samples(asked.loss) if asked.loss else 0)
        verdicts = [
            one
            for one in judge("uplink", asked, measured(link, 10 * number, probes))
            if quantity in (None, one.quantity)
        ]
        if not verdicts:
            continue
        each = {one.outcome for one in verdicts}
        worst = next(o for o in ("not as asked", "inconclusive", "as asked") if o in each)
        found[worst] += 1
        for one in verdicts:
            if one.outcome == "inconclusive":
                assert one.more_s is not None
                assert one.more_s > 0
    return found


def test_right_links_are_refused_once_in_a_hundred_at_most() -> None:
    found = outcomes(lambda link: link)
    assert found["not as asked"] <= 0.01 * LINKS
    assert found["as asked"] >= 0.5 * LINKS, "a judge that never decides is none"


@pytest.mark.parametrize(
    ("quantity", "wrong"),
    [
        ("rate", lambda c: c if c.rate_bps is None else replace(c, rate_bps=round(1.05 * c.rate_bps))),
        ("rate", lambda c: c if c.rate_bps is None else replace(c, rate_bps=round(0.95 * c.rate_bps))),
        ("delay", lambda c: replace(c, delay_ms=c.delay_ms + max(3, 0.1 * c.mean_delay_ms))),
        ("loss", lambda c: replace(c, loss=c.loss + 0.01)),
    ],
)  # fmt: skip
def test_links_that_are_off_by_what_matters_are_accepted_five_times_in_a_hundred_at_most(
    quantity: str, wrong: Callable[[DirectionConditions], DirectionConditions]
) -> None:
    # A link without a rate has none that could be wrong.
    found = outcomes(wrong, quantity)
    assert found["as asked"] <= 0.05 * found.total(), found


def test_what_is_needed_is_enough() -> None:
    few = Estimate(10.0, 6.0, 14.0, 50)
    judged = judge_value(10.0, few, bias=1.0, difference=3.0)
    assert judged.outcome == "inconclusive"
    assert judged.needed_samples is not None
    half = 4.0 / (judged.needed_samples / 50) ** 0.5
    enough = Estimate(10.0, 10.0 - half, 10.0 + half, judged.needed_samples)
    assert judge_value(10.0, enough, bias=1.0, difference=3.0).outcome == "as asked"
    judged = judge_share(0.03, wilson(6, 200))
    assert judged.outcome == "inconclusive"
    needed = judged.needed_samples or 0
    assert judge_share(0.03, wilson(round(0.03 * needed), needed)).outcome == "as asked"
