"""Ask a board its questions, and write down what came of each."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from collaboration.questions import Question
from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2
from testbed.records import EventLog
from testbed.runner.plan import BoardPlan
from testbed.runner.progress import Progress
from testbed.scenario import QuestionSettings


def _answer_event(
    board: BoardPlan, question: Question, result: task_pb2.TaskResult
) -> dict[str, Any]:
    answer = result.answer
    timing = MessageToDict(
        result.timing, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    for name in ("uplink_bytes", "downlink_bytes"):
        timing[name] = int(timing[name])
    place = "cloud" if answer.provenance.place == task_pb2.PLACE_CLOUD else "device"
    own = answer.set_aside if place == "cloud" else answer
    return {
        "device": board.name,
        "link": board.entry.link.kind,
        "question_id": question.id,
        "domain": question.domain,
        "level": question.level,
        "question": question.text,
        "expected": question.answer,
        "answered": answer.final_answer,
        "correct": answer.final_answer == question.answer,
        "text": answer.text,
        "place": place,
        "confidence": answer.confidence.value,
        "set_aside": MessageToDict(answer.set_aside, preserving_proto_field_name=True),
        "fallback_reason": answer.fallback_reason,
        "model": answer.provenance.model_name,
        "model_sha256": answer.provenance.model_sha256,
        "device_model_sha256": own.provenance.model_sha256,
        "quantisation": answer.provenance.quantisation,
        "link_epoch": answer.provenance.link_epoch,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "timing": timing,
    }


async def ask_all(
    board: BoardPlan, settings: QuestionSettings, socket: str, log: EventLog, progress: Progress
) -> None:
    """Ask a board its questions one after the other, as an application on it would."""
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for question in board.questions:
            task = task_pb2.Task(
                task_id=question.id,
                parts=[task_pb2.Part(text=task_pb2.TextPart(text=question.text))],
                budget=task_pb2.Budget(deadline_ms=settings.deadline),
                sampling=task_pb2.Sampling(max_tokens=settings.max_tokens),
            )
            try:
                reply = await stub.Infer(
                    inference_pb2.InferRequest(task=task), timeout=settings.deadline / 1e3 + 1
                )
            except grpc.aio.AioRpcError as error:
                code = error.code().name
                event = log.write(
                    "unanswered",
                    device=board.name,
                    link=board.entry.link.kind,
                    question_id=question.id,
                    domain=question.domain,
                    level=question.level,
                    code=code,
                    reason=error.details(),
                )
            else:
                event = log.write("answer", **_answer_event(board, question, reply.result))
            progress.answer(event)
