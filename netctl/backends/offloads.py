"""Switch off the network card tricks that would spoil a shaped link.

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
_SET_COMMANDS = {
    "tx-checksum": 0x17,
    "scatter-gather": 0x19,
    "tso": 0x1F,
    "gso": 0x24,
    "gro": 0x2C,
}


def switch_off(interface: str, namespace: str | None = None) -> None:
    """Switch all of them off; LinkError where the interface refuses."""
    with network_namespace(namespace):
        control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with control:
        for name, command in _SET_COMMANDS.items():
            value = array.array("B", struct.pack("II", command, 0))
            address, _ = value.buffer_info()
            request = struct.pack("16sP16x", interface.encode(), address)
            try:
                fcntl.ioctl(control, _SIOCETHTOOL, request)
            except OSError as error:
                raise LinkError(
                    f"interface {interface}: {name} cannot be switched off: {error.strerror}"
                ) from error
