"""The part of the store that keeps releases and the searches they came from."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, func, select

from ..errors import StoreError
from ..promises import ANSWERED, promised
from ..types import Release, SearchReport, TaskState
from . import rows
from .database import Database
from .parts import attempts_made, entry
from .records import ReleaseState
from .schema import observations, releases, searches, tasks

__all__ = ["Releases"]


class Releases:
    """Releases and searches; a part of `Store`."""

    _database: Database

    def add_release(self, release: Release, state: ReleaseState = "new") -> None:
        """Stores a packaged release; it serves nobody until it is activated.

        Raises:
            StoreError: its id is taken.
        """
        with self._database.write(notify=True) as connection:
            connection.execute(releases.insert(), {**rows.release_row(release), "state": state})

    def releases(self, task: str) -> list[Release]:
        """All releases of a task, oldest first."""
        query = select(releases).where(releases.c.task == task).order_by(releases.c.n)
        with self._database.read() as connection:
            return [rows.release_of(row) for row in connection.execute(query)]

    def release_state(self, release: str) -> ReleaseState | None:
        """The state of a release, None if there is none of that id."""
        with self._database.read() as connection:
            row = _row(connection, release)
            return None if row is None else row.state

    def active_release(self, task: str) -> Release | None:
        """The release that serves a task, None if none does."""
        query = select(releases).join(tasks, tasks.c.active_release == releases.c.id).where(tasks.c.id == task)
        with self._database.read() as connection:
            row = connection.execute(query).first()
            return None if row is None else rows.release_of(row)

    def activate(self, task: str, release: str | None, reason: str, state: TaskState | None = None) -> None:
        """Moves the active pointer of a task, forward or back, in one transaction with its state and the ledger.

        Args:
            task: id of the task.
            release: the release that serves from now on; None for none. The one before is retired.
            reason: why; kept with the task and in the ledger.
            state: the task's new state; by default "active" with a release and "observing" without, or "paused" as
                before.

        Raises:
            StoreError: there is no such task, or the release is not one of its own; nothing is changed.
        """
        with self._database.write(notify=True) as connection:
            row = connection.execute(select(tasks).where(tasks.c.id == task)).first()
            found = None if release is None else _row(connection, release)
            if row is None or (release is not None and (found is None or found.task != task)):
                raise StoreError(f"Task {task!r} has no release {release!r}.", hint="`jitr tasks` lists both.")
            self._set_state(connection, row.active_release, "retired")
            self._set_state(connection, release, "active")
            new = state or ("active" if release else "observing")
            if state is None and row.state == "paused":
                new = "paused"  # a veto stands until it is taken back
            self._point(connection, task, release, new, reason, before=row.active_release)

    def conclude(
        self,
        report: SearchReport,
        delta_spent: float,
        release: Release | None = None,
        expected: str | None = None,
        regroupings: int | None = None,
    ) -> bool:
        """Stores what came of an attempt, in one transaction: the search, what it spent, and its release, active.

        The release is refused if the task was paused, its active release changed, or it was merged or split while
        the attempt was made. A task that is not served is `refused` with the report's reason, unless it is paused.

        Args:
            report: what was found; its `refusal` is completed.
            delta_spent: error probability the attempt spent.
            release: what is to serve from now on.
            expected: the release that was active when the attempt began.
            regroupings: the task's count of regroupings when the attempt began; None does not look at it.

        Returns:
            Whether the release serves now.
        """
        with self._database.write(notify=True) as connection:
            task = connection.execute(select(tasks).where(tasks.c.id == report.task)).first()
            if release is not None and (task is None or task.state == "paused"):
                report.refusal = "the task was paused meanwhile"
            elif release is not None and task is not None and task.active_release != expected:
                report.refusal = "the active release was withdrawn or replaced meanwhile"
            elif release is not None and task is not None and regroupings not in (None, task.regroupings):
                report.refusal = "the task was merged or split meanwhile"
            promoted = release is not None and not report.refusal
            row = {"task": report.task, "at_label": report.at_label, "delta_spent": delta_spent}
            text = rows.report_text(report)
            connection.execute(searches.insert(), {**row, "time": self._database.clock(), "report": text})
            if promoted and release is not None:
                self._set_state(connection, expected, "retired")
                connection.execute(releases.insert(), {**rows.release_row(release), "state": "active"})
                reason = "certified"
                if release.certificate:
                    reason = f"certified on {release.certificate.calls} calls, {release.certificate.errors} errors"
                    if release.certificate.promise != ANSWERED:
                        reason += f", for {promised(release.certificate.promise, release.certificate.target)}"
                self._point(connection, report.task, release.id, "active", reason, before=expected)
            elif task is not None and task.active_release is None and task.state != "paused" and report.refusal:
                self._point(connection, report.task, None, "refused", report.refusal, before=None)
        return promoted

    def withdraw(self, task: str, release: str, reason: str) -> bool:
        """Takes a release out of service for good because audits contradict it, in one transaction.

        What the task had seen by then is noted: later attempts start from there.

        Args:
            task: id of the task.
            release: the release.
            reason: why.

        Returns:
            False if it was not active.
        """
        with self._database.write(notify=True) as connection:
            row = connection.execute(select(tasks).where(tasks.c.id == task)).first()
            if row is None or row.active_release != release:
                return False
            self._set_state(connection, release, "withdrawn")
            state = "paused" if row.state == "paused" else "observing"
            self._point(connection, task, None, state, reason, before=release)
            mine = observations.c.task == task
            last = select(func.coalesce(func.max(observations.c.n), 0)).where(mine)
            calls = select(func.count()).select_from(observations).where(mine)
            start = {
                "row": connection.execute(last).scalar_one(),
                "calls": connection.execute(calls).scalar_one(),
                "attempts": attempts_made(connection, task),
            }
            entry(connection, self._database.clock(), "rollback", task, {"release": release, "start": start})
        return True

    def _point(
        self, connection: Connection, task: str, release: str | None, state: str, reason: str, before: str | None
    ) -> None:
        """Moves the active pointer, with the task's state and a line in the ledger."""
        reason = rows.storable(reason)
        values = {"active_release": release, "state": state, "reason": reason}
        connection.execute(tasks.update().where(tasks.c.id == task).values(values))
        details = {"release": release, "before": before, "state": state, "reason": reason}
        entry(connection, self._database.clock(), "activate", task, details)

    def add_search(self, report: SearchReport, delta_spent: float | None = None) -> None:
        """Stores what a search found.

        Args:
            report: the report.
            delta_spent: error probability its certification attempt spent, also if it failed; by default that of the
                certificate, 0 without one.
        """
        if delta_spent is None:
            delta_spent = report.certificate.delta if report.certificate else 0.0
        row = {"task": report.task, "at_label": report.at_label, "delta_spent": delta_spent}
        with self._database.write() as connection:
            text = rows.report_text(report)
            connection.execute(searches.insert(), {**row, "time": self._database.clock(), "report": text})

    def searches(self, task: str) -> list[SearchReport]:
        """The reports of all searches for a task, oldest first."""
        query = select(searches.c.report).where(searches.c.task == task).order_by(searches.c.n)
        with self._database.read() as connection:
            return [rows.report_of(text) for text in connection.execute(query).scalars()]

    def attempts(self, task: str) -> int:
        """Index of a task's next attempt: its searches so far, and what merging and splitting cost it."""
        with self._database.read() as connection:
            return attempts_made(connection, task)

    def delta_spent(self, task: str) -> float:
        """Error probability the attempts of a task have spent together, ≥ 0."""
        query = select(func.coalesce(func.sum(searches.c.delta_spent), 0.0)).where(searches.c.task == task)
        with self._database.read() as connection:
            return float(connection.execute(query).scalar_one())

    def _set_state(self, connection: Connection, release: str | None, state: ReleaseState) -> None:
        if release is not None:
            connection.execute(releases.update().where(releases.c.id == release).values(state=state))


def _row(connection: Connection, release: str) -> Row[Any] | None:
    return connection.execute(select(releases).where(releases.c.id == release)).first()
