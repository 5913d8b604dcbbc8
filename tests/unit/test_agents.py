"""The parts of the agents that need no process."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.backoff import full_jitter
from airloom.errors import InvalidTaskError
from airloom.security import TransportSecurity
from collaboration.confidence import TokenScore, summarise
from collaboration.prompting import extract_answer
from collaboration.routing import RoutingSettings, confidence_value, keeps_own_answer
from device_agent.engine import IMAGE_MARK
from device_agent.task_reading import deadline_of, question_of
from protos.airloom.v1 import task_pb2


@given(st.integers(0, 2**32))
def test_back_off_grows_to_its_maximum_and_is_jittered(seed: int) -> None:
    waits = full_jitter(0.2, 10.0, random.Random(seed))
    for attempt in range(12):
        assert 0 <= next(waits) <= min(10.0, 0.2 * 2**attempt)


def test_a_task_reads_as_its_parts_in_order() -> None:
    task = task_pb2.Task(
        parts=[
            task_pb2.Part(text=task_pb2.TextPart(text="What is 1+1?")),
            task_pb2.Part(
                candidate=task_pb2.CandidateAnswer(
                    peer="cloud", answer="2", confidence=task_pb2.Confidence(value=0.9)
                )
            ),
        ]
    )
    assert question_of(task).text == "What is 1+1?\ncloud says 2 (0.9)"


def test_an_image_stands_where_its_part_stood() -> None:
    task = task_pb2.Task(
        parts=[
            task_pb2.Part(text=task_pb2.TextPart(text="Look:")),
            task_pb2.Part(image=task_pb2.ImagePart(data=b"png")),
            task_pb2.Part(text=task_pb2.TextPart(text="What is it?")),
        ]
    )
    question = question_of(task)
    assert question.text == f"Look:\n{IMAGE_MARK}\nWhat is it?"
    assert [image.data for image in question.images] == [b"png"]


def test_a_part_that_cannot_be_read_is_named() -> None:
    task = task_pb2.Task(task_id="t", parts=[task_pb2.Part(tokens=task_pb2.TokensPart())])
    with pytest.raises(InvalidTaskError, match=r"'t': parts\[0\] is tokens"):
        question_of(task)
    with pytest.raises(InvalidTaskError, match="no text part"):
        question_of(task_pb2.Task(task_id="t"))


def test_the_earlier_deadline_holds() -> None:
    task = task_pb2.Task(budget=task_pb2.Budget(deadline_ms=500))
    assert deadline_of(task, 10.0, None) == 10.5
    assert deadline_of(task, 10.0, 0.2) == pytest.approx(10.2)
    assert deadline_of(task_pb2.Task(), 10.0, None) is None


def test_confidence_is_the_product_the_mean_and_the_margin() -> None:
    scores = [TokenScore(math.log(0.5), 0.2, 0.7), TokenScore(math.log(0.8), 0.7, 0.5)]
    confidence = summarise(scores)
    assert confidence.sequence_probability == pytest.approx(0.4)
    assert confidence_value(confidence, "mean_probability") == pytest.approx(math.sqrt(0.4))
    assert confidence_value(confidence, "min_margin") == pytest.approx(0.2)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_device_keeps_an_answer_from_the_threshold_on(value: float, threshold: float) -> None:
    assert keeps_own_answer(value, RoutingSettings(threshold=threshold)) == (value >= threshold)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("1+1=2. #### 2", "2"), ("#### 2. #### 3.", "3"), ("no mark", None), ("", None)],
)
def test_the_last_marked_answer_counts(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_plaintext_must_be_asked_for() -> None:
    with pytest.raises(ValueError, match="plaintext: true"):
        TransportSecurity()
    with pytest.raises(ValueError, match="exclude"):
        TransportSecurity.model_validate({"plaintext": True, "ca": "ca.crt"})
    assert TransportSecurity(plaintext=True).server_credentials() is None
