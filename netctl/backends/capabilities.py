"""What this kernel and this user can do about links, found out by trying."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, dataclass

from netctl import linux

_QDISCS = ("netem", "htb", "tbf", "fq_codel", "ingress")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Each is None where it can be done, else the reason why not."""

    netem: str | None
    htb: str | None
    tbf: str | None
    fq_codel: str | None
    ingress: str | None
    tun: str | None
    packet_socket: str | None
    kernel: str

    def as_dict(self) -> dict[str, str | None]:
        return asdict(self)


def _try_qdisc(kind: str) -> str | None:
    place = "ingress" if kind == "ingress" else "root"
    arguments = ["tc", "qdisc", "add", "dev", "lo", place]
    arguments += [kind] if kind != "ingress" else []
    arguments += {"tbf": ["rate", "1mbit", "burst", "10k", "latency", "50ms"]}.get(kind, [])
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=10)
    except FileNotFoundError:
        return "the program tc is missing (Debian package iproute2)"
    if done.returncode == 0:
        subprocess.run(["tc", "qdisc", "del", "dev", "lo", place], check=True, timeout=10)
        return None
    return done.stderr.strip().replace("\n", " ") or f"tc exited with {done.returncode}"


def _try_tun() -> str | None:
    from airloom.errors import LinkError
    from netctl.backends.userspace_link.ports import TunPort

    try:
        TunPort("probe0").close()
    except LinkError as error:
        return str(error)
    return None


def _try_packet_socket() -> str | None:
    from airloom.errors import LinkError
    from netctl.backends.userspace_link.ports import PacketPort

    try:
        PacketPort("lo").close()
    except (LinkError, OSError) as error:
        return str(error)
    return None


def probe() -> Capabilities:
    """Try everything in a network namespace that nobody else sees and that vanishes afterwards."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            try:
                linux.unshare_as_root(linux.CLONE_NEWNET)
                reasons = {kind: _try_qdisc(kind) for kind in _QDISCS}
                reasons["tun"] = _try_tun()
                reasons["packet_socket"] = _try_packet_socket()
            except OSError as error:
                why = f"no network namespace can be made: {error.strerror}"
                reasons = dict.fromkeys((*_QDISCS, "tun", "packet_socket"), why)
            with os.fdopen(writer, "w", encoding="utf-8") as pipe:
                pipe.write(
                    "\n".join(f"{k}={(v or '').replace(chr(10), ' ')}" for k, v in reasons.items())
                )
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        lines = pipe.read().splitlines()
    os.waitpid(child, 0)
    found = {key: value or None for key, _, value in (line.partition("=") for line in lines)}
    return Capabilities(kernel=os.uname().release, **found)
