"""What several parts of the store do within their transactions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, delete, func, select

from .rows import dumps
from .schema import counters, ledger, observations, releases, searches, tasks, templates

__all__ = [
    "PROBATION",
    "attempts_made",
    "entry",
    "keep_row",
    "last_details",
    "last_row",
    "owners",
    "regrouped",
    "standing",
    "survivors",
]

PROBATION = ("shadow", "canary")
"""States of a release on probation, and of its task while nothing else serves that."""

_ROWS = counters.c.name == "rows"
_REGROUPED = counters.update().where(counters.c.name == "regroupings").values(value=counters.c.value + 1)


def attempts_made(connection: Connection, task: str) -> int:
    """Attempts that count as made for a task: its searches, and those its calls had a part in elsewhere."""
    made = select(func.count()).select_from(searches).where(searches.c.task == task)
    forgone = select(tasks.c.forgone).where(tasks.c.id == task)
    return int(connection.execute(made).scalar_one()) + int(connection.execute(forgone).scalar() or 0)


def entry(connection: Connection, now: float, kind: str, task: str | None, details: dict[str, Any]) -> None:
    """Appends to the ledger."""
    connection.execute(ledger.insert(), {"time": now, "kind": kind, "task": task, "details": dumps(details)})


def last_details(connection: Connection, task: str, kind: str) -> dict[str, Any] | None:
    """What the latest entry of a kind about a task says, None if there is none."""
    mine = select(ledger.c.details).where(ledger.c.task == task, ledger.c.kind == kind)
    text = connection.execute(mine.order_by(ledger.c.n.desc()).limit(1)).scalar()
    return None if text is None else dict(json.loads(text))


def last_row(connection: Connection, task: str | None = None) -> int:
    """The last row of all calls, purged ones included, or of a task's; 0 without calls."""
    query = select(func.coalesce(func.max(observations.c.n), 0))
    if task is not None:
        return int(connection.execute(query.where(observations.c.task == task)).scalar_one())
    purged = connection.execute(select(counters.c.value).where(_ROWS)).scalar()
    return max(int(connection.execute(query).scalar_one()), int(purged or 0))


def keep_row(connection: Connection) -> None:
    """Keeps the number of the last row from being given again once it is purged: probations and warnings go by it."""
    last = last_row(connection)
    connection.execute(delete(counters).where(_ROWS))
    connection.execute(counters.insert(), {"name": "rows", "value": last})


def standing(connection: Connection, task: str, active: str | None) -> str:
    """The state of a task that is not paused: by the release that serves it, else by one on probation."""
    if active is not None:
        return "active"
    query = select(releases.c.state).where(releases.c.task == task, releases.c.state.in_(PROBATION)).limit(1)
    return str(connection.execute(query).scalar() or "observing")


def regrouped(connection: Connection) -> None:
    """Says that calls stored earlier are not what they were: whoever counted them has to count anew."""
    connection.execute(_REGROUPED)


def survivors(connection: Connection) -> dict[str, str]:
    """The surviving task of every merged one."""
    query = select(tasks.c.id, tasks.c.merged_into).where(tasks.c.merged_into.is_not(None))
    merged: dict[str, str] = {row.id: row.merged_into for row in connection.execute(query)}
    for gone in merged:
        while merged[gone] in merged:
            merged[gone] = merged[merged[gone]]
    return merged


def owners(connection: Connection, found: Iterable[tuple[Any, Any]]) -> dict[tuple[Any, Any], str | None]:
    """The task that calls belong to by now: that of their template, or what became of theirs.

    Args:
        connection: within the transaction that stores them.
        found: (task, template) of each call as it was recognised; None where it was not.
    """
    pairs = {pair for pair in found if pair[0] is not None}
    query = select(templates.c.id, templates.c.task).where(templates.c.id.in_({template for _, template in pairs}))
    current = {row.id: row.task for row in connection.execute(query)} if pairs else {}
    merged = survivors(connection) if pairs else {}
    return {(task, template): current.get(template, merged.get(task, task)) for task, template in pairs}
