"""A lease in the hands of the process that shapes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace

from airloom.errors import LinkError
from netctl.interface.guardian import GUARDIANS, start_guardian
from netctl.interface.lease import FOLDER, Kind, Lease, locked, now_s, read, write
from netctl.interface.process import ProcessIdentity
from netctl.interface.restore import release
from netctl.interface.wifi import RadioLimits
from netctl.linux import network_namespace_number


class Held:
    """A lease in the hands of this process.

    Whoever slept may have lost it, and another may have it by now: each act upon the interface asks.
    """

    def __init__(self, lease: Lease, lease_s: float) -> None:
        self._lease = lease
        self._lease_s = lease_s

    def renew(self) -> None:
        """Hold it for another term from now on; LinkError where it is not ours any more."""
        with locked():
            self._require()
            self._lease = replace(self._lease, ends_s=now_s() + self._lease_s)
            write(self._lease, new=False)

    def require(self) -> None:
        """LinkError where it is not ours any more, or the interface is gone."""
        with locked():
            self._require()

    def require_in_time(self) -> None:
        """The same at the cost of a look at the clock: before a change whose moment matters."""
        if now_s() >= self._lease.ends_s:
            self.renew()

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """A block in which it cannot be lost; LinkError where it was before."""
        with locked():
            self._require()
            yield

    def _require(self) -> None:
        lease = self._lease
        if not lease.same_holder(read(lease.path)):
            raise LinkError(
                f"the lease of {lease.interface} ran out, and the interface was restored: this "
                f"process had not renewed it for {self._lease_s:g} s"
            )
        try:
            socket.if_indextoname(lease.index)
        except OSError as error:
            raise LinkError(f"the interface {lease.interface} is gone") from error


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
        LinkError: another process holds it, or there is no such interface.
    """
    try:
        index = socket.if_nametoindex(interface)
    except OSError as error:
        raise LinkError(f"interface {interface}: {error.strerror}") from error
    FOLDER.mkdir(parents=True, exist_ok=True)
    lease = Lease(
        interface,
        index,
        network_namespace_number(),
        ProcessIdentity.current(),
        now_s() + lease_s,
        kind,
        radio,
        radio_before,
    )
    try:
        write(lease, new=True)
    except FileExistsError:
        raise LinkError(f"{interface} is being shaped by another netctl ({lease.path})") from None
    present = Held(lease, lease_s)
    try:
        for _ in range(GUARDIANS):
            start_guardian(lease)
        yield present
    except LinkError:
        # What the kernel refuses once the interface has been restored, it refuses for that reason.
        present.require()
        raise
    finally:
        release(lease)
