"""The part of the store that keeps what freely worded tasks are told by."""

from __future__ import annotations

from sqlalchemy import select

from . import rows
from .database import Database
from .schema import patterns

__all__ = ["Patterns"]


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
