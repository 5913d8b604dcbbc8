"""A shaped interface is held on lease: whoever stops renewing it loses it, however he stopped.

A lease is a file in /run, which all network namespaces share: its name says which namespace's
interface it is of. Whoever reads one to act upon it, or writes one, does so under one lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from netctl.interface.process import ProcessIdentity
from netctl.interface.wifi import RadioLimits
from netctl.json_data import to_json
from netctl.linux import network_namespace_number

FOLDER = Path("/run/airloom/netctl")
RENEWALS = 4
"""In one term of a lease: a busy moment must not cost it."""
_NAME = re.compile(r"\d+\.(leaving|incoming|radio)\..+\.json")

Kind = Literal["leaving", "incoming", "radio"]
"""What is changed of an interface: what leaves, what arrives (through an ifb), or its Wi-Fi radio."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds an interface, and until when on CLOCK_BOOTTIME unless it is renewed."""

    interface: str
    index: int
    """The interface's number, which it keeps when it is renamed."""
    namespace: int
    """The number of its network namespace: an eth0 of another is another interface."""
    holder: ProcessIdentity
    ends_s: float
    kind: Kind = "leaving"
    radio: RadioLimits | None = None
    """Of a radio: what it is limited to."""
    radio_before: RadioLimits | None = None

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.namespace}.{self.kind}.{self.interface}.json"

    @property
    def held(self) -> bool:
        """Whether the holder lives and has renewed it in time."""
        return self.ends_s >= now_s() and self.holder.alive

    def same_holder(self, other: Lease | None) -> bool:
        """Whether the other is this one, renewed or not."""
        return other is not None and (other.holder, other.index) == (self.holder, self.index)


def now_s() -> float:
    """A clock that no one sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def leases() -> list[Lease]:
    """All that are in the folder, held or not, of any network namespace."""
    paths = sorted(FOLDER.glob("*.json")) if FOLDER.exists() else []
    found = [read(path) for path in paths if _NAME.fullmatch(path.name)]
    return [one for one in found if one is not None]


def leases_here() -> list[Lease]:
    """Those of interfaces of the present network namespace."""
    present = network_namespace_number()
    return [one for one in leases() if one.namespace == present]


def read(path: Path) -> Lease | None:
    """One lease; None where there is none any more."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    for name in ("radio", "radio_before"):
        if fields[name] is not None:
            limits: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in fields[name].items()
            }
            fields[name] = RadioLimits(**limits)
    fields["holder"] = ProcessIdentity(**fields["holder"])
    return Lease(**fields)


def write(lease: Lease, *, new: bool) -> None:
    """Write it, whole from its first moment; FileExistsError for a new one where one is already."""
    partial = lease.path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(to_json(lease), encoding="utf-8")
    if not new:
        partial.replace(lease.path)
        return
    try:
        os.link(partial, lease.path)
    finally:
        partial.unlink()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Keep everybody else from taking, renewing and releasing leases in this block."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with _lock_file().open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def lock_owner() -> int | None:
    """The number of the process that is in such a block."""
    try:
        inode = _lock_file().stat().st_ino
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        # `1: FLOCK  ADVISORY  WRITE 2411 00:19:1052 0 EOF`; waiting ones have an arrow.
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    return None


def _lock_file() -> Path:
    return FOLDER / "lock"
