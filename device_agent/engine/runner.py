"""The pass itself: batches and images through llama.cpp, and the memory put right where one fails."""

from __future__ import annotations

from collections.abc import Callable

from device_agent.engine.choosing import Choice, Faults, Logits
from device_agent.engine.images import Vision
from device_agent.engine.job import Job
from device_agent.engine.plan import Plan
from device_agent.engine.steady_decode import Steps, decode_steadily


class Runner:
    """Runs what was planned; chooses nothing, and knows no queue."""

    def __init__(self, vision: Vision | None) -> None:
        self._vision = vision

    def decode(self, plan: Plan) -> Logits:
        """Run the batch; return (rows, vocabulary), a view that is valid until the next pass.

        Raises:
            DecodeError: llama.cpp refused it; see `restore`.
        """
        context = plan.context.context
        logits = context.decode(plan.batch)
        for slot in plan.padding.slots:
            context.trim(slot.index, slot.valid)
        return logits

    def decode_steadily(
        self, plan: Plan, logits: Logits, *, most_passes: int, interrupted: Callable[[], bool]
    ) -> Steps:
        """Take the tokens of a pass that is over, and of those after it that need no plan."""
        return decode_steadily(
            plan.batch,
            [job.sequence for job in plan.taking],
            logits,
            decode=lambda: self.decode(plan),
            keep_logits=any(job.sequence.request.scores for job in plan.taking),
            most_passes=most_passes,
            interrupted=interrupted,
        )

    def read_image(self, job: Job) -> bool:
        """Read the image whose turn it is; False where it is text's.

        Raises:
            DecodeError: llama.cpp refused it.
        """
        sequence = job.sequence
        span = sequence.next_image
        if span is None or self._vision is None:
            return False
        self._vision.decode(
            job.context.context,
            span,
            sequence.position + sequence.position_shift,
            sequence.slot.index,
        )
        sequence.position += span.length
        sequence.position_shift += span.positions - span.length
        sequence.slot.valid = sequence.remembered
        return True

    def restore(self, plan: Plan) -> bool:
        """Forget what a failed pass has left in memory; False where this model's memory cannot.

        llama.cpp leaves the parts of a batch that were done before the one that failed. A recurrent
        model's state cannot be taken back: then nobody of this pass can go on.
        """
        context = plan.context.context
        for slot in plan.padding.slots:
            context.trim(slot.index, slot.valid)
        kept = True
        for job in plan.members:
            sequence = job.sequence
            position = sequence.position + sequence.position_shift
            kept &= context.trim(sequence.slot.index, position)
        return kept


def choices_of(steps: Steps, plan: Plan) -> tuple[list[Choice], Faults]:
    """What steady decoding chose, job by job."""
    choices = []
    for index, (job, tokens) in enumerate(zip(plan.taking, steps.tokens, strict=True)):
        if tokens:
            in_memory = len(job.sequence.tokens) + steps.passes - 1
            choices.append(Choice(job, steps.passes * index, tokens, in_memory))
    return choices, {plan.taking[index]: error for index, error in steps.faults.items()}
