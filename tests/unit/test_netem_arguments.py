from netctl.backends.netem import netem_arguments
from netctl.conditions import DirectionConditions


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
