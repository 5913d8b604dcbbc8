"""A scenario as exact operations: namespaces, links, agents, questions. Pure; touches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from collaboration.questions import Question, held_out
from netctl.backends import LinkBackend, LinkPlan, LinkSpec
from netctl.backends.base import AIR_NAMESPACE, Command, namespace_commands
from netctl.conditions.link import LinkConditions
from testbed.scenario import DeviceEntry, Scenario

CLOUD = "cloud"
CLOUD_PORT = 50051
TYPICAL_ASK_BYTES = 500
TYPICAL_ANSWER_BYTES = 1200


Change = tuple[float, LinkConditions, tuple[Command, ...]]
"""When (in ms), what holds from then on, and the operations."""


@dataclass(frozen=True)
class BoardPlan:
    """One virtual board: its namespace and link."""

    entry: DeviceEntry
    link: LinkSpec
    operations: LinkPlan
    questions: tuple[Question, ...]
    changes: tuple[Change, ...] = ()
    """In the order of their times, which count from the first question."""
    period_ms: float | None = None

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def cloud_host(self) -> str:
        return self.link.cloud_address.partition("/")[0]

    @property
    def device_host(self) -> str:
        return self.link.device_address.partition("/")[0]


@dataclass(frozen=True)
class RunPlan:
    """Everything that a run will do."""

    scenario: Scenario
    backend: str
    namespaces: tuple[Command, ...]
    boards: tuple[BoardPlan, ...]


def plan_run(scenario: Scenario, backend: LinkBackend) -> RunPlan:
    """Plan a run; raises UnsupportedConditionError where the backend cannot represent a link."""
    namespaces = namespace_commands(
        [AIR_NAMESPACE, CLOUD, *(device.name for device in scenario.devices)]
    )
    asked = held_out(
        scenario.questions.count,
        scenario.seed,
        scenario.questions.domains,
        scenario.questions.levels,
    )
    shares = deal(asked, len(scenario.devices))
    boards = []
    for index, device in enumerate(scenario.devices):
        course = device.link.course()
        spec = LinkSpec(
            name=device.name,
            device_namespace=device.name,
            cloud_namespace=CLOUD,
            device_address=f"10.77.{index + 1}.2/30",
            cloud_address=f"10.77.{index + 1}.1/30",
            conditions=course.first,
            seed=scenario.seed * 1000 + index,
            varying=bool(course.timeline),
        )
        changes = tuple((at, one, backend.changes(spec, one)) for at, one in course.timeline)
        questions = tuple(shares[index])
        boards.append(
            BoardPlan(device, spec, backend.plan(spec), questions, changes, course.period_ms)
        )
    return RunPlan(scenario, backend.name, namespaces, tuple(boards))


def deal(questions: Sequence[Question], devices: int) -> list[list[Question]]:
    """Deal the questions so that every device meets all domains and levels alike, in their order."""
    order = {question.id: position for position, question in enumerate(questions)}
    shares: list[list[Question]] = [[] for _ in range(devices)]
    dealt = sorted(questions, key=lambda q: (q.domain, q.level, order[q.id]))
    for turn, question in enumerate(dealt):
        shares[turn % devices].append(question)
    return [sorted(share, key=lambda question: order[question.id]) for share in shares]


def predicted_ask_ms(conditions: LinkConditions) -> float:
    """Predict the link's share of one question asked of the cloud, without loss."""
    return conditions.uplink.transfer_ms(TYPICAL_ASK_BYTES) + conditions.downlink.transfer_ms(
        TYPICAL_ANSWER_BYTES
    )


def device_settings(board: BoardPlan, folder: str, security: dict[str, Any]) -> dict[str, Any]:
    """Write the settings file of a board's agent, as data."""
    model = board.entry.model.model_dump(mode="json")
    return {
        "device_id": board.name,
        "listen": f"unix:{folder}/{board.name}.sock",
        "listen_security": {"plaintext": True},
        "model": model,
        "routing": board.entry.routing.model_dump(mode="json"),
        "cloud": {
            "address": f"{board.cloud_host}:{CLOUD_PORT}",
            "security": security,
            "synchronised_clock": True,
        },
        "telemetry": {"endpoint": f"ipc://{folder}/telemetry.sock", "interval_s": 0.5},
        "link_epoch_file": f"{folder}/{board.name}.epoch",
    }


def cloud_settings(scenario: Scenario, folder: str, security: dict[str, Any]) -> dict[str, Any]:
    """Write the settings file of the cloud agent, as data."""
    return {
        "cloud_id": CLOUD,
        "listen": f"0.0.0.0:{CLOUD_PORT}",
        "local_socket": f"{folder}/cloud.sock",
        "security": security,
        "model": scenario.cloud.model.model_dump(mode="json"),
        "synchronised_clocks": True,
    }


def describe(plan: RunPlan) -> list[str]:
    """List the exact operations, in order, for `--dry-run`."""
    lines = [" ".join(command) for command in plan.namespaces]
    for board in plan.boards:
        operations = board.operations
        process = (operations.process,) if operations.process else ()
        lines += [
            " ".join(command)
            for command in (*operations.commands, *process, *operations.after_process)
        ]
    lines.append(f"nsenter --net=/run/netns/{CLOUD} cloud-agent run RUN/cloud.yaml")
    lines += [
        f"nsenter --net=/run/netns/{b.name} device-agent run RUN/{b.name}.yaml" for b in plan.boards
    ]
    lines += [f"ask {b.name} {len(b.questions)} held-out questions" for b in plan.boards]
    for board in plan.boards:
        again = "" if board.period_ms is None else f", again after each {board.period_ms / 1e3:g} s"
        for at_ms, _, commands in board.changes:
            lines.append(f"at {at_ms / 1e3:g} s of asking{again}:")
            lines += [f"  {' '.join(command)}" for command in commands]
    return lines
