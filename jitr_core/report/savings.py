"""The table of `jitr savings`: what a live state has cost and saved so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..savings import Prices, Rates, Savings, Traffic, bill, rates_text, settle, total
from ..worth import traffic_of
from .wording import kwh, quoted, usd

if TYPE_CHECKING:
    from ..store import Store, Usage

__all__ = ["show_savings", "task_savings"]

_NO_TASK = "no task (one-off calls, judges)"
_NOT_COUNTED = (
    "Searches, training, questions about tasks and to judges are billed, failed ones included. Not counted: the app's "
    "own time in asking replacements (`jitr replay` measures it), and calls that were purged."
)


def task_savings(store: Store, prices: Prices, rates: Rates) -> dict[str | None, Savings]:
    """What each task has cost, against what the teacher alone would have cost.

    Args:
        store: the opened state.
        prices: looks the models up.
        rates: what own computing is billed at.

    Returns:
        By the task's id; None stands for the calls of no task, and for what judges (see `jitr_core.judge`) were asked,
        whatever task that was for. The time of searches counts as seconds of one core.
    """
    usage: dict[str | None, list[Usage]] = defaultdict(list)
    for part in store.usage():
        usage[part.task].append(part)
    found: dict[str | None, Savings] = {}
    for task in [task.id for task in store.tasks()]:
        parts = [task, *_merged(store, task)]
        training_s = sum(report.seconds for part in parts for report in store.searches(part))
        questions = [
            _question(entry.details) for part in parts for entry in store.ledger(part) if entry.kind == "question"
        ]
        served = store.calls_served(task)
        found[task] = _settled(usage.pop(task, []), prices, rates, training_s, questions, served)
    rest = [part for parts in usage.values() for part in parts]
    judged = [_judged(entry.details) for entry in store.ledger() if entry.kind == "judged"]
    if rest or judged:
        found[None] = _settled(rest, prices, rates, 0.0, judged)
    return found


def _settled(
    usage: Iterable[Usage],
    prices: Prices,
    rates: Rates,
    training_s: float,
    questions: Iterable[Traffic] = (),
    calls_served: int = 0,
) -> Savings:
    usage = list(usage)
    asked = [part for part in usage if part.asked]
    return settle(
        bill(map(traffic_of, usage), prices, rates),
        bill([*map(traffic_of, asked), *questions], prices, rates),
        replaced=sum(part.answered for part in usage),
        audits=sum(part.answered for part in asked),
        training_cpu_s=training_s,
        calls_served=calls_served,
        rates=rates,
    )


def _question(details: dict[str, Any]) -> Traffic:
    """A question that JITR put to the teacher on its own account."""
    sizes = ("input_tokens", "output_tokens", "input_chars", "output_chars")
    known_in, known_out, chars_in, chars_out = (details[name] for name in sizes)
    chars_in, chars_out = (0 if known_in is not None else chars_in), (0 if known_out is not None else chars_out)
    return Traffic.measured(details["model"], 1, known_in or 0, known_out or 0, chars_in, chars_out)


def _judged(details: dict[str, Any]) -> Traffic:
    """What a judge was asked."""
    return Traffic.measured(details["model"], details["calls"], 0, 0, details["input_chars"], details["output_chars"])


def _merged(store: Store, task: str) -> list[str]:
    """The tasks that were merged into a task: they keep their searches and questions."""
    gone = [str(entry.details["gone"]) for entry in store.ledger(task) if entry.kind == "merge"]
    return [each for name in gone if name != task for each in (name, *_merged(store, name))]


def show_savings(store: Store, prices: Prices, rates: Rates, console: Console | None = None) -> None:
    """Print money and energy, a row per task and one for all.

    Args:
        store: the opened state.
        prices: looks the models up.
        rates: what own computing is billed at.
        console: where to; None is the standard output.
    """
    if console is None:
        console = Console(highlight=False)
        console = console if console.is_terminal else Console(highlight=False, width=160)
    found = task_savings(store, prices, rates)
    everything = total(found.values())
    if not everything.calls:
        console.print("No calls yet: nothing was observed.", markup=False)
        return
    names = {task.id: quoted(task.name, 40) for task in store.tasks()}
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("task", overflow="fold")
    money = ("teacher alone", "with JITR", "saved", "paid for after")
    for column in ("calls", "replaced", "audits", *money, "energy saved (estimate)"):
        table.add_column(column, justify="right")
    for task, each in found.items():
        table.add_row(Text(names[task]) if task else Text(_NO_TASK, style="dim"), *_cells(each))
    table.add_row(Text("all", style="bold"), *_cells(everything))
    console.print(table)
    if not everything.replaced:
        spent = f", and {usd(everything.fixed_usd)} went into searches" if everything.fixed_usd else ""
        console.print(f"Not yet: no call was replaced so far{spent}. `jitr tasks` says why.", markup=False)
    for alone in store.tasks():
        if alone.reason.startswith("left alone"):
            console.print(Text(f"{quoted(alone.name, 40)} {alone.reason}"), soft_wrap=True)
    shadow = bill(map(traffic_of, store.usage(reason="shadow")), prices, rates)
    if shadow.calls:
        told = (
            f"Only observed: replacements would have answered {shadow.calls:,} more calls, for which the teacher cost"
        )
        console.print(f"{told} {usd(shadow.usd)}.", markup=False)
    for note in (rates_text(prices, rates, everything.estimated_share), _NOT_COUNTED):
        console.print(Text(note, style="dim"), soft_wrap=True)


def _cells(each: Savings) -> list[str]:
    paid = "–" if each.break_even_calls is None else f"{each.break_even_calls:,} calls"
    money = [usd(each.cost_teacher_only_usd), usd(each.cost_usd), usd(each.saved_usd), paid]
    return [f"{each.calls:,}", f"{each.replaced:,}", f"{each.audits:,}", *money, kwh(each.saved_kwh)]
