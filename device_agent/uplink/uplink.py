"""The device's way to the cloud: it dials out, registers, asks, and answers what it is handed.

An ask waits for a stream as long as its deadline allows. One whose stream broke is asked again on
the next, under the same idempotency key: the cloud, which goes on with it for a while, joins it to
the running work or returns the kept result. It is given up when its deadline passes; without a
deadline when there is no stream for `wait_s`; when `_STREAMS_PER_ASK` streams broke under it; and at
once when the cloud refuses this device.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
import time

import grpc
from opentelemetry.trace import SpanKind

from airloom.backoff import full_jitter
from airloom.concurrency import by_deadline, within
from airloom.errors import (
    AirloomError,
    ConfigurationError,
    DeadlineExceededError,
    OverloadedError,
    UnreachableError,
    explained,
)
from airloom.identity import Role
from airloom.log_text import one_line
from airloom.security import why_refused
from airloom.stream import PROTOCOL
from airloom.tracing import send_along, task_span
from device_agent.config import CloudSettings
from device_agent.engine import OnText
from device_agent.uplink.ask import CloudAsk
from device_agent.uplink.stream import CloudStream, Handler, StreamBrokenError
from protos.airloom.v1 import fleet_pb2, inference_pb2, task_pb2

log = logging.getLogger(__name__)

_STREAMS_PER_ASK = 10
_REFUSALS = frozenset(
    {
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ABORTED,
    }
)
"""Of a stream: dialling again soon does not help."""


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
        self._stream: CloudStream | None = None
        self._refusal: str | None = None
        self._settled = asyncio.Event()
        """There is a stream, or a refusal."""
        self._places = asyncio.Semaphore(settings.asks_in_flight)
        self._asking = 0
        self._key_prefix, self._keys = secrets.token_hex(8), itertools.count(1)
        self.last_error = "not connected yet"

    @property
    def connected(self) -> bool:
        """Whether the cloud has welcomed this device on the present stream."""
        return self._stream is not None

    @property
    def rtt_ms(self) -> float | None:
        """The round trip of the present stream's last echoed heartbeat."""
        return None if self._stream is None else self._stream.rtt_ms

    async def ask(
        self,
        task: task_pb2.Task,
        deadline_s: float | None,
        on_text: OnText | None = None,
    ) -> task_pb2.TaskResult:
        """Send a task up and wait for its result, with the link's share of the time filled in.

        With `on_text` the text is told as it comes, before the result. Should the cloud begin
        another text after a stream broke, no more is told: the result's text then does not begin
        with what was. Cancelling the coroutine cancels the task in the cloud.

        Raises:
            UnreachableError: there is no stream within the time, or too many broke.
            DeadlineExceededError: the deadline passed first.
            OverloadedError: too many asks wait already.
            InvalidTaskError: the task is too large to be sent.
        """
        waiting = self._settings.asks_waiting
        if self._asking >= self._settings.asks_in_flight + waiting:
            raise OverloadedError(f"{waiting} asks wait for the cloud already")
        self._asking += 1
        try:
            with task_span("uplink", task, SpanKind.CLIENT):
                return await by_deadline(self._ask(task, deadline_s, on_text), deadline_s)
        except asyncio.TimeoutError:
            why = (
                "before the cloud answered"
                if self.connected
                else f"before the cloud could be reached: {self.last_error}"
            )
            raise DeadlineExceededError(f"the deadline passed {why}") from None
        finally:
            self._asking -= 1

    async def _ask(
        self, task: task_pb2.Task, deadline_s: float | None, on_text: OnText | None
    ) -> task_pb2.TaskResult:
        started_s = time.monotonic()
        sent = task_pb2.Task()
        sent.CopyFrom(task)
        send_along(sent)
        sent.idempotency_key = f"{self._key_prefix}-{next(self._keys)}"
        limit = self._settings.stream.text_bytes
        ask = CloudAsk(sent, streamed=on_text is not None, text_limit_bytes=limit)
        async with self._places:
            result = await self._over_streams(ask, deadline_s, on_text)
        result.task_id = task.task_id
        self._fill_in(result.timing, ask, (time.monotonic() - started_s) * 1e3)
        return result

    async def _over_streams(
        self, ask: CloudAsk, deadline_s: float | None, on_text: OnText | None
    ) -> task_pb2.TaskResult:
        broken: StreamBrokenError | None = None
        for _ in range(_STREAMS_PER_ASK):
            stream = await self._next_stream(has_deadline=deadline_s is not None)
            if deadline_s is not None:
                ask.task.budget.deadline_ms = max(0.0, deadline_s - time.monotonic()) * 1e3
            try:
                return await stream.ask(ask, on_text)
            except StreamBrokenError as error:
                broken = error
        raise UnreachableError(f"{_STREAMS_PER_ASK} streams broke under this ask: {broken}")

    async def _next_stream(self, *, has_deadline: bool) -> CloudStream:
        """Wait for a stream: for `wait_s`, or as long as the deadline lets this run."""
        wait_s = None if has_deadline else self._settings.wait_s
        try:
            while self._stream is None and self._refusal is None:
                await within(self._settled.wait(), wait_s)
        except asyncio.TimeoutError:
            pass
        if self._stream is None:
            raise UnreachableError(f"the cloud cannot be reached: {self.last_error}")
        return self._stream

    def _fill_in(self, timing: task_pb2.Timing, ask: CloudAsk, total_ms: float) -> None:
        if self._settings.synchronised_clock:
            timing.downlink_ms = ask.downlink_ms
        else:
            one_way_ms = max(0.0, total_ms - timing.total_ms) / 2
            timing.uplink_ms = timing.downlink_ms = one_way_ms
            timing.one_way_estimated = True
        timing.total_ms = total_ms
        timing.uplink_bytes, timing.downlink_bytes = ask.uplink_bytes, ask.downlink_bytes

    async def run(self) -> None:
        """Connect, serve, and connect again with back-off, until cancelled.

        Raises:
            ConfigurationError: at the start: the certificates cannot be read.
        """
        self._settings.security.channel_credentials()
        s, rng = self._settings, random.Random()
        waits = full_jitter(s.backoff_initial_s, s.backoff_max_s, rng)
        while True:
            refusal = None
            try:
                await CloudStream(s, self._registration, self._handle, self._welcome).run()
                reason = "the cloud closed the stream"
            except grpc.aio.AioRpcError as error:
                said = why_refused(error.details() or error.code().name, Role.CLOUD)
                reason = one_line(said, 500)
                refusal = reason if error.code() in _REFUSALS else None
            except Exception as error:
                reason = _told(error)
            finally:
                was_connected = self._stream is not None
                self._stream = None
                self._settled.clear()
            self.last_error = f"{s.address}: {reason}"
            self._refusal = refusal
            if refusal is not None:
                self._settled.set()
            elif was_connected:
                waits = full_jitter(s.backoff_initial_s, s.backoff_max_s, rng)
            wait_s = next(waits)
            what = "lost" if was_connected else "not reached"
            log.warning("cloud %s (%s); trying again in %.2f s", what, self.last_error, wait_s)
            await asyncio.sleep(wait_s)

    def _welcome(self, stream: CloudStream) -> None:
        self._stream, self._refusal = stream, None
        self._settled.set()
        log.info("connected to %s", self._settings.address)


def _told(error: Exception) -> str:
    if isinstance(error, AirloomError) and not isinstance(error, ConfigurationError):
        return one_line(error, 500)
    return str(explained(error))
