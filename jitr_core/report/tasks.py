"""The tables of `jitr tasks` and the lines of `jitr train`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import ArtifactError
from .summary import STATE_STYLES
from .wording import quoted, search_outcome, share, size

if TYPE_CHECKING:
    from ..store import Store
    from ..types import SearchReport, Task

__all__ = ["show_attempt", "show_tasks"]


def show_tasks(store: Store, console: Console | None = None) -> None:
    """Print every task with what serves it and why.

    Args:
        store: the opened state.
        console: where to; None is the standard output.
    """
    console = console or _console()
    tasks = store.tasks()
    if not tasks:
        console.print("No tasks yet: no prompt has recurred often enough.", markup=False)
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("id", "task", "app", "state"):
        table.add_column(column, overflow="fold")
    for column in ("calls", "labels", "replaced", "coverage", "audits", "attempts"):
        table.add_column(column, justify="right")
    table.add_column("replacement", overflow="fold")
    for task in tasks:
        counts, release = store.counts(task.id), store.active_release(task.id)
        serves = "–"
        if release is not None:
            serves = f"{release.family}, {size(release.size_bytes)}, confidence ≥ {release.certificate.threshold:.3f}"
        table.add_row(
            Text(task.id),
            Text(quoted(task.name, 40)),
            Text(task.app + (f"/{task.tenant}" if task.tenant else "")),
            Text(task.state, style=STATE_STYLES.get(task.state, "")),
            f"{counts.calls:,}",
            f"{counts.labels:,}",
            f"{counts.answered:,}",
            share(counts.answered / counts.calls if counts.calls else None),
            f"{counts.audits:,}",
            f"{store.attempts(task.id):,}",
            Text(serves),
        )
    console.print(table)
    for task in tasks:
        if task.reason:
            console.print(Text(f"{task.id} {task.state}: {task.reason}"), soft_wrap=True)
    for line in _damage(store, tasks):
        console.print(Text(line, style="bold red"), soft_wrap=True)


def _damage(store: Store, tasks: list[Task]) -> Iterator[str]:
    """What is wrong with the replacements' files and with the state, a line each."""
    reported = []
    for task in tasks:
        release = store.active_release(task.id)
        if release is None:
            continue
        from ..students.files import verify_folder

        try:
            verify_folder(Path(release.path))
        except (ArtifactError, OSError) as error:
            reported.append(release.id)
            yield (
                f"{task.id} {quoted(task.name, 40)} has a damaged replacement; apps that start now ask the teacher: "
                f"{error} `jitr rollback {task.id}` withdraws it."
            )
    for problem in store.verify():
        if not any(release in problem for release in reported):  # said above
            yield f"The state is inconsistent: {problem}"


def show_attempt(task: Task, report: SearchReport | None, console: Console | None = None) -> None:
    """Print what came of an attempt to replace a task.

    Args:
        task: the task.
        report: what the search found; None if another process was at it, or it was not due after all.
        console: where to; None is the standard output.
    """
    outcome = "nothing done: another process is at it" if report is None else search_outcome(report)
    (console or _console()).print(Text(f"{quoted(task.name)} {outcome}"), soft_wrap=True)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)
