"""A device's result is checked before anybody reads it."""

import math

import pytest

from airloom.errors import UnreachableError
from cloud_agent.fleet.results import require_sound
from protos.airloom.v1 import task_pb2


def answered(**confidence: float) -> task_pb2.TaskResult:
    return task_pb2.TaskResult(
        answer=task_pb2.Answer(text="4", confidence=task_pb2.Confidence(**confidence)),
        timing=task_pb2.Timing(total_ms=1.5),
    )


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        (task_pb2.TaskResult(), "neither answer nor error"),
        (answered(value=math.nan), "answer.confidence.value is nan"),
        (answered(value=7), "answer.confidence.value is 7"),
        (answered(mean_logprob=math.nan), "answer.confidence.mean_logprob"),
        (task_pb2.TaskResult(error=task_pb2.TaskError(code=4242)), "error.code is 4242"),
        (task_pb2.TaskResult(error=task_pb2.TaskError()), "error.code is 0"),
        (
            task_pb2.TaskResult(answer=task_pb2.Answer(), timing=task_pb2.Timing(decode_ms=-1)),
            "timing.decode_ms is -1",
        ),
    ],
)
def test_what_is_no_result_is_refused_by_its_field(result: task_pb2.TaskResult, fault: str) -> None:
    with pytest.raises(UnreachableError, match=f"board-a .*{fault}"):
        require_sound(result, "board-a")


@pytest.mark.parametrize(
    "result",
    [
        answered(value=0.5, sequence_probability=0.25, mean_logprob=-1.2, mean_entropy_nats=0.3),
        answered(mean_logprob=-math.inf),
        task_pb2.TaskResult(error=task_pb2.TaskError(code=8, message="too much to do")),
    ],
    ids=["sure", "empty text", "error"],
)
def test_what_is_a_result_passes(result: task_pb2.TaskResult) -> None:
    require_sound(result, "board-a")
