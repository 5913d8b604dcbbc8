"""TCP between two network namespaces of this machine."""

from __future__ import annotations

import socket
import threading
import time

from netctl.linux import network_namespace


def goodput_bps(sender: tuple[str, str], receiver: tuple[str, str], duration_s: float) -> float:
    """What one connection delivers from sender to receiver (namespace, address) until all has come."""
    with network_namespace(receiver[0]):
        server = socket.create_server((receiver[1], 5001))
    with network_namespace(sender[0]):
        client = socket.create_connection((receiver[1], 5001))
    accepted, _ = server.accept()
    received = 0

    def drain() -> None:
        nonlocal received
        while block := accepted.recv(1 << 20):
            received += len(block)

    thread = threading.Thread(target=drain)
    thread.start()
    block, started_s = bytes(1 << 18), time.monotonic()
    while time.monotonic() - started_s < duration_s:
        client.sendall(block)
    client.shutdown(socket.SHUT_WR)
    thread.join()
    value = received * 8 / (time.monotonic() - started_s)
    for end in (client, accepted, server):
        end.close()
    return value
