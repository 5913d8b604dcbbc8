"""Switch an interface's offloads off, and back to what they were."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from airloom.errors import LinkError
from netctl.backends.offloads import read_offloads, switch_off, switch_offloads
from netctl.interface.lease import FOLDER, locked
from netctl.linux import network_namespace, network_namespace_number


def offloads_off(interface: str, namespace: str | None = None) -> None:
    """Switch them off; what they were before the first time is kept until they are restored."""
    with locked():
        record = _record(interface, namespace)
        if not record.exists():
            before = read_offloads(interface, namespace)
            record.parent.mkdir(exist_ok=True)
            partial = record.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(before), encoding="utf-8")
            partial.replace(record)
        switch_off(interface, namespace)


def offloads_restored(interface: str, namespace: str | None = None) -> dict[str, bool]:
    """Switch them back to what they were, and tell; LinkError where netctl did not switch them off."""
    with locked():
        record = _record(interface, namespace)
        try:
            before: dict[str, bool] = json.loads(record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LinkError(
                f"nothing tells what the offloads of {interface} were: `netctl offloads off` has not "
                "switched them off since this machine started"
            ) from None
        switch_offloads(interface, before, namespace)
        record.unlink()
        return before


def _record(interface: str, namespace: str | None) -> Path:
    with network_namespace(namespace):
        try:
            index = socket.if_nametoindex(interface)
        except OSError as error:
            raise LinkError(f"interface {interface}: {error.strerror}") from error
        return FOLDER / "offloads" / f"{network_namespace_number()}.{index}.json"
