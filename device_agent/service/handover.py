"""A running task moves to another agent: its state leaves here in parts, or arrives in parts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from airloom.concurrency import within
from airloom.errors import DeadlineExceededError, InvalidTaskError, OverloadedError
from device_agent.chat import EngineChat
from device_agent.engine import Completion, OnText
from device_agent.service.kept_results import KeepLimits, KeptResults
from device_agent.task_limits import MAX_LABEL_CHARACTERS
from protos.airloom.v1 import inference_pb2

CHUNK_BYTES = 64 << 10
"""Of a state: no more than this runs ahead of a caller that reads nothing."""
LEASE_S = 30.0
"""For so long a run stands still for a caller to take its state; then it goes on here."""
PATIENCE_S = 30.0
"""Between two parts of a state that arrives."""
ARRIVING_STATES = 2
"""So many of the largest states may arrive at once, or more of smaller ones."""


SENT_LIMITS = KeepLimits(
    age_s=60.0, results_per_caller=16, bytes_per_caller=16 << 20, results=64, bytes=32 << 20
)
"""Of states that were sent; larger ones are not kept."""

Write = Callable[[bytes], Awaitable[None]]


async def write_parts(state: bytes, write: Write) -> None:
    """Write a state in parts."""
    for start in range(0, len(state), CHUNK_BYTES):
        await write(state[start : start + CHUNK_BYTES])


@dataclass(frozen=True, slots=True)
class ArrivedState:
    """What a caller sent to be resumed."""

    label: str
    data: bytes


class Handover:
    """Hands runs of one engine over, and takes others' in."""

    def __init__(self, chat: EngineChat, *, patience_s: float = PATIENCE_S) -> None:
        self._chat = chat
        self._patience_s = patience_s
        self._arriving_bytes: Counter[str] = Counter()
        """Of each caller's states."""
        self._sent = KeptResults(SENT_LIMITS, time.monotonic)

    def sent(self, owner: str, run_id: str) -> bytes | None:
        """The state that a caller was sent a short while ago, should it not have arrived."""
        kept = self._sent.get(owner, run_id)
        return None if kept is None else kept.result

    async def send(self, owner: str, run_id: str, deadline_s: float | None, write: Write) -> None:
        """Write a run's state in parts, then end it here: whoever asked gets HandedOverError.

        Where writing fails, is cancelled or takes longer than the lease, the run goes on here. What
        was written may still be lost on its way: `sent` has it for a while.

        Raises:
            NotFoundError: no such run is generating here now.
            ConflictError: the lease had passed before all was written.
            AirloomError: as Generation.hold raises.
        """
        left_s = LEASE_S if deadline_s is None else deadline_s - time.monotonic()
        hold = await self._chat.hold(run_id, max(0.0, min(LEASE_S, left_s)))
        loop = asyncio.get_running_loop()

        def keep() -> None:
            loop.call_soon_threadsafe(self._sent.put, owner, run_id, run_id, b"", state)

        try:
            state = await asyncio.to_thread(hold.state.to_bytes)
            await write_parts(state, write)
            # The engine may carry the commit out, or not, when this is cancelled meanwhile.
            await hold.commit(then=keep)
        finally:
            hold.roll_back()

    async def receive(
        self,
        owner: str,
        requests: AsyncIterator[inference_pb2.ResumeRequest],
        deadline_s: float | None,
    ) -> ArrivedState:
        """Take the parts of a state until the caller has sent the last.

        One caller may send as much at once as one state of the largest size: nobody can keep the
        others out.

        Raises:
            DeadlineExceededError: the deadline passed, or the next part did not come.
            InvalidTaskError: it is larger than any state that this engine could take.
            OverloadedError: too much arrives at once.
        """
        most, arriving = self._chat.engine.max_state_bytes, self._arriving_bytes
        label, state = "", bytearray()
        try:
            while (request := await self._next(requests, deadline_s)) is not None:
                label = label or request.task_id
                if len(label) > MAX_LABEL_CHARACTERS:
                    raise InvalidTaskError(
                        f"task_id has {len(label):,} characters: at most {MAX_LABEL_CHARACTERS} "
                        "are taken"
                    )
                if len(state) + len(request.chunk) > most:
                    raise InvalidTaskError(
                        f"the state has more than {most:,} bytes, the most that this engine takes"
                    )
                if arriving[owner] + len(request.chunk) > most:
                    raise OverloadedError(
                        "this caller's states arrive at once, and are too large together: send one "
                        "after another"
                    )
                if arriving.total() + len(request.chunk) > ARRIVING_STATES * most:
                    raise OverloadedError("too many states arrive at once: send it again later")
                arriving[owner] += len(request.chunk)
                state += request.chunk
            return ArrivedState(label, bytes(state))
        finally:
            arriving[owner] -= len(state)
            if not arriving[owner]:
                del arriving[owner]

    async def resume(
        self, arrived: ArrivedState, run_id: str, on_text: OnText, deadline_s: float | None
    ) -> Completion:
        """Go on with what arrived; raises as Engine.read_state and Engine.resume do."""
        state = await self._chat.engine.read_state(arrived.data)
        return await self._chat.resume(run_id, state, on_text, deadline_s=deadline_s)

    async def _next(
        self, requests: AsyncIterator[inference_pb2.ResumeRequest], deadline_s: float | None
    ) -> inference_pb2.ResumeRequest | None:
        left_s = self._patience_s
        if deadline_s is not None:
            left_s = max(0.0, min(left_s, deadline_s - time.monotonic()))
        try:
            return await within(anext(requests, None), left_s)
        except asyncio.TimeoutError:
            raise DeadlineExceededError(
                f"the next part of the state did not come within {left_s:.1f} s"
            ) from None
