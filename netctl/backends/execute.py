"""Run planned commands; the only place where a plan touches the kernel."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from airloom.errors import LinkError
from netctl.backends.base import Command, LinkPlan
from netctl.backends.kernel import read_back, send, tree
from netctl.backends.kernel.netlink import Netlink
from netctl.backends.offloads import switch_off
from netctl.json_data import from_json, to_json

_TIMEOUT_S = 20.0


def run(command: Command) -> str:
    """Run one command; return what it printed. LinkError holds the command and its own words."""
    if command[:2] in _OURS:
        # Done here: a process of its own for each would only take time.
        namespace, slash, interface = command[3].rpartition("/")
        return _OURS[command[:2]](command, interface, namespace if slash else None)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except FileNotFoundError as error:
        raise LinkError(f"the program {command[0]} is missing (Debian: iproute2)") from error
    if done.returncode != 0:
        raise LinkError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _offloads(_: Command, interface: str, namespace: str | None) -> str:
    switch_off(interface, namespace)
    return ""


def _tree(command: Command, interface: str, namespace: str | None) -> str:
    with Netlink(namespace) as netlink:
        if command[2] == "show":
            shown = read_back.read_back(netlink, interface)
            return "null" if shown is None else to_json(shown)
        planned = from_json(tree.Tree, command[4])
        act = send.install if command[2] == "install" else send.change
        act(netlink, interface, planned)
        return ""


def _order(command: Command, _interface: str, _namespace: str | None) -> str:
    """Tell a running link process what holds from now on."""
    _, _, path, conditions = command
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        asking.settimeout(_TIMEOUT_S)
        # An address that the kernel picks, so that the answer finds its way.
        asking.bind("")
        try:
            asking.connect(path)
            asking.send(conditions.encode())
            answer = json.loads(asking.recv(1 << 16))
        except OSError as error:
            raise LinkError(f"the link at {path} takes no orders: {error}") from error
    if answer["error"]:
        raise LinkError(f"the link at {path} refuses: {answer['error']}")
    return ""


_OURS: dict[Command, Callable[[Command, str, str | None], str]] = {
    ("netctl", "offloads"): _offloads,
    ("netctl", "tree"): _tree,
    ("netctl", "order"): _order,
}


def run_json(command: Command) -> Any:
    """Run one command and read what it printed as JSON."""
    return json.loads(run(command) or "null")


def run_all(commands: Sequence[Command]) -> None:
    """Run commands in order, stopping at the first that fails."""
    for command in commands:
        run(command)


def start(command: Command) -> subprocess.Popen[str]:
    """Start a `netctl …` process and wait until it says that it is ready.

    Raises:
        LinkError: it ended instead; holds its own words.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "netctl.cli", *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    if not process.stdout.readline().startswith('{"ready": true'):
        process.kill()
        _, errors = process.communicate()
        raise LinkError(f"`{' '.join(command)}` failed: {errors.strip()}")
    return process


def make_link(plan: LinkPlan) -> subprocess.Popen[str] | None:
    """Carry out a link's plan in its order; return the process that carries it, if one does."""
    run_all(plan.commands)
    process = start(plan.process) if plan.process is not None else None
    try:
        run_all(plan.after_process)
    except BaseException:
        if process is not None:
            process.kill()
            process.communicate()
        raise
    return process
