"""Conditions cross gRPC unchanged, and what no link can be is refused by name."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ConfigurationError, LinkError
from netctl.conditions.jitter import DelayTable
from netctl.conditions.link import DirectionConditions, Slots
from netctl.conditions.loss import FourState, GilbertElliott
from netctl.daemon.client import Change, ClockOffset
from netctl.daemon.messages import from_message, to_message
from netctl.daemon.together import Place, common_change
from protos.airloom.v1 import link_pb2

chances = st.floats(0, 1)
some = st.floats(0.01, 0.99)
losses = st.one_of(
    st.none(),
    st.builds(GilbertElliott, some, some, chances, chances),
    st.builds(FourState, st.just(0.01), st.just(0.2), st.just(0.1), some, st.just(0.02)),
)


@st.composite
def conditions(draw: st.DrawFn) -> DirectionConditions:
    model = draw(losses)
    delay_ms = draw(st.floats(0, 1000))
    queue = draw(st.sampled_from(["ms", "bytes", "packets"]))
    rate = draw(st.one_of(st.none(), st.integers(1, 2**40)))
    return DirectionConditions(
        rate_bps=rate,
        delay_ms=delay_ms,
        jitter_ms=draw(st.floats(0, delay_ms)),
        loss=0.0 if model is not None else draw(chances),
        loss_model=model,
        queue_ms=draw(st.floats(0, 1e4)) if queue == "ms" else 200.0,
        queue_bytes=draw(st.integers(1, 2**40)) if queue == "bytes" else None,
        queue_packets=draw(st.integers(1, 2**20)) if queue == "packets" else None,
        distribution=draw(
            st.sampled_from(["uniform", "pareto", DelayTable((-1.0, 0.0, 0.25, 1.5))])
        ),
        jitter_correlation=draw(st.floats(0, 0.99)),
        in_order=True if rate is not None else draw(st.booleans()),
        duplicate=draw(chances),
        reorder=draw(chances),
        corrupt=draw(chances),
        slots=draw(st.sampled_from([None, Slots(1, 2, 3, 4), Slots(0.5, 0.5)])),
        queue_discipline=draw(st.sampled_from(["drop-tail", "codel"])),
        mtu_bytes=draw(st.integers(68, 65535)),
        up=draw(st.booleans()),
    )


@given(conditions())
def test_conditions_cross_the_wire_unchanged(asked: DirectionConditions) -> None:
    message = link_pb2.DirectionConditions.FromString(to_message(asked).SerializeToString())
    assert from_message(message) == asked


def test_an_empty_message_is_an_unshaped_link() -> None:
    assert from_message(link_pb2.DirectionConditions()) == DirectionConditions()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (link_pb2.DirectionConditions(delay_ms=-1), "delay_ms must be zero or more"),
        (link_pb2.DirectionConditions(loss=2), "loss must be from 0 to 1"),
        (link_pb2.DirectionConditions(distribution="gamma"), "distribution"),
        (link_pb2.DirectionConditions(slots=link_pb2.Slots()), "0 < shortest_ms"),
        (
            link_pb2.DirectionConditions(gilbert_elliott=link_pb2.GilbertElliott(p=3)),
            "from 0 to 1",
        ),
    ],
)
def test_what_no_link_can_be_is_refused(message: link_pb2.DirectionConditions, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        from_message(message)


def test_the_skew_is_between_the_first_and_the_last_and_clocks_make_it_uncertain() -> None:
    changes = {"a": Change(0.1, ()), "b": Change(0.7, ()), "c": Change(0.2, ())}
    clocks = [ClockOffset(5.0, 0.002), ClockOffset(-3.0, 0.001), ClockOffset(0.0, 0.0005)]
    change = common_change(100.0, changes, clocks)
    assert math.isclose(change.skew_ms, 0.6)
    assert math.isclose(change.uncertainty_ms, 3.0)
    with pytest.raises(LinkError, match="b is not shaped as it was asked to be: loss"):
        common_change(100.0, {**changes, "b": Change(0.7, ("loss is 0.0, not 0.1",))}, clocks)


def test_a_place_is_an_address_and_an_interface() -> None:
    assert Place.parse("pi1:50071/wlan0") == Place("pi1:50071", "wlan0")
    for text in ("wlan0", "pi1/wlan0", "pi1:50071/"):
        with pytest.raises(ValueError, match="not HOST:PORT/INTERFACE"):
            Place.parse(text)
