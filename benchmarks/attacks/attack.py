"""What an attack is, where it takes place, and what may come of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import grpc

from benchmarks.agents import AgentProcess, Kind, unix_channel
from benchmarks.certificates import Authority
from protos.airloom.v1 import fleet_pb2_grpc, inference_pb2, inference_pb2_grpc, task_pb2

ANSWER_S = 10.0
"""Within which whoever asks gets an answer or an error; said to the agent as the task's deadline."""
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
"""Otherwise channels of one process share one, with its limit of streams."""
_PATIENCE_S = 5.0
"""On top of it, before the answer counts as one that never comes."""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One agent of a stage; it listens for this machine's operators on NAME.sock in the folder."""

    kind: Kind
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """The agents that an attack takes place among."""

    agents: Mapping[str, AgentSpec]
    """By name, in the order in which they are started."""
    asked: str
    """Whom the legitimate requests go to."""
    registered: tuple[str, ...] = ()
    """The boards that must have registered before the attack."""
    authority: Authority | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    question: Literal["sums", "embeddings"] = "sums"
    rate_per_s: float = 100.0
    """At which the legitimate requests are asked, whether or not those before have been answered."""
    helpers: tuple[contextlib.AbstractAsyncContextManager[Any], ...] = ()
    """What must run beside the agents: servers behind the cloud, links."""

    def with_helpers(self, *helpers: contextlib.AbstractAsyncContextManager[Any]) -> Stage:
        return replace(self, helpers=(*self.helpers, *helpers))


@dataclass(frozen=True, slots=True)
class Site:
    """A stage whose agents run."""

    stage: Stage
    folder: Path
    agents: Mapping[str, AgentProcess]

    def socket(self, name: str) -> Path:
        return self.folder / f"{name}.sock"

    @contextlib.asynccontextmanager
    async def inference(self, name: str) -> AsyncIterator[inference_pb2_grpc.InferenceServiceStub]:
        """An agent's inference service, by its Unix socket."""
        async with unix_channel(self.socket(name)) as channel:
            yield inference_pb2_grpc.InferenceServiceStub(channel)

    @contextlib.asynccontextmanager
    async def fleet(self, name: str) -> AsyncIterator[fleet_pb2_grpc.FleetServiceStub]:
        """An agent's fleet service, by its Unix socket."""
        async with unix_channel(self.socket(name)) as channel:
            yield fleet_pb2_grpc.FleetServiceStub(channel)

    @contextlib.asynccontextmanager
    async def dial(self, certificate: str, agent: str = "cloud") -> AsyncIterator[grpc.aio.Channel]:
        """A channel to an agent's TCP port, showing a certificate; in plaintext without a name."""
        address = f"127.0.0.1:{self.stage.ports[agent]}"
        if not certificate:
            async with grpc.aio.insecure_channel(address, options=_OWN_CONNECTION) as channel:
                yield channel
            return
        assert self.stage.authority is not None
        credentials = self.stage.authority.credentials(certificate)
        async with grpc.aio.secure_channel(
            address, credentials, options=_OWN_CONNECTION
        ) as channel:
            yield channel


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of sending an attack once."""

    said: str
    """For the table: refused how, or answered."""
    wrong: str = ""
    """Why this must not be; empty where it is as it should be."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack; to add one, write its `send`."""

    name: str
    """FAMILY/WHAT."""
    sent: str
    """For the table."""
    stage: Callable[[Path], Stage]
    send: Callable[[Site], Awaitable[Outcome]]
    """Sent again and again while the legitimate requests are measured, after a pause each time."""
    limit_s: float = 30.0
    """Longer than this, and it hangs."""
    pause_s: float = 0.25
    repeated: bool = True
    """False where once is enough, or where a second time would be another attack."""
    growth_mib: float = 64.0
    may_refuse: tuple[str, ...] = ()
    """Statuses that legitimate requests may get beside it: a full queue is full for everybody."""


def task(text: str, *, max_tokens: int = 40, **fields: Any) -> task_pb2.Task:
    """A question with a deadline."""
    budget = fields.pop("budget", None) or task_pb2.Budget(deadline_ms=ANSWER_S * 1e3)
    sampling = fields.pop("sampling", None) or task_pb2.Sampling()
    if not sampling.max_tokens:
        sampling.max_tokens = max_tokens
    parts = [task_pb2.Part(text=task_pb2.TextPart(text=text))]
    return task_pb2.Task(parts=parts, budget=budget, sampling=sampling, **fields)


def infer_request(asked: task_pb2.Task, device_id: str = "") -> inference_pb2.InferRequest:
    return inference_pb2.InferRequest(task=asked, device_id=device_id)


_UNEXPLAINED = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
"""An exception that nobody foresaw, a connection that broke, a fault that the asker has no part in."""


_WRITE_FAILED = "Internal error from Core"
"""What this side's library says in place of the status, where a stream ended as it was writing."""


async def outcome_of(
    call: Awaitable[Any],
    *,
    must_refuse: bool = False,
    allowed: tuple[grpc.StatusCode, ...] = (),
    within_s: float = ANSWER_S + _PATIENCE_S,
) -> Outcome:
    """Wait for a call, and say how it ended; it must end, and by an error that explains itself."""
    try:
        await asyncio.wait_for(call, within_s)
    except asyncio.TimeoutError:
        return Outcome("no answer", f"no answer and no error within {within_s:g} s")
    except grpc.aio.AioRpcError as error:
        code, details = error.code(), " ".join((error.details() or "").split())
        said = f"{code.name}: {details[:400]}"
        if details == _WRITE_FAILED:
            return Outcome("the stream ended while it was written to")
        if code in _UNEXPLAINED and code not in allowed:
            return Outcome(said, f"ended with {code.name}")
        return Outcome(said)
    return Outcome(
        "answered", "it was answered, and should have been refused" if must_refuse else ""
    )


Send = Callable[[Site], Awaitable[Outcome]]


def each_of(variants: Mapping[str, Send]) -> Send:
    """One after the other, as one attack; what is wrong names its variant."""

    async def send(site: Site) -> Outcome:
        outcomes = []
        for name, variant in variants.items():
            outcome = await variant(site)
            wrong = f"{name}: {outcome.wrong}" if outcome.wrong else ""
            outcomes.append(Outcome(outcome.said, wrong))
        return together(*outcomes)

    return send


def together(*outcomes: Outcome) -> Outcome:
    """Several outcomes as one: what was said, each once."""
    said = list(dict.fromkeys(each.said for each in outcomes))
    wrong = list(dict.fromkeys(each.wrong for each in outcomes if each.wrong))
    return Outcome("; ".join(said), "; ".join(wrong))
