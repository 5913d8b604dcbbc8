"""Which devices are here, and the work each has been handed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from airloom.concurrency import within
from airloom.errors import (
    AirloomError,
    DeadlineExceededError,
    ReplacedError,
    UnreachableError,
)
from airloom.stream import SendQueue, StreamLimits
from airloom.stream.in_flight import InFlight
from cloud_agent.fleet.results import require_sound
from protos.airloom.v1 import fleet_pb2, inference_pb2, task_pb2


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """What one device's stream may hold."""

    stream: StreamLimits
    assignments: int
    bytes_in_flight: int


@dataclass(eq=False)
class ConnectedDevice:
    """One registered device and its stream."""

    device_id: str
    model: inference_pb2.ModelInfo
    peer_address: str
    limits: DeviceLimits
    rtt_ms: float | None = None
    """By this stream's heartbeats, as the device measured it."""
    heartbeats: int = 0
    last_heard_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.outgoing = SendQueue(fleet_pb2.ConnectResponse, self.limits.stream)
        self._in_flight = InFlight(
            self.limits.assignments,
            self.limits.bytes_in_flight,
            f"{self.device_id} has been handed",
        )
        # Even here, odd on the device: a result and an ask of one number are never mixed up.
        self._ids = itertools.count(2, 2)
        self._assigned: dict[int, asyncio.Future[task_pb2.TaskResult]] = {}

    @property
    def tasks_in_flight(self) -> int:
        """How many tasks it has been handed and not answered."""
        return len(self._assigned)

    async def assign(self, task: task_pb2.Task, deadline_s: float | None) -> task_pb2.TaskResult:
        """Hand a task to the device and wait for its result; cancelling cancels it there.

        Raises:
            UnreachableError: the device left before it answered, or sent what is no result; the task
                may be handed out again.
            OverloadedError: the device has too much to do already.
            InvalidTaskError: the task is too large to be sent.
            DeadlineExceededError: the deadline passed first.
        """
        sent = task_pb2.Task()
        sent.CopyFrom(task)
        sent.ClearField("idempotency_key")
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        if left_s is not None:
            sent.budget.deadline_ms = left_s * 1e3
        with self._in_flight.admit(sent.ByteSize()):
            try:
                result = await within(self._exchange(sent), left_s)
            except asyncio.TimeoutError:
                raise DeadlineExceededError(
                    f"the deadline passed before {self.device_id} answered"
                ) from None
        require_sound(result, self.device_id)
        result.task_id = task.task_id
        if result.HasField("answer"):
            # Who answered is known here; the device's word for it is not needed.
            result.answer.provenance.agent_id = self.device_id
        return result

    async def _exchange(self, task: task_pb2.Task) -> task_pb2.TaskResult:
        correlation_id = next(self._ids)
        future: asyncio.Future[task_pb2.TaskResult] = asyncio.get_running_loop().create_future()
        self._assigned[correlation_id] = future
        try:
            message = fleet_pb2.ConnectResponse(assignment=task, correlation_id=correlation_id)
            await self.outgoing.send(message)
            return await future
        finally:
            del self._assigned[correlation_id]
            if not future.done() or future.cancelled():
                cancel = fleet_pb2.CancelTask(task_id=task.task_id)
                self.outgoing.control(
                    fleet_pb2.ConnectResponse(cancel=cancel, correlation_id=correlation_id)
                )

    def settle(self, correlation_id: int, outcome: task_pb2.TaskResult | AirloomError) -> None:
        """Take what came of an assignment; nothing happens where nobody waits for it."""
        future = self._assigned.get(correlation_id)
        if future is None or future.done():
            return
        if isinstance(outcome, AirloomError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def close(self, error: AirloomError) -> None:
        """End the stream, and fail what the device still owes."""
        self.outgoing.close(error)
        lost = UnreachableError(f"{self.device_id} was lost before it answered: {error}")
        for correlation_id in list(self._assigned):
            self.settle(correlation_id, lost)


class Registry:
    """The connected devices by id."""

    def __init__(self) -> None:
        self._devices: dict[str, ConnectedDevice] = {}

    def __iter__(self) -> Iterator[ConnectedDevice]:
        return iter(sorted(self._devices.values(), key=lambda device: device.device_id))

    def add(self, device: ConnectedDevice) -> None:
        """Register a device; an older stream of the same identity is closed (the board came back)."""
        if (old := self._devices.get(device.device_id)) is not None:
            old.close(
                ReplacedError(f"a newer stream of {device.device_id} has taken this one's place")
            )
        self._devices[device.device_id] = device

    def remove(self, device: ConnectedDevice) -> None:
        """Forget a device, unless a newer stream has taken its place."""
        device.close(UnreachableError("its stream ended"))
        if self._devices.get(device.device_id) is device:
            del self._devices[device.device_id]

    def get(self, device_id: str) -> ConnectedDevice | None:
        """Return a device where it is connected."""
        return self._devices.get(device_id)

    async def watch(self, limit_s: float, registration_limit_s: float) -> None:
        """Close the streams of devices that have been silent for too long, until cancelled.

        Before a device's first heartbeat the time-out for registrations holds: its round trip may be
        longer than a few heartbeats.
        """
        tick_s = limit_s / 8
        while True:
            slept_from_s = time.monotonic()
            await asyncio.sleep(tick_s)
            now_s = time.monotonic()
            if (late_s := now_s - slept_from_s - tick_s) > tick_s:
                # This process did not run: what was said meanwhile has not been read yet.
                for device in self._devices.values():
                    device.last_heard_s += late_s
                continue
            for device in list(self._devices.values()):
                silent_s = now_s - device.last_heard_s
                allowed_s = limit_s if device.heartbeats else max(limit_s, registration_limit_s)
                if silent_s > allowed_s:
                    device.close(UnreachableError(f"nothing heard for {silent_s:.1f} s"))
