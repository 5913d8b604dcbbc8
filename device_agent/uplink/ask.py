"""One question on its way to the cloud, over as many streams as it takes."""

from __future__ import annotations

import asyncio

from airloom.errors import AirloomError, OverloadedError
from device_agent.engine import OnText
from protos.airloom.v1 import task_pb2


class CloudAsk:
    """What has come back so far: text that waits to be told, and how it ended.

    The reader of the text may be slow: what comes meanwhile is joined, and the stream is never held
    up; the whole text is bounded. When the cloud begins again on a new stream, what was told before is
    skipped; where it does not agree with what comes, no more is told, and the result holds it all.
    """

    def __init__(self, task: task_pb2.Task, *, streamed: bool, text_limit_bytes: int) -> None:
        self.task = task
        self.streamed = streamed
        self._limit = text_limit_bytes
        self._received: list[str] = []
        """All the text that counts, told or not."""
        self._received_bytes = 0
        self._untold: list[str] = []
        self._again: str | None = None
        """What is still expected to be repeated of the text that came on an earlier stream."""
        self._agrees = True
        self._outcome: task_pb2.TaskResult | AirloomError | None = None
        self._changed = asyncio.Event()
        self.uplink_bytes = 0
        self.downlink_bytes = 0
        self.downlink_ms = 0.0
        """Of the result, by the sender's clock."""

    @property
    def answered(self) -> bool:
        """Whether the cloud has sent the result."""
        return isinstance(self._outcome, task_pb2.TaskResult)

    def begin(self) -> None:
        """Expect everything from its beginning, on a new stream."""
        self._outcome = None
        self._again = "".join(self._received)

    def text(self, piece: str) -> None:
        """Take the next piece that the cloud told."""
        if not self.streamed or not self._agrees or self._outcome is not None:
            return
        if self._again:
            common = min(len(self._again), len(piece))
            if self._again[:common] != piece[:common]:
                self._agrees = False
                return
            self._again, piece = self._again[common:], piece[common:]
        if not piece:
            return
        self._received_bytes += len(piece.encode())
        if self._received_bytes > self._limit:
            self.end(OverloadedError(f"the answer's text is longer than {self._limit} bytes"))
            return
        self._received.append(piece)
        self._untold.append(piece)
        self._changed.set()

    def end(self, outcome: task_pb2.TaskResult | AirloomError) -> None:
        """Take what ended it, on this stream; the first counts."""
        if self._outcome is None:
            self._outcome = outcome
            self._changed.set()

    async def follow(self, on_text: OnText | None) -> task_pb2.TaskResult:
        """Tell the text as it comes and return the result.

        Raises:
            AirloomError: what ended it otherwise.
        """
        while True:
            untold, self._untold = "".join(self._untold), []
            if untold and on_text is not None:
                await on_text(untold)
            elif isinstance(self._outcome, AirloomError):
                raise self._outcome
            elif self._outcome is not None:
                return self._outcome
            else:
                self._changed.clear()
                await self._changed.wait()
