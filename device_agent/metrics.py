"""An engine's figures for Prometheus, in the terms the field uses."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from device_agent.engine import Completion
from device_agent.engine.statistics import EngineStatistics

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKENS = tuple(2.0**power for power in range(15))
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64)


class CompletionMetrics:
    """Observes each completion (TTFT, TPOT, queue time, tokens)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"airloom_{name}", what, buckets=buckets, registry=registry)

        self._ttft = histogram(
            "time_to_first_token_seconds", "From the request to its first token.", _SECONDS
        )
        self._tpot = histogram(
            "time_per_output_token_seconds", "Mean time between a request's tokens.", _SECONDS
        )
        self._queue = histogram("queue_time_seconds", "Waiting for a place.", _SECONDS)
        self._prompt = histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self._generated = histogram("request_generation_tokens", "Tokens of a completion.", _TOKENS)

    def completed(self, completion: Completion) -> None:
        self._queue.observe(completion.queue_ms / 1e3)
        self._ttft.observe((completion.queue_ms + completion.prefill_ms) / 1e3)
        if completion.completion_tokens > 1:
            tokens_after_first = completion.completion_tokens - 1
            self._tpot.observe(completion.decode_ms / 1e3 / tokens_after_first)
        self._prompt.observe(completion.prompt_tokens)
        self._generated.observe(completion.completion_tokens)


class EngineCollector(Collector):
    """Reads an engine's totals whenever somebody scrapes."""

    def __init__(self, statistics: EngineStatistics) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        s = self._statistics
        for name, what, value in (
            ("prompt_tokens", "Prompt tokens read.", s.prompt_tokens),
            ("cached_prompt_tokens", "Prompt tokens found in the cache.", s.cached_tokens),
            ("generation_tokens", "Tokens generated.", s.generated_tokens),
            ("drafted_tokens", "Tokens proposed by the draft model.", s.drafted_tokens),
            ("accepted_tokens", "Drafted tokens that were right.", s.accepted_tokens),
            ("adapter_switches", "Changes of the adapters in use.", s.adapter_switches),
            ("passes", "Passes through the model.", s.passes),
            ("pass_seconds", "Time spent in passes.", s.pass_seconds),
        ):
            yield CounterMetricFamily(f"airloom_{name}", what, value=value)
        yield GaugeMetricFamily("airloom_requests_running", "Being served.", value=s.running)
        yield GaugeMetricFamily("airloom_requests_waiting", "In the queue.", value=s.waiting)
        requests = CounterMetricFamily(
            "airloom_requests", "Requests by how they ended.", labels=["outcome"]
        )
        for outcome, count in sorted(s.outcomes.items()):
            requests.add_metric([outcome], count)
        yield requests
        yield self._batch_size()

    def _batch_size(self) -> Metric:
        counts = dict(self._statistics.passes_by_sequences)
        buckets = [
            (str(float(limit)), float(sum(n for size, n in counts.items() if size <= limit)))
            for limit in _SEQUENCES
        ]
        buckets.append(("+Inf", float(sum(counts.values()))))
        total = float(sum(size * n for size, n in counts.items()))
        family = HistogramMetricFamily(
            "airloom_batch_sequences", "Generations that one pass extended."
        )
        family.add_metric([], buckets=buckets, sum_value=total)
        return family
