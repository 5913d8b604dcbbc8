"""Ten thousand asks over fifty boards whose links break: each gets the answer to its own question.

Every ask has a sum or a difference of its own, and every board is told to be unsure of all: so each
goes up its board's stream, through a proxy that breaks or falls silent at random moments. The labels
(task_id) are ten, and say nothing. The count is reached by 200 asks of each board, four at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks.agents import (
    MEBIBYTE,
    AgentProcess,
    Kind,
    shipped_model,
    start,
    unix_channel,
    until_serving,
)
from benchmarks.certificates import Authority
from benchmarks.proxy import LinkProxy
from benchmarks.result import Result
from benchmarks.runtime.llama_cpp_programs import free_port
from protos.airloom.v1 import fleet_pb2, fleet_pb2_grpc, inference_pb2, inference_pb2_grpc, task_pb2

BOARDS, ASKS_EACH, AT_ONCE = 50, 200, 4
LABELS = tuple(f"label-{number}" for number in range(10))
DEADLINE_S = 15 * 60.0
BOARD_LIMIT_MIB = 100.0
_LIMIT_S = 10 * 60.0
"""Of the asking: what is not over by then counts as unanswered, though its deadline has not passed."""
_UP_S, _DOWN_S = 20.0, (0.2, 5.0)
"""How long a link is up on average (exponential), and how long it is down (uniform)."""
_STARTED_TOGETHER = 4
_TOKENS = 12


@dataclass
class Link:
    """A board's link, and when it was down."""

    proxy: LinkProxy
    outages: list[tuple[float, float]] = field(default_factory=list)
    _down_since_s: float | None = None

    async def break_at_random(self, rng: random.Random) -> None:
        """Cut it or let it fall silent again and again, until cancelled."""
        while True:
            await asyncio.sleep(rng.expovariate(1 / _UP_S))
            self._down_since_s = time.monotonic()
            self.proxy.set(rng.choice(("cut", "silent")))
            await asyncio.sleep(rng.uniform(*_DOWN_S))
            self.proxy.set("up")
            self.outages.append((self._down_since_s, time.monotonic()))
            self._down_since_s = None

    def stayed_up(self, begin_s: float, end_s: float) -> bool:
        """Whether it was up for all of the time between."""
        if self._down_since_s is not None and self._down_since_s < end_s:
            return False
        return all(end_s < down_s or up_s < begin_s for down_s, up_s in self.outages)


@dataclass(frozen=True, slots=True)
class Ask:
    """What became of one ask."""

    board: int
    question: str
    begin_s: float
    end_s: float
    text: str = ""
    by_cloud: bool = False
    refused: str = ""
    """The status, where there was no answer."""

    @property
    def crossed(self) -> bool:
        """Whether it got an answer to another question: each begins with what was asked."""
        return bool(self.text) and not self.text.startswith(f"{self.question}:")


def _questions(rng: random.Random) -> list[str]:
    """As many different sums and differences as there are asks."""
    numbers = range(10, 100)
    sums = [f"{a}+{b}" for a in numbers for b in numbers]
    differences = [f"{a}-{b}" for a in numbers for b in numbers if a > b]
    return rng.sample([*sums, *differences], BOARDS * ASKS_EACH)


def _request(question: str, label: str) -> inference_pb2.InferRequest:
    task = task_pb2.Task(
        task_id=label,
        parts=[task_pb2.Part(text=task_pb2.TextPart(text=f"What is {question}?"))],
        budget=task_pb2.Budget(deadline_ms=DEADLINE_S * 1e3),
        sampling=task_pb2.Sampling(max_tokens=_TOKENS),
    )
    return inference_pb2.InferRequest(task=task)


def _cloud(folder: Path, port: int, certificates: Authority) -> dict[str, object]:
    return {
        "listen": f"127.0.0.1:{port}",
        "local_socket": f"{folder}/cloud.sock",
        "security": certificates.settings("cloud"),
        "model": {
            "path": shipped_model("cloud"), "threads": 1, "context_tokens": 128, "parallel": 16,
            "queue_length": 2 * BOARDS * AT_ONCE,
        },
        "heartbeat_interval_s": 1.0,
    }  # fmt: skip


def _board(folder: Path, name: str, port: int, certificates: Authority) -> dict[str, object]:
    return {
        "device_id": name,
        "listen": f"unix:{folder}/{name}.sock",
        "listen_security": {"plaintext": True},
        "model": {
            "path": shipped_model("mathematics"), "threads": 1, "context_tokens": 128,
            "parallel": AT_ONCE, "batch_tokens": 64,
        },
        "routing": {"threshold": 1.0},
        "cloud": {
            "address": f"127.0.0.1:{port}",
            "security": certificates.settings(name),
            "backoff_initial_s": 0.1,
            "backoff_max_s": 1.0,
        },
    }  # fmt: skip


class _Fleet:
    """The cloud, its boards and their links, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = [f"board-{number:02d}" for number in range(BOARDS)]
        self.links: list[Link] = []
        self.agents: dict[str, AgentProcess] = {}

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        certificates, port = Authority.make(self.folder / "certificates"), free_port()
        certificates.issue("cloud", "cloud")
        for name in self.names:
            certificates.issue(name, "device")
        stack.push_async_callback(self._stop)
        await self._start("cloud", _cloud(self.folder, port, certificates))
        for begin in range(0, BOARDS, _STARTED_TOGETHER):
            group = self.names[begin : begin + _STARTED_TOGETHER]
            proxies = [await stack.enter_async_context(LinkProxy(port)) for _ in group]
            self.links += [Link(proxy) for proxy in proxies]
            await asyncio.gather(
                *(
                    self._start(name, _board(self.folder, name, proxy.port, certificates))
                    for name, proxy in zip(group, proxies, strict=True)
                )
            )
        async with unix_channel(self.folder / "cloud.sock") as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            for _ in range(600):
                reply = await stub.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=10)
                if len(reply.devices) == BOARDS:
                    return
                await asyncio.sleep(0.1)
        raise RuntimeError(f"only {len(reply.devices)} of {BOARDS} boards registered")

    async def _start(self, name: str, settings: dict[str, object]) -> None:
        kind: Kind = "cloud" if name == "cloud" else "device"
        self.agents[name] = await start(kind, name, settings, self.folder)
        async with unix_channel(self.folder / f"{name}.sock") as channel:
            await until_serving(self.agents[name], channel)

    async def _stop(self) -> None:
        await asyncio.gather(*(agent.stop() for agent in self.agents.values()))


async def _own_answers(fleet: _Fleet, questions: Sequence[str]) -> dict[str, str]:
    """What the cloud says to each question when it is asked itself."""
    answers: dict[str, str] = {}
    left = iter(questions)
    async with unix_channel(fleet.folder / "cloud.sock") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def ask() -> None:
            for question in left:
                reply = await stub.Infer(_request(question, ""), timeout=60)
                answers[question] = reply.result.answer.text

        await asyncio.gather(*(ask() for _ in range(16)))
    return answers


async def _ask_board(
    fleet: _Fleet, board: int, questions: Iterator[str], rng: random.Random, asked: list[Ask]
) -> None:
    async with unix_channel(fleet.folder / f"{fleet.names[board]}.sock") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def one_after_the_other() -> None:
            for question in questions:
                request = _request(question, rng.choice(LABELS))
                begin_s = time.monotonic()
                try:
                    answer = (await stub.Infer(request, timeout=DEADLINE_S + 10)).result.answer
                except grpc.aio.AioRpcError as error:
                    ended = Ask(board, question, begin_s, time.monotonic(),
                                refused=error.code().name)  # fmt: skip
                else:
                    by_cloud = answer.provenance.place == task_pb2.PLACE_CLOUD
                    ended = Ask(board, question, begin_s, time.monotonic(), answer.text, by_cloud)
                asked.append(ended)

        await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))


@dataclass(frozen=True, slots=True)
class Tally:
    """All asks, and what the agents took."""

    asked: list[Ask]
    own: dict[str, str]
    links: list[Link]
    outages: int
    board_peak_mib: float
    duration_s: float


async def _measure(seed: int) -> Tally:
    rng, asked = random.Random(seed), list[Ask]()
    questions = _questions(rng)
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        async with contextlib.AsyncExitStack() as stack:
            fleet = _Fleet(Path(name))
            await fleet.start(stack)
            own = await _own_answers(fleet, questions)
            breaking = [
                asyncio.create_task(link.break_at_random(random.Random(rng.random())))
                for link in fleet.links
            ]
            started_s = time.monotonic()
            asking = [
                asyncio.create_task(
                    _ask_board(fleet, board, iter(questions[board::BOARDS]), rng, asked)
                )
                for board in range(BOARDS)
            ]
            _, late = await asyncio.wait(asking, timeout=_LIMIT_S)
            duration_s = time.monotonic() - started_s
            for task in (*breaking, *late):
                task.cancel()
            await asyncio.gather(*breaking, *asking, return_exceptions=True)
            peaks = [fleet.agents[board].peak_resident_bytes for board in fleet.names]
            outages = sum(len(link.outages) for link in fleet.links)
            return Tally(asked, own, fleet.links, outages, max(peaks) / MEBIBYTE, duration_s)


def _results(tally: Tally) -> list[Result]:
    wanted = BOARDS * ASKS_EACH
    asked = tally.asked
    answered = [ask for ask in asked if not ask.refused]
    up = [ask for ask in asked if tally.links[ask.board].stayed_up(ask.begin_s, ask.end_s)]
    by_cloud = [ask for ask in answered if ask.by_cloud]
    same = sum(ask.text == tally.own[ask.question] for ask in by_cloud)
    crossed = sum(ask.crossed for ask in answered)
    hung = wanted - len(asked)
    late = sum(ask.end_s - ask.begin_s > DEADLINE_S + 1 for ask in asked)
    latency_s = statistics.median(ask.end_s - ask.begin_s for ask in asked)
    refused = Counter(ask.refused for ask in asked if ask.refused)
    told = ", ".join(f"{count} {status}" for status, count in refused.items())
    name = "fleet/asks"
    return [
        Result(f"{name}/crossed", crossed, "answers", "answered", len(answered), at_most=0.0),
        Result(
            f"{name}/answered-where-the-link-stayed-up",
            sum(ask.by_cloud for ask in up), "by the cloud", "its link stayed up", max(1, len(up)), 0.95,
        ),
        Result(f"{name}/hung", hung + late, "asks", "asked", wanted, at_most=0.0),
        Result(f"{name}/answered", len(answered), f"asks ({told or 'none refused'})", "asked", wanted),
        Result(f"{name}/by-the-cloud", len(by_cloud), "answers", "answered", len(answered)),
        Result(f"{name}/as-the-cloud-says-it", same, "texts", "by the cloud", max(1, len(by_cloud)), 1.0),
        Result(
            f"{name}/board-memory", tally.board_peak_mib, "MiB at most", "limit", BOARD_LIMIT_MIB,
            at_most=1.0,
        ),
        Result(f"{name}/outages", tally.outages, "cut or silent", "boards", BOARDS),
        Result(f"{name}/p50", latency_s, "s", "none", 1.0),
        Result(f"{name}/duration", tally.duration_s, "s", "limit", _LIMIT_S, at_most=1.0),
    ]  # fmt: skip


def run() -> list[Result]:
    """Ask ten thousand times; some eight minutes on two cores."""
    return _results(asyncio.run(_measure(seed=1)))
