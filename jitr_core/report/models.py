"""The table of `jitr models`: base models at hand and in the pool, with what is known of each."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..earlier import called, key_of, listed
from .wording import quoted, size

if TYPE_CHECKING:
    from ..base_models import BaseModels
    from ..store import Store

__all__ = ["model_facts", "show_models"]

_TOKENS = 32  # of the text whose embedding is timed for readers


def model_facts(models: BaseModels, store: Store | None) -> list[dict[str, Any]]:
    """What is known of every base model, JSON values.

    Args:
        models: those of this machine.
        store: a state whose searches tell what each was good at; None for none.

    Returns:
        For each model, the encoders that were tuned for tasks of the store among them: `key` (null where it is not at
        hand), the fields of `jitr_core.base_models.catalog.Facts`, `multiplications` a token, and `chosen` [{`task`,
        `coverage`}]: tasks whose latest search that led to a certificate chose it, with the coverage expected then, in
        [0, 1].
    """
    from ..base_models.catalog import POOL

    good = _good_at(store) if store is not None else {}
    here = models.catalogue()
    found: list[dict[str, Any]] = []
    for key, facts in here.items():
        own = {"key": key, **asdict(facts), "multiplications": facts.multiplications}
        found.append({**own, "chosen": good.get(facts.name, [])})
    for task, release in listed(store) if store is not None else ():
        base = next((facts for facts in here.values() if facts.name == release.base_model), None)
        if base is not None:
            name = called(task, release)
            facts = replace(base, name=name, tuned_for=task.name, size_bytes=release.size_bytes)
            own = {"key": key_of(release), **asdict(facts), "multiplications": facts.multiplications}
            found.append({**own, "chosen": good.get(name, [])})
    known = {word for facts in here.values() for word in (facts.source, facts.name)}
    for facts in POOL:
        if not known & {facts.source, facts.name}:
            found.append({"key": None, **asdict(facts), "multiplications": facts.multiplications, "chosen": []})
    return found


def _good_at(store: Store) -> dict[str, list[dict[str, Any]]]:
    """By base model, the tasks whose latest certified search chose it."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for task in store.tasks():
        searches = [report for report in store.searches(task.id) if report.certificate is not None]
        chosen = [c for c in searches[-1].candidates if c.name == searches[-1].chosen] if searches else []
        for each in chosen:
            if each.base_model is not None:
                found[each.base_model].append({"task": task.name, "coverage": each.score})
    return dict(found)


def show_models(models: BaseModels, store: Store | None, console: Console | None = None) -> None:
    """Print the base models at hand, then those of the pool.

    Args:
        models: those of this machine.
        store: a state whose searches tell what each was good at; None for none.
        console: where to; None is the standard output.
    """
    console = console or _console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("model", "kind", "tuned for", "licence", "parameters", "on disk", "a 32-token text", "good at"):
        right = column in ("parameters", "on disk", "a 32-token text")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for each in model_facts(models, store):
        at_hand = each["key"] is not None
        table.add_row(
            Text(each["name"], style="" if at_hand else "dim"),
            each["kind"],
            Text(each["tuned_for"] or "–"),
            Text(each["licence"] or "unknown"),
            "unknown" if each["parameters"] is None else f"{each['parameters'] / 1e6:.1f} M",
            size(each["size_bytes"]) if at_hand else "not here",
            _speed(each),
            Text(", ".join(_praise(one) for one in each["chosen"]) or "–"),
        )
    console.print(table)
    console.print(
        Text("`jitr models add FOLDER_OR_ID` prepares one that is not here; a hub id needs --download."),
        soft_wrap=True,
    )


def _speed(facts: dict[str, Any]) -> str:
    """Counted work of a short text, and the time it took on this machine."""
    if facts["kind"] == "generator" or facts["multiplications"] is None:
        return "–"
    work = facts["multiplications"] * _TOKENS / 1e6
    counted = f"{work:,.0f} M multiply-adds" if work else "a table look-up"
    return counted if facts["token_s"] is None else f"{counted}, {facts['token_s'] * _TOKENS * 1e3:.2f} ms"


def _praise(one: dict[str, Any]) -> str:
    return quoted(one["task"], 30) + ("" if one["coverage"] is None else f" {one['coverage']:.2f}")


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)
