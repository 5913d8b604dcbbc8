"""What the board measures of itself, published over ZeroMQ apart from the data plane."""

from __future__ import annotations

import asyncio
import time

import psutil
import zmq
import zmq.asyncio
import zmq.auth

from device_agent.config import CurveSettings, TelemetrySettings
from protos.airloom.v1 import telemetry_pb2
from protos.errors import ConfigurationError


class Sampler:
    """Takes samples with psutil; what a board cannot measure stays unset, never zero."""

    def __init__(self, device_id: str) -> None:
        self._device_id = device_id
        self._process = psutil.Process()
        self._sequence = 0
        # The first call of each only sets the starting point.
        psutil.cpu_percent()
        self._process.cpu_percent()

    def sample(self) -> telemetry_pb2.TelemetrySample:
        """Take one sample."""
        memory = psutil.virtual_memory()
        self._sequence += 1
        return telemetry_pb2.TelemetrySample(
            device_id=self._device_id,
            sampled_unix_ns=time.time_ns(),
            sequence=self._sequence,
            cpu_percent=psutil.cpu_percent(),
            agent_cpu_percent=self._process.cpu_percent(),
            memory_used_bytes=memory.used,
            memory_total_bytes=memory.total,
            agent_memory_bytes=self._process.memory_info().rss,
            temperatures=[
                telemetry_pb2.Temperature(sensor=reading.label or chip, celsius=reading.current)
                for chip, readings in psutil.sensors_temperatures().items()
                for reading in readings
            ],
            interfaces=[
                telemetry_pb2.InterfaceCounters(
                    name=name,
                    sent_bytes=c.bytes_sent,
                    received_bytes=c.bytes_recv,
                    sent_packets=c.packets_sent,
                    received_packets=c.packets_recv,
                    dropped_packets=c.dropin + c.dropout,
                )
                for name, c in psutil.net_io_counters(pernic=True).items()
                if name != "lo"
            ],
        )


def _encrypt(socket: zmq.asyncio.Socket, settings: CurveSettings) -> None:
    try:
        socket.curve_serverkey, _ = zmq.auth.load_certificate(settings.server_key)
        socket.curve_publickey, secret = zmq.auth.load_certificate(settings.certificate)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"telemetry.curve: {error}") from error
    if secret is None:
        raise ConfigurationError("holds no secret key", source=settings.certificate)
    socket.curve_secretkey = secret


async def publish(device_id: str, settings: TelemetrySettings) -> None:
    """Publish samples as [device id, serialised TelemetrySample] until cancelled."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.PUB)
    # A reader that is away must not hold up the board: old samples are dropped.
    socket.setsockopt(zmq.SNDHWM, 100)
    socket.setsockopt(zmq.LINGER, 200)
    try:
        if settings.curve is not None:
            _encrypt(socket, settings.curve)
        socket.connect(settings.endpoint)
        sampler = Sampler(device_id)
        while True:
            await asyncio.sleep(settings.interval_s)
            sample = sampler.sample()
            await socket.send_multipart([device_id.encode(), sample.SerializeToString()])
    finally:
        socket.close()
        context.term()
