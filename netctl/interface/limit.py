"""Limit a Wi-Fi radio for a while, and restore it whatever happens."""

from __future__ import annotations

import math
import sys
import time

from airloom.errors import LinkError
from netctl.interface.end_signals import block_end_signals, told_to_end
from netctl.interface.held import held
from netctl.interface.lease import RENEWALS
from netctl.interface.restore import restore
from netctl.interface.wifi import RadioLimits, WiFi, differences


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
    block_end_signals()
    with WiFi() as wifi:
        found = wifi.read(interface)
        before = RadioLimits(found.frequency_mhz, found.tx_power_dbm)
        with held(interface, lease_s, "radio", radio=limits, radio_before=before) as lease:
            wifi.limit(interface, limits)
            ends_s = math.inf if duration_ms is None else time.monotonic() + duration_ms / 1e3
            _compare(wifi, interface, limits)
            print(f"{interface} is limited", file=sys.stderr, flush=True)
            while (left_s := ends_s - time.monotonic()) > 0:
                if told_to_end(min(left_s, lease_s / RENEWALS)):
                    break
                lease.renew()
                _compare(wifi, interface, limits)
    print(f"{interface} is restored", file=sys.stderr)


def _compare(wifi: WiFi, interface: str, limits: RadioLimits) -> None:
    wrong = differences(limits, wifi.read(interface))
    if wrong:
        raise LinkError(f"{interface} is not as it was asked to be: {'; '.join(wrong)}")
