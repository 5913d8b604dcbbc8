import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.units import format_rate, parse_fraction, parse_rate_bps, parse_time_ms


@pytest.mark.parametrize(
    ("text", "bps"),
    [
        ("12 Mbit/s", 12_000_000),
        ("400kbit/s", 400_000),
        ("1.5 Gbit/s", 1_500_000_000),
        ("2 MB/s", 16_000_000),
    ],
)
def test_rates_are_read_as_bits_per_second(text: str, bps: int) -> None:
    assert parse_rate_bps(text) == bps


@pytest.mark.parametrize(("text", "ms"), [("20 ms", 20.0), ("1.5 s", 1500.0), ("250 us", 0.25)])
def test_times_are_read_as_milliseconds(text: str, ms: float) -> None:
    assert parse_time_ms(text) == ms


@pytest.mark.parametrize("text", ["20", "ms", "-3 ms", "20 m", "nan ms", "1e999 s", "20 ms s", ""])
def test_what_is_no_time_with_a_unit_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"for example|finite"):
        parse_time_ms(text)


@pytest.mark.parametrize("text", ["12 Mb/s", "12 mbit/s", "12 Mbps", "0 Mbit/s"])
def test_ambiguous_or_impossible_rates_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rate_bps(text)


def test_a_share_above_one_is_refused() -> None:
    assert parse_fraction("1.5 %") == pytest.approx(0.015)
    with pytest.raises(ValueError, match="100 %"):
        parse_fraction("101 %")


@given(st.integers(min_value=1_000, max_value=9_999))
def test_a_formatted_rate_reads_back(kbps: int) -> None:
    assert parse_rate_bps(format_rate(kbps * 1000)) == kbps * 1000
