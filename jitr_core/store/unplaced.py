"""The part of the store that knows the calls of no task."""

from __future__ import annotations

from sqlalchemy import case, func, select

from ..types import Call
from . import rows
from .database import Database
from .schema import observations as o

__all__ = ["UnplacedCalls"]

_NO_TASK = o.c.task.is_(None)


class UnplacedCalls:
    """Calls that belong to no task; a part of `Store`."""

    _database: Database

    def unplaced_counts(self) -> tuple[int, int]:
        """How many calls belong to no task, and how many of them have an answer to learn from."""
        # The index has both: not one call is read.
        query = select(func.count(), func.coalesce(func.sum(case((o.c.labelled, 1), else_=0)), 0)).where(_NO_TASK)
        with self._database.read() as connection:
            calls, labelled = connection.execute(query).one()
        return int(calls), int(labelled)

    def unplaced(self, limit: int, *, app: str | None = None, tenant: str | None = None) -> list[Call]:
        """The latest calls that belong to no task, with their messages, oldest first.

        Args:
            limit: at most so many.
            app: if given, only calls of this application.
            tenant: if given, only calls of this tenant.
        """
        query = select(o).where(_NO_TASK, o.c.kept).order_by(o.c.n.desc()).limit(limit)
        for column, value in ((o.c.app, app), (o.c.tenant, tenant)):
            if value is not None:
                query = query.where(column == value)
        with self._database.read() as connection:
            return [rows.call_of(row) for row in connection.execute(query)][::-1]

    def unplaced_answers(self, limit: int, *, app: str | None = None) -> dict[str, str]:
        """The teacher's answers to the latest calls that belong to no task, by the call's id, oldest first.

        Args:
            limit: at most so many.
            app: if given, only calls of this application.
        """
        query = select(o.c.id, o.c.answer).where(_NO_TASK, o.c.labelled).order_by(o.c.n.desc()).limit(limit)
        if app is not None:
            query = query.where(o.c.app == app)
        with self._database.read() as connection:
            return {row.id: row.answer for row in reversed(connection.execute(query).all())}
