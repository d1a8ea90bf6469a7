"""The part of the store that keeps releases and the searches they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, func, select

from ..errors import StoreError
from ..promises import certified
from ..types import Release, SearchReport, TaskState
from . import rows
from .database import Database
from .parts import PROBATION, attempts_made, entry, last_details, last_row, standing
from .records import Pin, Probation, ReleaseState
from .schema import ledger, observations, releases, searches, tasks

__all__ = ["Releases"]

_CALLS = select(func.count()).select_from(observations).where(observations.c.replaceable, ~observations.c.pending)


class Releases:
    """Releases and searches; a part of `Store`."""

    _database: Database

    def add_release(self, release: Release, state: ReleaseState = "new") -> None:
        """Stores a packaged release; it serves nobody until it is activated.

        Raises:
            StoreError: its id is taken.
        """
        with self._database.write(notify=True) as connection:
            connection.execute(releases.insert(), {**rows.release_row(release, self._database), "state": state})

    def releases(self, task: str) -> list[Release]:
        """All releases of a task, oldest first."""
        query = select(releases).where(releases.c.task == task).order_by(releases.c.n)
        with self._database.read() as connection:
            return [rows.release_of(row, self._database) for row in connection.execute(query)]

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
            return None if row is None else rows.release_of(row, self._database)

    def activate(
        self,
        task: str,
        release: str | None,
        reason: str,
        state: TaskState | None = None,
        figures: Mapping[str, Any] | None = None,
    ) -> None:
        """Moves the active pointer of a task, forward or back, in one transaction with its state and the ledger.

        Args:
            task: id of the task.
            release: the release that serves from now on; None for none. The one before is retired.
            reason: why; kept with the task and in the ledger.
            state: the task's new state; by default what its releases say, or "paused" as before.
            figures: what the reason rests on, for the ledger.

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
            # A veto stands until it is taken back.
            new = state or ("paused" if row.state == "paused" else standing(connection, task, release))
            self._point(connection, task, release, new, reason, before=row.active_release, figures=figures)

    def conclude(
        self,
        report: SearchReport,
        delta_spent: float,
        release: Release | None = None,
        expected: str | None = None,
        regroupings: int | None = None,
        path: Sequence[ReleaseState] = ("active",),
    ) -> bool:
        """Stores what came of an attempt, in one transaction: the search, what it spent, and its release.

        The release is refused if the task was paused or pinned, its active release changed, another one went on
        probation, or it was merged or split while the attempt was made. A task that is not served is `refused` with
        the report's reason, unless it is paused.

        Args:
            report: what was found; its `refusal` is completed.
            delta_spent: error probability the attempt spent.
            release: what is to serve from now on.
            expected: the release that was active when the attempt began.
            regroupings: the task's count of regroupings when the attempt began; None does not look at it.
            path: the states the release goes through, from the one it begins in to "active".

        Returns:
            Whether the release serves now, or is on probation.
        """
        with self._database.write(notify=True) as connection:
            task = connection.execute(select(tasks).where(tasks.c.id == report.task)).first()
            if release is not None:
                report.refusal = report.refusal or _meanwhile(connection, task, expected, regroupings)
            row = {"task": report.task, "at_label": report.at_label, "delta_spent": delta_spent}
            text = rows.report_text(report)
            connection.execute(searches.insert(), {**row, "time": self._database.clock(), "report": text})
            if release is not None and task is not None and not report.refusal:
                connection.execute(releases.insert(), {**rows.release_row(release, self._database), "state": "new"})
                certificate = release.certificate
                # Thresholds are kept by answer, and answers are texts that may have to be forgotten.
                figures = {name: value for name, value in asdict(certificate).items() if name != "thresholds"}
                self._enter(connection, task, release.id, path, certified(certificate), figures)
                return True
            if task is not None and task.state in ("observing", "refused") and report.refusal:
                self._point(connection, report.task, None, "refused", report.refusal, before=None)
        return False

    def probations(self) -> dict[str, Probation]:
        """The releases on probation, by task."""
        query = select(releases).where(releases.c.state.in_(PROBATION))
        with self._database.read() as connection:
            return {row.task: self._probation(connection, row) for row in connection.execute(query).all()}

    def advance(
        self,
        task: str,
        release: str,
        state: ReleaseState,
        reason: str,
        figures: Mapping[str, Any] | None = None,
    ) -> bool:
        """Moves a release on probation to the next state of its path.

        Args:
            task: id of the task.
            release: the release.
            state: the state it is moved on from; what is known of it was seen in that one.
            reason: why; kept with the task and in the ledger.
            figures: what the reason rests on, for the ledger.

        Returns:
            False if it is not in that state any more, or the active release is pinned.
        """
        with self._database.write(notify=True) as connection:
            row = connection.execute(select(tasks).where(tasks.c.id == task)).first()
            found = _row(connection, release)
            if row is None or found is None or found.task != task or found.state not in PROBATION:
                return False
            if found.state != state or _pin(connection, task, row.active_release) is not None:
                return False
            self._enter(connection, row, release, self._probation(connection, found).path, reason, figures)
        return True

    def note_waiting(self, task: str, release: str, reason: str, figures: Mapping[str, Any]) -> None:
        """Says that a shadow waits for approval, in the ledger and, unless another one serves, with its task.

        Said again once it was compared twice as often: who approves sees by what.
        """
        with self._database.write() as connection:
            found = _row(connection, release)
            if found is None or found.task != task or found.state != "shadow":
                return
            now = self._probation(connection, found)
            if figures["compared"] < 2 * now.waits:  # another process was first
                return
            where = {"row": now.row, "path": list(now.path), "waits": figures["compared"]}
            self._tell(connection, release, task, found.state, reason, figures, **where)
            mine = (tasks.c.id == task) & tasks.c.state.in_(PROBATION)
            connection.execute(tasks.update().where(mine).values(reason=rows.storable(reason)))

    def withdraw(
        self, task: str, release: str, reason: str, figures: Mapping[str, Any] | None = None, *, restart: bool = True
    ) -> bool:
        """Takes a release out of service or off its probation for good, in one transaction.

        Args:
            task: id of the task.
            release: the release.
            reason: why.
            figures: what the reason rests on, for the ledger.
            restart: what the task had seen by now is void: later attempts start from here.

        Returns:
            False if it was neither active nor on probation.
        """
        with self._database.write(notify=True) as connection:
            row = connection.execute(select(tasks).where(tasks.c.id == task)).first()
            found = _row(connection, release)
            served = row is not None and row.active_release == release
            tried = found is not None and found.task == task and found.state in PROBATION
            if row is None or not (served or tried):
                return False
            if served:
                self._set_state(connection, release, "withdrawn")
                self._tell(connection, release, task, "withdrawn", reason, figures)
                state = "paused" if row.state == "paused" else standing(connection, task, None)
                self._point(connection, task, None, state, reason, before=release, figures=figures)
            else:
                self._end_probation(connection, row, release, reason, figures)
            if restart:
                start = {
                    "row": last_row(connection, task),
                    "calls": connection.execute(_CALLS.where(observations.c.task == task)).scalar_one(),
                    "attempts": attempts_made(connection, task),
                }
                entry(connection, self._database.clock(), "rollback", task, {"release": release, "start": start})
        return True

    def pin(
        self, task: str, release: str | None, *, despite_audits: bool = False, figures: Mapping[str, Any] | None = None
    ) -> None:
        """Keeps the active release in service, or ends that with None; the miner leaves the task as it is."""
        details = {"release": release, "despite_audits": despite_audits, "figures": figures}
        with self._database.write(notify=True) as connection:
            connection.execute(tasks.update().where(tasks.c.id == task).values(decided=True))
            entry(connection, self._database.clock(), "pin", task, details)

    def pinned(self, task: str) -> Pin | None:
        """The pin on a task's active release, None if there is none."""
        with self._database.read() as connection:
            active = connection.execute(select(tasks.c.active_release).where(tasks.c.id == task)).scalar()
            return _pin(connection, task, active)

    def _probation(self, connection: Connection, row: Row[Any]) -> Probation:
        """How a release on probation stands, as the ledger has it."""
        query = select(ledger.c.details).where(ledger.c.task == row.task, ledger.c.kind == "release")
        for text in connection.execute(query.order_by(ledger.c.n.desc())).scalars():
            details = json.loads(text)
            if details["release"] == row.id:
                known = details["row"], tuple(details["path"]), details.get("waits", 0)
                return Probation(rows.release_of(row, self._database), row.state, *known)
        return Probation(rows.release_of(row, self._database), row.state, 0, ("active",))

    def _enter(
        self,
        connection: Connection,
        task: Row[Any],
        release: str,
        path: Sequence[ReleaseState],
        reason: str,
        figures: Mapping[str, Any] | None,
    ) -> None:
        """Puts a release into the first state of a path."""
        self._set_state(connection, release, path[0])
        if path[0] == "active":
            self._set_state(connection, task.active_release, "retired")
            state = "paused" if task.state == "paused" else "active"
            self._point(connection, task.id, release, state, reason, before=task.active_release, figures=figures)
            return
        where = {"row": last_row(connection), "path": list(path[1:])}
        self._tell(connection, release, task.id, path[0], reason, figures, **where)
        if task.active_release is None and task.state != "paused":
            values = {"state": path[0], "reason": rows.storable(reason)}
            connection.execute(tasks.update().where(tasks.c.id == task.id).values(values))

    def _end_probation(
        self,
        connection: Connection,
        task: Row[Any],
        release: str,
        reason: str,
        figures: Mapping[str, Any] | None = None,
    ) -> None:
        """Takes a release off its probation for good."""
        self._set_state(connection, release, "withdrawn")
        self._tell(connection, release, task.id, "withdrawn", reason, figures)
        mine = (tasks.c.id == task.id) & tasks.c.state.in_(PROBATION)
        values = {"state": standing(connection, task.id, task.active_release), "reason": rows.storable(reason)}
        connection.execute(tasks.update().where(mine).values(values))

    def _tell(
        self,
        connection: Connection,
        release: str,
        task: str,
        state: ReleaseState,
        reason: str,
        figures: Mapping[str, Any] | None,
        **more: Any,
    ) -> None:
        """A line in the ledger about a release that is not the active one, or not any more."""
        details = {"release": release, "state": state, "reason": rows.storable(reason), "figures": figures, **more}
        entry(connection, self._database.clock(), "release", task, details)

    def _point(
        self,
        connection: Connection,
        task: str,
        release: str | None,
        state: str,
        reason: str,
        before: str | None,
        figures: Mapping[str, Any] | None = None,
    ) -> None:
        """Moves the active pointer, with the task's state and a line in the ledger."""
        reason = rows.storable(reason)
        values = {"active_release": release, "state": state, "reason": reason}
        connection.execute(tasks.update().where(tasks.c.id == task).values(values))
        details = {"release": release, "before": before, "state": state, "reason": reason, "figures": figures}
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


def _pin(connection: Connection, task: str, active: str | None) -> Pin | None:
    last = last_details(connection, task, "pin")
    if last is None or active is None or last["release"] != active:
        return None
    return Pin(active, last["despite_audits"])


def _meanwhile(connection: Connection, task: Row[Any] | None, expected: str | None, regroupings: int | None) -> str:
    """What happened during an attempt that forbids its release; "" if nothing did."""
    if task is None or task.state == "paused":
        return "the task was paused meanwhile"
    if task.active_release != expected:
        return "the active release was withdrawn or replaced meanwhile"
    if regroupings not in (None, task.regroupings):
        return "the task was merged or split meanwhile"
    if _pin(connection, task.id, expected) is not None:
        return "the active release was pinned meanwhile"
    if standing(connection, task.id, None) in PROBATION:
        return "another release went on probation meanwhile"
    return ""
