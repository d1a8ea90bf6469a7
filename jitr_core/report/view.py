"""The live view of a replay: a table that moves in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .summary import STATE_STYLES, final_table
from .wording import event_line, quoted, share

if TYPE_CHECKING:
    from .tally import Tally

__all__ = ["ReplayView", "SearchProgress"]

_REFRESH_S = 0.2
_PLAIN_WIDTH = 140  # columns where the output is no terminal: a file or a pipe has no width of its own
_PLAIN_LINES = 10  # progress lines of a replay that is no terminal
_STYLES = {
    "task": "cyan",
    "merged": "cyan",
    "rollback": "bold red",
    "warning": "yellow",
    "hold": "yellow",
    "fault": "bold red",
}


@dataclass(frozen=True, slots=True)
class _Row:
    """What the live table shows of one task."""

    name: str
    state: str
    calls: int
    replaced: int
    agreed: int
    first_replaced_at: int | None


class SearchProgress:
    """Shows in a terminal what a search is doing and how far it is, on the error output; elsewhere nothing."""

    def __init__(self) -> None:
        self._shown = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar = self._shown.add_task("", total=1.0, visible=False)

    def __enter__(self) -> SearchProgress:
        if self._shown.console.is_terminal:
            self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.stop()

    def update(self, what: str, share: float) -> None:
        """Take in what is going on and the share of it that is done, in [0, 1]."""
        self._shown.update(self._bar, description=f"searching: {what}", completed=share, visible=True)


class ReplayView:
    """Shows a replay while it runs; a context manager.

    Args:
        console: where to; None is the standard output, 140 columns wide if that is no terminal.

    Example:
        with ReplayView() as view:
            view.event({"kind": "start", "calls": 2})
            view.call(tally)
            view.summary(summary)
    """

    def __init__(self, console: Console | None = None) -> None:
        if console is None:
            console = Console(highlight=False)
            if not console.is_terminal:
                console = Console(highlight=False, width=_PLAIN_WIDTH)
        self.console = console
        self._names: dict[str, str] = {}
        self._states: dict[str, str] = {}
        self._rows: list[_Row] = []
        self._search = ""
        self._total = 0
        self._shown_at = 0.0
        self._next_line = 0
        self._progress = Progress(
            TextColumn("replaying"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("calls, {task.fields[replaced]:,} replaced"),
            TimeElapsedColumn(),
        )
        self._bar = self._progress.add_task("", total=None, replaced=0)
        # The live table refreshes itself from a thread of rich's, so that the clock goes on while a search runs; what
        # it reads is only ever replaced as a whole.
        self._live = Live(get_renderable=self._renderable, console=console, refresh_per_second=5, transient=True)

    def __enter__(self) -> ReplayView:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def event(self, event: dict[str, Any]) -> None:
        """Take in an event of the engine: `kind`, `at_call` and what belongs to the kind."""
        kind = event["kind"]
        self._search = f"searching: {event['what']}, {event['share']:.0%}" if kind == "searching" else ""
        if kind == "start":
            self._total = event["calls"]
            self._progress.update(self._bar, total=event["calls"])
        self._note(event)
        line = event_line(event, self._names)
        if line:
            self.console.print(Text(line, style=self._style(event)), soft_wrap=True)

    def call(self, tally: Tally) -> None:
        """Take in the counts after one more call."""
        if not self.console.is_terminal:
            self._plain_progress(tally)
            return
        now = time.monotonic()
        if now - self._shown_at < _REFRESH_S and tally.calls != self._total:
            return
        self._shown_at = now
        self._progress.update(self._bar, completed=tally.calls, replaced=tally.replaced)
        self._rows = [
            _Row(
                self._names.get(task, task),
                self._states.get(task, "observing"),
                counts.calls,
                counts.replaced,
                counts.agreed,
                counts.first_replaced_at,
            )
            for task, counts in tally.tasks.items()
        ]

    def summary(self, summary: dict[str, Any]) -> None:
        """Show the final figures in place of the live table; `summary` is what `jitr replay --json` writes."""
        self._live.stop()
        self.console.print(final_table(summary))

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what the table says of a task."""
        if event["kind"] == "task":
            self._names[event["task"]] = event["name"]
        elif event["kind"] == "state":
            self._states[event["task"]] = event["state"]

    def _style(self, event: dict[str, Any]) -> str:
        if event["kind"] == "search":
            return "yellow" if event["report"].refusal else "bold green"
        return _STYLES.get(event["kind"], "")

    def _plain_progress(self, tally: Tally) -> None:
        if tally.calls >= self._next_line and self._total:
            if self._next_line:
                text = f"{tally.calls:,} of {self._total:,} calls replayed, {tally.replaced:,} replaced"
                self.console.print(text, markup=False)
            self._next_line += max(self._total // _PLAIN_LINES, 1)

    def _renderable(self) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column("task")
        table.add_column("state")
        for column in ("calls", "replaced", "coverage", "agreement", "first replaced"):
            table.add_column(column, justify="right")
        for row in self._rows:
            table.add_row(
                Text(quoted(row.name, 40)),
                Text(row.state, style=STATE_STYLES.get(row.state, "")),
                f"{row.calls:,}",
                f"{row.replaced:,}",
                share(row.replaced / row.calls if row.calls else None),
                f"{row.agreed / row.replaced:.3f}" if row.replaced else "–",
                "–" if row.first_replaced_at is None else f"call {row.first_replaced_at:,}",
            )
        return Group(table, self._progress, Text(self._search))
