"""A shaped interface is held on lease: whoever stops renewing it loses it, however he stopped.

The lease is a file in /run; guardians, processes in sessions of their own, take our tree away as soon as
the holder has died or the lease has run out. There are two of them, so that one may be killed as
well; what a kill of everything leaves, `netctl restore` finds by the same files.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from airloom.errors import LinkError
from netctl.backends.kernel import send
from netctl.backends.kernel.netlink import Netlink
from netctl.interface.ingress import ifb_name, undo
from netctl.interface.wifi import RadioLimits, WiFi
from netctl.json_data import to_json

FOLDER = Path("/run/airloom/netctl")
GUARDIANS = 2
RENEWALS = 4
"""In one term of a lease: a busy moment must not cost it."""

Kind = Literal["leaving", "incoming", "radio"]
"""What is changed of an interface: what leaves, what arrives (through an ifb), or its Wi-Fi radio."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds an interface, and until when on CLOCK_BOOTTIME unless it is renewed."""

    interface: str
    pid: int
    started: float
    """When that process started: numbers are used again."""
    ends_s: float
    kind: Kind = "leaving"
    radio: RadioLimits | None = None
    """Of a radio: what it is limited to."""
    radio_before: RadioLimits | None = None

    @property
    def path(self) -> Path:
        suffix = "" if self.kind == "leaving" else f".{self.kind}"
        return FOLDER / f"{self.interface}{suffix}.json"

    @property
    def held(self) -> bool:
        """Whether the holder lives and has renewed it in time."""
        if self.ends_s < now_s():
            return False
        try:
            return psutil.Process(self.pid).create_time() == self.started
        except psutil.NoSuchProcess:
            return False


def now_s() -> float:
    """A clock that no one sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def leases() -> list[Lease]:
    """All that are in the folder, held or not."""
    found = []
    for path in sorted(FOLDER.glob("*.json")) if FOLDER.exists() else []:
        lease = _read(path)
        if lease is not None:
            found.append(lease)
    return found


def _read(path: Path) -> Lease | None:
    # A guardian may have removed it in the meantime.
    with contextlib.suppress(FileNotFoundError):
        fields = json.loads(path.read_text(encoding="utf-8"))
        for name in ("radio", "radio_before"):
            if fields[name] is not None:
                limits: dict[str, Any] = {
                    key: tuple(value) if isinstance(value, list) else value
                    for key, value in fields[name].items()
                }
                fields[name] = RadioLimits(**limits)
        return Lease(**fields)
    return None


def _written_aside(lease: Lease) -> Path:
    partial = lease.path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(to_json(lease), encoding="utf-8")
    return partial


def _same(one: Lease | None, other: Lease) -> bool:
    """Whether it is the same holder's, renewed or not."""
    return one is not None and (one.pid, one.started) == (other.pid, other.started)


def release(lease: Lease) -> bool:
    """Take what is ours and the lease away; False where there was nothing of ours.

    One process at a time does that, and none where the interface has another holder by now: there
    can be none before the file is gone, which goes last.
    """
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _same(_read(lease.path), lease) and _undo(lease)


def _undo(lease: Lease) -> bool:
    removed = False
    # The interface itself may be gone, and with it all that was on it.
    with contextlib.suppress(LinkError):
        if lease.kind == "radio":
            assert lease.radio is not None
            assert lease.radio_before is not None
            with WiFi() as wifi:
                wifi.restore(lease.interface, lease.radio_before, lease.radio)
            removed = True
        elif lease.kind == "incoming":
            removed = undo(lease.interface, ifb_name(lease.interface))
        else:
            with Netlink() as netlink:
                removed = send.remove(netlink, lease.interface)
    lease.path.unlink(missing_ok=True)
    return removed


def restore() -> list[str]:
    """Undo what dead or silent holders left; return the interfaces restored."""
    return [lease.interface for lease in leases() if not lease.held and release(lease)]


class Held:
    """A lease in the hands of this process."""

    def __init__(self, lease: Lease, lease_s: float) -> None:
        self._lease = lease
        self._lease_s = lease_s

    def renew(self) -> None:
        """Hold it for another term from now on; LinkError where it ran out before."""
        self.require()
        self._lease = replace(self._lease, ends_s=now_s() + self._lease_s)
        _written_aside(self._lease).replace(self._lease.path)

    def require(self) -> None:
        """LinkError where it ran out."""
        if _read(self._lease.path) is None:
            raise LinkError(
                f"the lease of {self._lease.interface} ran out, and the interface was restored: this "
                f"process had not renewed it for {self._lease_s:g} s"
            )


@contextlib.contextmanager
def held(
    interface: str,
    lease_s: float,
    kind: Kind = "leaving",
    *,
    radio: RadioLimits | None = None,
    radio_before: RadioLimits | None = None,
) -> Iterator[Held]:
    """Hold an interface: two guardians watch over it; at the end our tree, or limits, are gone.

    Raises:
        LinkError: another process holds it.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    process = psutil.Process()
    started, ends_s = process.create_time(), now_s() + lease_s
    lease = Lease(interface, process.pid, started, ends_s, kind, radio, radio_before)
    partial = _written_aside(lease)
    try:
        # Whole from its first moment, and only where there is none.
        os.link(partial, lease.path)
    except FileExistsError:
        raise LinkError(f"{interface} is being shaped by another netctl ({lease.path})") from None
    finally:
        partial.unlink()
    present = Held(lease, lease_s)
    try:
        for _ in range(GUARDIANS):
            _start_guardian(lease)
        yield present
    except LinkError:
        # What the kernel refuses once the interface has been restored, it refuses for that reason.
        present.require()
        raise
    finally:
        release(lease)


def _start_guardian(lease: Lease) -> None:
    reader, writer = os.pipe()
    if os.fork() != 0:
        os.close(reader)
        # The write end stays open, unread, until this process ends, however it ends.
        os.set_inheritable(writer, False)
        return
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        # Nothing of the holder's may be kept open: another guardian's pipe least of all.
        os.closerange(3, reader)
        os.closerange(reader + 1, 256)
        _guard(lease, reader)
    finally:
        os._exit(0)


def _guard(lease: Lease, holder: int) -> None:
    """Wait for the holder's death or silence, then restore; return early where it has let go."""
    dead = False
    while True:
        # Asked again even after its death: another may hold the interface by now.
        present = _read(lease.path)
        if present is None or not _same(present, lease):
            return
        left_s = present.ends_s - now_s()
        if dead or left_s <= 0:
            break
        dead = bool(select.select((holder,), (), (), left_s)[0])
    release(lease)
