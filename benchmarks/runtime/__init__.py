"""The device's runtime against llama.cpp's own programs, on the same files in the same run."""

from __future__ import annotations

from benchmarks.result import Result
from benchmarks.runtime import (
    adapters,
    commits,
    decode,
    drafts,
    handover,
    latency,
    soak,
    throughput,
)

PARTS = {
    "commits": commits.run,
    "decode": decode.run,
    "throughput": throughput.run,
    "latency": latency.run,
    "adapters": adapters.run,
    "drafts": drafts.run,
    "handover": handover.run,
    "soak": soak.run,
}


def run() -> list[Result]:
    """Measure everything that the runtime promises; some half an hour."""
    return [result for name, part in PARTS.items() if name != "commits" for result in part()]
