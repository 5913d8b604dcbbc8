"""What is sent to the kernel for a direction, and how what it shows is compared."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ConfigurationError, UnsupportedConditionError
from netctl.backends import BACKENDS, LinkBackend
from netctl.backends.base import LinkSpec
from netctl.backends.kernel.filters import (
    Exemption,
    Filter,
    exempting_filters,
    matching_filters,
    shown_exemptions,
)
from netctl.backends.kernel.qdiscs import HtbClass, Netem
from netctl.backends.kernel.read_back import differences
from netctl.backends.kernel.tree import Tree, shared_tree, spacing, tree
from netctl.backends.netem import NetemBackend
from netctl.conditions.classes import Match, SharedLink, TrafficClass
from netctl.conditions.link import DirectionConditions, LinkConditions, Slots
from netctl.conditions.loss import FourState, GilbertElliott
from netctl.json_data import from_json, to_json

chances = st.integers(0, 1000).map(lambda n: n / 1000)
models = st.one_of(
    st.none(),
    st.builds(GilbertElliott, chances, st.just(0.25), chances, chances),
    st.builds(FourState, st.just(0.01), st.just(0.2), st.just(0.1), st.just(0.5), st.just(0.02)),
)


@given(
    st.builds(
        Netem,
        limit=st.integers(1, 2**31),
        latency_ns=st.integers(0, 2**40),
        jitter_ns=st.integers(0, 2**40),
        loss_model=models,
        duplicate=chances,
        reorder=chances,
        corrupt=chances,
        rate_bytes_per_s=st.integers(0, 2**36),
        slots=st.one_of(st.none(), st.just(Slots(1, 2, 3, 4)), st.just(Slots(0.5, 0.5))),
    )
)
def test_what_is_encoded_is_decoded(netem: Netem) -> None:
    # The kernel shows the longer forms of times and rates, which are sent as well.
    assert differences(Tree(netem), Tree(Netem.decode(netem.encode()))) == []


@given(st.integers(1, 2**36))
def test_an_htb_rate_is_decoded_whatever_its_size(rate: int) -> None:
    shown = HtbClass.decode(HtbClass(rate, 3028, 3028).encode())
    assert (shown.rate_bytes_per_s, shown.quantum_bytes) == (rate, 3028)


def test_the_limit_covers_what_is_under_way_and_the_queue() -> None:
    asked = DirectionConditions(rate_bps=100_000_000, delay_ms=300, queue_ms=100)
    in_flight = 100_000_000 * 0.4 / (1514 * 8)
    assert in_flight <= tree(asked).netem.limit <= in_flight + 1


def test_jitter_without_a_rate_gets_one_so_that_order_is_kept() -> None:
    jittery = DirectionConditions(delay_ms=20, jitter_ms=5)
    assert tree(jittery).netem.rate_bytes_per_s > 0
    assert tree(replace(jittery, in_order=False)).netem.rate_bytes_per_s == 0
    assert tree(DirectionConditions(delay_ms=20)).netem.rate_bytes_per_s == 0


def test_a_rate_that_varies_or_a_queue_in_bytes_is_metered_by_htb() -> None:
    asked = DirectionConditions(rate_bps=8_000_000, queue_bytes=50_000)
    planned = tree(asked)
    assert planned.rate is not None
    assert planned.rate.rate_bytes_per_s == 1_000_000
    assert planned.queue is not None
    assert (planned.queue.kind, planned.queue.limit) == ("bfifo", 50_000)
    assert planned.netem.rate_bytes_per_s == 0
    assert tree(replace(asked, queue_bytes=None)).rate is None
    assert tree(replace(asked, queue_bytes=None), varying=True).rate is not None


def test_a_link_that_is_down_loses_everything() -> None:
    assert tree(DirectionConditions(up=False, loss=0.1)).netem.loss == 1.0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (DirectionConditions(queue_discipline="codel"), "without a rate"),
        (DirectionConditions(delay_ms=5, jitter_ms=1, jitter_correlation=0.5), "userspace"),
    ],
)
def test_what_the_kernel_cannot_represent_is_refused(asked: DirectionConditions, says: str) -> None:
    with pytest.raises(UnsupportedConditionError, match=says):
        tree(asked)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())
def test_every_backend_refuses_what_has_no_meaning(backend: LinkBackend) -> None:
    codel = DirectionConditions(queue_discipline="codel")
    link = LinkConditions(codel, codel)
    spec = LinkSpec("b", "b", "cloud", "10.0.0.2/30", "10.0.0.1/30", link, 1)
    with pytest.raises(UnsupportedConditionError, match="without a rate"):
        backend.plan(spec)


CONDITIONS = DirectionConditions(rate_bps=12_000_000, delay_ms=20, jitter_ms=2, loss=0.01)
SPEC = LinkSpec(
    "b", "b", "cloud", "10.0.0.2/30", "10.0.0.1/30", LinkConditions(CONDITIONS, CONDITIONS), 1
)


def test_what_the_kernel_shows_is_compared_in_its_own_units() -> None:
    backend = NetemBackend()
    # Each way passes a meter, then what spaces its packets.
    meter = json.loads(to_json(tree(CONDITIONS, varying=True)))
    spaced = json.loads(to_json(spacing(CONDITIONS)))
    assert backend.differences(SPEC, [meter, spaced] * 2) == []
    halved = {**spaced, "netem": {**spaced["netem"], "rate_bytes_per_s": 750_000}}
    assert backend.differences(SPEC, [meter, spaced, meter, halved]) == [
        "downlink: netem.rate_bytes_per_s is 750000, not 1500000"
    ]
    slower = {**meter, "rate": {**meter["rate"], "rate_bytes_per_s": 750_000}}
    assert backend.differences(SPEC, [slower, spaced, None, spaced]) == [
        "uplink: rate.rate_bytes_per_s is 750000, not 1500000",
        "downlink: there is nothing of ours",
    ]


def test_a_link_without_a_rate_passes_one_netem_each_way() -> None:
    free = DirectionConditions(delay_ms=20)
    spec = replace(SPEC, conditions=LinkConditions(free, CONDITIONS))
    plan = NetemBackend().plan(spec)
    places = [command[3] for command in plan.read_back]
    assert places == ["air/b-c", "air/b-x", "air/b-d"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"delay_ms": -1}', "zero or more"),
        ('{"dely_ms": 1}', "there is no field 'dely_ms'"),
        ('{"delay_ms": "long"}', "delay_ms: .*valid number"),
        ('{"loss_model": {"p": 2, "r": 1}}', "p must be from 0 to 1"),
    ],
)
def test_wrong_conditions_are_refused_by_field(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        from_json(DirectionConditions, text)


prefixes = st.one_of(
    st.none(),
    st.integers(0, 32).map(lambda bits: f"{'0.0.0.0' if bits < 9 else '10.0.0.0'}/{bits}"),
)
prefixes6 = st.one_of(st.none(), st.sampled_from(["::/0", "fd00::/8", "fd00:1:2:3::4"]))
ports = st.one_of(st.none(), st.integers(1, 65535))


@given(
    st.one_of(
        *(
            st.builds(
                Match,
                source=addresses,
                destination=addresses,
                protocol=st.sampled_from(["tcp", "udp"]),
                source_port=ports,
                destination_port=ports,
                mark=st.one_of(st.none(), st.integers(1, 2**32 - 1)),
            )
            for addresses in (prefixes, prefixes6)
        ),
        st.builds(Match, mark=st.integers(1, 2**32 - 1)),
    )
)
def test_a_filter_is_decoded_to_what_was_encoded(match: Match) -> None:
    filters = list(matching_filters(match, 0xA1F3_0010))
    assert [Filter.decode(one.encode(1, 0xA1F3_0000, 1)) for one in filters] == filters
    # Which versions of IP: what the addresses are of, else both.
    addressed = match.source or match.destination
    assert len(filters) == (1 if addressed or match.protocol is None else 2)


def test_only_whole_exemptions_are_shown_whatever_other_filters_say() -> None:
    asked = (Exemption("tcp", 22), Exemption("udp", 4500))
    ours = list(exempting_filters(asked, 0xA1F0_0001))
    foreign = [
        Filter(0x0800, ((0x0000FFFF, 443, 20),), 0xA1F0_0001),
        Filter(0x0800, ((0x00FF0000, 132 << 16, 8), (0x0000FFFF, 80, 20)), 0xA1F0_0001),
        Filter(0x0800, ((0x0000FFFF, 0x1234_0050, 20),), 0xA1F0_0001),
        Filter(0x0003, (), 0xA1F0_0001, mark=7),
    ]
    assert shown_exemptions(ours + foreign) == asked
    resolving = list(exempting_filters((), 0xA1F0_0001))
    assert len(resolving) == 6, "ARP, and five types of neighbour discovery"
    for missing in range(len(ours)):
        left = ours[:missing] + ours[missing + 1 :] + foreign
        # Where nothing resolves, no port is reached.
        assert len(shown_exemptions(left)) == (0 if missing < len(resolving) else 1)


@pytest.mark.parametrize("weights", [(0.25, 0.5), (1, 4), (0.1, 2)])
def test_what_is_borrowed_is_lent_by_weight(weights: tuple[float, ...]) -> None:
    classes = [
        TrafficClass(str(number), (Match(mark=number + 1),), DirectionConditions(), weight)
        for number, weight in enumerate(weights)
    ]
    planned = shared_tree(SharedLink(tuple(classes), rate_bps=10**7))
    assert planned.rate is not None
    frames = planned.rate.quantum_bytes
    for branch, weight in zip(planned.branches, weights, strict=True):
        assert branch.rate.quantum_bytes == pytest.approx(frames * weight, rel=1e-3)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.integers(10**5, 10**9))
def test_classes_are_guaranteed_what_they_share_and_no_more(
    weights: list[float], rate_bps: int
) -> None:
    conditions = DirectionConditions(delay_ms=5)
    classes = [
        TrafficClass(str(number), (Match(mark=number + 1),), conditions, weight)
        for number, weight in enumerate(weights)
    ]
    planned = shared_tree(SharedLink(tuple(classes), rate_bps=rate_bps))
    assert planned.rate is not None
    assert planned.shared is not None
    rates = [planned.rate, *(branch.rate for branch in planned.branches)]
    shared = planned.shared.rate_bytes_per_s
    assert sum(one.rate_bytes_per_s for one in rates) <= shared + len(rates)
    assert all((one.ceil_bytes_per_s or one.rate_bytes_per_s) <= shared for one in rates)
    assert from_json(Tree, to_json(planned)) == planned
