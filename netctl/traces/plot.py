"""A trace's rate over time, for the eye."""

from __future__ import annotations

from html import escape

from airloom.units import format_rate
from netctl.traces.trace import OpportunityTrace

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT, _MARGIN = 900, 240, 40


def _rates(trace: OpportunityTrace, windows: int) -> list[float]:
    step_ms = trace.period_ms / windows
    return [
        trace.allowed_bytes(i * step_ms, (i + 1) * step_ms) * 8e3 / step_ms for i in range(windows)
    ]


def sparkline(trace: OpportunityTrace, width: int = 72) -> str:
    """One line of bars, from nothing to the highest rate."""
    rates = _rates(trace, width)
    highest = max(rates) or 1.0
    return "".join(_BARS[round(rate / highest * (len(_BARS) - 1))] for rate in rates)


def svg(trace: OpportunityTrace, title: str) -> str:
    """A picture of its own."""
    rates = _rates(trace, min(_WIDTH - 2 * _MARGIN, max(1, trace.period_ms // 100)))
    highest = max(rates) or 1.0
    inner_width, inner_height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    points = " ".join(
        f"{_MARGIN + i * inner_width / len(rates):.1f},"
        f"{_HEIGHT - _MARGIN - rate / highest * inner_height:.1f}"
        for i, rate in enumerate(rates)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">'
        f'<text x="{_MARGIN}" y="20">{escape(title)}: {format_rate(trace.mean_rate_bps)} on average, '
        f"{format_rate(highest)} at most</text>"
        f'<path d="M{_MARGIN},{_MARGIN} V{_HEIGHT - _MARGIN} H{_WIDTH - _MARGIN}" fill="none" '
        'stroke="#888"/>'
        f'<polyline points="{points}" fill="none" stroke="#1565c0"/>'
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 15}" text-anchor="end">'
        f"{trace.period_ms / 1e3:g} s</text></svg>\n"
    )
