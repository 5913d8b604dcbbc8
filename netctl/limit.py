"""Limit a Wi-Fi radio for a while, and restore it whatever happens."""

from __future__ import annotations

import math
import signal
import sys
import time

from netctl.lease import held, restore
from netctl.wifi import RadioLimits, WiFi, differences
from protos.errors import LinkError

_RENEWALS = 4
"""In one term of a lease: a busy moment must not cost it."""


def limit(
    interface: str,
    limits: RadioLimits,
    *,
    duration_ms: float | None = None,
    lease_s: float = 10.0,
) -> None:
    """Limit a radio until SIGINT, SIGTERM or the time is over, then restore it.

    What it says of itself is compared with the limits at first and at every renewal of the lease.

    Raises:
        LinkError: it is no radio, its driver refuses, or it changed meanwhile.
        UnsupportedConditionError: this kernel has no Wi-Fi.
    """
    restore()
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with WiFi() as wifi:
        found = wifi.read(interface)
        before = RadioLimits(found.frequency_mhz, found.tx_power_dbm)
        with held(interface, lease_s, "radio", radio=limits, radio_before=before) as lease:
            wifi.limit(interface, limits)
            ends_s = math.inf if duration_ms is None else time.monotonic() + duration_ms / 1e3
            told = None
            first = True
            while told is None or told.si_signo not in signals:
                wrong = differences(limits, wifi.read(interface))
                if wrong:
                    raise LinkError(f"{interface} is not as it was asked to be: {'; '.join(wrong)}")
                if first:
                    print(f"{interface} is limited", file=sys.stderr, flush=True)
                    first = False
                left_s = ends_s - time.monotonic()
                if left_s <= 0:
                    break
                told = signal.sigtimedwait(signals, min(left_s, lease_s / _RENEWALS))
                lease.renew()
    print(f"{interface} is restored", file=sys.stderr)
