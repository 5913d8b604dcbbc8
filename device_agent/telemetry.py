"""What the board measures of itself, published over ZeroMQ apart from the data plane."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict

import psutil
import zmq
import zmq.asyncio
import zmq.auth

from airloom.errors import ConfigurationError
from device_agent.config import CurveSettings, TelemetrySettings
from device_agent.sensors import BoardSensors
from protos.airloom.v1 import telemetry_pb2


class Sampler:
    """Takes samples by psutil and the board's own sensors; what cannot be measured stays unset."""

    def __init__(self, device_id: str) -> None:
        self._device_id = device_id
        self._process = psutil.Process()
        self._board = BoardSensors()
        self._sequence = 0
        # The first call of each only sets the starting point.
        psutil.cpu_percent()
        self._process.cpu_percent()

    def sample(self) -> telemetry_pb2.TelemetrySample:
        """Take one sample."""
        memory = psutil.virtual_memory()
        board = self._board.read()
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
                telemetry_pb2.Temperature(sensor=one.sensor, celsius=one.celsius)
                for one in board.temperatures
            ],
            rails=[
                telemetry_pb2.PowerRail(name=rail.name, volts=rail.volts, amperes=rail.amperes)
                for rail in board.rails
            ],
            power_watts=board.power_watts,
            throttling=(
                None
                if board.throttling is None
                else telemetry_pb2.Throttling(**asdict(board.throttling))
            ),
            gpu_percent=board.gpu_percent,
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
            sample = await asyncio.to_thread(sampler.sample)
            await socket.send_multipart([device_id.encode(), sample.SerializeToString()])
    finally:
        socket.close()
        context.term()
