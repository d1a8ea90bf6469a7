"""The part of the store that keeps tasks and their templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, case, func, select

from ..errors import StoreError
from ..types import Task, TaskState, Template
from . import rows
from .database import Database
from .parts import PROBATION, entry, standing, survivors
from .schema import observations as o
from .schema import releases, tasks, templates

__all__ = ["Tasks"]


class Tasks:
    """Tasks and templates; a part of `Store`. Every change raises `Store.version`."""

    _database: Database

    def save_templates(self, found: Sequence[Template]) -> None:
        """Stores templates that are new. Those of a merged task go to the survivor; a known one stays with its task."""
        if not found:
            return
        with self._database.write(notify=True) as connection:
            merged = survivors(connection)
            known = set(connection.execute(select(templates.c.id)).scalars())
            for template in found:
                if template.id not in known:
                    row = rows.template_row(template)
                    connection.execute(templates.insert(), {**row, "task": merged.get(template.task, template.task)})
                    known.add(template.id)

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

    def call_times(self, task: str, most: int = 400) -> tuple[list[float], int]:
        """When the later half of a task's calls was made, as far as that is known.

        Args:
            task: id of the task.
            most: at most so many times, evenly thinned.

        Returns:
            Times in the order of the stream, in seconds since the epoch, and of how many calls of the task, the earlier
            half included, the time is known.
        """
        mine = o.c.task == task, o.c.time > 0
        later = select(o.c.time, func.row_number().over(order_by=o.c.n.desc()).label("back")).where(*mine)
        with self._database.read() as connection:
            known = int(connection.execute(select(func.count()).select_from(o).where(*mine)).scalar_one())
            half = known - known // 2
            numbered = later.order_by(o.c.n.desc()).limit(half).subquery()
            some = numbered.c.back % max(-(-half // most), 1) == 0
            query = select(numbered.c.time).where(some).order_by(numbered.c.back.desc())
            return list(connection.execute(query).scalars()), known

    def set_state(
        self, task: str, state: TaskState, reason: str = "", figures: Mapping[str, Any] | None = None
    ) -> None:
        """Changes a task's state and notes it in the ledger, with the figures at hand.

        Raises:
            StoreError: there is no such task.
        """
        with self._database.write(notify=True) as connection:
            changed = tasks.update().where(tasks.c.id == task).values(state=state, reason=rows.storable(reason))
            if not connection.execute(changed).rowcount:
                raise _unknown(task)
            self._note(connection, "state", task, state=state, reason=reason, figures=figures)

    def resume(self, task: str, reason: str, figures: Mapping[str, Any] | None = None) -> None:
        """Ends a pause: what served the task before, or was on probation, does so again.

        Raises:
            StoreError: there is no such task.
        """
        with self._database.write(notify=True) as connection:
            row = _row(connection, task)
            if row is None:
                raise _unknown(task)
            state = standing(connection, task, row.active_release)
            connection.execute(tasks.update().where(tasks.c.id == task).values(state=state, reason=reason))
            self._note(connection, "state", task, state=state, reason=reason, figures=figures)

    def rename(self, task: str, name: str) -> None:
        """Gives a task the name the user wants, and notes it in the ledger.

        Raises:
            StoreError: there is no such task.
        """
        self._decide(task, "rename", {"name": rows.storable(name)})

    def ignore(self, task: str, figures: Mapping[str, Any] | None = None) -> None:
        """Has a task left alone: it is paused until `unignore`, and so marked.

        Raises:
            StoreError: there is no such task.
        """
        values = {"ignored": True, "state": "paused", "reason": "ignored by hand"}
        self._decide(task, "ignore", values, figures)

    def unignore(self, task: str, figures: Mapping[str, Any] | None = None) -> None:
        """Ends what `ignore` began: the release that was active, if any, serves again.

        Raises:
            StoreError: there is no such task.
        """
        mine = releases.c.task == tasks.c.id, releases.c.state.in_(PROBATION)
        probation = select(releases.c.state).where(*mine).limit(1).scalar_subquery()
        state = case((tasks.c.active_release.is_not(None), "active"), else_=func.coalesce(probation, "observing"))
        self._decide(task, "unignore", {"ignored": False, "reason": "no longer ignored"}, figures, state=state)

    def describe(self, task: str, input_type: str, task_type: str, name: str) -> None:
        """Keeps what the teacher says a task is, and the name it gives unless the user has decided about the task.

        A name that another task has is followed by a number.
        """
        values = {"input_type": rows.storable(input_type), "task_type": rows.storable(task_type)}
        with self._database.write(notify=True) as connection:
            task = survivors(connection).get(task, task)
            connection.execute(tasks.update().where(tasks.c.id == task).values(values))
            row = _row(connection, task)
            if row is not None and name and not row.decided:
                query = select(tasks.c.name).where(tasks.c.id != task, tasks.c.merged_into.is_(None))
                taken, number, base = set(connection.execute(query).scalars()), 1, rows.storable(name)
                name = base
                while name in taken:
                    number += 1
                    name = f"{base} ({number})"
                connection.execute(tasks.update().where(tasks.c.id == task).values(name=name))

    def _decide(
        self,
        task: str,
        kind: str,
        values: dict[str, Any],
        figures: Mapping[str, Any] | None = None,
        **computed: ColumnElement[Any],
    ) -> None:
        """Changes a task because the user says so, which the miner must respect from then on."""
        with self._database.write(notify=True) as connection:
            changed = tasks.update().where(tasks.c.id == task).values(**values, **computed, decided=True)
            if not connection.execute(changed).rowcount:
                raise _unknown(task)
            self._note(connection, kind, task, **values, figures=figures)

    def _note(self, connection: Connection, kind: str, task: str, **details: Any) -> None:
        entry(connection, self._database.clock(), kind, task, details)


def _row(connection: Connection, task: str) -> Row[Any] | None:
    return connection.execute(select(tasks).where(tasks.c.id == task)).first()


def _unknown(task: str) -> StoreError:
    return StoreError(f"There is no task {task!r}.", hint="`jitr tasks` lists the tasks.")
