"""Whose runs are under way: a run is named by its id, or by its caller's label where that is clear."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from airloom.errors import AmbiguousRunError, InvalidTaskError, NotFoundError
from airloom.identity import Caller


@dataclass(eq=False, slots=True)
class FollowedRun:
    """A call that follows a run; it knows which as soon as it has begun or was joined."""

    owner: str
    label: str
    run_id: str = ""


class RunningTasks:
    """The runs that are being followed now."""

    def __init__(self) -> None:
        self._followed: set[FollowedRun] = set()

    @contextlib.contextmanager
    def follow(self, caller: Caller, label: str) -> Iterator[FollowedRun]:
        """Count a call while this block runs."""
        followed = FollowedRun(caller.owner, label)
        self._followed.add(followed)
        try:
            yield followed
        finally:
            self._followed.discard(followed)

    def find(self, caller: Caller, run_id: str, label: str) -> str:
        """Return the id of the run that a caller names: one of its own; an operator's may be any.

        Raises:
            InvalidTaskError: nothing is named, or a label by somebody who cannot be told apart.
            NotFoundError: there is no such run of the caller's.
            AmbiguousRunError: the label names several; tells their ids.
        """
        if run_id:
            for one in self._followed:
                if one.run_id == run_id and (caller.is_operator or one.owner == caller.owner):
                    return run_id
            raise NotFoundError(f"no run {run_id[:64]!r} of {_name(caller)} is under way here")
        if not label:
            raise InvalidTaskError("give the run_id that Started told, or the task_id of the task")
        if not (caller.authenticated or caller.is_operator):
            raise InvalidTaskError(
                "task_id: callers without a certificate cannot be told apart, and name a run by "
                "its run_id"
            )
        own = [one for one in self._followed if one.run_id and one.owner == caller.owner]
        found = {one.run_id for one in own if one.label == label}
        if not found:
            raise NotFoundError(
                f"no run {label[:64]!r} of {_name(caller)} is under way here; under way: "
                f"{_some({one.run_id for one in own})}"
            )
        if len(found) > 1:
            raise AmbiguousRunError(
                f"{len(found)} runs are called {label[:64]!r}: give the run_id of one: "
                f"{_some(found)}"
            )
        return found.pop()


def _name(caller: Caller) -> str:
    return caller.name or "this caller"


def _some(run_ids: set[str]) -> str:
    shown = sorted(run_ids)[:16]
    return ", ".join(shown) + (" …" if len(run_ids) > len(shown) else "") if shown else "none"
