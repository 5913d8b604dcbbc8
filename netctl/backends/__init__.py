"""The ways to make a shaped link; all mean the same by the same conditions."""

from __future__ import annotations

from airloom.errors import UnsupportedConditionError
from netctl.backends.base import LinkBackend, LinkPlan, LinkSpec
from netctl.backends.capabilities import Capabilities
from netctl.backends.netem import NetemBackend
from netctl.backends.userspace import UserspaceBackend

BACKENDS: dict[str, LinkBackend] = {
    backend.name: backend
    for backend in (NetemBackend(), UserspaceBackend("tun"), UserspaceBackend("packet"))
}
"""In order of preference."""

__all__ = ["BACKENDS", "LinkBackend", "LinkPlan", "LinkSpec", "choose"]


def choose(name: str, capabilities: Capabilities) -> LinkBackend:
    """Return the named backend, or for `auto` the first that this kernel can run.

    Raises:
        UnsupportedConditionError: it cannot be run here; says why and what can.
    """
    reasons = {b.name: b.missing(capabilities) for b in BACKENDS.values()}
    able = [key for key, reason in reasons.items() if reason is None]
    if name == "auto":
        if able:
            return BACKENDS[able[0]]
        listed = "; ".join(f"{key}: {reason}" for key, reason in reasons.items())
        raise UnsupportedConditionError(f"no link backend works here: {listed}")
    if name not in BACKENDS:
        raise UnsupportedConditionError(
            f"there is no link backend {name!r}; there are auto, {', '.join(BACKENDS)}"
        )
    reason = reasons[name]
    if reason is not None:
        raise UnsupportedConditionError(
            f"the backend {name} does not work here: {reason}; what does: {', '.join(able) or 'none'}"
        )
    return BACKENDS[name]
