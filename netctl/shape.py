"""Shape an interface of this machine for a while, and restore it whatever happens."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence

from netctl.capabilities import probe
from netctl.conditions import DirectionConditions
from netctl.json_data import to_json
from netctl.kernel import tree
from netctl.kernel.filters import Exemption
from netctl.kernel.netlink import Netlink
from netctl.lease import held, restore
from protos.errors import LinkError, UnsupportedConditionError

_RENEWALS = 4
"""In one term of a lease: a busy moment must not cost it."""


def shape(
    interface: str,
    conditions: DirectionConditions,
    *,
    duration_ms: float | None = None,
    lease_s: float = 10.0,
    exempt: Sequence[Exemption] = (),
) -> None:
    """Shape what leaves an interface until SIGINT, SIGTERM or the time is over, then restore.

    What the kernel has is compared with what was asked of it at first and at every renewal of the
    lease.

    Raises:
        UnsupportedConditionError: the kernel lacks netem, or cannot represent the conditions.
        LinkError: the interface does not exist, carries somebody's own qdisc, or was changed meanwhile.
    """
    missing = probe().netem
    if missing is not None:
        raise UnsupportedConditionError(
            f"an interface can only be shaped in place by netem, which this kernel lacks: {missing} "
            "`testbed run` builds links that need no kernel support"
        )
    planned = tree.tree(conditions, exempt=tuple(exempt))
    restore()
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with Netlink() as netlink:
        foreign = tree.foreign_root(netlink, interface)
        if foreign is not None:
            kind, handle = foreign.split()
            raise LinkError(
                f"{interface} already carries a {kind} qdisc (handle {handle}) that netctl did not "
                "make; it is left alone"
            )
        with held(interface, lease_s) as lease:
            tree.install(netlink, interface, planned)
            _compare(netlink, interface, planned)
            print(f"{interface} is shaped: {to_json(planned)}", file=sys.stderr, flush=True)
            ends_s = None if duration_ms is None else time.monotonic() + duration_ms / 1e3
            while True:
                wait_s = lease_s / _RENEWALS
                if ends_s is not None:
                    wait_s = min(wait_s, ends_s - time.monotonic())
                told = signal.sigtimedwait(signals, wait_s) if wait_s > 0 else None
                # Stopped and continued, Python reports a signal of number 0.
                if wait_s <= 0 or (told is not None and told.si_signo in signals):
                    break
                lease.renew()
                _compare(netlink, interface, planned)
    print(f"{interface} is restored", file=sys.stderr)


def _compare(netlink: Netlink, interface: str, planned: tree.Tree) -> None:
    wrong = tree.differences(planned, tree.read_back(netlink, interface))
    if wrong:
        raise LinkError(f"{interface} is not shaped as it was asked to be: {'; '.join(wrong)}")
