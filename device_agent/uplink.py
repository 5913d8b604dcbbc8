"""The device's one stream to the cloud: it dials out, registers, asks, and answers what it is handed."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import grpc
from opentelemetry.trace import SpanKind

from airloom.backoff import full_jitter
from airloom.concurrency import first_to_end
from airloom.errors import AirloomError, DeadlineExceededError, UnreachableError
from airloom.security import open_channel
from airloom.tracing import send_along, task_span
from device_agent.answering import failure
from device_agent.config import CloudSettings
from device_agent.engine import OnText
from protos.airloom.v1 import fleet_pb2, fleet_pb2_grpc, inference_pb2, task_pb2

log = logging.getLogger(__name__)

PROTOCOL = "airloom.v1"
GRPC_FRAME_BYTES = 5
MISSED_HEARTBEATS = 3
"""So many heartbeats' time of silence, and either side gives the stream up."""

Handler = Callable[[task_pb2.Task], Awaitable[task_pb2.TaskResult]]


@dataclass
class _Session:
    """One established stream."""

    outgoing: asyncio.Queue[fleet_pb2.ConnectRequest]
    last_heard_s: float

    def send(self, message: fleet_pb2.ConnectRequest) -> int:
        """Queue a message; return its size on the stream."""
        message.sent_unix_ns = time.time_ns()
        self.outgoing.put_nowait(message)
        return int(message.ByteSize()) + GRPC_FRAME_BYTES


class Uplink:
    """Keeps a stream to the cloud while `run` runs; `ask` sends a question up it."""

    def __init__(
        self,
        settings: CloudSettings,
        *,
        device_id: str,
        model: inference_pb2.ModelInfo,
        handle: Handler,
    ) -> None:
        self._settings = settings
        self._registration = fleet_pb2.Registration(
            device_id=device_id, protocol=PROTOCOL, model=model
        )
        self._handle = handle
        self._session: _Session | None = None
        self._connected = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[tuple[task_pb2.TaskResult, float, int]]] = {}
        self._assigned: dict[str, asyncio.Task[None]] = {}
        self._heartbeat_sent_s = 0.0
        self.rtt_ms: float | None = None
        self.last_error = "not connected yet"

    @property
    def connected(self) -> bool:
        """Whether the cloud has welcomed this device on the present stream."""
        return self._session is not None

    async def wait_connected(self) -> None:
        """Return as soon as a stream is up."""
        await self._connected.wait()

    async def ask(
        self, task: task_pb2.Task, deadline_s: float | None, on_text: OnText | None = None
    ) -> task_pb2.TaskResult:
        """Send a task up and wait for its result, with the link's share of the time filled in.

        Cancelling the coroutine cancels the task in the cloud.

        Raises:
            UnreachableError: there is no stream, or it broke before the answer came.
            DeadlineExceededError: the deadline passed first.
        """
        del on_text
        with task_span("uplink", task, SpanKind.CLIENT):
            return await self._ask(task, deadline_s)

    async def _ask(self, task: task_pb2.Task, deadline_s: float | None) -> task_pb2.TaskResult:
        session = self._session
        if session is None:
            raise UnreachableError(f"the cloud cannot be reached: {self.last_error}")
        sent = task_pb2.Task()
        sent.CopyFrom(task)
        send_along(sent)
        started_s = time.monotonic()
        timeout_s = None if deadline_s is None else max(0.0, deadline_s - started_s)
        if timeout_s is not None:
            sent.budget.deadline_ms = timeout_s * 1e3
        future: asyncio.Future[tuple[task_pb2.TaskResult, float, int]] = (
            asyncio.get_running_loop().create_future()
        )
        self._waiting[task.task_id] = future
        uplink_bytes = session.send(fleet_pb2.ConnectRequest(ask=sent))
        try:
            result, downlink_ms, downlink_bytes = await asyncio.wait_for(future, timeout_s)
        except asyncio.TimeoutError:
            self._withdraw(task.task_id)
            raise DeadlineExceededError("the deadline passed before the cloud answered") from None
        except asyncio.CancelledError:
            self._withdraw(task.task_id)
            raise
        finally:
            del self._waiting[task.task_id]
        timing = result.timing
        total_ms = (time.monotonic() - started_s) * 1e3
        if self._settings.synchronised_clock:
            timing.downlink_ms = downlink_ms
        else:
            one_way_ms = max(0.0, total_ms - timing.total_ms) / 2
            timing.uplink_ms = timing.downlink_ms = one_way_ms
            timing.one_way_estimated = True
        timing.total_ms = total_ms
        timing.uplink_bytes, timing.downlink_bytes = uplink_bytes, downlink_bytes
        return result

    def _withdraw(self, task_id: str) -> None:
        if self._session is not None:
            cancel = fleet_pb2.CancelTask(task_id=task_id)
            self._session.send(fleet_pb2.ConnectRequest(cancel=cancel))

    async def run(self) -> None:
        """Connect, serve, and connect again with back-off, until cancelled."""
        s, rng = self._settings, random.Random()
        waits = full_jitter(s.backoff_initial_s, s.backoff_max_s, rng)
        while True:
            try:
                await self._connect_once()
                self.last_error = "the cloud closed the stream"
            except (grpc.aio.AioRpcError, UnreachableError) as error:
                details = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
                self.last_error = f"{s.address}: {details}"
            except asyncio.TimeoutError:
                self.last_error = f"{s.address}: no welcome within {s.connect_timeout_s:g} s"
            finally:
                was_connected = self._session is not None
                self._drop_session()
            if was_connected:
                waits = full_jitter(s.backoff_initial_s, s.backoff_max_s, rng)
            wait_s = next(waits)
            log.warning("cloud lost (%s); trying again in %.2f s", self.last_error, wait_s)
            await asyncio.sleep(wait_s)

    def _drop_session(self) -> None:
        self._session = None
        self._connected.clear()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(
                    UnreachableError(f"the cloud was lost before it answered: {self.last_error}")
                )
        for assigned in self._assigned.values():
            assigned.cancel()

    async def _connect_once(self) -> None:
        outgoing: asyncio.Queue[fleet_pb2.ConnectRequest] = asyncio.Queue()
        session = _Session(outgoing, time.monotonic())
        session.send(fleet_pb2.ConnectRequest(registration=self._registration))

        async def requests() -> AsyncIterator[fleet_pb2.ConnectRequest]:
            while True:
                yield await outgoing.get()

        options = [("grpc.enable_retries", 0)]
        async with open_channel(
            self._settings.address, self._settings.security, options
        ) as channel:
            call = fleet_pb2_grpc.FleetServiceStub(channel).Connect(requests())
            responses: AsyncIterator[fleet_pb2.ConnectResponse] = aiter(call)
            try:
                timeout_s = self._settings.connect_timeout_s
                first = await asyncio.wait_for(anext(responses, None), timeout_s)
                if first is None or not first.HasField("welcome"):
                    raise UnreachableError("the cloud did not welcome this device")
                self._session = session
                self._connected.set()
                log.info("connected to %s at %s", first.welcome.cloud_id, self._settings.address)
                interval_s = first.welcome.heartbeat_interval_ms / 1e3
                await first_to_end(
                    self._read(session, responses), self._heartbeats(session, interval_s)
                )
            finally:
                call.cancel()

    async def _read(
        self, session: _Session, responses: AsyncIterator[fleet_pb2.ConnectResponse]
    ) -> None:
        async for response in responses:
            self._receive(session, response)

    async def _heartbeats(self, session: _Session, interval_s: float) -> None:
        """Send heartbeats; raise UnreachableError when nothing has been heard for too long."""
        sequence = 0
        while True:
            silent_s = time.monotonic() - session.last_heard_s
            if silent_s > MISSED_HEARTBEATS * interval_s:
                raise UnreachableError(f"nothing heard for {silent_s:.1f} s")
            sequence += 1
            heartbeat = fleet_pb2.Heartbeat(sequence=sequence, rtt_ms=self.rtt_ms)
            self._heartbeat_sent_s = time.monotonic()
            session.send(fleet_pb2.ConnectRequest(heartbeat=heartbeat))
            await asyncio.sleep(interval_s)

    def _receive(self, session: _Session, response: fleet_pb2.ConnectResponse) -> None:
        session.last_heard_s = time.monotonic()
        kind = response.WhichOneof("message")
        if kind == "heartbeat":
            self.rtt_ms = (session.last_heard_s - self._heartbeat_sent_s) * 1e3
        elif kind == "result":
            downlink_ms = max(0.0, (time.time_ns() - response.sent_unix_ns) / 1e6)
            future = self._waiting.get(response.result.task_id)
            if future is not None and not future.done():
                size = response.ByteSize() + GRPC_FRAME_BYTES
                future.set_result((response.result, downlink_ms, size))
        elif kind == "assignment":
            task = response.assignment
            self._assigned[task.task_id] = asyncio.create_task(self._serve(session, task))
        elif kind == "cancel" and (assigned := self._assigned.get(response.cancel.task_id)):
            assigned.cancel()

    async def _serve(self, session: _Session, task: task_pb2.Task) -> None:
        try:
            result = await self._handle(task)
        except AirloomError as error:
            result = failure(task.task_id, error)
        finally:
            self._assigned.pop(task.task_id, None)
        session.send(fleet_pb2.ConnectRequest(result=result))
