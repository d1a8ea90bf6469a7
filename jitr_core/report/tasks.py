"""The tables of `jitr tasks` and the lines of `jitr train`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..promises import promised
from ..terms import HEARD, unheard
from .facts import task_facts
from .summary import STATE_STYLES
from .unplaced import unplaced_line
from .wording import audited_line, outlook_line, quoted, search_outcome, share, size

if TYPE_CHECKING:
    from ..store import Store
    from ..types import SearchReport, Task

__all__ = ["show_attempt", "show_task", "show_tasks"]

_MOST_ALIKE = 3  # tasks that read alike


def show_tasks(store: Store, console: Console | None = None) -> None:
    """Print every task with its template, its answers, what serves it and why.

    Args:
        store: the opened state.
        console: where to; None is the standard output.
    """
    console = console or _console()
    found = task_facts(store)
    if not found:
        console.print("No tasks yet: no prompt has recurred often enough.", markup=False)
        _print(console, unplaced_line(store))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("id", "task", "template", "answers", "state"):
        table.add_column(column, overflow="fold")
    for column in ("calls", "a day", "replaced"):
        table.add_column(column, justify="right")
    table.add_column("replacement", overflow="fold")
    several = len({(each["app"], each["tenant"]) for each in found}) > 1
    for each in found:
        owner = f" ({'/'.join(filter(None, (each['app'], each['tenant'])))})" if several else ""
        table.add_row(
            Text(each["task"]),
            Text(quoted(each["name"], 40) + owner),
            Text(_short_template(each)),
            Text(_answers(each, 3)),
            _state(each),
            f"{each['calls']:,}",
            f"{each['calls_per_day']:,.0f}",
            share(each["coverage"]) if each["replaced"] else "–",
            Text(_serves(each)),
        )
    console.print(table)
    for each in found:
        style = "bold red" if each["idle"] else ""
        console.print(Text(f"{each['task']} {each['why']}", style=style), soft_wrap=True)
    _print(console, unplaced_line(store))
    for line in _damage(store, found):
        console.print(Text(line, style="bold red"), soft_wrap=True)


def _print(console: Console, line: str) -> None:
    """Print a line that is one, whatever the width; nothing if there is none."""
    if line:
        console.print(Text(line), soft_wrap=True)


def show_task(store: Store, task: Task, console: Console | None = None) -> None:
    """Print all there is to say of one task.

    Args:
        store: the opened state.
        task: the task.
        console: where to; None is the standard output.
    """
    console = console or _console()
    (facts,) = task_facts(store, task)
    owner = "/".join(filter(None, (facts["app"], facts["tenant"])))
    said = [f"{name}: {facts[key]}" for name, key in (("task", "task_type"), ("input", "input_type")) if facts[key]]
    lines = [
        ("state", f"{_state(facts)}; {facts['why']}"),
        ("app", owner),
        ("calls", f"{facts['calls']:,}, about {facts['calls_per_day']:,.0f} a day; {facts['labels']:,} labels"),
        ("replaced", f"{facts['replaced']:,} ({share(facts['coverage'])}), {facts['audits']:,} audits"),
        ("answers", _answers(facts, 20)),
        ("replacement", _serves(facts)),
        ("audited", audited_line((facts["replacement"] or {}).get("audited"))),
        ("promised", promised(facts["promise"])),
        ("warning", unheard(facts["promise"], store.answer_counts(task.id, HEARD))),
        ("searches", f"{facts['attempts']:,}, counted with those forfeited, merged or split"),
        ("outlook", _outlook(store, task)),
        *(("reads alike", _merging(facts, other)) for other in facts["alike"][:_MOST_ALIKE]),
        ("the teacher says", "; ".join(said)),
    ]
    console.print(Text(f"{quoted(facts['name'], 120)} {facts['task']}", style="bold"), soft_wrap=True)
    for name, text in lines:
        if text:
            console.print(Text.assemble((f"  {name}: ", "dim"), text), soft_wrap=True)
    for each in facts["fields"]:
        console.print(Text(f"  field {each['field']}: {each['how']}"), soft_wrap=True)
    for each in facts["declared"]:
        how = f"step {each['step']}" if each["step"] else "any step"
        console.print(Text(f"  declared: {how}{', ' + repr(each['text']) if each['text'] else ''}"), soft_wrap=True)
    for each in facts["templates"]:
        step = f", step {each['step']}" if each["step"] else ""
        console.print(Text(f"  template {each['id']}: {each['calls']:,} calls{step}", style="dim"), soft_wrap=True)
        console.print(Text(_indented(each["text"])), soft_wrap=True)
    for each in facts["releases"]:
        pinned = ", pinned" if each["release"] == facts["pinned"] else ""
        console.print(Text(f"  release {each['release']}: {each['state']}{pinned}, {each['family']}"), soft_wrap=True)
    for each in facts["history"]:
        reason = f": {each['reason']}" if each["reason"] else ""
        console.print(Text(f"  {_when(each['time'])} {each['what']}{reason}", style="dim"), soft_wrap=True)
    for each in facts["examples"]:
        shown = " | ".join(_cut(slot, 200) for slot in each["input"])
        console.print(Text(f"  example: {shown} → {_cut(each['answer'], 80)}"), soft_wrap=True)


def _merging(facts: dict[str, Any], other: dict[str, Any]) -> str:
    """What to do about a task that may be another one with an edited prompt."""
    return (
        f"{quoted(other['name'], 40)}; if both do the same job, as after an edit of the prompt, "
        f"`jitr tasks merge {other['task']} {facts['task']}` makes them one"
    )


def _outlook(store: Store, task: Task) -> str:
    """What the latest search expects of more calls; "" if it found a replacement, or one serves."""
    searches = [report for report in store.searches(task.id) if report.candidates]
    last = searches[-1] if searches else None
    if last is None or last.outlook is None or last.certificate is not None or store.active_release(task.id):
        return ""
    return outlook_line(last.outlook)


def _when(time: float) -> str:
    """A time for reading, in UTC."""
    return f"{datetime.fromtimestamp(time, timezone.utc):%Y-%m-%d %H:%M:%S}"


def _state(facts: dict[str, Any]) -> Text:
    state = "ignored" if facts["ignored"] else facts["state"]
    return Text(state, style=STATE_STYLES.get(facts["state"], ""))


def _serves(facts: dict[str, Any]) -> str:
    release = facts["replacement"]
    if release is None:
        return "–"
    base = f" on {release['base_model']}" if release["base_model"] else ""
    return f"{release['family']}{base}, {size(release['size_bytes'])}, {release['where']}"


def _answers(facts: dict[str, Any], limit: int) -> str:
    """The answer space in a few words, e.g. `3 labels: billing, delivery, returns`."""
    answers = facts["answers"]
    if not facts["labels"]:
        return "–"
    if answers["kind"] != "labels":
        return str(answers["reason"] if limit > 3 else answers["kind"])
    labels = answers["labels"]
    more = ", …" if len(labels) > limit else ""
    return (
        f"{len(labels)} label{'s' if len(labels) > 1 else ''}: {', '.join(_cut(x, 24) for x in labels[:limit])}{more}"
    )


def _short_template(facts: dict[str, Any]) -> str:
    """The most used template in one line, and how many others there are."""
    templates = facts["templates"]
    if not templates:
        declared = [each["text"] or f"step {each['step']}" for each in facts["declared"]]
        return _cut(declared[0], 60) if declared else "–"
    others = f" (+{len(templates) - 1})" if len(templates) > 1 else ""
    text = max(templates, key=lambda each: each["calls"])["text"]
    return _cut(text, 60) + others


def _cut(text: str, limit: int) -> str:
    """A text in one line, shortened in its middle: slots mostly stand at an end."""
    line = " ".join(text.split())
    half = (limit - 1) // 2
    return line if len(line) <= limit else f"{line[:half]}…{line[-half:]}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _damage(store: Store, found: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with the state, a line each; not what was said of its tasks."""
    served = [store.active_release(each["task"]) for each in found if each["idle"]]
    for problem in store.verify():
        if not any(release.id in problem for release in served if release is not None):
            yield f"The state is inconsistent: {problem}"


def show_attempt(task: Task, report: SearchReport | None, console: Console | None = None) -> None:
    """Print what came of an attempt to replace a task.

    Args:
        task: the task.
        report: what the search found, or why there was none; None if another process is at it.
        console: where to; None is the standard output.
    """
    busy = "not searched: another process is at it, or was killed at it less than three minutes ago"
    outcome = busy if report is None else search_outcome(report)
    (console or _console()).print(Text(f"{quoted(task.name)} {outcome}"), soft_wrap=True)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)
