"""One registered device's stream, while it lasts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from airloom.errors import InvalidTaskError
from airloom.grpc_status import write
from airloom.stream import Reassembly
from airloom.stream.reassembly import MessageTooLargeError
from cloud_agent.fleet.asks import DeviceAsks
from cloud_agent.fleet.registry import ConnectedDevice
from protos.airloom.v1 import fleet_pb2


class DeviceStream:
    """Reads and writes a stream side by side: neither waits for the other."""

    def __init__(
        self,
        device: ConnectedDevice,
        asks: DeviceAsks,
        requests: AsyncIterator[fleet_pb2.ConnectRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        self._device, self._asks = device, asks
        self._requests, self._context = requests, context
        self._parts = Reassembly(fleet_pb2.ConnectRequest, device.limits.stream)

    async def serve(self) -> None:
        """Serve until the device leaves.

        Raises:
            AirloomError: why the cloud ends the stream: silence, a newer one, a broken rule.
        """
        # By itself: a status cannot be sent beside a first message that carries it and is stuck.
        await self._context.send_initial_metadata(())
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write())
        closed = self._device.outgoing.closing
        try:
            # Writing may wait for a peer that reads nothing: it must not hold up the end.
            ends: set[asyncio.Future[Any]] = {reading, writing, closed}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                raise closed.result()
            (reading if reading.done() else writing).result()
        finally:
            self._asks.leave()
            reading.cancel()
            writing.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            await write(self._context, await self._device.outgoing.take())

    async def _read(self) -> None:
        async for request in self._requests:
            received_ns = time.time_ns()
            self._device.last_heard_s = time.monotonic()
            try:
                whole = self._parts.feed(request)
            except MessageTooLargeError as error:
                if error.correlation_id % 2:
                    self._asks.refuse(error.correlation_id, "", error)
                else:
                    self._device.settle(error.correlation_id, error)
                continue
            if whole is not None:
                self._receive(whole, received_ns)

    def _receive(self, request: fleet_pb2.ConnectRequest, received_ns: int) -> None:
        kind, correlation_id = request.WhichOneof("message"), request.correlation_id
        if kind == "heartbeat":
            self._device.heartbeats += 1
            if request.heartbeat.HasField("rtt_ms"):
                self._device.rtt_ms = request.heartbeat.rtt_ms
            self._device.outgoing.heartbeat(fleet_pb2.ConnectResponse(heartbeat=request.heartbeat))
        elif kind == "ask":
            uplink_ms = max(0.0, (received_ns - request.sent_unix_ns) / 1e6)
            self._asks.begin(
                correlation_id, request.ask, uplink_ms, stream_text=request.stream_text
            )
        elif kind == "cancel":
            self._parts.drop(correlation_id)
            self._asks.cancel(correlation_id)
        elif kind == "result":
            self._device.settle(correlation_id, request.result)
        else:
            raise InvalidTaskError(f"a device on a stream may not send {kind or 'nothing'}")
