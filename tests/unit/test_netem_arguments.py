from netctl.backends.base import LinkSpec
from netctl.backends.netem import NetemBackend, netem_arguments
from netctl.conditions import DirectionConditions, LinkConditions


def test_every_attribute_is_always_sent() -> None:
    arguments = netem_arguments(DirectionConditions(12_000_000, 20, 5, 0.01))
    text = " ".join(arguments)
    assert "delay 20000us 5000us" in text
    assert "loss random 1.000000%" in text
    assert "rate 12000000bit" in text


def test_the_limit_covers_what_is_under_way_and_the_queue() -> None:
    asked = DirectionConditions(rate_bps=100_000_000, delay_ms=300, queue_ms=100)
    in_flight = 100_000_000 * 0.4 / (1514 * 8)
    assert in_flight <= asked.limit_packets <= in_flight + 1
    assert f"limit {asked.limit_packets}" in " ".join(netem_arguments(asked))


def test_jitter_without_a_rate_gets_one_so_that_order_is_kept() -> None:
    assert "rate" in netem_arguments(DirectionConditions(delay_ms=20, jitter_ms=5))
    assert "rate" not in netem_arguments(DirectionConditions(delay_ms=20))


CONDITIONS = DirectionConditions(rate_bps=12_000_000, delay_ms=20, jitter_ms=2, loss=0.01)
SPEC = LinkSpec(
    "b", "b", "cloud", "10.0.0.2/30", "10.0.0.1/30", LinkConditions(CONDITIONS, CONDITIONS), 1
)
# As `tc -j qdisc show` of iproute2 6.1 prints it on Linux 6.1.
SHOWN = {
    "kind": "netem",
    "handle": "a1f0:",
    "root": True,
    "options": {
        "limit": CONDITIONS.limit_packets,
        "delay": {"delay": 0.02, "jitter": 0.002, "correlation": 0},
        "loss-random": {"loss": 0.01, "correlation": 0},
        "rate": {"rate": 1500000, "packetoverhead": 0, "cellsize": 0, "celloverhead": 0},
        "ecn": False,
        "gap": 0,
    },
}


def changed(**options: object) -> dict[str, object]:
    return {**SHOWN, "options": {**SHOWN["options"], **options}}  # type: ignore[dict-item]


def test_what_the_kernel_shows_is_compared_in_its_own_units() -> None:
    netem = NetemBackend()
    assert netem.differences(SPEC, [[SHOWN], [SHOWN]]) == []
    halved = changed(rate={"rate": 750000})
    assert netem.differences(SPEC, [[SHOWN], [halved]]) == ["downlink: rate is 750000, not 1.5e+06"]
    lossless = changed()
    del lossless["options"]["loss-random"]  # type: ignore[attr-defined]
    assert netem.differences(SPEC, [[lossless], [SHOWN]]) == ["uplink: loss is 0, not 0.01"]
    assert netem.differences(SPEC, [[], [SHOWN]]) == ["uplink: there is no netem qdisc"]
