"""Which devices are here, and the work each has been handed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from airloom.errors import DeadlineExceededError, InvalidTaskError, UnreachableError
from protos.airloom.v1 import fleet_pb2, inference_pb2, task_pb2


@dataclass
class ConnectedDevice:
    """One registered device and its stream."""

    device_id: str
    model: inference_pb2.ModelInfo
    peer_address: str
    outgoing: asyncio.Queue[fleet_pb2.ConnectResponse] = field(default_factory=asyncio.Queue)
    assigned: dict[str, asyncio.Future[task_pb2.TaskResult]] = field(default_factory=dict)
    rtt_ms: float | None = None
    last_heard_s: float = field(default_factory=time.monotonic)

    def send(self, message: fleet_pb2.ConnectResponse) -> None:
        """Queue a message for the device."""
        message.sent_unix_ns = time.time_ns()
        self.outgoing.put_nowait(message)

    async def assign(self, task: task_pb2.Task, deadline_s: float | None) -> task_pb2.TaskResult:
        """Hand a task to the device and wait for its result.

        Raises:
            UnreachableError: the device left before it answered.
            DeadlineExceededError: the deadline passed first.
            InvalidTaskError: the device has a task of that name already.
        """
        if task.task_id in self.assigned:
            raise InvalidTaskError(f"{self.device_id} already has a task {task.task_id!r}")
        future: asyncio.Future[task_pb2.TaskResult] = asyncio.get_running_loop().create_future()
        self.assigned[task.task_id] = future
        self.send(fleet_pb2.ConnectResponse(assignment=task))
        timeout_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        try:
            return await asyncio.wait_for(future, timeout_s)
        except (asyncio.TimeoutError, asyncio.CancelledError) as error:
            cancel = fleet_pb2.CancelTask(task_id=task.task_id)
            self.send(fleet_pb2.ConnectResponse(cancel=cancel))
            if isinstance(error, asyncio.CancelledError):
                raise
            raise DeadlineExceededError(
                f"the deadline passed before {self.device_id} answered"
            ) from None
        finally:
            del self.assigned[task.task_id]

    def lost(self) -> None:
        """Fail what the device still owed."""
        for future in self.assigned.values():
            if not future.done():
                future.set_exception(UnreachableError(f"{self.device_id} was lost"))


class Registry:
    """The connected devices by id."""

    def __init__(self) -> None:
        self._devices: dict[str, ConnectedDevice] = {}

    def __iter__(self) -> Iterator[ConnectedDevice]:
        return iter(sorted(self._devices.values(), key=lambda device: device.device_id))

    def add(self, device: ConnectedDevice) -> None:
        """Register a device; an older stream of the same id is given up (the board came back)."""
        if (old := self._devices.get(device.device_id)) is not None:
            old.lost()
        self._devices[device.device_id] = device

    def remove(self, device: ConnectedDevice) -> None:
        """Forget a device, unless a newer stream has taken its place."""
        device.lost()
        if self._devices.get(device.device_id) is device:
            del self._devices[device.device_id]

    def get(self, device_id: str) -> ConnectedDevice:
        """Return a connected device; UnreachableError names those that are."""
        try:
            return self._devices[device_id]
        except KeyError:
            present = ", ".join(sorted(self._devices)) or "none"
            raise UnreachableError(
                f"device {device_id!r} is not connected; connected now: {present}"
            ) from None
