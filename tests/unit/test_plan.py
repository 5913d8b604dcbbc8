"""From a scenario to exact operations, without touching anything."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.settings_file import load_yaml
from collaboration.questions import held_out
from netctl.backends import BACKENDS
from testbed.runner.plan import deal, describe, plan_run, predicted_ask_ms
from testbed.scenario import Scenario

ROOT = Path(__file__).parents[2]
QUICKSTART = load_yaml(ROOT / "scenarios/quickstart.yaml", Scenario)


@given(count=st.integers(1, 90), devices=st.integers(1, 7))
def test_dealing_gives_every_question_once_and_every_device_its_share(
    count: int, devices: int
) -> None:
    questions = held_out(count, 5)
    shares = deal(questions, devices)
    assert sorted(q.id for share in shares for q in share) == sorted(q.id for q in questions)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    for domain in {q.domain for q in questions}:
        mine = [sum(q.domain == domain for q in share) for share in shares]
        assert max(mine) - min(mine) <= 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_quickstart_is_planned_the_same_every_time(backend: str) -> None:
    first, second = (plan_run(QUICKSTART, BACKENDS[backend]) for _ in range(2))
    assert first == second
    assert describe(first) == describe(second)
    addresses = Counter(b.link.device_address for b in first.boards)
    assert set(addresses.values()) == {1}
    # An interface's name has at most 15 characters.
    for board in first.boards:
        for word in " ".join(describe(first)).split():
            if word.startswith(f"{board.name}-"):
                assert len(word) <= 15


def test_prediction_adds_delays_and_transmission() -> None:
    conditions = QUICKSTART.devices[2].link.conditions()
    predicted = predicted_ask_ms(conditions)
    assert predicted > conditions.uplink.delay_ms + conditions.downlink.delay_ms
    # 566 bytes at 400 kbit/s and 1266 at 900 kbit/s.
    expected = 90 + 80 + 566 * 8 / 400 + 1266 * 8 / 900
    assert predicted == pytest.approx(expected, abs=0.5)
