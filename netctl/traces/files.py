"""Read traces from files; every error names the file, the line, what was wrong and what would be right."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from airloom.errors import ConfigurationError
from netctl.traces.trace import ConditionStep, ConditionTrace, OpportunityTrace

_TIMES = {"time_ms": 1.0, "time_s": 1e3}
_RATES = {"rate_bps": 1.0, "rate_kbps": 1e3, "rate_mbps": 1e6}
_COLUMNS = (*_TIMES, *_RATES, "delay_ms", "loss")


def read_opportunities(path: Path) -> OpportunityTrace:
    """Read Mahimahi's format: on each line the millisecond of one 1500-byte delivery opportunity.

    Raises:
        ConfigurationError: the file is missing or no such trace.
    """
    times: list[int] = []
    for number, text in enumerate(_lines(path), 1):
        if not text.strip():
            continue
        if not text.strip().isdecimal():
            raise ConfigurationError(
                f"{text.strip()[:40]!r} is not a whole number of milliseconds",
                source=path,
                line=number,
            )
        time_ms = int(text)
        if times and time_ms < times[-1]:
            raise ConfigurationError(
                f"{time_ms} comes after {times[-1]}: times must not decrease",
                source=path,
                line=number,
            )
        times.append(time_ms)
    try:
        return OpportunityTrace(tuple(times))
    except ValueError as error:
        raise ConfigurationError(str(error), source=path) from error


def read_steps(path: Path) -> ConditionTrace:
    """Read a CSV of conditions over time.

    The header names the columns, with their units: time_s or time_ms; then any of rate_bps, rate_kbps
    or rate_mbps; delay_ms; loss (0 to 1). A row holds until the next one; the last one holds as long as
    the one before it.

    Raises:
        ConfigurationError: the file is missing or no such table.
    """
    rows = csv.reader(_lines(path))
    header = [name.strip() for name in next(rows, [])]
    unknown = [name for name in header if name not in _COLUMNS]
    if unknown:
        raise ConfigurationError(
            f"there is no column {unknown[0]!r}; there are {', '.join(_COLUMNS)}",
            source=path,
            line=1,
        )
    time_column = next((name for name in _TIMES if name in header), None)
    if time_column is None:
        raise ConfigurationError("no column time_s or time_ms", source=path, line=1)
    steps: list[ConditionStep] = []
    for row in rows:
        line = rows.line_num
        if not row:
            continue
        if len(row) != len(header):
            raise ConfigurationError(
                f"{len(row)} values for {len(header)} columns", source=path, line=line
            )
        values = {}
        for name, text in zip(header, row, strict=True):
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(
                    f"{text!r} is not a number of zero or more", source=path, line=line, field=name
                )
            values[name] = value
        start_ms = values[time_column] * _TIMES[time_column]
        if steps and start_ms <= steps[-1].start_ms:
            raise ConfigurationError("times must increase", source=path, line=line)
        rate = next((values[name] * _RATES[name] for name in _RATES if name in values), None)
        loss = values.get("loss")
        if loss is not None and loss > 1:
            raise ConfigurationError(
                f"{loss} is not from 0 to 1", source=path, line=line, field="loss"
            )
        steps.append(ConditionStep(start_ms, rate, values.get("delay_ms"), loss))
    if len(steps) < 2:
        raise ConfigurationError(f"{len(steps)} rows; a trace needs two at least", source=path)
    return ConditionTrace(tuple(steps), 2 * steps[-1].start_ms - steps[-2].start_ms)


def read_trace(path: Path) -> OpportunityTrace | ConditionTrace:
    """Read a trace of either kind: a CSV by its name, anything else as Mahimahi's."""
    return read_steps(path) if path.suffix == ".csv" else read_opportunities(path)


def write_opportunities(trace: OpportunityTrace, path: Path) -> None:
    """Write Mahimahi's format, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("".join(f"{time}\n" for time in trace.times_ms), encoding="ascii")
    partial.replace(path)


def write_steps(trace: ConditionTrace, path: Path) -> None:
    """Write a CSV of conditions, whole or not at all; a trace whose steps all tell the same things."""
    columns = {
        "rate_bps": [step.rate_bps for step in trace.steps],
        "delay_ms": [step.delay_ms for step in trace.steps],
        "loss": [step.loss for step in trace.steps],
    }
    told = {name: values for name, values in columns.items() if None not in values}
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["time_ms", *told])
        for number, step in enumerate(trace.steps):
            writer.writerow(
                [f"{step.start_ms:.10g}", *(f"{values[number]:.10g}" for values in told.values())]
            )
    partial.replace(path)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(error.strerror or str(error), source=path) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError("it is not text", source=path) from error
