"""The part of the store that keeps what freely worded tasks are told by, and the unplaced calls they come from."""

from __future__ import annotations

from sqlalchemy import select

from . import rows
from .database import Database
from .schema import observations as o
from .schema import patterns

__all__ = ["Patterns"]

_UNPLACED = (o.c.task.is_(None), o.c.labelled)


class Patterns:
    """Patterns as text, by template; a part of `Store`."""

    _database: Database

    def save_pattern(self, template: str, pattern: str) -> None:
        """Stores the pattern of a template, or a new one in its place."""
        row = {"template": template, "pattern": rows.storable(pattern)}
        with self._database.write(notify=True) as connection:
            connection.execute(patterns.delete().where(patterns.c.template == template))
            connection.execute(patterns.insert(), row)

    def patterns(self) -> dict[str, str]:
        """All patterns, by template."""
        with self._database.read() as connection:
            return {row.template: row.pattern for row in connection.execute(select(patterns))}

    def unplaced_answers(self, limit: int, *, app: str | None = None) -> dict[str, str]:
        """The teacher's answers to the latest calls that belong to no task, by the call's id, oldest first.

        Args:
            limit: at most so many.
            app: if given, only calls of this application.
        """
        query = select(o.c.id, o.c.answer).where(*_UNPLACED).order_by(o.c.n.desc()).limit(limit)
        if app is not None:
            query = query.where(o.c.app == app)
        with self._database.read() as connection:
            return {row.id: row.answer for row in reversed(connection.execute(query).all())}
