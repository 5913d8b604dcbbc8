"""One stream to the cloud, from the registration to its end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from airloom.concurrency import first_to_end, within
from airloom.errors import AirloomError, OverloadedError, UnreachableError, explained
from airloom.identity import Role
from airloom.security import open_channel
from airloom.stream import MISSED_HEARTBEATS, Reassembly, SendQueue, StreamViolationError
from airloom.stream.limits import GRPC_FRAME_BYTES
from airloom.stream.reassembly import MessageTooLargeError
from device_agent.answering import failure
from device_agent.config import CloudSettings
from device_agent.engine import OnText
from device_agent.uplink.ask import CloudAsk
from protos.airloom.v1 import fleet_pb2, fleet_pb2_grpc, task_pb2

log = logging.getLogger(__name__)

Handler = Callable[[task_pb2.Task], Awaitable[task_pb2.TaskResult]]

_HEARTBEATS_IN_THE_AIR = 64
_CHANNEL_OPTIONS = [("grpc.enable_retries", 0)]


class StreamBrokenError(UnreachableError):
    """The stream ended before the answer came; the ask may go on on the next."""


class CloudStream:
    """Exchanges asks, assignments, results and heartbeats with the cloud while `run` runs."""

    def __init__(
        self,
        settings: CloudSettings,
        registration: fleet_pb2.Registration,
        handle: Handler,
        on_welcome: Callable[[CloudStream], None],
    ) -> None:
        self._settings = settings
        self._registration = registration
        self._handle = handle
        self._on_welcome = on_welcome
        self._outgoing = SendQueue(fleet_pb2.ConnectRequest, settings.stream)
        self._parts = Reassembly(fleet_pb2.ConnectResponse, settings.stream)
        # Odd here, even in the cloud: a result and an ask of one number are never mixed up.
        self._ids = itertools.count(1, 2)
        self._asks: dict[int, CloudAsk] = {}
        self._assigned: dict[int, asyncio.Task[None]] = {}
        self._heartbeats_sent_s: dict[int, float] = {}
        self._last_heard_s = time.monotonic()
        self._broken: StreamBrokenError | None = None
        self.rtt_ms: float | None = None
        """By the last heartbeat that was echoed on this stream."""

    async def run(self) -> None:
        """Register and serve until the stream ends; then every ask on it ends as well.

        Raises:
            UnreachableError: there was no welcome in time, or the cloud has fallen silent.
            grpc.aio.AioRpcError: the cloud refused the stream or ended it.
        """
        self._outgoing.control(fleet_pb2.ConnectRequest(registration=self._registration))
        reason = "the cloud closed the stream"
        try:
            async with open_channel(
                self._settings.address, self._settings.security, _CHANNEL_OPTIONS, role=Role.CLOUD
            ) as channel:
                call = fleet_pb2_grpc.FleetServiceStub(channel).Connect(self._requests())
                try:
                    responses: AsyncIterator[fleet_pb2.ConnectResponse] = aiter(call)
                    interval_s = await self._welcomed(responses)
                    await first_to_end(
                        self._read(responses), self._beat(interval_s), self._flooded()
                    )
                finally:
                    call.cancel()
        except Exception as error:
            reason = str(error) if isinstance(error, AirloomError) else "the stream broke"
            raise
        finally:
            self._end(StreamBrokenError(f"the cloud was lost before it answered: {reason}"))

    async def ask(self, ask: CloudAsk, on_text: OnText | None) -> task_pb2.TaskResult:
        """Send an ask and follow it to its end; cancelling this cancels the task in the cloud.

        Raises:
            StreamBrokenError: the stream ended first.
            InvalidTaskError: the task is too large to be sent.
        """
        if self._broken is not None:
            raise self._broken
        correlation_id = next(self._ids)
        self._asks[correlation_id] = ask
        ask.begin()
        try:
            message = fleet_pb2.ConnectRequest(
                ask=ask.task, correlation_id=correlation_id, stream_text=ask.streamed
            )
            ask.uplink_bytes += await self._outgoing.send(message)
            return await ask.follow(on_text)
        finally:
            del self._asks[correlation_id]
            if not ask.answered and self._broken is None:
                cancel = fleet_pb2.CancelTask(task_id=ask.task.task_id)
                self._outgoing.control(
                    fleet_pb2.ConnectRequest(cancel=cancel, correlation_id=correlation_id)
                )

    def _end(self, error: StreamBrokenError) -> None:
        self._broken = error
        self._outgoing.close(error)
        for ask in self._asks.values():
            ask.end(error)
        for assigned in self._assigned.values():
            assigned.cancel()

    async def _requests(self) -> AsyncIterator[fleet_pb2.ConnectRequest]:
        try:
            while True:
                yield await self._outgoing.take()
        except AirloomError:
            return  # Whatever closed the queue ends the stream.

    async def _welcomed(self, responses: AsyncIterator[fleet_pb2.ConnectResponse]) -> float:
        """Wait for the welcome; return the interval at which heartbeats are due."""
        timeout_s = self._settings.connect_timeout_s
        try:
            first = await within(anext(responses, None), timeout_s)
        except asyncio.TimeoutError:
            raise UnreachableError(f"no welcome within {timeout_s:g} s") from None
        if first is None or not first.HasField("welcome"):
            raise UnreachableError("the cloud did not welcome this device")
        interval_s = first.welcome.heartbeat_interval_ms / 1e3
        if not 0.01 <= interval_s <= 3600:
            raise UnreachableError(
                f"the cloud wants a heartbeat every {interval_s:g} s: it should be 0.01 to 3600 s"
            )
        self._last_heard_s = time.monotonic()
        self._on_welcome(self)
        return interval_s

    async def _read(self, responses: AsyncIterator[fleet_pb2.ConnectResponse]) -> None:
        async for response in responses:
            self._last_heard_s = time.monotonic()
            if (ask := self._asks.get(response.correlation_id)) is not None:
                ask.downlink_bytes += response.ByteSize() + GRPC_FRAME_BYTES
            try:
                whole = self._parts.feed(response)
            except MessageTooLargeError as error:
                self._refuse_too_large(error)
                continue
            if whole is not None:
                self._receive(whole)

    def _refuse_too_large(self, error: MessageTooLargeError) -> None:
        if (ask := self._asks.get(error.correlation_id)) is not None:
            ask.end(error)
        else:
            self._post_failure(error.correlation_id, "", error)

    async def _flooded(self) -> None:
        # Waiting for it as a task would cancel it with this.
        await asyncio.wait({self._outgoing.closing})
        raise self._outgoing.closing.result()

    async def _beat(self, interval_s: float) -> None:
        """Send heartbeats; raise UnreachableError when nothing has been heard for too long."""
        # The first echo cannot be here before a round trip has passed, however long that is.
        limit_s = max(MISSED_HEARTBEATS * interval_s, self._settings.connect_timeout_s)
        for sequence in itertools.count(1):
            if self.rtt_ms is not None:
                limit_s = MISSED_HEARTBEATS * interval_s
            now_s = time.monotonic()
            if (silent_s := now_s - self._last_heard_s) > limit_s:
                raise UnreachableError(f"nothing heard for {silent_s:.1f} s")
            self._heartbeats_sent_s[sequence] = now_s
            self._heartbeats_sent_s.pop(sequence - _HEARTBEATS_IN_THE_AIR, None)
            heartbeat = fleet_pb2.Heartbeat(sequence=sequence, rtt_ms=self.rtt_ms)
            self._outgoing.heartbeat(fleet_pb2.ConnectRequest(heartbeat=heartbeat))
            await asyncio.sleep(interval_s)
            if (late_s := time.monotonic() - now_s - interval_s) > interval_s:
                # This process did not run: what the cloud said meanwhile has not been read yet.
                self._last_heard_s += late_s

    def _receive(self, response: fleet_pb2.ConnectResponse) -> None:
        kind, correlation_id = response.WhichOneof("message"), response.correlation_id
        if kind == "heartbeat":
            sent_s = self._heartbeats_sent_s.pop(response.heartbeat.sequence, None)
            if sent_s is not None:
                self.rtt_ms = (self._last_heard_s - sent_s) * 1e3
        elif kind == "text" and correlation_id in self._asks:
            self._asks[correlation_id].text(response.text.text)
        elif kind == "result" and correlation_id in self._asks:
            ask = self._asks[correlation_id]
            ask.downlink_ms = max(0.0, (time.time_ns() - response.sent_unix_ns) / 1e6)
            ask.end(response.result)
        elif kind == "assignment":
            self._begin(correlation_id, response.assignment)
        elif kind == "cancel":
            self._parts.drop(correlation_id)
            if (assigned := self._assigned.get(correlation_id)) is not None:
                assigned.cancel()

    def _begin(self, correlation_id: int, task: task_pb2.Task) -> None:
        if correlation_id in self._assigned or not correlation_id:
            raise StreamViolationError(
                f"an assignment has the correlation id {correlation_id}, which should be new"
            )
        if len(self._assigned) >= self._settings.assignments_in_flight:
            full = OverloadedError(f"this device has {len(self._assigned)} assignments already")
            self._post_failure(correlation_id, task.task_id, full)
            return
        serving = asyncio.create_task(self._serve(correlation_id, task))
        self._assigned[correlation_id] = serving
        serving.add_done_callback(lambda _: self._assigned.pop(correlation_id))

    async def _serve(self, correlation_id: int, task: task_pb2.Task) -> None:
        try:
            result = await self._handle(task)
            result.task_id = task.task_id
        except Exception as error:
            result = failure(task.task_id, explained(error))
        try:
            await self._send_result(correlation_id, result)
        except StreamBrokenError:
            return  # Whoever waits is told so in the cloud.
        except AirloomError as error:
            await self._send_result(correlation_id, failure(task.task_id, error))

    async def _send_result(self, correlation_id: int, result: task_pb2.TaskResult) -> None:
        await self._outgoing.send(
            fleet_pb2.ConnectRequest(result=result, correlation_id=correlation_id)
        )

    def _post_failure(self, correlation_id: int, task_id: str, error: AirloomError) -> None:
        self._outgoing.post(
            fleet_pb2.ConnectRequest(result=failure(task_id, error), correlation_id=correlation_id)
        )
