"""Which free slots a pass takes along."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.engine.batch_padding import BatchPadding, padding_for
from device_agent.engine.prefix_cache import Slot
from device_agent.engine.trial import Trial

CONTEXT_TOKENS = 512


class Always(Trial):
    """As if rounding up had paid in every trial."""

    def pays(self, rows: int) -> bool:
        del rows
        return True


class Never(Trial):
    def pays(self, rows: int) -> bool:
        del rows
        return False


def padding(places: str, widening: Trial, longest: int = 100) -> BatchPadding:
    """What is padded, for slots written as d (decodes), b (busy otherwise), . (free) or F (free, and full)."""
    slots = [
        Slot(index, busy=place in "db", valid=CONTEXT_TOKENS if place == "F" else 0)
        for index, place in enumerate(places)
    ]
    decoding = [index for index, place in enumerate(places) if place == "d"]
    return padding_for(slots, decoding, widening, longest=longest, context_tokens=CONTEXT_TOKENS)


def taken(places: str, widening: Trial) -> str:
    chosen = {slot.index for slot in padding(places, widening).slots}
    return "".join("i" if index in chosen else place for index, place in enumerate(places))


@pytest.mark.parametrize(
    ("places", "padded"),
    [
        ("ddd.", "dddi"),
        (".ddd", "iddd"),
        ("ddd.....", "dddi...."),
        ("dddd....", "dddd...."),
        ("b.ddd.ddd.b", "b.dddidddib"),
        (".dd.", "iddi"),
        # Not enough beside them: seven rows are no better than six.
        ("bdddddd.", "bdddddd."),
        # One alone is the case that llama.cpp does fastest.
        ("d...", "d..."),
        # What is read beside would be attended to by all.
        ("dddF", "dddF"),
        ("dddb", "dddb"),
    ],
)
def test_rows_are_rounded_up_to_four(places: str, padded: str) -> None:
    assert taken(places, Always()) == padded


def test_gaps_are_bridged_whether_or_not_rounding_up_pays() -> None:
    assert taken("dd.d....", Never()) == "ddid...."
    assert taken("dd...d..", Never()) == "dd...d.."
    assert taken("ddFd....", Never()) == "ddFd...."


def test_a_long_memory_is_no_burden_beside_a_longer_one() -> None:
    slots = [Slot(0, busy=True), Slot(1, busy=True), Slot(2, busy=True), Slot(3, valid=300)]
    for longest, widened in ((200, False), (300, True)):
        found = padding_for(
            slots, [0, 1, 2], Always(), longest=longest, context_tokens=CONTEXT_TOKENS
        )
        assert found.widened == widened


@given(st.text("db.F", min_size=1, max_size=20).filter(lambda places: "d" in places))
def test_nobody_who_is_busy_is_taken_along(places: str) -> None:
    found = padding(places, Always())
    numbers = [slot.index for slot in found.slots]
    assert numbers == sorted(set(numbers))
    assert all(places[number] in ".F" for number in numbers)
    # Nobody is pushed beyond what a slot holds.
    assert all(places[number] == "." for number in numbers)
    if found.widened:
        assert (places.count("d") + len(numbers)) % 4 == 0
