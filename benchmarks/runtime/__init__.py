"""The device's runtime against llama.cpp's own programs, on the same files in the same run."""

from __future__ import annotations

from benchmarks.result import Result
from benchmarks.runtime import adapters, decode, drafts, handover, latency, soak, throughput


def run() -> list[Result]:
    """Measure everything that the runtime promises."""
    results: list[Result] = []
    for part in (decode, throughput, latency, adapters, drafts, handover, soak):
        results += part.run()
    return results
