"""The linter warns of what surprises people, and says nothing of what is sound."""

import pytest

from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.conditions.lint import lint
from netctl.conditions.profiles import profile

C = DirectionConditions


def rules(uplink: DirectionConditions) -> set[str]:
    return {finding.rule for finding in lint(LinkConditions(uplink, C(delay_ms=10)))}


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        (C(100_000_000, 300, queue_bytes=20_000), "queue"),
        (C(1_000_000, 5, queue_bytes=2000), "queue"),
        (C(1_000_000, 20, queue_ms=5000), "bufferbloat"),
        (C(1_000_000_000, 200), "window"),
        (C(100_000_000, 150), "limit"),
        (C(50_000, 10, queue_ms=1000), "serialisation"),
        (C(100_000_000, 40, loss=0.01), "loss"),
        (C(None, 20, 10, in_order=False), "reordering"),
        (C(None, 20, 15, distribution="normal"), "jitter"),
        (C(mtu_bytes=576), "mtu"),
        (C(mtu_bytes=9000), "mtu"),
    ],
)
def test_a_mistake_is_named(asked: DirectionConditions, rule: str) -> None:
    assert rule in rules(asked)


def test_sound_conditions_have_no_findings() -> None:
    assert rules(C(10_000_000, 20)) == set()


def test_shipped_profiles_have_queues_that_fit_them() -> None:
    findings = lint(profile("lte-good").conditions)
    assert not [finding for finding in findings if finding.rule == "queue"]
