"""Being told to end, by SIGINT or SIGTERM, where something must be restored first."""

from __future__ import annotations

import signal

_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def block_end_signals() -> None:
    """From now on they wait until they are asked for; what this process starts inherits that."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def told_to_end(wait_s: float) -> bool:
    """Wait so long for one of them; whether one came."""
    told = signal.sigtimedwait(_SIGNALS, max(0.0, wait_s))
    # Stopped and continued, Python reports a signal of number 0.
    return told is not None and told.si_signo in _SIGNALS
