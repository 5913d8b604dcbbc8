"""The scheduler's laws, whatever comes and goes: it knows no model, so none is needed."""

import itertools
import threading
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from airloom.errors import CancelledTaskError, DeadlineExceededError, OverloadedError
from device_agent.engine.scheduler import TURN_PASSES, Group, Scheduler


@dataclass(eq=False)
class Asked:
    """What the scheduler knows of a job."""

    group: Group = (0, 0)
    deadline_s: float | None = None
    cancelled: bool = False
    suspending: bool = False
    number: int = 0
    passed_over: int = 0
    """How many passes in a row were made without it."""


def scheduler(parallel: int = 2, queue_length: int = 3) -> Scheduler[Asked]:
    return Scheduler(parallel=parallel, queue_length=queue_length, changed=threading.Condition())


def filled(*jobs: Asked, parallel: int = 2) -> Scheduler[Asked]:
    """A scheduler in which these have been admitted, as far as there is room."""
    made = scheduler(parallel)
    for job in jobs:
        made.enter(job)
    while made.admit() is not None:
        pass
    return made


class Traffic(RuleBasedStateMachine):
    """Jobs of several groups enter, run, stand still, leave; passes are made."""

    @initialize(parallel=st.integers(1, 5), queue_length=st.integers(0, 4))
    def open(self, parallel: int, queue_length: int) -> None:
        self.parallel, self.queue_length = parallel, queue_length
        self.scheduler = scheduler(parallel, queue_length)
        self.entered: list[Asked] = []
        self.left: Counter[int] = Counter()
        self.admitted: list[int] = []
        self.parked: set[int] = set()
        self.now_s = 0.0

    @property
    def present(self) -> list[Asked]:
        return [*self.scheduler.running, *self.scheduler.waiting]

    @rule(key=st.integers(0, 3), deadline_s=st.none() | st.floats(0.5, 20))
    def enter(self, key: int, deadline_s: float | None) -> None:
        late_s = None if deadline_s is None else self.now_s + deadline_s
        job = Asked((0, key), late_s, number=len(self.entered))
        room = self.parallel + self.queue_length - len(self.present)
        if room > 0:
            self.scheduler.enter(job)
            self.entered.append(job)
        else:
            with pytest.raises(OverloadedError):
                self.scheduler.enter(job)

    @rule()
    def admit(self) -> None:
        while (job := self.scheduler.admit()) is not None:
            self.admitted.append(job.number)

    @precondition(lambda self: self.scheduler.running)
    @rule(data=st.data())
    def park_or_go_on(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.scheduler.running))
        if job.number in self.parked:
            self.scheduler.unpark(job)
        else:
            self.scheduler.park(job, self.now_s + 3.0)
        self.parked ^= {job.number}
        job.passed_over = 0

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.leave(data.draw(st.sampled_from(self.present)))

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.present)).cancelled = True

    @rule(seconds=st.floats(0, 5))
    def drop(self, seconds: float) -> None:
        self.now_s += seconds
        for job, reason in self.scheduler.unwanted(self.now_s):
            expected = CancelledTaskError if job.cancelled else DeadlineExceededError
            assert type(reason) is expected
            self.leave(job)
        for job in self.scheduler.expired(self.now_s):
            self.scheduler.unpark(job)
            self.parked.remove(job.number)
            job.passed_over = 0

    @rule(passes=st.integers(1, 12), dear=st.booleans())
    def passes(self, passes: int, dear: bool) -> None:
        """`dear`: every change of group costs something."""
        before = None
        for _ in range(passes):
            group = self.scheduler.next_group()
            active = [job for job in self.scheduler.running if job.number not in self.parked]
            assert bool(group) == bool(active)
            chosen = {job.group for job in group}
            assert len(chosen) <= 1
            assert group == [job for job in active if job.group in chosen]
            if dear and chosen != before:
                self.scheduler.keep_turn()
            before = chosen
            for job in active:
                job.passed_over = 0 if job in group else job.passed_over + 1
                assert job.passed_over <= TURN_PASSES * self.parallel

    def leave(self, job: Asked) -> None:
        self.scheduler.leave(job)
        self.left[job.number] += 1
        self.parked.discard(job.number)
        with pytest.raises(ValueError, match="not in"):
            self.scheduler.leave(job)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        running = self.scheduler.running
        assert len(running) <= self.parallel
        # First come, first served.
        assert self.admitted == sorted(self.admitted)
        # Who entered is here, or has left once: no place is lost, nobody is forgotten.
        here = Counter(job.number for job in self.present)
        assert here + self.left == Counter(range(len(self.entered)))
        # It never sleeps while somebody could go on.
        active = [job for job in running if job.number not in self.parked]
        admissible = self.scheduler.waiting and len(running) < self.parallel
        cancelled = any(job.cancelled for job in self.present)
        idle_s = self.scheduler.idle_s(self.now_s)
        if active or admissible or cancelled:
            assert idle_s == 0
        for job in self.present:
            if job.deadline_s is not None:
                assert self.now_s + idle_s <= max(job.deadline_s, self.now_s)

    def teardown(self) -> None:
        if hasattr(self, "scheduler"):
            closed = CancelledTaskError("closing")
            for job in self.scheduler.close(closed):
                self.left[job.number] += 1
            assert self.left == Counter(range(len(self.entered)))
            with pytest.raises(CancelledTaskError, match="closing"):
                self.scheduler.enter(Asked())


def test_nobody_starves_and_everybody_leaves_once() -> None:
    run_state_machine_as_test(Traffic)


def test_newcomers_do_not_overtake_a_group_that_waits() -> None:
    """A stream of ever new sets of adapters beside one generation on the model alone."""
    patient = Asked((0, 0))
    made = filled(Asked((0, 1)), patient)
    turns = 0
    for key in range(2, 20):
        group = made.next_group()
        turns += patient in group
        for job in group:
            if job is not patient:
                made.leave(job)
                made.enter(Asked((0, key)))
                made.admit()
    assert turns >= 8


def test_a_change_that_costs_something_is_made_use_of() -> None:
    made = filled(Asked((0, 1)), Asked((0, 2)))
    turns = []
    for _ in range(4 * TURN_PASSES):
        (job,) = made.next_group()
        if not turns or turns[-1] != job.group:
            made.keep_turn()
        turns.append(job.group)
    changes = sum(a != b for a, b in itertools.pairwise(turns))
    assert changes == 3


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_groups_take_turns_where_changing_costs_nothing(keys: list[int]) -> None:
    made = filled(*(Asked((key, 0)) for key in keys), parallel=5)
    groups = len(set(keys))
    turns = [made.next_group()[0].group for _ in range(3 * groups)]
    assert all(count == 3 for count in Counter(turns).values())


def test_who_stands_still_keeps_the_place_and_gets_no_passes() -> None:
    held, other, third = Asked(number=1), Asked(number=2), Asked(number=3)
    made = filled(held, other, third)
    made.park(held, until_s=10.0)
    assert made.next_group() == [other]
    assert made.admit() is None
    made.leave(other)
    assert made.admit() is third
    made.leave(third)
    assert made.next_group() == []
    assert made.idle_s(4.0) == 6.0
    assert made.expired(9.9) == []
    assert made.expired(10.0) == [held]
    held.suspending = True
    assert made.idle_s(4.0) == 0.0
    held.suspending, held.cancelled = False, True
    assert made.idle_s(4.0) == 0.0
    made.unpark(held)
    assert made.next_group() == [held]
