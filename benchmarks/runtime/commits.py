"""The runtime of this tree against an earlier commit: `AIRLOOM_BASE=COMMIT make bench-runtime-commits`."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.result import Result
from benchmarks.runtime.subjects import (
    BUILD,
    Subject,
    device_agent,
    environment_of,
    qwen,
    shipped,
)
from benchmarks.runtime.throughput import median_rates

_TURNS = 12
_STREAMS = (1, 4, 8)
_DECODE = """
import asyncio, sys
from pathlib import Path
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model, Sampling

async def rates(path, threads, context_tokens, count):
    engine = Engine(Model(Path(path)), EngineSettings(threads, parallel=1, context_tokens=context_tokens))
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=1)):
        for tokens in (8, count + 1):
            request = GenerateRequest((5,), max_tokens=tokens, ignore_end=True, scores=False, sampling=sampling)
            written = await engine.generate(request)
        print(count / written.decode_ms * 1e3)
    await asyncio.to_thread(engine.close)

asyncio.run(rates(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
"""


@contextlib.contextmanager
def _tree_of(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit], check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def _decode(tree: Path, subject: Subject) -> tuple[float, float]:
    """Tokens per second of one stream, greedy and sampled, in a process that has just begun."""
    count = min(subject.context_tokens - 8, 8 * subject.tokens)
    arguments = [str(subject.path.resolve()), subject.threads, subject.context_tokens, count]
    done = subprocess.run(
        [sys.executable, "-c", _DECODE, *map(str, arguments)],
        env=environment_of(tree),
        cwd=tree,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    greedy, sampled = map(float, done.stdout.split())
    return greedy, sampled


def _decode_rows(subject: Subject, trees: tuple[Path, Path], commit: str) -> list[Result]:
    rates: dict[Path, list[tuple[float, float]]] = {tree: [] for tree in trees}
    order = list(trees)
    for _ in range(_TURNS):
        for tree in order:
            rates[tree].append(_decode(tree, subject))
        order.reverse()
    rows = []
    for at, kind in enumerate(("greedy", "sampled")):
        ours, base = (statistics.median(rate[at] for rate in rates[tree]) for tree in trees)
        name = f"runtime/{subject.name}/decode-{kind}"
        rows.append(Result(name, ours, "tokens/s", commit, base, 0.97))
    return rows


def _stream_rows(subject: Subject, trees: tuple[Path, Path], commit: str) -> list[Result]:
    rows = []
    for streams in _STREAMS:
        with (
            device_agent(subject, parallel=streams, tree=trees[0]) as now,
            device_agent(subject, parallel=streams, tree=trees[1]) as before,
        ):
            servers = [(now.url, now.model), (before.url, before.model)]
            ours, base = median_rates(subject, streams, servers)
        name = f"runtime/{subject.name}/streams-{streams}"
        rows.append(Result(name, ours, "tokens/s", commit, base, 0.97))
    return rows


def run() -> list[Result]:
    """Decode and streams of two commits, on the same files in the same run."""
    commit = os.environ.get("AIRLOOM_BASE", "HEAD~1")
    BUILD.mkdir(parents=True, exist_ok=True)
    rows = []
    with _tree_of(commit) as base:
        trees = (Path.cwd(), base)
        for subject in (shipped("mathematics"), shipped("cloud"), qwen()):
            rows += _decode_rows(subject, trees, commit)
            rows += _stream_rows(subject, trees, commit)
    return rows
