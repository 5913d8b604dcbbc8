"""What one device asks of the cloud: each ask ends in a result on the stream that it came by."""

from __future__ import annotations

import asyncio
import time

from opentelemetry.trace import SpanKind

from airloom.concurrency import by_deadline
from airloom.errors import AirloomError, DeadlineExceededError, explained
from airloom.stream import StreamViolationError
from airloom.stream.in_flight import InFlight
from airloom.tracing import task_span
from cloud_agent.fleet.registry import ConnectedDevice
from device_agent.answering import Answerer, AnswerStream, failure
from device_agent.service.idempotency import IdempotentRuns
from device_agent.task_limits import check_task
from device_agent.task_reading import deadline_of
from protos.airloom.v1 import fleet_pb2, task_pb2


class _Text:
    """Sends an answer's text; a piece waits until the one before it is on its way."""

    def __init__(self, device: ConnectedDevice, correlation_id: int) -> None:
        self._device, self._correlation_id = device, correlation_id
        self._counts = True

    async def text(self, text: str) -> None:
        if self._counts and text:
            await self._device.outgoing.send(
                fleet_pb2.ConnectResponse(
                    text=fleet_pb2.Text(text=text), correlation_id=self._correlation_id
                )
            )

    async def set_aside(self, reason: str) -> None:
        # The stream has no word for it: the result tells the text that counts.
        del reason
        self._counts = False


class DeviceAsks:
    """The asks of one stream that are being answered."""

    def __init__(
        self,
        device: ConnectedDevice,
        answerer: Answerer,
        runs: IdempotentRuns,
        *,
        in_flight: int,
        grace_s: float,
        synchronised_clocks: bool,
    ) -> None:
        """`grace_s` is for how long asks go on when the stream broke, for the device to come back."""
        self._device = device
        self._answerer = answerer
        self._runs = runs
        self._grace_s = grace_s
        self._synchronised_clocks = synchronised_clocks
        self._in_flight = InFlight(
            in_flight, device.limits.bytes_in_flight, f"{device.device_id} has asked"
        )
        self._answering: dict[int, asyncio.Task[None]] = {}
        self._left = False

    def begin(
        self, correlation_id: int, task: task_pb2.Task, uplink_ms: float, *, stream_text: bool
    ) -> None:
        """Answer an ask, in a task of its own.

        Raises:
            StreamViolationError: its correlation id is not a device's, or in use.
        """
        if correlation_id % 2 == 0 or correlation_id in self._answering:
            raise StreamViolationError(
                f"an ask has the correlation id {correlation_id}: it should be odd and new"
            )
        size_bytes = task.ByteSize()
        try:
            # Before the task's first step: what comes in one go is counted as it comes.
            self._in_flight.enter(size_bytes)
        except AirloomError as error:
            self.refuse(correlation_id, task.task_id, error)
            return
        stream = _Text(self._device, correlation_id) if stream_text else None
        answering = asyncio.create_task(self._answer(correlation_id, task, uplink_ms, stream))
        self._answering[correlation_id] = answering

        def ended(_: asyncio.Task[None]) -> None:
            self._in_flight.leave(size_bytes)
            del self._answering[correlation_id]

        answering.add_done_callback(ended)

    def refuse(self, correlation_id: int, task_id: str, error: AirloomError) -> None:
        """Answer an ask with an error."""
        self._device.outgoing.post(
            fleet_pb2.ConnectResponse(result=failure(task_id, error), correlation_id=correlation_id)
        )

    def cancel(self, correlation_id: int) -> None:
        """Stop one ask: the device does not want the answer any more."""
        if (answering := self._answering.get(correlation_id)) is not None:
            answering.cancel()

    def leave(self) -> None:
        """Stop following all: the stream ended. What has a key goes on for the time of grace."""
        self._left = True
        for answering in self._answering.values():
            answering.cancel()

    async def _answer(
        self,
        correlation_id: int,
        task: task_pb2.Task,
        uplink_ms: float,
        stream: AnswerStream | None,
    ) -> None:
        try:
            with task_span("cloud", task, SpanKind.SERVER):
                result = await self._run(task, stream)
        except Exception as error:
            result = failure(task.task_id, explained(error))
        if self._synchronised_clocks:
            result.timing.uplink_ms = uplink_ms
        outgoing = self._device.outgoing
        try:
            await outgoing.send(
                fleet_pb2.ConnectResponse(result=result, correlation_id=correlation_id)
            )
        except AirloomError as error:
            # Too large to be sent; where the stream is closed there is nobody to tell.
            self.refuse(correlation_id, task.task_id, error)

    async def _run(self, task: task_pb2.Task, stream: AnswerStream | None) -> task_pb2.TaskResult:
        check_task(task)
        deadline_s = deadline_of(task, time.monotonic(), None)

        async def work(
            run_id: str, deadline_s: float | None, stream: AnswerStream | None
        ) -> task_pb2.TaskResult:
            return await self._answerer.answer(task, deadline_s, stream, run_id)

        running = self._runs.run(
            self._device.device_id,
            task,
            work,
            deadline_s=deadline_s,
            stream=stream,
            grace_s=self._grace_s,
        )
        try:
            return await by_deadline(running, deadline_s)
        except asyncio.TimeoutError:
            raise DeadlineExceededError("the deadline passed before the cloud answered") from None
        finally:
            if not self._left:
                # Grace is for broken streams: here the device has its answer, or wants none.
                self._runs.withdraw(self._device.device_id, task.idempotency_key)
