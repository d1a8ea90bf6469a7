"""The final tables of a replay, from the figures that `jitr replay --json` writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..equivalence import EXACT
from ..promises import ANSWERED, at_least, promised
from .wording import agreement, by_rule, candidates, kwh, quoted, share, size, usd

__all__ = ["STATE_STYLES", "final_table"]

STATE_STYLES = {
    "active": "bold green",
    "canary": "green",
    "shadow": "green",
    "refused": "yellow",
    "paused": "red",
    "observing": "dim",
}
_INPUT_SHOWN = 160


def final_table(summary: dict[str, Any]) -> Group:
    """Everything a replay found out, ready to print.

    Args:
        summary: what `jitr replay --json` writes. Read besides the pinned keys, where they are there: `name` and
            `deferred_examples` (dicts with `input`, `reason`, `confidence`) of a task, `note` of a candidate,
            `refusal` of a search, `break_even_calls`, `notes` (lines of text: prices and rates used) and `next`.
    """
    parts: list[RenderableType] = [Text(), _headline(summary), Text(), _tasks(summary)]
    parts += _reasons(summary)
    parts += _titled("Searches", _searches(summary))
    parts += _titled("Deferred to the teacher, the first few", _deferred(summary))
    parts += _titled("Costs", _costs(summary))
    parts += [Text(str(note), style="dim") for note in summary.get("notes", ())]
    parts += [Text(), Text(_next(summary), style="bold")]
    return Group(*parts)


def _titled(title: str, table: Table | None) -> list[RenderableType]:
    return [] if table is None else [Text(), Text(title, style="bold"), table]


def _headline(summary: dict[str, Any]) -> Text:
    calls, replaced = summary["calls"], summary["replaced"]
    text = Text(f"{calls:,} calls in {summary['seconds']:.0f} s: ")
    text.append(f"{replaced:,} answered by replacements ({share(summary['coverage'])})", style="bold")
    if replaced:
        text.append(f", agreement with the teacher {summary['agreement']:.3f}")
        text.append(f" (at least {summary['agreement_low']:.3f} with 95% confidence)")
    text.append(_other_rule(summary))
    promise = summary.get("promise", ANSWERED)
    if promise == "overall" and replaced:
        text.append(f"; {1 - replaced * (1 - summary['agreement']) / calls:.3f} on all calls, deferred ones as right")
    text.append(f". Promised: {promised(promise, summary['target'])}, wrong with probability ≤ ")
    text.append(f"{summary['delta']:g} per task.")
    return text


def _other_rule(summary: dict[str, Any]) -> str:
    """Agreement by the rule chosen for free text, which is what is promised there."""
    found = summary.get("equivalence")
    if found is None or found["agreement"] is None:
        return ""
    return f"; {found['agreement']:.3f}{by_rule(found['rule'])}, as is promised for free text"


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _name(task: dict[str, Any]) -> str:
    return str(task.get("name") or task["task"])


def _tasks(summary: dict[str, Any]) -> Table:
    table = _table(
        "task", "state", "calls", "replaced", "coverage", "agreement", "first replaced", "replacement",
        right=("calls", "replaced", "coverage", "agreement", "first replaced"),
    )  # fmt: skip
    for task in summary["tasks"]:
        first, replacement = task["first_replaced_at"], task["replacement"]
        table.add_row(
            Text(quoted(_name(task), 40)),
            Text(task["state"], style=STATE_STYLES.get(task["state"], "")),
            f"{task['calls']:,}",
            f"{task['replaced']:,}",
            share(task["coverage"]),
            agreement(task["agreement"], task["agreement_low"]),
            "–" if first is None else f"call {first:,}",
            Text("–" if replacement is None else _replacement(replacement)),
        )
    calls, replaced = (summary[key] - sum(task[key] for task in summary["tasks"]) for key in ("calls", "replaced"))
    table.add_row(Text("no task (one-off calls)", style="dim"), "", f"{calls:,}", f"{replaced:,}")
    return table


def _replacement(replacement: dict[str, Any]) -> str:
    base = f" on {replacement['base_model']}" if replacement["base_model"] else ""
    where = replacement.get("where", f"confidence {at_least(replacement['threshold'])}")
    by = by_rule(replacement.get("equivalence", EXACT))
    return f"{replacement['family']}{base}, {size(replacement['size_bytes'])}, {where}{', agreement' if by else ''}{by}"


def _reasons(summary: dict[str, Any]) -> list[RenderableType]:
    told = [task for task in summary["tasks"] if task["reason"]]
    lines: list[RenderableType] = [Text()] if told else []
    for task in told:
        line = Text(f"{quoted(_name(task), 40)} {task['state']}: ", style=STATE_STYLES.get(task["state"], ""))
        lines.append(line.append(task["reason"], style="default"))
    return lines


def _searches(summary: dict[str, Any]) -> Table | None:
    table = _table("at call", "task", "candidates, by estimated coverage", "outcome", "time", right=("at call", "time"))
    found = [(search, task) for task in summary["tasks"] for search in task["searches"]]
    for search, task in sorted(found, key=lambda pair: pair[0]["at_call"]):
        refusal = search.get("refusal", "")
        outcome = f"not promoted: {refusal}" if refusal else f"promoted {search['chosen']}"
        table.add_row(
            f"{search['at_call']:,}",
            Text(quoted(_name(task), 30)),
            Text(_looked_at(search["candidates"])),
            Text(outcome, style="" if refusal else "green"),
            f"{search['seconds']:.1f} s",
        )
    return table if found else None


def _looked_at(reports: list[dict[str, Any]]) -> str:
    return f"{len(reports)}: {candidates(reports)}" if reports else "none"


def _deferred(summary: dict[str, Any]) -> Table | None:
    table = _table("task", "reason", "confidence", "input", right=("confidence",))
    for task in summary["tasks"]:
        for example in task.get("deferred_examples", ()):
            confidence = example["confidence"]
            text = " ".join(str(example["input"]).split())
            table.add_row(
                Text(quoted(_name(task), 30)),
                Text(str(example["reason"])),
                "–" if confidence is None else f"{confidence:.3f}",
                Text(text if len(text) <= _INPUT_SHOWN else text[: _INPUT_SHOWN - 1] + "…"),
            )
    return table if table.row_count else None


def _costs(summary: dict[str, Any]) -> Table:
    table = _table("", "teacher alone", "with JITR", "saved", right=("teacher alone", "with JITR", "saved"))
    for row in _cost_rows(summary):
        table.add_row(*row)
    return table


def _cost_rows(summary: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    calls, asked = summary["calls"], summary["teacher_calls"]
    audits = summary["audits"]
    yield f"calls to the teacher, {audits:,} audits included", f"{calls:,}", f"{asked:,}", f"{calls - asked:,}"
    before, after = summary["cost_teacher_only_usd"], summary["cost_usd"]
    saved = None if before is None or after is None else before - after
    yield "money, searches and training billed", usd(before), usd(after), usd(saved)
    before, after = summary["kwh_teacher_only"], summary["kwh"]
    saved = None if before is None or after is None else before - after
    yield "energy (estimate)", kwh(before), kwh(after), kwh(saved)
    if summary.get("break_even_calls") is not None:
        yield "searches and training are paid for after", "", f"{summary['break_even_calls']:,} calls", ""


def _next(summary: dict[str, Any]) -> str:
    if summary.get("next"):
        return str(summary["next"])
    if summary["replaced"]:
        return "Next: wrap your app's model, llm = JITRChatModel(llm=ChatOpenAI(…)). `jitr pause TASK` vetoes a task."
    if not summary["tasks"]:
        return "Nothing was replaced: no recurring prompt was found. JITR needs the calls of one step, many times over."
    return "Nothing was replaced; the reasons stand above. More calls of a step help it most."
