"""The part of the store that keeps tasks and their templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from ..errors import StoreError
from ..types import Task, TaskState, Template
from . import rows
from .database import Database
from .parts import entry, regrouped, survivors
from .schema import observations as o
from .schema import releases, tasks, templates

__all__ = ["Tasks"]


class Tasks:
    """Tasks and templates; a part of `Store`. Every change raises `Store.version`."""

    _database: Database

    def save_templates(self, found: Sequence[Template]) -> None:
        """Stores templates; one that is known only changes its task. Those of a merged task go to the survivor."""
        if not found:
            return
        with self._database.write(notify=True) as connection:
            merged = survivors(connection)
            for template in found:
                row = rows.template_row(template)
                row["task"] = merged.get(template.task, template.task)
                known = connection.execute(
                    templates.update().where(templates.c.id == template.id).values(task=row["task"])
                )
                if not known.rowcount:
                    connection.execute(templates.insert(), row)

    def templates(self) -> list[Template]:
        """All templates, oldest first."""
        with self._database.read() as connection:
            return [rows.template_of(row) for row in connection.execute(select(templates).order_by(templates.c.n))]

    def save_task(self, task: Task) -> None:
        """Stores a task, or the changed name, state and reason of a known one."""
        with self._database.write(notify=True) as connection:
            values = {"name": rows.storable(task.name), "state": task.state, "reason": rows.storable(task.reason)}
            if not connection.execute(tasks.update().where(tasks.c.id == task.id).values(values)).rowcount:
                place = {"id": task.id, "app": rows.storable(task.app), "tenant": rows.storable(task.tenant)}
                connection.execute(tasks.insert(), {**place, **values, "created": self._database.clock()})

    def tasks(self, app: str | None = None) -> list[Task]:
        """All tasks, oldest first, without those merged into another.

        Args:
            app: if given, only tasks of this application.
        """
        query = select(tasks).where(tasks.c.merged_into.is_(None)).order_by(tasks.c.n)
        if app is not None:
            query = query.where(tasks.c.app == app)
        with self._database.read() as connection:
            return [rows.task_of(row) for row in connection.execute(query)]

    def task(self, task: str) -> Task | None:
        """The task with this id, or the one it was merged into; None if there is none."""
        with self._database.read() as connection:
            row = _row(connection, survivors(connection).get(task, task))
            return None if row is None else rows.task_of(row)

    def set_state(self, task: str, state: TaskState, reason: str = "") -> None:
        """Changes a task's state and notes it in the ledger.

        Raises:
            StoreError: there is no such task.
        """
        with self._database.write(notify=True) as connection:
            changed = tasks.update().where(tasks.c.id == task).values(state=state, reason=rows.storable(reason))
            if not connection.execute(changed).rowcount:
                raise _unknown(task)
            self._note(connection, "state", task, state=state, reason=reason)

    def rename(self, task: str, name: str) -> None:
        """Changes what a task is called in reports.

        Raises:
            StoreError: there is no such task.
        """
        with self._database.write(notify=True) as connection:
            if not connection.execute(
                tasks.update().where(tasks.c.id == task).values(name=rows.storable(name))
            ).rowcount:
                raise _unknown(task)

    def merge_tasks(self, gone: str, survivor: str) -> None:
        """Moves the calls and templates of a task to another one that does the same job.

        The releases of the task that goes are retired; the survivor's go on with the templates they were certified
        on. Its
        searches stay its own, since the survivor's budget of error probability has not paid for them.

        Args:
            gone: the task that goes; nothing happens if the two are one already.
            survivor: the older task, which stays.

        Raises:
            StoreError: one of the two does not exist.
        """
        with self._database.write(notify=True) as connection:
            merged = survivors(connection)
            survivor = merged.get(survivor, survivor)
            gone = merged.get(gone, gone)
            if gone == survivor:
                return  # done already, perhaps the other way round by another process
            if _row(connection, gone) is None or _row(connection, survivor) is None:
                raise StoreError(
                    f"Tasks {gone!r} and {survivor!r} cannot be merged.", hint="Both must exist and differ."
                )
            for table in (o, templates):
                connection.execute(table.update().where(table.c.task == gone).values(task=survivor))
            regrouped(connection)
            mine = releases.c.task == gone, releases.c.state != "withdrawn"
            connection.execute(releases.update().where(*mine).values(state="retired"))
            values: dict[str, Any] = {"merged_into": survivor, "active_release": None, "state": "observing"}
            connection.execute(
                tasks.update().where(tasks.c.id == gone).values(**values, reason=f"merged into {survivor}")
            )
            self._note(connection, "merge", survivor, gone=gone)

    def _note(self, connection: Connection, kind: str, task: str, **details: Any) -> None:
        entry(connection, self._database.clock(), kind, task, details)


def _row(connection: Connection, task: str) -> Row[Any] | None:
    return connection.execute(select(tasks).where(tasks.c.id == task)).first()


def _unknown(task: str) -> StoreError:
    return StoreError(f"There is no task {task!r}.", hint="`jitr tasks` lists the tasks.")
