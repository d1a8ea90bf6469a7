"""What several parts of the store do within their transactions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from .rows import dumps
from .schema import counters, ledger, tasks

__all__ = ["entry", "regrouped", "survivors"]

_REGROUPED = counters.update().where(counters.c.name == "regroupings").values(value=counters.c.value + 1)


def entry(connection: Connection, now: float, kind: str, task: str | None, details: dict[str, Any]) -> None:
    """Appends to the ledger."""
    connection.execute(ledger.insert(), {"time": now, "kind": kind, "task": task, "details": dumps(details)})


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
