"""A saturating UDP sender and what arrives of it, in windows of 100 ms."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from netctl.linux import network_namespace

_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_PAYLOAD = 1472
IP_BYTES = _PAYLOAD + 28


@dataclass(frozen=True, slots=True)
class Received:
    """Arrival times on time.monotonic()'s clock; every packet is 1500 bytes of IP."""

    at_s: list[float]

    def windows(self, begin_s: float, duration_s: float, window_s: float = 0.1) -> list[int]:
        """Bytes of IP in each window."""
        counts = [0] * round(duration_s / window_s)
        for at in self.at_s:
            index = int((at - begin_s) / window_s)
            if at >= begin_s and index < len(counts):
                counts[index] += IP_BYTES
        return counts


@contextlib.contextmanager
def saturated(
    sender: tuple[str, str], receiver: tuple[str, str], rate_bps: float | None = None
) -> Iterator[Received]:
    """Fill the way from sender to receiver (namespace, address) until the block ends.

    The sender waits where its socket's buffer is full (a qdisc holds what it sent); `rate_bps` is for
    links that push nothing back.
    """
    with network_namespace(receiver[0]):
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
    sink.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sink.bind((receiver[1], 0))
    sink.settimeout(0.2)
    with network_namespace(sender[0]):
        source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    source.bind((sender[1], 0))
    source.connect(sink.getsockname())
    source.settimeout(0.5)
    stopping = threading.Event()
    received = Received([])
    offset_s = time.time() - time.monotonic()

    def receive() -> None:
        while not stopping.is_set():
            try:
                _, ancillary, _, _ = sink.recvmsg(64, 64)
            except TimeoutError:
                continue
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            received.at_s.append(seconds + nanoseconds / 1e9 - offset_s)

    def send() -> None:
        packet = bytes(_PAYLOAD)
        next_s = time.monotonic()
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                source.send(packet)
            if rate_bps is not None:
                next_s += IP_BYTES * 8 / rate_bps
                if (left_s := next_s - time.monotonic()) > 0.001:
                    time.sleep(left_s)

    threads = [threading.Thread(target=receive), threading.Thread(target=send)]
    for thread in threads:
        thread.start()
    try:
        yield received
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
        sink.close()
        source.close()
