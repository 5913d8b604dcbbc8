"""Show a run's progress: a table on a terminal, a line an answer elsewhere."""

from __future__ import annotations

from typing import Any, Protocol

from rich.console import Console

_COLORS = {"device": "cyan", "cloud": "magenta"}


class Progress(Protocol):
    """Where a run shows how it is getting on."""

    def stage(self, text: str) -> None: ...

    def link(self, board: str, kind: str, ok: bool) -> None: ...

    def answer(self, event: dict[str, Any]) -> None: ...


class ConsoleProgress:
    """Prints who asks, over which link, where it was answered, right or wrong, and the time."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._done = console, total, 0

    def stage(self, text: str) -> None:
        self._console.print(f"[bold]{text}[/]")

    def link(self, board: str, kind: str, ok: bool) -> None:
        verdict = "[green]as asked[/]" if ok else "[red]not as asked (see the report)[/]"
        self._console.print(f"  {board:10} {kind:10} {verdict}")

    def answer(self, event: dict[str, Any]) -> None:
        self._done += 1
        head = f"[{self._done:3}/{self._total}] {event['device']:10} {event['link']:10}"
        self._console.print(head, end=" ", markup=False, highlight=False)
        what = f"{event['domain']:11} L{event['level']}"
        if event["event"] != "answer":
            self._console.print(f"[red]{what} unanswered: {event['reason']}[/]")
            return
        place = event["place"]
        verdict = "[green]right[/]" if event["correct"] else "[red]wrong[/]"
        self._console.print(
            f"{what}  [{_COLORS[place]}]{place:6}[/]  {verdict}  "
            f"{event['timing']['total_ms']:7.0f} ms  p={event['confidence']:.2f}",
            highlight=False,
        )
