"""Hold an interface for a controller that talks JSON lines: conditions, renewals, and an end.

The controller's silence is its death: a lease that is not renewed by a line ends, as does one whose
input closes. The tree is a metered one throughout (an HTB over netem), so that any change, of the rate too,
is a change of options: nothing is taken away and nothing that queues is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from airloom.errors import AirloomError, ConfigurationError, ControllerError
from netctl.backends.kernel import read_back, send, tree
from netctl.backends.kernel.filters import Exemption
from netctl.backends.kernel.netlink import Netlink
from netctl.conditions.link import DirectionConditions
from netctl.interface.held import Held
from netctl.interface.restore import restore
from netctl.interface.shape import netem_here, taken
from netctl.json_data import from_python
from netctl.linux import minimise_timer_slack, processors_awake

_LONGEST_LINE_BYTES = 1 << 18


def hold(
    interface: str,
    *,
    lease_s: float,
    exempt: Sequence[Exemption] = (),
    incoming: bool = False,
    orders: int = 0,
    answers: TextIO,
) -> None:
    """Obey lines from the file descriptor `orders` until it closes; answer each with a line.

    `{"conditions": {…}}` changes what holds, `{"conditions": {…}, "at_s": 1795280400.0}` at that time
    (of time.time()), `{}` only renews. An answer has an `error`, null where it was done, and of a change
    how late it was and what the kernel then had that was not asked.

    Raises:
        UnsupportedConditionError: the kernel lacks netem and HTB.
        LinkError: the interface is somebody else's.
        ControllerError: no line came within the lease, or one that never ends.
    """
    with_netem = netem_here()
    restore()
    minimise_timer_slack()

    def plan(conditions: DirectionConditions) -> tree.Tree:
        return tree.tree(
            tree.metered(conditions), varying=True, exempt=tuple(exempt), netem_here=with_netem
        )

    first = plan(DirectionConditions())
    with (
        Netlink() as netlink,
        taken(netlink, interface, first, lease_s, incoming) as (lease, shaped),
    ):
        _tell(answers, {"error": None, "holds": interface})
        for line in _lines(orders, lease_s, interface):
            lease.renew()
            try:
                _tell(answers, _obey(netlink, lease, shaped, line, plan, lease_s))
            except (AirloomError, ValueError) as error:
                _tell(answers, {"error": str(error)})


def _lines(descriptor: int, lease_s: float, interface: str) -> Iterator[bytes]:
    waiting = b""
    while True:
        line, newline, rest = waiting.partition(b"\n")
        if newline:
            waiting = rest
            yield line
            continue
        if len(waiting) > _LONGEST_LINE_BYTES:
            raise ControllerError(f"a line of more than {_LONGEST_LINE_BYTES} bytes is no order")
        if not select.select((descriptor,), (), (), lease_s)[0]:
            raise ControllerError(f"no order came for {lease_s:g} s: {interface} is restored")
        fresh = os.read(descriptor, 1 << 16)
        if not fresh:
            return
        waiting += fresh


def _obey(
    netlink: Netlink,
    lease: Held,
    shaped: str,
    line: bytes,
    plan: Callable[[DirectionConditions], tree.Tree],
    lease_s: float,
) -> dict[str, Any]:
    order = json.loads(line or b"{}")
    if not isinstance(order, dict):
        raise ConfigurationError(f"an order is a JSON object, not {order!r}")
    unknown = sorted(set(order) - {"conditions", "at_s"})
    if unknown:
        raise ConfigurationError(f"an order has conditions and at_s, not {', '.join(unknown)}")
    if "conditions" not in order:
        return {"error": None}
    planned = plan(from_python(DirectionConditions, order["conditions"]))
    due_s = float(order.get("at_s", time.time()))
    if due_s - time.time() > lease_s:
        raise ConfigurationError(
            f"at_s is {due_s - time.time():.1f} s away, beyond the lease of {lease_s:g} s; send the "
            "order later or ask for a longer lease"
        )
    if "at_s" in order:
        with processors_awake():
            while (left_s := due_s - time.time()) > 0:
                time.sleep(left_s)
    lease.require_in_time()
    send.change(netlink, shaped, planned)
    late_ms = (time.time() - due_s) * 1e3
    differences = read_back.differences(planned, read_back.read_back(netlink, shaped))
    return {"error": None, "late_ms": late_ms, "differences": differences}


def _tell(answers: TextIO, answer: dict[str, Any]) -> None:
    # Whoever does not read the answer may have gone; the orders say so themselves.
    with contextlib.suppress(BrokenPipeError):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
