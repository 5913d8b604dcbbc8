"""Where a userspace link's packets come from and go to."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Protocol

from airloom.errors import LinkError
from netctl.conditions.link import FRAME_HEADER_BYTES
from netctl.linux import network_namespace

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_MAX_PACKET = 65536
_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23


class Port(Protocol):
    """One end of a userspace link."""

    header_bytes: int
    """Link-layer bytes that come before the IP packet in what `receive` returns."""

    def fileno(self) -> int: ...

    def receive(self) -> bytes | None:
        """Return one packet, None where none waits."""

    def send(self, packet: bytes) -> None:
        """Send one packet; it is dropped where the interface takes none."""

    def close(self) -> None: ...


class TunPort:
    """A TUN interface, made here and gone with this process."""

    header_bytes = 0

    def __init__(self, name: str, namespace: str | None = None) -> None:
        with network_namespace(namespace):
            try:
                self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                raise LinkError(f"/dev/net/tun: {error.strerror}") from error
            try:
                request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
                fcntl.ioctl(self._fd, _TUNSETIFF, request)
            except OSError as error:
                os.close(self._fd)
                raise LinkError(f"TUN interface {name}: {error.strerror}") from error

    def fileno(self) -> int:
        return self._fd

    def receive(self) -> bytes | None:
        try:
            return os.read(self._fd, _MAX_PACKET)
        except BlockingIOError:
            return None

    def send(self, packet: bytes) -> None:
        try:
            os.write(self._fd, packet)
        except (BlockingIOError, OSError):
            # The interface is down: a real radio would lose the packet as well.
            return

    def close(self) -> None:
        os.close(self._fd)


class PacketPort:
    """The far end of a veth pair, by AF_PACKET: needs no device file, so it works without root."""

    header_bytes = FRAME_HEADER_BYTES

    def __init__(self, name: str, namespace: str | None = None) -> None:
        with network_namespace(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        # Frames that this process sends must not come back as received ones.
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.setblocking(False)
        try:
            self._socket.bind((name, _ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            raise LinkError(f"interface {name}: {error.strerror}") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        try:
            return self._socket.recv(_MAX_PACKET)
        except BlockingIOError:
            return None

    def send(self, packet: bytes) -> None:
        try:
            self._socket.send(packet)
        except (BlockingIOError, OSError):
            return

    def close(self) -> None:
        self._socket.close()


def open_port(description: str) -> Port:
    """Open `tun:NAMESPACE/INTERFACE` or `packet:NAMESPACE/INTERFACE` (no NAMESPACE/: this one)."""
    kind, _, place = description.partition(":")
    namespace, slash, name = place.rpartition("/")
    kinds: dict[str, type[TunPort] | type[PacketPort]] = {"tun": TunPort, "packet": PacketPort}
    if kind not in kinds or not name:
        raise LinkError(
            f"{description!r} is not a port; write tun:NAMESPACE/INTERFACE "
            "or packet:NAMESPACE/INTERFACE"
        )
    return kinds[kind](name, namespace if slash else None)
