"""kill -9 of whoever shapes an interface, at random moments, under load and beside control traffic."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from netctl.backends import execute
from netctl.linux import network_namespace
from testbed.sandbox import run_in_sandbox

_INTERFACE, _FAR = "wlan9", "10.3.0.2"
_CONTROL_PORT, _LOAD_PORT = 22, 9999
_LEASE_S = 2.0
_PATIENCE_S = 60.0


class Control:
    """A connection that must never be cut or slowed: says a word each 20 ms and waits for its echo."""

    def __init__(self) -> None:
        self.worst_ms = 0.0
        self.echoes = 0
        self.error: str | None = None
        self._stopping = threading.Event()
        with network_namespace("far"):
            self._server = socket.create_server((_FAR, _CONTROL_PORT))
        threading.Thread(target=self._echo, daemon=True).start()
        self._client = socket.create_connection((_FAR, _CONTROL_PORT), timeout=_PATIENCE_S)
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def _echo(self) -> None:
        accepted, _ = self._server.accept()
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while word := accepted.recv(64):
            accepted.sendall(word)

    def _talk(self) -> None:
        try:
            while not self._stopping.wait(0.02):
                started_s = time.monotonic()
                self._client.sendall(b"alive")
                self._client.recv(64)
                self.worst_ms = max(self.worst_ms, (time.monotonic() - started_s) * 1e3)
                self.echoes += 1
        except OSError as error:
            self.error = str(error)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._client.close()
        self._server.close()


def _load(stopping: threading.Event) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
        source.setblocking(False)
        while not stopping.wait(0.002):
            for _ in range(4):
                try:
                    source.sendto(bytes(1000), (_FAR, _LOAD_PORT))
                except BlockingIOError:
                    break


def _rules() -> list[str]:
    """What somebody else set, as tc shows it."""
    return [
        execute.run(("tc", "qdisc", "show", "dev", "other9")),
        execute.run(("tc", "filter", "show", "dev", _INTERFACE, "ingress")),
    ]


def _root() -> str:
    return execute.run(("tc", "qdisc", "show", "dev", _INTERFACE, "root"))


def kill(rounds: int) -> dict[str, object]:
    """Shape, kill, and wait for the restoration, so many times."""
    for command in (
        "ip netns add far",
        f"ip link add {_INTERFACE} type veth peer name peer9 netns far",
        f"ip address add 10.3.0.1/24 dev {_INTERFACE}",
        f"ip link set {_INTERFACE} up",
        f"ip -n far address add {_FAR}/24 dev peer9",
        "ip -n far link set peer9 up",
        "ip link add other9 type veth peer name other8",
        "tc qdisc add dev other9 root handle 7: netem delay 1ms",
        f"tc qdisc add dev {_INTERFACE} ingress",
        f"tc filter add dev {_INTERFACE} ingress protocol ip prio 9 u32 match ip dport 7 0xffff "
        "action drop",
    ):
        execute.run(tuple(command.split()))
    foreign, free = _rules(), _root()
    control, stopping = Control(), threading.Event()
    load = threading.Thread(target=_load, args=(stopping,))
    load.start()
    moment = random.Random(1)
    restored_s, shaped, touched = [], 0, 0
    for _ in range(rounds):
        process = subprocess.Popen(
            [
                sys.executable, "-m", "netctl.cli", "shape", _INTERFACE, "--delay", "300 ms",
                "--rate", "5 Mbit/s", "--lease", f"{_LEASE_S} s",
            ],
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        # From its very beginning to well after it has shaped.
        if moment.random() < 0.7:
            shaped += b"is shaped" in process.stderr.readline()
        time.sleep(moment.uniform(0, 0.6))
        process.kill()
        process.wait()
        killed_s = time.monotonic()
        while _root() != free:
            if time.monotonic() - killed_s > _PATIENCE_S:
                raise SystemExit(f"not restored after {_PATIENCE_S:g} s: {_root()}")
            time.sleep(0.01)
        restored_s.append(time.monotonic() - killed_s)
        touched += _rules() != foreign
    stopping.set()
    load.join()
    control.stop()
    return {
        "rounds": rounds,
        "killed_while_shaped": shaped,
        "restored_s_max": max(restored_s),
        "limit_s": _LEASE_S + 1,
        "foreign_rules_touched": touched,
        "control_echoes": control.echoes,
        "control_worst_ms": control.worst_ms,
        "control_error": control.error,
    }


def main() -> None:
    """In a sandbox: OUT ROUNDS."""
    out, rounds = sys.argv[1:]

    def body() -> int:
        execute.run(("ip", "link", "set", "lo", "up"))
        Path(out).write_text(json.dumps(kill(int(rounds))), encoding="utf-8")
        return 0

    raise SystemExit(run_in_sandbox(body))


if __name__ == "__main__":
    main()
