"""What goes into a pass: the running generations' next tokens, drafts, shares of prompts, padding."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

from device_agent.engine.adapter_contexts import AdapterContext
from device_agent.engine.batch_padding import BatchPadding, padding_for
from device_agent.engine.context import Batch
from device_agent.engine.job import Job
from device_agent.engine.prefill_budget import PrefillBudget, share_out
from device_agent.engine.prefix_cache import Slot
from device_agent.engine.sequence import Sequence
from device_agent.engine.settings import EngineSettings
from device_agent.engine.speculative import Drafter
from device_agent.engine.trial import Trial

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Plan:
    """One pass, and the batch that is filled for it."""

    context: AdapterContext
    jobs: list[Job]
    """Of one group, in the order of their slots."""
    batch: Batch
    decoding: int
    """How many of the jobs do; the others read their prompts."""
    drafting: bool = False
    drafts: dict[Sequence, list[int]] = field(default_factory=dict)
    shares: dict[Sequence, int] = field(default_factory=dict)
    """How much is read of each prompt."""
    padding: BatchPadding = field(default_factory=BatchPadding)
    taking: list[Job] = field(default_factory=list)
    """Whose next tokens come out."""
    partial: list[Job] = field(default_factory=list)
    """Of whose prompts more is to be read after this."""
    faults: dict[Job, Exception] = field(default_factory=dict)
    """Jobs that could not be put into the batch."""

    @property
    def reading(self) -> bool:
        return self.decoding < len(self.jobs)

    @property
    def members(self) -> list[Job]:
        """The jobs that this pass does something for."""
        return [*self.taking, *self.partial]

    def advance(self) -> None:
        """Note what was read of the prompts that are not at their end, after the pass."""
        for job in self.partial:
            sequence = job.sequence
            sequence.position += self.shares[sequence]
            sequence.slot.valid = sequence.remembered


class Planner:
    """Fills batches, and learns from the passes how to fill the next."""

    def __init__(
        self, settings: EngineSettings, *, batch_tokens: int, context_tokens: int, slots: int,
        drafter: Drafter | None,
    ) -> None:  # fmt: skip
        """A pass has at most `batch_tokens`; a context has `slots` of `context_tokens` each."""
        self._settings = settings
        self._context_tokens = context_tokens
        self._slots = slots
        self._drafter = drafter
        self._batch = Batch(batch_tokens)
        self._budget = PrefillBudget(batch_tokens, settings.stall_s)
        self._drafting, self._widening = Trial(), Trial()

    def plan(self, jobs: list[Job]) -> Plan:
        """Decide what the next pass does for the jobs of one group, and fill the batch with it."""
        decoding = [job for job in jobs if job.sequence.decoding]
        plan = Plan(jobs[0].context, jobs, self._batch, len(decoding))
        self._batch.clear()
        if decoding and self._drafter is not None and self._drafting.pays(len(decoding)):
            self._draft(plan, self._drafter, decoding)
        if plan.reading:
            self._share_prompts(plan)
        elif not plan.drafting:
            plan.padding = self._padding(plan.context, decoding)
        spare = deque(plan.padding.slots)
        # In the order of the slots, for what is next to one another is computed together.
        for job in jobs:
            self._add_idle(spare, before=job.sequence.slot.index)
            self._add(plan, job)
        self._add_idle(spare, before=self._slots)
        return plan

    def alone(self, plan: Plan, job: Job) -> Plan:
        """Fill the batch with one job's part of a pass, without drafts and padding."""
        self._batch.clear()
        part = Plan(plan.context, [job], self._batch, int(job.sequence.decoding))
        if job.sequence in plan.shares:
            part.shares = {job.sequence: plan.shares[job.sequence]}
        self._add(part, job)
        return part

    def steady_passes(self, plan: Plan, most: int) -> int:
        """How many passes may be made like this one before another way is to be tried."""
        if self._drafter is not None:
            most = min(most, self._drafting.passes_left(plan.decoding))
        if plan.padding.rows:
            most = min(most, self._widening.passes_left(plan.padding.rows))
        return most

    def learn(self, plan: Plan, *, passes: int, tokens: int, seconds: float) -> None:
        """Remember how long passes took, and how many tokens came out of them."""
        if plan.reading:
            self._budget.observe(self._batch.size, seconds)
        elif self._drafter is not None:
            self._drafting.observe(
                plan.decoding, other=plan.drafting, passes=passes, tokens=tokens, seconds=seconds
            )
        if plan.padding.rows:
            self._widening.observe(
                plan.padding.rows,
                other=plan.padding.widened,
                passes=passes,
                tokens=tokens,
                seconds=seconds,
            )

    def _draft(self, plan: Plan, drafter: Drafter, decoding: list[Job]) -> None:
        room = self._batch.capacity // len(decoding) - 1
        count = min(self._settings.draft_tokens, room)
        plan.drafting = True
        if not count:
            return
        try:
            plan.drafts = drafter.draft([job.sequence for job in decoding], count)
        except Exception:
            # Drafts change how fast the text comes, never the text: nobody has to suffer.
            log.exception("the draft model failed: this engine goes on without it")
            self._drafter, plan.drafting = None, False

    def _share_prompts(self, plan: Plan) -> None:
        """Decide how many tokens of each prompt this pass reads."""
        reading = [job.sequence for job in plan.jobs if not job.sequence.decoding]
        decoding = plan.decoding
        room = self._batch.capacity - decoding - sum(map(len, plan.drafts.values()))
        budget = min(room, self._budget.tokens(decoding=decoding, reading=len(reading)))
        shares = share_out(budget, [sequence.readable for sequence in reading])
        plan.shares = dict(zip(reading, shares, strict=True))

    def _add(self, plan: Plan, job: Job) -> None:
        """Add a job's part to the batch, or note why that cannot be."""
        batch = self._batch
        size, outputs = batch.size, batch.output_count
        try:
            kind = _fill(batch, plan, job.sequence)
        except Exception as error:
            batch.size, batch.output_count = size, outputs
            plan.faults[job] = error
            return
        if kind is not None:
            (plan.taking if kind else plan.partial).append(job)

    def _add_idle(self, spare: deque[Slot], *, before: int) -> None:
        """Add a token that nobody wants for each free slot up to a number."""
        while spare and spare[0].index < before:
            slot = spare.popleft()
            self._batch.extend([0], slot.valid, slot.index, output=False)

    def _padding(self, context: AdapterContext, decoding: list[Job]) -> BatchPadding:
        if not context.context.can_cut:
            # What a free slot is given, it would have to keep.
            return BatchPadding()
        return padding_for(
            context.cache.slots,
            [job.sequence.slot.index for job in decoding],
            self._widening,
            longest=max(job.sequence.position for job in decoding),
            context_tokens=self._context_tokens,
        )


def _fill(batch: Batch, plan: Plan, sequence: Sequence) -> bool | None:
    """Add a sequence's part; say whether its next token comes out, None where it has no part."""
    slot = sequence.slot.index
    position = sequence.position + sequence.position_shift
    if sequence.decoding:
        batch.add(sequence.tokens[-1], position, slot)
        for offset, token in enumerate(plan.drafts.get(sequence, ()), 1):
            batch.add(token, position + offset, slot)
        return True
    share = plan.shares[sequence]
    if not share:
        return None
    start, end = sequence.position, sequence.position + share
    whole = end == len(sequence.tokens)
    batch.extend(sequence.tokens[start:end], position, slot, output=whole)
    return whole
