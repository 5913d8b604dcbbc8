"""Classes in user space: the packets of the kernel's filters, and the laws of sharing a rate."""

import struct
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.errors import UnsupportedConditionError
from netctl.backends.kernel.filters import Filter, matching_filters
from netctl.backends.userspace_link.classify import classifier, flow_of, predicate
from netctl.backends.userspace_link.shared import SharedShaper
from netctl.conditions.classes import Match, SharedLink, TrafficClass
from netctl.conditions.link import FRAME_HEADER_BYTES, DirectionConditions

few = st.sampled_from([0x0A000001, 0x0A000002, 0x0A000101, 0xC0A80001])
few6 = st.sampled_from([bytes(15) + b"\1", b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(15)])
few_ports = st.sampled_from([9, 80, 50051])
protocols = st.sampled_from([6, 17, 1, 58, 253])


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    protocol = draw(protocols)
    rest = struct.pack("!HH", draw(few_ports), draw(few_ports)) + bytes(20)
    if draw(st.booleans()):
        header = struct.pack("!IHBB", 0x60000000, len(rest), protocol, 64)
        return header + draw(few6) + draw(few6) + rest
    words = draw(st.sampled_from([5, 5, 5, 6]))
    fragment = draw(st.sampled_from([0, 0, 0, 0x2000, 0x0003]))
    header = struct.pack(
        "!BBHHHBBHII",
        0x40 | words, 0, 4 * words + len(rest), 7, fragment, 64, protocol, 0, draw(few), draw(few),
    )  # fmt: skip
    return header + bytes(4 * (words - 5)) + rest


prefixes = st.sampled_from([None, None, "10.0.0.0/24", "10.0.0.2", "0.0.0.0/0"])
prefixes6 = st.sampled_from([None, "fd00::/8", "::1", "fd00::1"])
matches = st.one_of(
    st.builds(
        Match,
        source=prefixes,
        destination=prefixes,
        protocol=st.sampled_from(["tcp", "udp"]),
        source_port=st.one_of(st.none(), few_ports),
        destination_port=st.one_of(st.none(), few_ports),
    ),
    st.builds(Match, source=prefixes6, protocol=st.sampled_from(["udp", "icmp"])),
    st.builds(Match, destination=st.sampled_from(["10.0.0.0/24", "fd00::/8"])),
)


def taken_by_the_kernel(filters: list[Filter], packet: bytes) -> bool:
    """What u32 does: the bits of a mask, in the word at an offset, have a value."""
    kind = {4: 0x0800, 6: 0x86DD}[packet[0] >> 4]
    padded = packet + bytes(64)

    def holds(one: Filter) -> bool:
        words = [struct.unpack_from("!I", padded, offset)[0] for _, _, offset in one.keys]
        return one.ethernet_protocol == kind and all(
            word & mask == value for word, (mask, value, _) in zip(words, one.keys, strict=True)
        )

    return any(holds(one) for one in filters)


@given(matches, packets())
@settings(max_examples=1000)
def test_userspace_takes_the_packets_that_the_kernels_filters_take(
    match: Match, packet: bytes
) -> None:
    flow = flow_of(packet)
    assert flow is not None
    assert predicate(match)(flow) == taken_by_the_kernel(list(matching_filters(match, 1)), packet)


def test_the_first_class_that_matches_has_the_packet() -> None:
    def one(name: str, *match: Match) -> TrafficClass:
        return TrafficClass(name, match, DirectionConditions())

    link = SharedLink((one("a", Match(protocol="tcp")), one("b", Match(destination="10.0.0.1"))))
    classify = classifier(link, header_bytes=14)
    udp = bytes(14) + bytes.fromhex("4500001c0000000040110000 0a0000090a000001") + bytes(8)
    tcp = bytes(14) + bytes.fromhex("4500001c0000000040060000 0a0000090a000001") + bytes(8)
    assert [classify(tcp), classify(udp), classify(bytes(60))] == [0, 1, 2]
    with pytest.raises(UnsupportedConditionError, match="does not see"):
        classifier(SharedLink((one("m", Match(mark=3)),)), 0)


Sent = tuple[int, int]
"""Number of a class, and of its packet."""


def play(
    link: SharedLink, offers: list[tuple[float, int, int]]
) -> tuple[list[tuple[float, Sent]], SharedShaper[Sent]]:
    """Offer (time, class, bytes) in the order of time; when each packet came out."""
    shaper: SharedShaper[Sent] = SharedShaper(link, 1, classify=lambda sent: sent[0])
    found: list[tuple[float, Sent]] = []

    def drain(until: float) -> None:
        while (due := shaper.next_due_s()) is not None and due <= until:
            found.extend((due, sent) for sent in shaper.take_due(due))

    for number, (at, which, size) in enumerate(offers):
        drain(at)
        shaper.offer((which, number), size, at)
    drain(float("inf"))
    return found, shaper


def sharing(*weights: float, rate_bps: int, **conditions: int) -> SharedLink:
    asked = DirectionConditions(queue_bytes=1 << 30, **conditions)
    classes = [
        TrafficClass(str(i), (Match(mark=i + 1),), asked, weight)
        for i, weight in enumerate(weights)
    ]
    return SharedLink(tuple(classes), asked, rate_bps)


@given(st.lists(st.floats(0.2, 5), min_size=2, max_size=5))
@settings(max_examples=50)
def test_who_waits_gets_by_weight_and_all_of_the_rate_is_used(weights: list[float]) -> None:
    size, rate_bps = 986, 8_000_000
    link = sharing(*weights, rate_bps=rate_bps)
    offers = [(0.0, which, size) for _ in range(400) for which in range(len(weights))]
    found, _ = play(link, offers)
    frame_s = (size + FRAME_HEADER_BYTES) * 8 / rate_bps
    # Never idle while something waits.
    assert [at for at, _ in found] == pytest.approx(
        [frame_s * (number + 1) for number in range(len(offers))]
    )
    # While the heaviest still waits, all do.
    heaviest = weights.index(max(weights))
    last = max(i for i, (_, sent) in enumerate(found) if sent[0] == heaviest)
    during = Counter(sent[0] for _, sent in found[:last])
    for which, weight in enumerate(weights):
        due = last * weight / sum(weights)
        assert abs(during[which] - due) <= 2 * max(1.0, weight / min(weights))


def test_what_one_leaves_others_borrow_up_to_their_own_rate() -> None:
    own = DirectionConditions(rate_bps=2_000_000, queue_bytes=1 << 30)
    free = DirectionConditions(queue_bytes=1 << 30)
    link = SharedLink(
        (
            TrafficClass("slow", (Match(mark=1),), own, 9.0),
            TrafficClass("free", (Match(mark=2),), free),
        ),
        rate_bps=8_000_000,
    )
    found, _ = play(link, [(0.0, which, 986) for _ in range(300) for which in (0, 1)])
    slow = [at for at, sent in found if sent[0] == 0]
    fast = [at for at, sent in found if sent[0] == 1]
    assert len(slow) / slow[-1] * 8000 == pytest.approx(2e6, rel=0.01)
    # All that the slow one cannot use.
    assert len(fast) / fast[-1] * 8000 == pytest.approx(6e6, rel=0.02)


@given(
    st.lists(st.tuples(st.floats(0, 0.01), st.integers(0, 2), st.integers(28, 1500)), max_size=200)
)
@settings(max_examples=100)
def test_each_class_keeps_its_order_and_every_packet_is_accounted_for(
    gaps: list[tuple[float, int, int]],
) -> None:
    conditions = DirectionConditions(delay_ms=10, jitter_ms=5, loss=0.1, queue_bytes=20_000)
    classes = [TrafficClass(str(i), (Match(mark=i + 1),), conditions) for i in range(2)]
    link = SharedLink(tuple(classes), conditions, 2_000_000)
    now, offers = 0.0, []
    for gap, which, size in gaps:
        now += gap
        offers.append((now, which, size))
    found, shaper = play(link, offers)
    for which in range(3):
        numbers = [sent[1] for _, sent in found if sent[0] == which]
        assert numbers == sorted(numbers)
    for at, (_, number) in found:
        sent_s, _, size = offers[number]
        assert at - sent_s >= 0.005 + (size + FRAME_HEADER_BYTES) * 8 / 2e6 - 1e-9
    counters = shaper.counters
    assert counters.offered == len(offers)
    assert counters.offered == counters.lost + counters.overflowed + counters.delivered
    assert counters.delivered == len(found)
