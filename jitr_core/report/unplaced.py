"""The calls of no task: how many there are, why, and what to do about those that are alike all the same."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ..config import Policy
from ..types import GIVEN

if TYPE_CHECKING:
    from ..store import Store
    from ..types import Call

__all__ = ["show_unplaced", "unplaced_facts", "unplaced_line"]

_LOOKED_AT = 2_000  # latest calls of no task whose prompts are looked at
_SHOWN = 5  # parts named
_CHARS = 80  # of a part that are shown
_WORDS = 4  # that a prompt in one line starts with

_Part = tuple[str, str, str, str, str, bool]  # app, tenant, step, text, form, whether a command can declare it


def unplaced_facts(store: Store) -> dict[str, Any]:
    """What there is to say of the calls that belong to no task; JSON values.

    Args:
        store: the opened state.

    Returns:
        `calls`; `labels`: those of them with an answer to learn from; `looked_at`: how many of the latest were
        compared; and `alike` [{`app`, `tenant`, `step`, `where` ("system message", "first line", "last line" or "first
        words"), `text`, `calls`, `declare` (a command that makes a task of them, or null)}]: what enough of these have
        in common to be a task, the most frequent first.
    """
    calls, labels = store.unplaced_counts()
    seen = store.unplaced(_LOOKED_AT) if calls else []
    counts: Counter[_Part] = Counter(part for call in seen for part in _parts(call))
    alike = [
        {
            "app": app,
            "tenant": tenant,
            "step": step.removeprefix(GIVEN),
            "where": where,
            "text": text,
            "calls": number,
            "declare": _command(app, tenant, where, text) if plain else None,
        }
        for (app, tenant, step, text, where, plain), number in counts.most_common(_SHOWN)
        if number >= Policy().min_calls
    ]
    return {"calls": calls, "labels": labels, "looked_at": len(seen), "alike": alike}


def unplaced_line(store: Store) -> str:
    """One line on the calls of no task, for below the table of tasks; "" if there are none."""
    return _line(unplaced_facts(store))


def _line(facts: dict[str, Any]) -> str:
    if not facts["calls"]:
        return ""
    be, their = ("call belongs", "its") if facts["calls"] == 1 else ("calls belong", "their")
    line = f"{facts['calls']:,} {be} to no task: no template of {their} prompts has shown yet"
    mute = facts["calls"] - facts["labels"]
    if mute:
        have = "has" if mute == 1 else "have"
        line += f"; {mute:,} of them {have} no answer to learn from (tools, several answers, deleted texts)"
    if facts["alike"]:
        most = facts["alike"][0]
        line += (
            f". Of the latest {facts['looked_at']:,}, {most['calls']:,} have the {most['where']} "
            f"“{_cut(most['text'])}”: if that is one step of your app, name it; `jitr tasks unplaced` says how"
        )
    return line + "."


def show_unplaced(store: Store, console: Console | None = None) -> None:
    """Print what the calls of no task have in common, and what makes tasks of them.

    Args:
        store: the opened state.
        console: where to; None is the standard output.
    """
    if console is None:
        console = Console(highlight=False)
        console = console if console.is_terminal else Console(highlight=False, width=160)
    facts = unplaced_facts(store)
    console.print(Text(_line(facts) or "Every call belongs to a task."), soft_wrap=True)
    several = len({(each["app"], each["tenant"]) for each in facts["alike"]}) > 1
    for each in facts["alike"]:
        places = [each["app"], each["tenant"]] if several else []
        step = f", step {each['step']}" if each["step"] else ""
        owner = f" ({'/'.join(filter(None, places))})" if several else ""
        told = f"{each['calls']:,} calls{owner}{step}: {each['where']} “{_cut(each['text'])}”"
        console.print(Text(told), soft_wrap=True)
        if each["declare"]:
            console.print(Text(f"    {each['declare']}", style="dim"), soft_wrap=True)
    if facts["alike"]:
        console.print(
            "Where these are one step of your app, say so: by step=… or metadata jitr_step in the app, for calls from "
            "then on, or by a command as above, for those stored as well. Where they have nothing else in common, they "
            "are one-off calls: leave them.",
            markup=False,
            soft_wrap=True,
        )


def _parts(call: Call) -> Iterator[_Part]:
    """What of a call's prompt may be an instruction: its first message, or how the only one begins and ends."""
    place = call.app, call.tenant, call.step
    if not call.messages:
        return
    role, text = call.messages[0]
    roles = [each for each, _ in call.messages]
    if len(roles) > 1:
        yield *place, text, f"{role} message", roles == ["system", "user"] and not call.step
        return
    lines = [line for line in text.strip().split("\n") if line.strip()]
    plain = role == "user" and not call.step and text == text.strip()
    if len(lines) > 1:
        yield *place, lines[0], "first line", plain
        yield *place, lines[-1], "last line", plain
    elif len(text.split()) > _WORDS:
        yield *place, " ".join(text.split()[:_WORDS]), "first words", False


def _command(app: str, tenant: str, where: str, text: str) -> str:
    """The command that makes a task of calls with this part."""
    said = text.replace("{", "{{").replace("}", "}}")
    words = ["jitr", "tasks", "declare", "NAME"]
    if where == "system message":
        words += ["--system", said, "--template", "{input}"]
    else:
        words += ["--template", f"{said}\n{{input}}" if where == "first line" else f"{{input}}\n{said}"]
    words += ["--app", app] if app != "default" else []
    words += ["--tenant", tenant] if tenant else []
    return shlex.join(words)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CHARS else f"{line[: _CHARS - 1]}…"
