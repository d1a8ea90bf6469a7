"""The part of the store that coordinates processes, keeps the ledger, deletes and checks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, or_, select, text
from sqlalchemy.sql.elements import ColumnElement

from ..errors import ConfigError, StoreError
from .database import Database
from .parts import PROBATION, entry, keep_row, regrouped, survivors
from .records import LedgerEntry, Purged
from .schema import counters, declarations, leases, ledger, patterns, releases, searches, tasks, templates
from .schema import observations as o

__all__ = ["Upkeep"]

_DAY_S = 86_400.0
_SURE_S = 43_200.0  # how long the clock must have stood by a time before texts are deleted by it
_SLACK_S = 3_600.0  # a clock set back by less was only corrected


class Upkeep:
    """Version, leases, ledger, retention and verification; a part of `Store`."""

    _database: Database

    def version(self) -> int:
        """Counts the changes to templates, tasks and releases; other processes look again when it grew."""
        with self._database.read() as connection:
            return int(connection.execute(_VERSION).scalar_one())

    def record(self, kind: str, task: str | None, details: dict[str, Any]) -> None:
        """Appends to the ledger.

        Args:
            kind: what happened.
            task: id of the task it is about, None if about none.
            details: whatever explains it; JSON values.
        """
        with self._database.write() as connection:
            entry(connection, self._database.clock(), kind, task, details)

    def ledger(self, task: str | None = None, *, kind: str | None = None) -> list[LedgerEntry]:
        """The ledger, oldest entry first.

        Args:
            task: if given, only entries about this task.
            kind: if given, only entries of this kind.
        """
        query = select(ledger).order_by(ledger.c.n)
        if kind is not None:
            query = query.where(ledger.c.kind == kind)
        if task is not None:
            query = query.where(ledger.c.task == task)
        with self._database.read() as connection:
            return [_entry_of(row) for row in connection.execute(query)]

    def last_entry(self, kind: str | Sequence[str], task: str | None = None) -> LedgerEntry | None:
        """The latest entry of a kind or of several, None if there is none.

        Args:
            kind: what happened.
            task: if given, only entries about this task.
        """
        kinds = [kind] if isinstance(kind, str) else kind
        query = select(ledger).where(ledger.c.kind.in_(kinds)).order_by(ledger.c.n.desc()).limit(1)
        if task is not None:
            query = query.where(ledger.c.task == task)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else _entry_of(row)

    def acquire(self, name: str, owner: str, ttl_s: float) -> bool:
        """Takes a lease, or prolongs one's own; one that has expired can be taken over.

        So can one that expires later than anybody could have asked for: the clock was set back since.

        Args:
            name: what it is about.
            owner: who wants it; unique among processes and threads.
            ttl_s: seconds after which it expires unless it is renewed.

        Returns:
            False if somebody else holds it.
        """
        now = self._database.clock()
        values = {"owner": owner, "expires": now + ttl_s}
        with self._database.write() as connection:
            held = connection.execute(select(leases).where(leases.c.name == name).with_for_update()).first()
            if held is None:
                connection.execute(leases.insert(), {"name": name, **values})
            elif held.owner == owner or not now < held.expires <= now + 2 * ttl_s:
                connection.execute(leases.update().where(leases.c.name == name).values(values))
            else:
                return False
        return True

    def leased(self, name: str) -> bool:
        """Whether somebody holds a lease now."""
        now = self._database.clock()
        query = select(leases).where(leases.c.name == name, leases.c.expires > now)
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    def renew(self, name: str, owner: str, ttl_s: float) -> bool:
        """Prolongs one's own lease.

        Returns:
            False if it was lost: expired and taken over, or freed.
        """
        mine = (leases.c.name == name) & (leases.c.owner == owner)
        with self._database.write() as connection:
            prolonged = leases.update().where(mine).values(expires=self._database.clock() + ttl_s)
            return connection.execute(prolonged).rowcount > 0

    def free(self, name: str, owner: str) -> None:
        """Gives one's own lease back; somebody else's stays."""
        with self._database.write() as connection:
            connection.execute(delete(leases).where(leases.c.name == name, leases.c.owner == owner))

    def expire(self, retention_days: float) -> int:
        """Deletes the inputs and answers of old calls; their figures stay, so that savings remain true.

        To be called now and then. A clock may leap, and what is deleted stays so: texts go that were too old already
        when this was called half a day ago, if the clock was not set back since. A call from the future counts as old
        once one that came after it does.

        Args:
            retention_days: age in days from which texts are deleted.

        Returns:
            Number of calls whose texts were deleted.
        """
        now = self._database.clock()
        blank = dict.fromkeys(("slots", "input_hash", "prompt", "replacement_answer", "answer"))
        with self._database.write() as connection:
            passed = _passed(connection, now)
            if passed is None:
                return 0
            limit = passed - retention_days * _DAY_S
            old: ColumnElement[bool] = o.c.time < limit
            if connection.execute(select(o.c.n).where(o.c.kept, o.c.time > now + _DAY_S).limit(1)).first():
                later = select(func.max(o.c.n)).where(o.c.time < limit).scalar_subquery()
                old = or_(old, (o.c.time > now + _DAY_S) & (o.c.n < later))
            expired = o.update().where(o.c.kept, old).values(**blank, kept=False, labelled=False)
            number = int(connection.execute(expired).rowcount)
            if number:
                regrouped(connection)
        if number:
            self._database.checkpoint()  # or the texts would live on in the write-ahead log
        return number

    def purge(self, task: str | None = None, tenant: str | None = None, before: float | None = None) -> Purged:
        """Deletes calls, and whole tasks with everything that came of them unless `before` is given.

        Args:
            task: only this task, and what was merged into it.
            tenant: only this tenant.
            before: only calls made before this time, in seconds since the epoch; tasks and releases stay.

        Returns:
            What was deleted, with the artifact folders that the caller is to delete now.

        Raises:
            ConfigError: nothing was named.
        """
        if task is None and tenant is None and before is None:
            raise ConfigError("purge needs a task, a tenant or a time.", hint="To forget everything, delete the file.")
        with self._database.write(notify=True) as connection:
            conditions: list[ColumnElement[bool]] = []
            doomed = select(tasks.c.id)
            if task is not None:
                conditions.append(o.c.task == task)
                merged = [gone for gone, into in survivors(connection).items() if into == task]
                doomed = doomed.where(tasks.c.id.in_([task, *merged]))
            if tenant is not None:
                conditions.append(o.c.tenant == tenant)
                doomed = doomed.where(tasks.c.tenant == tenant)
            if before is not None:
                conditions.append(o.c.time < before)
            keep_row(connection)
            number = int(connection.execute(delete(o).where(*conditions)).rowcount)
            regrouped(connection)
            purged = Purged(number) if before is not None else _purge_tasks(connection, self._database, doomed, number)
            what = {"tenant": tenant, "before": before, "observations": number, "tasks": purged.tasks}
            entry(connection, self._database.clock(), "purge", task, what)
        self._database.checkpoint()
        return purged

    def forgotten(self, task: str, since: float) -> bool:
        """Whether texts of a task's calls may be gone that were there at some time: expired ever, or purged since.

        Args:
            task: id of the task.
            since: seconds since the epoch.
        """
        expired = select(o.c.n).where(o.c.task == task, ~o.c.kept).limit(1)
        purges = select(ledger).where(ledger.c.kind == "purge", ledger.c.time >= since)
        with self._database.read() as connection:
            if connection.execute(expired).first() is not None:
                return True
            tenant = connection.execute(select(tasks.c.tenant).where(tasks.c.id == task)).scalar()
            merged = survivors(connection)
            found = [_entry_of(row) for row in connection.execute(purges)]
        # A purge of one task names no tenant, unless it was of both.
        return any(
            each.details["observations"]
            and (each.task is None or merged.get(each.task, each.task) == task)
            and each.details["tenant"] in (None, tenant)
            for each in found
        )

    def verify(self) -> list[str]:
        """Looks for damage and contradictions.

        Returns:
            What is wrong, one sentence each; empty if nothing is.
        """
        try:
            with self._database.read() as connection:
                return _problems(connection, self._database)
        except StoreError as error:
            return [str(error)]


def _passed(connection: Connection, now: float) -> float | None:
    """A time that has passed for sure: of a look at old texts half a day ago, since when the clock was not set back."""
    names = since, last = "expire since", "expire last"
    query = select(counters.c.name, counters.c.value).where(counters.c.name.in_(names))
    looks: dict[str, int] = {row.name: row.value for row in connection.execute(query)}
    back = not looks or now < looks[last] - _SLACK_S
    sure = not back and now >= looks[since] + _SURE_S
    kept = {since: now if back or sure else looks[since], last: now}
    connection.execute(delete(counters).where(counters.c.name.in_(names)))
    connection.execute(counters.insert(), [{"name": name, "value": int(value)} for name, value in kept.items()])
    return looks[since] if sure else None


def _entry_of(row: Row[Any]) -> LedgerEntry:
    return LedgerEntry(row.time, row.kind, row.task, json.loads(row.details))


def _problems(connection: Connection, database: Database) -> list[str]:
    problems = []
    if connection.dialect.name == "sqlite":
        found = connection.execute(text("PRAGMA integrity_check(20)")).scalars().all()
        problems += [f"The file is damaged: {line}." for line in found if line != "ok"]
    if connection.execute(_VERSION).scalar() is None:
        problems.append("The version counter is missing.")
    for query, sentence in _CONTRADICTIONS:
        problems += [sentence.format(*row) for row in connection.execute(query)]
    at_work = releases.c.state.in_(("active", *PROBATION))
    for row in connection.execute(select(releases.c.id, releases.c.state, releases.c.path).where(at_work)):
        path = database.found_path(row.path)
        if not Path(path).exists():
            what = "active release" if row.state == "active" else "the release on probation"
            problems.append(f"The artifact of {what} {row.id} is missing: {path}.")
    return problems


_VERSION = select(counters.c.value).where(counters.c.name == "version")


def _purge_tasks(connection: Connection, database: Database, doomed: Select[tuple[str]], number: int) -> Purged:
    ids = list(connection.execute(doomed).scalars())
    paths: list[str] = []
    numbers = dict.fromkeys(("templates", "releases", "searches", "tasks"), 0)
    for each in ids:
        of_task = releases.c.task == each
        stored = connection.execute(select(releases.c.path).where(of_task)).scalars()
        paths += [database.found_path(path) for path in stored]
        mine = select(templates.c.id).where(templates.c.task == each)
        connection.execute(delete(patterns).where(patterns.c.template.in_(mine)))
        for table in (templates, releases, searches):
            numbers[table.name] += connection.execute(delete(table).where(table.c.task == each)).rowcount
        connection.execute(delete(declarations).where(declarations.c.task == each))
        numbers["tasks"] += connection.execute(delete(tasks).where(tasks.c.id == each)).rowcount
    return Purged(number, **numbers, paths=tuple(paths))


def _missing(column: ColumnElement[Any], known: ColumnElement[Any]) -> Select[Any]:
    """Values of a column, with the number of their rows, that `known` does not have."""
    return select(column, func.count()).where(column.is_not(None), column.not_in(select(known))).group_by(column)


_CONTRADICTIONS: tuple[tuple[Select[Any], str], ...] = (
    (_missing(o.c.task, tasks.c.id), "Task {0} is missing, but {1} calls belong to it."),
    (_missing(o.c.template, templates.c.id), "Template {0} is missing, but {1} calls need it."),
    (_missing(templates.c.task, tasks.c.id), "Task {0} is missing, but {1} templates belong to it."),
    (_missing(declarations.c.task, tasks.c.id), "Task {0} is missing, but it was declared."),
    (_missing(releases.c.task, tasks.c.id), "Task {0} is missing, but {1} releases belong to it."),
    (_missing(patterns.c.template, templates.c.id), "Template {0} is missing, but it has a pattern."),
    (_missing(tasks.c.merged_into, tasks.c.id), "Task {0} is missing, but {1} tasks were merged into it."),
    (_missing(tasks.c.active_release, releases.c.id), "Release {0} is missing, but it is active."),
    (
        select(tasks.c.id, tasks.c.active_release)
        .join(releases, releases.c.id == tasks.c.active_release)
        .where(or_(releases.c.task != tasks.c.id, releases.c.state != "active")),
        "Task {0} is served by release {1}, which is not its own or not active.",
    ),
    (
        select(tasks.c.id).where(tasks.c.state == "active", tasks.c.active_release.is_(None)),
        "Task {0} is active without a release.",
    ),
    (
        select(tasks.c.id, tasks.c.state).where(
            tasks.c.state.in_(PROBATION),
            tasks.c.id.not_in(select(releases.c.task).where(releases.c.state.in_(PROBATION))),
        ),
        "Task {0} is in {1} without a release on probation.",
    ),
    (
        select(releases.c.task)
        .where(releases.c.state.in_(PROBATION))
        .group_by(releases.c.task)
        .having(func.count() > 1),
        "Task {0} has several releases on probation.",
    ),
)
