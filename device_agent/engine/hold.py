"""A generation that stands still while another engine may take it over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from device_agent.engine.sequence_state import SequenceState


class Hold:
    """A generation's state, and the decision that is due before the lease ends.

    The generation keeps its slot and decodes nothing. `commit` ends it here: whoever followed it gets
    HandedOverError. `roll_back` lets it go on as if nothing had happened, and so does the end of the
    lease: a caller that vanishes loses nobody's work. Use it as

        hold = await generation.hold(lease_s=30)
        try:
            ...  # send hold.state; raises if the other side did not take it
            await hold.commit()
        finally:
            hold.roll_back()  # nothing happens after a commit
    """

    def __init__(
        self,
        state: SequenceState,
        commit: Callable[[Hold, Callable[[], None] | None], Awaitable[None]],
        roll_back: Callable[[Hold], None],
    ) -> None:
        self.state = state
        self._commit = commit
        self._roll_back = roll_back

    async def commit(self, *, then: Callable[[], None] | None = None) -> None:
        """The other engine has it: end the generation here.

        `then` is called on the engine's thread if and when the generation ends so, before anybody is
        told: cancelling this does not say whether it will.

        Raises:
            ConflictError: the lease has passed, or the generation has ended: it was not handed over.
            CancelledTaskError: the engine is closing.
        """
        await self._commit(self, then)

    def roll_back(self) -> None:
        """Let the generation go on here; does nothing if the hold has ended. Never raises."""
        self._roll_back(self)
