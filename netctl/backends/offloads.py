"""The network card tricks that would spoil a shaped link.

Segmentation offload passes 64 kB super-packets that share one loss draw; checksum offload leaves
checksums unfinished, which a packet socket would then carry as they are.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

from airloom.errors import LinkError
from netctl.linux import network_namespace

_SIOCETHTOOL = 0x8946
_COMMANDS = {
    "tx-checksum": (0x16, 0x17),
    "scatter-gather": (0x18, 0x19),
    "tso": (0x1E, 0x1F),
    "gso": (0x23, 0x24),
    "gro": (0x2B, 0x2C),
}
"""ETHTOOL_G… and ETHTOOL_S… of each, in the order in which the later ones need the earlier."""


def read_offloads(interface: str, namespace: str | None = None) -> dict[str, bool]:
    """Which of them are on; LinkError where the interface does not tell."""
    return {
        name: bool(_ask(interface, namespace, get, 0, f"{name} cannot be read"))
        for name, (get, _) in _COMMANDS.items()
    }


def switch_offloads(interface: str, wanted: dict[str, bool], namespace: str | None = None) -> None:
    """Switch those named on or off; LinkError where the interface refuses."""
    for name, (_, put) in _COMMANDS.items():
        if name in wanted:
            on = wanted[name]
            what = f"{name} cannot be switched {'on' if on else 'off'}"
            _ask(interface, namespace, put, int(on), what)


def switch_off(interface: str, namespace: str | None = None) -> None:
    """Switch all of them off; LinkError where the interface refuses."""
    switch_offloads(interface, dict.fromkeys(_COMMANDS, False), namespace)


def _ask(interface: str, namespace: str | None, command: int, value: int, what: str) -> int:
    with network_namespace(namespace):
        control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with control:
        data = array.array("B", struct.pack("II", command, value))
        address, _ = data.buffer_info()
        request = struct.pack("16sP16x", interface.encode(), address)
        try:
            fcntl.ioctl(control, _SIOCETHTOOL, request)
        except OSError as error:
            raise LinkError(f"interface {interface}: {what}: {error.strerror}") from error
        return int(struct.unpack("II", data.tobytes())[1])
