"""Queueing disciplines as data, and as the kernel's options: sch_netem, sch_htb, bfifo, pfifo, codel.

Every encoder writes all attributes: the kernel leaves as it was what a change does not name, and
shows everything but a delay table.
Layouts are those of linux/pkt_sched.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netctl.backends.kernel.netlink import attribute, attributes, nested
from netctl.conditions.jitter import uniform_table
from netctl.conditions.link import Slots
from netctl.conditions.loss import FourState, GilbertElliott, LossModel

_ALWAYS = 0xFFFFFFFF
_TICK_NS = 64
"""Of the kernel's packet scheduler clock (PSCHED_SHIFT 6), on every Linux since 2.6.31."""
_ETHERNET = 1
_LARGEST_U32 = 0xFFFFFFFF

_CORRELATION, _TABLE, _REORDER, _CORRUPT, _LOSS, _RATE, _ = 1, 2, 3, 4, 5, 6, 7
_RATE64, _LATENCY64, _JITTER64, _SLOT = 8, 10, 11, 12
_LOSS_FOUR_STATE, _LOSS_GILBERT_ELLIOTT = 1, 2
_HTB_PARAMETERS, _HTB_INIT, _HTB_RATE64, _HTB_CEIL64 = 1, 2, 6, 7
_HTB_VERSION = 3
_SLOT_LAYOUT = struct.Struct("=2q2i2q")
"""struct tc_netem_slot: least and most delay, packets, bytes; mean and spread of a distribution."""


def chance(share: float) -> int:
    """A probability in the kernel's units: 0 to 2³² - 1."""
    return round(share * _ALWAYS)


def share(chance: int) -> float:
    """A kernel's chance as a probability."""
    return chance / _ALWAYS


@dataclass(frozen=True, slots=True)
class Netem:
    """Options of one netem qdisc; times in ns, rates in bytes/s."""

    limit: int
    latency_ns: int = 0
    jitter_ns: int = 0
    table: tuple[int, ...] | None = None
    loss: float = 0.0
    loss_model: LossModel | None = None
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    rate_bytes_per_s: int = 0
    slots: Slots | None = None

    def encode(self, *, changing: bool = False) -> bytes:
        """The qdisc's TCA_OPTIONS.

        `changing` an existing one: the kernel keeps a delay table until it gets another, so that of
        the uniform distribution is sent, which a new one needs none for.
        """
        latency, jitter = self.latency_ns // _TICK_NS, self.jitter_ns // _TICK_NS
        parts = [
            struct.pack(
                "=6I",
                min(latency, _LARGEST_U32),
                self.limit,
                0 if self.loss_model is not None else chance(self.loss),
                1 if self.reorder else 0,
                chance(self.duplicate),
                min(jitter, _LARGEST_U32),
            ),
            attribute(_CORRELATION, bytes(12)),
            attribute(_REORDER, struct.pack("=2I", chance(self.reorder), 0)),
            attribute(_CORRUPT, struct.pack("=2I", chance(self.corrupt), 0)),
            attribute(_LATENCY64, struct.pack("=q", self.latency_ns)),
            attribute(_JITTER64, struct.pack("=q", self.jitter_ns)),
        ]
        rate = self.rate_bytes_per_s
        if rate > _LARGEST_U32:
            parts.append(attribute(_RATE64, struct.pack("=Q", rate)))
        parts.append(attribute(_RATE, struct.pack("=IiIi", min(rate, _LARGEST_U32), 0, 0, 0)))
        if isinstance(self.loss_model, GilbertElliott):
            m = self.loss_model
            packed = struct.pack(
                "=4I", chance(m.p), chance(m.r), chance(1 - m.loss_bad), chance(m.loss_good)
            )
            parts.append(nested(_LOSS, attribute(_LOSS_GILBERT_ELLIOTT, packed)))
        elif isinstance(self.loss_model, FourState):
            f = self.loss_model
            packed = struct.pack("=5I", *map(chance, (f.p13, f.p31, f.p32, f.p14, f.p23)))
            parts.append(nested(_LOSS, attribute(_LOSS_FOUR_STATE, packed)))
        steps = self.table
        if steps is None and changing and self.jitter_ns:
            steps = uniform_table()
        if steps is not None:
            parts.append(attribute(_TABLE, struct.pack(f"={len(steps)}h", *steps)))
        # All zeros are no slots.
        packed = bytes(_SLOT_LAYOUT.size)
        if (s := self.slots) is not None:
            packed = _SLOT_LAYOUT.pack(
                round(s.shortest_ms * 1e6),
                round(s.longest_ms * 1e6),
                s.packets,
                s.payload_bytes,
                0,
                0,
            )
        parts.append(attribute(_SLOT, packed))
        return b"".join(parts)

    @classmethod
    def decode(cls, options: bytes) -> Netem:
        """Read what the kernel shows; it does not show a delay table."""
        latency, limit, loss, gap, duplicate, jitter = struct.unpack_from("=6I", options)
        found = dict(attributes(options[24:]))

        def pair(kind: int) -> int:
            return int(struct.unpack_from("=I", found[kind])[0]) if kind in found else 0

        latency_ns, jitter_ns = latency * _TICK_NS, jitter * _TICK_NS
        if _LATENCY64 in found:
            (latency_ns,) = struct.unpack("=q", found[_LATENCY64])
        if _JITTER64 in found:
            (jitter_ns,) = struct.unpack("=q", found[_JITTER64])
        rate = pair(_RATE)
        if _RATE64 in found:
            (rate,) = struct.unpack("=Q", found[_RATE64])
        model: LossModel | None = None
        for kind, value in attributes(found.get(_LOSS, b"")):
            if kind == _LOSS_GILBERT_ELLIOTT:
                p, r, h, k1 = map(share, struct.unpack("=4I", value))
                model = GilbertElliott(p, r, 1 - h, k1)
            elif kind == _LOSS_FOUR_STATE:
                p13, p31, p32, p14, p23 = map(share, struct.unpack("=5I", value))
                model = FourState(p13, p31, p32, p23, p14)
        slots = None
        if _SLOT in found:
            shortest, longest, packets, size, _, _ = _SLOT_LAYOUT.unpack(found[_SLOT])
            if longest:
                # What the kernel keeps for "any number" is the largest.
                packets, size = (0 if n == 0x7FFFFFFF else n for n in (packets, size))
                slots = Slots(shortest / 1e6, longest / 1e6, packets, size)
        return cls(
            limit=limit,
            latency_ns=latency_ns,
            jitter_ns=jitter_ns,
            loss=share(loss),
            loss_model=model,
            duplicate=share(duplicate),
            reorder=share(pair(_REORDER)) if gap else 0.0,
            corrupt=share(pair(_CORRUPT)),
            rate_bytes_per_s=rate,
            slots=slots,
        )


def htb_root(default_class: int) -> bytes:
    """Options of an HTB qdisc; what no filter classifies goes to the default class (0: unshaped)."""
    return attribute(_HTB_INIT, struct.pack("=5I", _HTB_VERSION, 10, default_class, 0, 0))


@dataclass(frozen=True, slots=True)
class HtbClass:
    """A class with a rate of its own, in bytes/s; `burst_bytes` is what may leave at once."""

    rate_bytes_per_s: int
    burst_bytes: int
    quantum_bytes: int
    """Sent in turn where classes borrow: their weights."""
    ceil_bytes_per_s: int | None = None
    """Up to where it may borrow from its parent; None is not at all."""

    def encode(self) -> bytes:
        """The class's TCA_OPTIONS."""
        rate = self.rate_bytes_per_s
        ceil = self.ceil_bytes_per_s or rate
        packed = b"".join(
            struct.pack("=BBHhHI", 0, _ETHERNET, 0, -1, 0, min(one, _LARGEST_U32))
            for one in (rate, ceil)
        )
        ticks = (self._ticks(rate), self._ticks(ceil))
        packed += struct.pack("=5I", *ticks, self.quantum_bytes, 0, 0)
        parts = [attribute(_HTB_PARAMETERS, packed)]
        for kind, one in ((_HTB_RATE64, rate), (_HTB_CEIL64, ceil)):
            if one > _LARGEST_U32:
                parts.append(attribute(kind, struct.pack("=Q", one)))
        return b"".join(parts)

    def _ticks(self, rate_bytes_per_s: int) -> int:
        return min(_LARGEST_U32, round(self.burst_bytes * 1e9 / rate_bytes_per_s / _TICK_NS))

    @classmethod
    def decode(cls, options: bytes) -> HtbClass:
        found = dict(attributes(options))
        parameters = found[_HTB_PARAMETERS]
        rate, ceil = (struct.unpack_from("=I", parameters, at)[0] for at in (8, 20))
        if _HTB_RATE64 in found:
            (rate,) = struct.unpack("=Q", found[_HTB_RATE64])
        if _HTB_CEIL64 in found:
            (ceil,) = struct.unpack("=Q", found[_HTB_CEIL64])
        ticks, _, quantum = struct.unpack_from("=3I", parameters, 24)
        burst = round(ticks * _TICK_NS * rate / 1e9)
        return cls(rate, burst, quantum, None if ceil == rate else ceil)


def fifo(limit: int) -> bytes:
    """Options of a pfifo (packets) or bfifo (bytes)."""
    return struct.pack("=I", limit)


def fifo_limit(options: bytes) -> int:
    """What a fifo holds."""
    return int(struct.unpack("=I", options[:4])[0])


_CODEL_TARGET, _CODEL_LIMIT, _CODEL_INTERVAL, _CODEL_ECN = 1, 2, 3, 4


def codel(limit_packets: int, target_us: int, interval_us: int) -> bytes:
    """Options of CoDel (RFC 8289)."""
    return b"".join(
        attribute(kind, struct.pack("=I", value))
        for kind, value in (
            (_CODEL_TARGET, target_us),
            (_CODEL_LIMIT, limit_packets),
            (_CODEL_INTERVAL, interval_us),
            (_CODEL_ECN, 0),
        )
    )


def codel_limit(options: bytes) -> int:
    """How many packets a CoDel queue holds."""
    return int(struct.unpack("=I", dict(attributes(options))[_CODEL_LIMIT])[0])
