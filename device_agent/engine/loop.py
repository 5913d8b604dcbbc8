"""The decode loop: chores, drop, admit, plan, run, choose, tell, again and again on one thread.

A fault in one sequence, wherever it is raised, ends that sequence with its error. What fails outside
of any sequence is a defect of the loop, and is raised to the engine.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from airloom.errors import AirloomError
from device_agent.engine.adapter_contexts import AdapterContexts
from device_agent.engine.adapters import Adapters
from device_agent.engine.choosing import Choice, Logits, choose_tokens, grow, score
from device_agent.engine.chores import Chores
from device_agent.engine.departures import Departures
from device_agent.engine.handover import Handover
from device_agent.engine.job import Job
from device_agent.engine.placement import place
from device_agent.engine.plan import Plan, Planner
from device_agent.engine.runner import Runner, choices_of
from device_agent.engine.scheduler import Scheduler
from device_agent.engine.settings import EngineSettings
from device_agent.engine.statistics import EngineStatistics, Observer
from device_agent.engine.streams import Streams

_STEADY_PASSES, _STEADY_S = 256, 0.25
"""How long running generations are left to themselves: what they have made is counted after that."""

log = logging.getLogger(__name__)


class DecodeLoop:
    """All that happens on the engine's thread, and what it works with."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        contexts: AdapterContexts,
        adapters: Adapters,
        planner: Planner,
        runner: Runner,
        statistics: EngineStatistics,
        observer: Observer | None,
    ) -> None:
        self.changed = threading.Condition()
        """Notified when there is something new to do."""
        self.scheduler: Scheduler[Job] = Scheduler(
            parallel=settings.parallel, queue_length=settings.queue_length, changed=self.changed
        )
        self.chores = Chores(self.changed)
        self._settings = settings
        self._contexts = contexts
        self._planner = planner
        self._runner = runner
        self._statistics = statistics
        self._streams = Streams(settings.stream_interval_s)
        self._departures = Departures(self.scheduler, self._streams, statistics, observer)
        self._handover = Handover(
            self.scheduler, self._streams, self.chores, self._departures, adapters
        )
        self._stopping = False

    # Called by any thread.

    def wake(self) -> None:
        """Say that there is something new to do."""
        with self.changed:
            self.changed.notify()

    def stop(self) -> None:
        """Let `run` return after the present pass."""
        self._stopping = True
        self.wake()

    # The engine's thread.

    def run(self) -> None:
        """Serve until `stop`."""
        while self._wait_for_work():
            self._do_chore()
            self._drop_unwanted()
            self._admit_waiting()
            if (plan := self._plan_pass()) is not None:
                self._run_and_choose(plan)
            self._tell()

    def end_all(self, reason: AirloomError) -> None:
        """Let everybody leave with this error, and nobody come any more."""
        for job in self.scheduler.close(reason):
            self._departures.finish(job, reason)
        self._streams.send()
        self.chores.close(reason)
        self._streams.send()

    def _wait_for_work(self) -> bool:
        with self.changed:
            while not self._stopping and not self.chores.pending:
                idle_s = self.scheduler.idle_s(time.monotonic())
                if idle_s <= 0:
                    break
                self.changed.wait(None if idle_s == math.inf else idle_s)
            return not self._stopping

    def _do_chore(self) -> None:
        if self.chores.pending:
            self._streams.tell_all(self.scheduler.active)
            self.chores.do_next()

    def _drop_unwanted(self) -> None:
        now_s = time.monotonic()
        for job, reason in self.scheduler.unwanted(now_s):
            self._departures.leave(job, reason)
        self._handover.hold_and_go_on(now_s)

    def _admit_waiting(self) -> None:
        """Give those who wait the slots that are free, first come, first served."""
        admitted = False
        while (job := self.scheduler.admit()) is not None:
            admitted = True
            timing = job.sequence.timing
            timing.started_s = timing.started_s or time.monotonic()
            try:
                job.context = self._contexts.context_for(job.sequence.adapters)
                place(job)
            except Exception as error:
                self._departures.fail(job, error)
                continue
            self._statistics.cached_tokens += job.sequence.cached_tokens
        if admitted:
            # In the order of the slots: see `batch_padding`.
            self.scheduler.order(lambda job: job.sequence.slot.number)

    def _plan_pass(self) -> Plan | None:
        """Plan a pass for the group whose turn it is; None where there is nothing to decode."""
        group = self.scheduler.next_group()
        if not group:
            return None
        if len(group) < len(self.scheduler.active) or not all(j.sequence.decoding for j in group):
            # Somebody is passed over or held up: what there is to tell is not.
            self._streams.tell_all(self.scheduler.active)
        if not self._use_adapters(group):
            return None
        # An image is read in passes of its own.
        jobs = [job for job in group if not self._read_image(job)]
        if not jobs:
            return None
        plan = self._planner.plan(jobs)
        for job, error in plan.faults.items():
            self._departures.fail(job, error)
        return plan if plan.members else None

    def _use_adapters(self, group: list[Job]) -> bool:
        first = group[0]
        try:
            switched = first.context.use(first.sequence.set_in_use)
        except Exception as error:
            # They all want these adapters.
            for job in group:
                self._departures.fail(job, error)
            return False
        if switched:
            self._statistics.adapter_switches += 1
            self.scheduler.keep_turn()
        return True

    def _read_image(self, job: Job) -> bool:
        """Whether the job's turn is over: an image was read, or could not be."""
        try:
            return self._runner.read_image(job)
        except Exception as error:
            self._departures.fail(job, error)
            return True

    def _run_and_choose(self, plan: Plan) -> None:
        """Do the pass, and those after it that need no plan."""
        started_s = time.monotonic()
        try:
            logits = self._runner.decode(plan)
        except Exception as error:
            self._run_one_by_one(plan, error)
            return
        if plan.reading or plan.drafting or not self._steady(plan):
            passes, tokens = 1, self._choose(plan, logits)
        else:
            passes, tokens = self._choose_steadily(plan, logits)
        duration_s = time.monotonic() - started_s
        self._planner.learn(plan, passes=passes, tokens=tokens, seconds=duration_s)
        self._count(plan, passes, tokens, duration_s)

    def _count(self, plan: Plan, passes: int, tokens: int, duration_s: float) -> None:
        statistics = self._statistics
        statistics.passes += passes
        statistics.pass_seconds += duration_s
        statistics.passes_by_sequences[len(plan.taking)] += passes
        statistics.prompt_tokens += sum(plan.shares.values())
        statistics.generated_tokens += tokens

    def _run_one_by_one(self, plan: Plan, error: Exception) -> None:
        """Find out who is at fault for a pass that failed: do each member's part by itself, once."""
        members = plan.members
        alone = len(members) == 1 and not plan.drafts and not plan.padding.slots
        if not self._runner.restore(plan) or alone:
            # Alone at fault, or a memory that cannot be put right: nobody of this pass can go on.
            for job in members:
                self._departures.fail(job, error)
            return
        log.warning(
            "a pass for %d generations failed, each is tried alone: %s", len(members), error
        )
        for job in members:
            started_s = time.monotonic()
            part = self._planner.alone(plan, job)
            try:
                if part.faults:
                    raise part.faults[job]
                logits = self._runner.decode(part)
            except Exception as fault:
                self._departures.fail(job, fault)
                continue
            tokens = self._choose(part, logits)
            self._count(part, 1, tokens, time.monotonic() - started_s)

    def _choose(self, plan: Plan, logits: Logits) -> int:
        """Choose the tokens that a pass was made for; return how many there are."""
        plan.advance()
        choices, faults = choose_tokens(plan.taking, plan.drafts, logits)
        for job, error in faults.items():
            self._departures.fail(job, error)
        for choice in choices:
            if choice.drafted:
                accepted = len(choice.tokens) - 1
                choice.job.sequence.drafted_tokens += choice.drafted
                choice.job.sequence.accepted_tokens += accepted
                self._statistics.drafted_tokens += choice.drafted
                self._statistics.accepted_tokens += accepted
        self._settle(choices, logits)
        return sum(len(choice.tokens) for choice in choices)

    def _steady(self, plan: Plan) -> bool:
        """Whether these can be left to themselves until somebody comes or goes."""
        return len(plan.taking) == len(self.scheduler.active) and all(
            job.sequence.steady for job in plan.taking
        )

    def _choose_steadily(self, plan: Plan, logits: Logits) -> tuple[int, int]:
        """The steady decode loop; return how many passes were made, and tokens."""
        steps = self._runner.decode_steadily(
            plan,
            logits,
            most_passes=self._planner.steady_passes(plan, _STEADY_PASSES),
            interrupted=self._interruption(plan.taking),
        )
        choices, faults = choices_of(steps, plan)
        self._settle(choices, steps.logits)
        for job, error in faults.items():
            self._departures.fail(job, error)
        if steps.refused is not None:
            # The next pass is refused as well, and finds out for whom; here nobody has lost anything.
            staying = [job for job in plan.taking if job in self.scheduler.running]
            plan.taking = staying
            if not self._runner.restore(plan):
                for job in staying:
                    self._departures.fail(job, steps.refused)
        return steps.passes, sum(len(choice.tokens) for choice in choices)

    def _interruption(self, jobs: list[Job]) -> Callable[[], bool]:
        """Whether something else is to be done now than to go on with these."""
        settings, scheduler, chores = self._settings, self.scheduler, self.chores.pending
        ends_s = min(time.monotonic() + _STEADY_S, self._streams.due_s(jobs))
        queue = scheduler.waiting
        # While all places are taken, those who wait are no reason; another one may have a deadline.
        waiting = len(queue) if len(scheduler.running) >= settings.parallel else 0

        def interrupted() -> bool:
            now_s = time.monotonic()
            return (
                now_s >= ends_s
                or bool(chores)
                or self._stopping
                or len(queue) > waiting
                or any(job.interrupted(now_s) for job in jobs)
            )

        return interrupted

    def _settle(self, choices: list[Choice], logits: Logits) -> None:
        """Give the sequences what was chosen for them, and let those leave that are done."""
        now_s = time.monotonic()
        for choice, scored in zip(choices, score(choices, logits), strict=True):
            job = choice.job
            try:
                if isinstance(scored, Exception):
                    raise scored
                timing = job.sequence.timing
                timing.first_token_s = timing.first_token_s or now_s
                completion = None
                if (reason := grow(choice, scored)) is not None:
                    completion = job.sequence.complete(reason)
                    self._streams.tell_rest(job)
                else:
                    self._streams.tell_if_due(job, now_s)
            except Exception as error:
                self._departures.fail(job, error)
                continue
            if completion is not None:
                self._departures.leave(job, completion)

    def _tell(self) -> None:
        self._streams.send()
        scheduler = self.scheduler
        lonely = len(scheduler.running) == 1 and not scheduler.waiting
        self._streams.give_head_start(self.changed, lonely=lonely)
        self._statistics.waiting, self._statistics.running = (
            len(scheduler.waiting),
            len(scheduler.running),
        )
