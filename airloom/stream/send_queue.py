"""What waits to be sent on a stream: control messages first, then payloads in turn, by parts."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Generic, TypeVar

from airloom.errors import AirloomError, InvalidTaskError, OverloadedError
from airloom.stream.limits import GRPC_FRAME_BYTES, StreamLimits
from protos.airloom.v1 import fleet_pb2

M = TypeVar("M", fleet_pb2.ConnectRequest, fleet_pb2.ConnectResponse)


class _Payload(Generic[M]):
    """A message on its way; a large one is serialised and cut into parts as they are sent."""

    def __init__(self, message: M, size: int, taken: asyncio.Future[int] | None) -> None:
        self.message: M = message
        self.size = size
        self.taken = taken
        self.data: memoryview | None = None
        self.offset = 0
        self.wire_bytes = 0
        self.withdrawn = False


class SendQueue(Generic[M]):
    """Holds outgoing messages for one writer, which takes them as fast as the stream does.

    Control messages (welcome, heartbeat, cancellation) wait for no payload: a large one is cut into
    parts, and payloads take turns, a part each. A correlation id has one payload here at a time.
    """

    def __init__(self, kind: type[M], limits: StreamLimits) -> None:
        self._kind: type[M] = kind
        self._limits = limits
        self._heartbeat: M | None = None
        # Lists: mostly empty, and there is one of each for every device.
        self._control: list[M] = []
        self._payloads: deque[_Payload[M]] = deque()
        self._unfinished_bytes = 0
        self._room: list[tuple[int, asyncio.Future[None]]] = []
        self._ready = asyncio.Event()
        self.closing: asyncio.Future[AirloomError] = asyncio.get_running_loop().create_future()
        """Why nothing more is sent; whoever reads or writes the stream should end then."""

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._payloads) + len(self._control) + (self._heartbeat is not None)

    @property
    def closed(self) -> AirloomError | None:
        """Why nothing more is sent."""
        return self.closing.result() if self.closing.done() else None

    def close(self, error: AirloomError) -> None:
        """Send nothing more; whoever waits for something to be sent gets the error."""
        if self.closing.done():
            return
        self.closing.set_result(error)
        for payload in self._payloads:
            if payload.taken is not None and not payload.taken.done():
                payload.taken.set_exception(error)
        for _, room in self._room:
            if not room.done():
                room.set_exception(error)
        self._heartbeat = None
        self._control.clear()
        self._payloads.clear()
        self._room.clear()
        self._ready.set()

    def heartbeat(self, message: M) -> None:
        """Send a heartbeat next; it takes the place of one that still waits."""
        if not self.closing.done():
            self._heartbeat = self._stamped(message)
            self._ready.set()

    def control(self, message: M) -> None:
        """Send a small message before any payload; where too many wait, the stream is closed."""
        if self._has_place(len(self._control)):
            self._control.append(self._stamped(message))
            self._ready.set()

    def post(self, message: M) -> None:
        """Send a small message in its turn, without waiting; where too many wait, as `control`."""
        if self._has_place(len(self._payloads)):
            message = self._stamped(message)
            self._payloads.append(_Payload(message, message.ByteSize(), None))
            self._ready.set()

    async def send(self, message: M) -> int:
        """Send a message in its turn; return, once it is sent, its bytes on the stream.

        Cancelling withdraws what has not been sent; the other side forgets what it has of it.

        Raises:
            InvalidTaskError: it is larger than a message may be; nothing was sent.
            AirloomError: what the stream was closed with.
        """
        if self.closing.done():
            raise self.closing.result()
        message = self._stamped(message)
        size = message.ByteSize()
        if size > self._limits.message_bytes:
            raise InvalidTaskError(
                f"{size} bytes are too many to be sent: at most {self._limits.message_bytes} "
                "cross the stream between device and cloud as one message"
            )
        large = size > self._limits.chunk_bytes
        if large:
            await self._make_room(size)
        payload = _Payload(message, size, asyncio.get_running_loop().create_future())
        self._payloads.append(payload)
        self._ready.set()
        assert payload.taken is not None
        try:
            return await payload.taken
        finally:
            payload.withdrawn = True
            if large:
                self._release(size)

    async def take(self) -> M:
        """Wait for the next message to be written; raises what the stream was closed with."""
        while True:
            if self.closing.done():
                raise self.closing.result()
            if (message := self._next()) is not None:
                return message
            self._ready.clear()
            await self._ready.wait()

    def _next(self) -> M | None:
        if self._control:
            return self._control.pop(0)
        if (heartbeat := self._heartbeat) is not None:
            self._heartbeat = None
            return heartbeat
        while self._payloads:
            payload = self._payloads.popleft()
            if not payload.withdrawn:
                return self._part(payload)
            if payload.offset:
                return self._withdrawal(payload)
        return None

    def _withdrawal(self, payload: _Payload[M]) -> M:
        """Tell the other side to forget the parts that it has."""
        return self._kind(
            chunk=fleet_pb2.Chunk(withdrawn=True),
            correlation_id=payload.message.correlation_id,
        )

    def _part(self, payload: _Payload[M]) -> M:
        """Take the whole of a small message, or the next part of a large one."""
        if payload.size <= self._limits.chunk_bytes:
            part, last = payload.message, True
        else:
            if payload.data is None:
                payload.data = memoryview(payload.message.SerializeToString())
            end = payload.offset + self._limits.chunk_bytes
            last = end >= len(payload.data)
            part = self._kind(
                chunk=fleet_pb2.Chunk(data=bytes(payload.data[payload.offset : end]), last=last),
                correlation_id=payload.message.correlation_id,
            )
            payload.offset = end
        payload.wire_bytes += part.ByteSize() + GRPC_FRAME_BYTES
        if not last:
            self._payloads.append(payload)
        elif payload.taken is not None and not payload.taken.done():
            payload.taken.set_result(payload.wire_bytes)
        return part

    def _has_place(self, waiting: int) -> bool:
        if waiting >= self._limits.waiting_messages:
            self.close(
                OverloadedError(
                    f"{waiting} messages wait to be sent: the other side causes more than it reads"
                )
            )
        return not self.closing.done()

    @staticmethod
    def _stamped(message: M) -> M:
        message.sent_unix_ns = time.time_ns()
        return message

    async def _make_room(self, size: int) -> None:
        """Wait until so many bytes more may be under way, in turn with others that wait."""
        if not self._room and self._unfinished_bytes + size <= self._limits.unfinished_bytes:
            self._unfinished_bytes += size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, granted)
        self._room.append(entry)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self._release(size)
            elif entry in self._room:
                self._room.remove(entry)
                self._grant()
            raise

    def _release(self, size: int) -> None:
        self._unfinished_bytes -= size
        self._grant()

    def _grant(self) -> None:
        while self._room:
            size, granted = self._room[0]
            if self._unfinished_bytes + size > self._limits.unfinished_bytes:
                return
            self._room.pop(0)
            if not granted.done():
                self._unfinished_bytes += size
                granted.set_result(None)
