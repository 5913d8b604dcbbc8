"""What the userspace link carries: TCP with everything on, and delay at 20,000 packets a second."""

from __future__ import annotations

import json
import socket
import statistics
import struct
import sys
import time
from pathlib import Path

import psutil

from benchmarks import tcp
from benchmarks.netctl.bench_link import CLOUD, DEVICE, bench_link, make_namespaces
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.linux import minimise_timer_slack, network_namespace
from testbed.sandbox import run_in_sandbox

_FULL = DirectionConditions(
    rate_bps=900_000_000, delay_ms=1, jitter_ms=0.2, loss=0.00001, queue_bytes=1 << 20
)
_TIMED = DirectionConditions(rate_bps=900_000_000, delay_ms=10, queue_bytes=1 << 22)
_TURNS, _TURN_S = 9, 2.0
"""Of which the median counts: one in which this machine was taken away must not decide."""
_PACKETS_PER_S = 20_000
_STAMP = struct.Struct("!q")
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33


def _processor_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def goodput(backend: str) -> dict[str, float]:
    """TCP goodput from board to cloud, the median of several turns, and the link's share of a processor."""
    with bench_link(backend, LinkConditions(_FULL, _FULL)) as link:
        assert link.process is not None
        started_s, processor_s = time.monotonic(), _processor_s(link.process.pid)
        turns_bps = [tcp.goodput_bps(DEVICE, CLOUD, _TURN_S) for _ in range(_TURNS)]
        used = _processor_s(link.process.pid) - processor_s
        lasted_s = time.monotonic() - started_s
    return {"bps": statistics.median(turns_bps), "processor": used / lasted_s}


def delay_error(backend: str) -> dict[str, float]:
    """How far packets' one-way delays are from what was asked, in ms; small packets, evenly spaced.

    The 99th percentile is that of each turn, and of these the median.
    """
    with bench_link(backend, LinkConditions(_TIMED, _TIMED)) as link:
        assert link.process is not None
        with network_namespace(CLOUD[0]):
            sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 27)
        sink.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sink.bind((CLOUD[1], 0))
        sink.settimeout(0.5)
        with network_namespace(DEVICE[0]):
            source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        source.connect(sink.getsockname())
        minimise_timer_slack()
        with sink, source:
            processor_s = _processor_s(link.process.pid)
            turns_ms = [_stream(source, sink) for _ in range(_TURNS)]
            used = _processor_s(link.process.pid) - processor_s
    p99_ms = [turn[int(0.99 * len(turn))] for turn in turns_ms]
    return {
        "arrived": sum(map(len, turns_ms)) / (_TURNS * _TURN_S * _PACKETS_PER_S),
        "p50": statistics.median(error for turn in turns_ms for error in turn),
        "p99": statistics.median(p99_ms),
        "p99_worst": max(p99_ms),
        "processor": used / (_TURNS * _TURN_S),
    }


def _stream(source: socket.socket, sink: socket.socket) -> list[float]:
    """The errors of one turn's packets, in order of size."""
    count = int(_PACKETS_PER_S * _TURN_S)
    start_s = time.monotonic()
    for number in range(count):
        due_s = start_s + number / _PACKETS_PER_S
        while (left_s := due_s - time.monotonic()) > 0:
            if left_s > 0.0002:
                time.sleep(left_s - 0.0001)
        source.send(_STAMP.pack(time.time_ns()))
    errors_ms: list[float] = []
    while len(errors_ms) < count:
        try:
            data, ancillary, _, _ = sink.recvmsg(64, 64)
        except TimeoutError:
            break
        seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
        received_ns = seconds * 1_000_000_000 + nanoseconds
        delay_ms = (received_ns - _STAMP.unpack(data)[0]) / 1e6
        errors_ms.append(delay_ms - _TIMED.delay_ms - _TIMED.transmission_ms(36))
    return sorted(errors_ms)


def main() -> None:
    """In a sandbox: BACKEND OUT."""
    backend, out = sys.argv[1:]

    def body() -> int:
        make_namespaces()
        found = {"goodput": goodput(backend), "delay": delay_error(backend)}
        Path(out).write_text(json.dumps(found), encoding="utf-8")
        return 0

    raise SystemExit(run_in_sandbox(body))


if __name__ == "__main__":
    main()
