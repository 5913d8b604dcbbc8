"""Processes that take our tree away as soon as its holder has died or its lease has run out.

There are two of them, in sessions of their own, so that one may be killed as well; what a kill of
everything leaves, `netctl restore` finds by the leases' files.
"""

from __future__ import annotations

import os
import select
import signal

from netctl.interface.lease import Lease, now_s, read
from netctl.interface.restore import release

GUARDIANS = 2


def start_guardian(lease: Lease) -> None:
    """Fork one, which watches the caller."""
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
    while True:
        # Asked again even after its death: another may hold the interface by now.
        present = read(lease.path)
        if present is None or not lease.same_holder(present):
            return
        left_s = present.ends_s - now_s()
        if select.select((holder,), (), (), max(0.0, left_s))[0]:
            release(lease)
            return
        # It may have been renewed at the last moment.
        release(present, only_lapsed=True)
