"""What a change of rate costs: ours against tc, forked and kept, and pyroute2; and 1,000 of them a second."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from netctl.backends import execute
from netctl.backends.kernel import handles, qdiscs, send, tree
from netctl.backends.kernel import netlink as nl
from netctl.backends.kernel.netlink import Netlink, TrafficControl
from netctl.interface.replay import sleep_until
from netctl.linux import minimise_timer_slack, prefer_in_real_time, processors_awake
from testbed.sandbox import run_in_sandbox

_INTERFACE = "shaped"
_CHANGES = 300
_TURNS = 9
_TURN_S = 5
_PER_SECOND = 1000


def _make() -> None:
    """An HTB as trees have it: this kernel may lack netem, and rates are changed in the HTB."""
    execute.run(("ip", "link", "add", _INTERFACE, "type", "veth", "peer", "name", "far"))
    execute.run(("ip", "link", "set", _INTERFACE, "up"))
    with Netlink() as netlink:
        index = netlink.index(_INTERFACE)
        root = TrafficControl(index, handles.METER, 0xFFFFFFFF, 0, "htb", qdiscs.htb_root(1))
        netlink.request(nl.RTM_NEWQDISC, root, nl.NLM_F_CREATE | nl.NLM_F_EXCL)
        rate = tree.htb_class(10e6, 1500)
        one = TrafficControl(index, handles.CLASS, handles.METER, 0, "htb", rate.encode())
        netlink.request(nl.RTM_NEWTCLASS, one, nl.NLM_F_CREATE)


def _median_ms(change: Callable[[int], None], changes: int) -> float:
    times = []
    for number in range(changes):
        started_s = time.perf_counter()
        change(10_000_000 + 1000 * number)
        times.append(time.perf_counter() - started_s)
    return statistics.median(times) * 1e3


def _words(rate_bps: int) -> list[str]:
    return [
        "class", "change", "dev", _INTERFACE, "parent", "a1f3:", "classid", "a1f3:1",
        "htb", "rate", f"{rate_bps}bit", "burst", "4k", "quantum", "3028",
    ]  # fmt: skip


def _forked_tc(rate_bps: int) -> None:
    subprocess.run(["tc", *_words(rate_bps)], check=True)


def _kept_tc_ms(changes: int) -> float:
    """A tc that reads one change after the other; it does not say when one is done."""
    lines = "".join(" ".join(_words(10_000_000 + number)) + "\n" for number in range(changes))
    started_s = time.perf_counter()
    subprocess.run(["tc", "-batch", "-"], input=lines, text=True, check=True)
    return (time.perf_counter() - started_s) / changes * 1e3


def measure() -> dict[str, float]:
    """Median milliseconds of a change by each means, and how late 1,000 changes/s are."""
    from pyroute2 import IPRoute

    _make()
    found: dict[str, float] = {}
    found["tc"] = _median_ms(_forked_tc, _CHANGES)
    found["kept_tc"] = _kept_tc_ms(_CHANGES * 10)
    with IPRoute() as route:
        index = route.link_lookup(ifname=_INTERFACE)[0]

        def by_pyroute2(rate_bps: int) -> None:
            route.tc(
                "change-class", "htb", index, handles.CLASS, parent=handles.METER,
                rate=f"{rate_bps}bit", burst=4096, quantum=3028,
            )  # fmt: skip

        found["pyroute2"] = _median_ms(by_pyroute2, _CHANGES)
    with Netlink() as netlink:
        index = netlink.index(_INTERFACE)

        def ours(rate_bps: int) -> None:
            send.change_rate(netlink, index, tree.htb_class(rate_bps, 1500))

        found["ours"] = _median_ms(ours, _CHANGES)
        minimise_timer_slack()
        prefer_in_real_time()
        # What this machine does to a loop that changes nothing, in turns with ours, both as replay runs.
        # Of each turn the 99th percentile: one in which this machine was taken away must not decide.
        idle_ms: list[float] = []
        late_ms: list[float] = []
        processor_s = 0.0
        with processors_awake():
            for _ in range(_TURNS):
                idle_ms.append(_p99(_sustain(lambda _: None)))
                before_s = time.process_time()
                late_ms.append(_p99(_sustain(ours)))
                processor_s += time.process_time() - before_s
    found["processor"] = processor_s / (_TURNS * _TURN_S)
    found["late_p99"] = statistics.median(late_ms)
    found["idle_late_p99"] = statistics.median(idle_ms)
    found["late_p99_worst"], found["idle_late_p99_worst"] = max(late_ms), max(idle_ms)
    return found


def _sustain(change: Callable[[int], None]) -> list[float]:
    """Do something each millisecond for a while; how late each was done, in ms."""
    late_ms = []
    begin_s = time.monotonic() + 0.05
    for number in range(_TURN_S * _PER_SECOND):
        due_s = begin_s + number / _PER_SECOND
        sleep_until(due_s)
        change(10_000_000 + number)
        late_ms.append((time.monotonic() - due_s) * 1e3)
    return late_ms


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


def main() -> None:
    """In a sandbox: OUT."""

    def body() -> int:
        Path(sys.argv[1]).write_text(json.dumps(measure()), encoding="utf-8")
        return 0

    raise SystemExit(run_in_sandbox(body))


if __name__ == "__main__":
    main()
