"""The part of the store that keeps calls."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Integer, bindparam, case, func, select
from sqlalchemy.dialects import postgresql, sqlite

from ..types import Example, Match, Observation, Reason, Slots
from . import rows
from .database import Database
from .parts import last_row, owners, regrouped
from .records import Asked, Handled, TaskCounts, TemplateUse, Usage
from .schema import counters, templates
from .schema import observations as o

__all__ = ["Observations"]

_PAGE = 2_000
_UNPLACED_PROMPT = (o.c.task.is_(None), o.c.kept)
_REGROUPINGS = select(counters.c.value).where(counters.c.name == "regroupings")
_REPLACED = o.c.kind == "replacement"


class _Tally(NamedTuple):
    """What was counted of a task so far: up to which row, and as of which regrouping."""

    regroupings: int | None = None
    replaceable: int = 0
    labels: int = 0
    last: int = -1


class Observations:
    """Calls in, examples and figures out; a part of `Store`."""

    _database: Database
    _content_hash: Callable[[Slots], str]
    _literal_chars: dict[str, int]
    _tallies: dict[str, _Tally]

    def add_observations(self, observations: Sequence[Observation]) -> int:
        """Stores calls; one whose id is known is left as it is.

        Args:
            observations: in the order of the stream. A call goes to the task that its template belongs to by now.

        Returns:
            How many were new.
        """
        if not observations:
            return 0
        new = [rows.observation_row(each, self._content_hash, self._chars) for each in observations]
        with self._database.write() as connection:
            _place(connection, new)
            for row, n in zip(new, itertools.count(last_row(connection) + 1), strict=False):
                row["n"] = n
            return int(connection.execute(_insert_new(connection), new).rowcount)

    def assign(self, placed: Sequence[tuple[str, Match]]) -> int:
        """Says of earlier calls that belonged to no task where they belong.

        Args:
            placed: (id of the call, its match). Calls that have a task already, or whose text expired, stay.

        Returns:
            How many calls were moved.
        """
        if not placed:
            return 0
        changes = [{"call": rows.storable(call), **rows.placement(match, self._content_hash)} for call, match in placed]
        with self._database.write() as connection:
            _place(connection, changes)
            update = o.update().where(o.c.id == bindparam("call"), *_UNPLACED_PROMPT)
            moved = int(connection.execute(update, changes).rowcount)
            if moved:
                regrouped(connection)
        return moved

    def examples(self, task: str, limit: int | None = None, after: int = 0) -> list[Example]:
        """The labelled calls of a task, in the order of the stream.

        Args:
            task: id of the task.
            limit: if given, only the latest so many.
            after: only calls stored after this row.
        """
        # Positions come from an index alone: the texts of unlabelled calls are never read.
        position = (func.row_number().over(order_by=o.c.n) - 1).label("seq")
        numbered = select(o.c.n, o.c.labelled, position).where(o.c.task == task).subquery()
        labelled = select(numbered.c.n, numbered.c.seq).where(numbered.c.labelled, numbered.c.n > after)
        latest = labelled.order_by(numbered.c.n.desc()).limit(limit).subquery()
        columns: list[ColumnElement[Any]] = [o.c.slots, o.c.answer, o.c.input_hash, o.c.audit, o.c.template]
        columns += [o.c.release, o.c.reason, o.c.confidence, latest.c.seq]
        query = select(*columns).join(latest, latest.c.n == o.c.n).order_by(latest.c.n)
        with self._database.read() as connection:
            return [rows.example_of(row) for row in connection.execute(query)]

    def labels_since(self, task: str, row: int, templates: Collection[str], limit: int) -> list[tuple[int, Example]]:
        """The first labelled calls after a row, with their rows; `Example.sampled` says which are a fair sample.

        Args:
            task: id of the task.
            row: only calls stored after this row.
            templates: only calls of these templates.
            limit: at most so many rows are looked at.
        """
        mine = o.c.task == task, o.c.n > row, o.c.labelled, o.c.template.in_(templates)
        query = select(o, o.c.n.label("seq")).where(*mine).order_by(o.c.n).limit(limit)
        with self._database.read() as connection:
            return [(found.n, rows.example_of(found)) for found in connection.execute(query)]

    def answered_since(self, task: str, release: str, row: int, *, audited: bool = False) -> int:
        """Number of calls of a task, stored after a row, that a release answered; or of those, the audited ones."""
        answered = _REPLACED & o.c.asked if audited else _REPLACED & ~o.c.pending
        mine = o.c.task == task, o.c.n > row, o.c.release == release, answered
        with self._database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(o).where(*mine)).scalar_one())

    def label_count(self, task: str) -> int:
        """Number of labelled calls of a task; costs no more than counting those that are new since the last time."""
        return self._tally(task).labels

    def labels_after(self, task: str, row: int) -> int:
        """Number of labelled calls of a task stored after a row."""
        query = select(func.count()).select_from(o).where(o.c.task == task, o.c.labelled, o.c.n > row)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def replaceable_count(self, task: str) -> int:
        """Number of calls of a task that a student might answer; costs no more than counting those that are new."""
        return self._tally(task).replaceable

    def _tally(self, task: str) -> _Tally:
        known = self._tallies.get(task, _Tally())
        with self._database.read() as connection:
            regroupings = connection.execute(_REGROUPINGS).scalar()
            if known.regroupings != regroupings:
                known = _Tally(regroupings)
            # With one writer at a time, rows are committed in the order of n, so none turns up behind the last one.
            # A call whose audit is to come is counted when it has moved to the end.
            new = o.c.task == task, o.c.n > known.last, ~o.c.pending
            query = select(_number(o.c.replaceable), _number(o.c.labelled), func.max(o.c.n)).where(*new)
            replaceable, labels, last = connection.execute(query).one()
        known = _Tally(
            regroupings, known.replaceable + replaceable, known.labels + labels, known.last if last is None else last
        )
        self._tallies[task] = known
        return known

    def counts(self, task: str, release: str | None = None) -> TaskCounts:
        """What became of the calls of a task.

        Args:
            task: id of the task.
            release: if given, only calls this release was asked about.
        """
        query = select(
            func.count(),
            _number(o.c.labelled),
            _number(_REPLACED),
            _number(_REPLACED & o.c.asked),
            _number(o.c.reason.in_(("deferral", "ood"))),
            func.max(o.c.time),
        ).where(o.c.task == task)
        if release is not None:
            query = query.where(o.c.release == release)
        with self._database.read() as connection:
            return TaskCounts(*connection.execute(query).one())

    def calls_served(self, task: str) -> int:
        """Number of calls of a task since the first one that was replaced, it included; 0 if none was."""
        first = select(func.min(o.c.n)).where(o.c.task == task, _REPLACED).scalar_subquery()
        with self._database.read() as connection:
            query = select(func.count()).select_from(o).where(o.c.task == task, o.c.n >= first)
            return int(connection.execute(query).scalar_one())

    def usage(self, task: str | None = None, reason: Reason | None = None) -> list[Usage]:
        """Traffic to price, summed by task, model and whether the teacher answered.

        Args:
            task: if given, only this task; otherwise everything, calls without a task included.
            reason: if given, only calls decided for this reason.
        """
        unknown_in, unknown_out = o.c.input_tokens.is_(None), o.c.output_tokens.is_(None)
        query = (
            select(
                o.c.task,
                o.c.model,
                o.c.asked,
                func.count(),
                _number(_REPLACED),
                func.coalesce(func.sum(o.c.input_tokens), 0),
                func.coalesce(func.sum(o.c.output_tokens), 0),
                func.coalesce(func.sum(case((unknown_in, o.c.input_chars), else_=0)), 0),
                func.coalesce(func.sum(case((unknown_out, o.c.output_chars), else_=0)), 0),
                func.coalesce(func.sum(o.c.latency_s), 0.0),
            )
            .group_by(o.c.task, o.c.model, o.c.asked)
            .order_by(func.min(o.c.n))
        )
        if task is not None:
            query = query.where(o.c.task == task)
        if reason is not None:
            query = query.where(o.c.reason == reason)
        with self._database.read() as connection:
            return [Usage(*row) for row in connection.execute(query)]

    def coverage_lately(self, task: str, release: str, limit: int) -> float:
        """Share, in [0, 1], of the latest calls of a task, at most so many, that a release answered."""
        latest = select(o.c.kind, o.c.release).where(o.c.task == task).order_by(o.c.n.desc()).limit(limit).subquery()
        answered = (latest.c.kind == "replacement") & (latest.c.release == release)
        with self._database.read() as connection:
            calls, given = connection.execute(select(func.count(), _number(answered)).select_from(latest)).one()
        return given / calls if calls else 0.0

    def asked(self, release: str, limit: int, after: int = 0) -> list[Asked]:
        """The latest calls a release was asked about whose texts are kept, oldest first.

        Args:
            release: id of the release.
            limit: at most so many.
            after: only calls stored after this row.
        """
        answers = _REPLACED | (o.c.reason == "audit_hold")
        query = select(o.c.slots, o.c.input_hash, answers.label("answers"), o.c.template)
        query = query.where(o.c.release == release, o.c.kept, o.c.n > after)
        with self._database.read() as connection:
            found = connection.execute(query.order_by(o.c.n.desc()).limit(limit)).all()
        return [Asked(tuple(json.loads(r.slots)), r.input_hash, bool(r.answers), r.template) for r in reversed(found)]

    def handled(self, task: str, release: str, row: int, limit: int) -> list[Handled]:
        """The first calls after a row that a release was asked about, oldest first.

        Args:
            task: id of the task.
            release: the release.
            row: only calls stored after this row.
            limit: at most so many.
        """
        columns = (o.c.n, o.c.reason, o.c.model, o.c.replacement_answer, o.c.answer)
        query = select(*columns).where(o.c.n > row, *_asked_about(task, release)).order_by(o.c.n).limit(limit)
        with self._database.read() as connection:
            return [
                Handled(n, "answered" if reason in ("shadow", "audit_hold") else reason, *said)
                for n, reason, *said in connection.execute(query)
            ]

    def handled_from(self, task: str, release: str, limit: int) -> int:
        """The row after which are the latest so many calls that a release was asked about; 0 if there are fewer."""
        query = select(o.c.n).where(*_asked_about(task, release)).order_by(o.c.n.desc()).offset(limit).limit(1)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar() or 0)

    def latest(self, task: str | None, limit: int) -> list[Observation]:
        """The latest calls of a task whose texts are kept, oldest first.

        Args:
            task: id of the task; None: of all tasks and of none.
            limit: at most so many.
        """
        query = select(o).where(o.c.kept).order_by(o.c.n.desc()).limit(limit)
        if task is not None:
            query = query.where(o.c.task == task)
        with self._database.read() as connection:
            return [rows.observation_of(row) for row in connection.execute(query)][::-1]

    def latest_matches(self, limit: int, *, app: str) -> list[Match]:
        """Of the latest calls of an application, those that belong to a task and whose texts are kept, oldest first.

        Args:
            limit: of at most so many.
            app: the application.
        """
        query = select(o.c.task, o.c.template, o.c.slots).where(o.c.app == app).order_by(o.c.n.desc()).limit(limit)
        with self._database.read() as connection:
            found = [row for row in connection.execute(query) if row.slots is not None]
        return [Match(row.task, row.template, tuple(json.loads(row.slots))) for row in reversed(found)]

    def template_counts(self, task: str, after: int = 0) -> dict[str, int]:
        """Number of calls of a task by the id of their template.

        Args:
            task: id of the task.
            after: only calls stored after this row.
        """
        query = select(o.c.template, func.count()).where(o.c.task == task, o.c.n > after).group_by(o.c.template)
        with self._database.read() as connection:
            return {template: count for template, count in connection.execute(query) if template is not None}

    def template_use(self, task: str, after: int = 0) -> dict[str, TemplateUse]:
        """Since when each template of a task is called, and which release answered it first, by its id.

        Args:
            task: id of the task.
            after: only calls stored after this row.
        """
        mine = o.c.task == task, o.c.n > after
        first = select(o.c.template, func.min(o.c.n)).where(*mine).group_by(o.c.template)
        # A release that does not answer a template hands it over without a confidence.
        answers = o.c.release.is_not(None) & ((o.c.reason != "deferral") | o.c.confidence.is_not(None))
        asked = select(o.c.template, o.c.release, func.min(o.c.n)).where(*mine, answers)
        asked = asked.group_by(o.c.template, o.c.release).order_by(func.min(o.c.n).desc())
        with self._database.read() as connection:
            served = {template: (release, row) for template, release, row in connection.execute(asked)}
            began = connection.execute(first).all()
        nobody = (None, None)
        return {template: TemplateUse(row, *served.get(template, nobody)) for template, row in began if template}

    def answer_counts(self, task: str, limit: int) -> dict[str, int]:
        """How often the teacher gave each answer in the latest labelled calls of a task.

        Args:
            task: id of the task.
            limit: at most so many calls.
        """
        latest = select(o.c.answer).where(o.c.task == task, o.c.labelled).order_by(o.c.n.desc()).limit(limit).subquery()
        query = select(latest.c.answer, func.count()).group_by(latest.c.answer)
        with self._database.read() as connection:
            return {answer: count for answer, count in connection.execute(query)}

    def observations(self, task: str | None = None) -> Iterator[Observation]:
        """All stored calls in the order of the stream, read page by page.

        Args:
            task: if given, only calls of this task.
        """
        after = -1
        while True:
            query = select(o).where(o.c.n > after).order_by(o.c.n).limit(_PAGE)
            if task is not None:
                query = query.where(o.c.task == task)
            with self._database.read() as connection:
                page = connection.execute(query).all()
            yield from map(rows.observation_of, page)
            if len(page) < _PAGE:
                return
            after = page[-1].n

    def _chars(self, template: str) -> int:
        """Length of a template's constant text; 0 while it is not stored."""
        if template not in self._literal_chars:
            with self._database.read() as connection:
                row = connection.execute(select(templates).where(templates.c.id == template)).first()
            if row is None:
                return 0
            self._literal_chars[template] = sum(map(len, rows.template_of(row).literals))
        return self._literal_chars[template]


def _asked_about(task: str, release: str) -> tuple[ColumnElement[bool], ...]:
    """Calls that a release was asked about, but those whose audit is to come, which will move to the end.

    Calls of a template that it does not answer it hands over unasked.
    """
    asked = (o.c.reason != "deferral") | o.c.confidence.is_not(None)
    return o.c.task == task, o.c.release == release, asked, ~o.c.pending


def _place(connection: Connection, changes: Sequence[dict[str, Any]]) -> None:
    """Corrects the tasks of calls recognised by a process that has not heard of a merge or split yet."""
    current = owners(connection, ((row["task"], row["template"]) for row in changes))
    for row in changes:
        row["task"] = current.get((row["task"], row["template"]))


def _number(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """Number of rows for which the condition holds."""
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0).cast(Integer)


def _insert_new(connection: Connection) -> sqlite.Insert | postgresql.Insert:
    """An insert that skips calls whose id is known."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(o).on_conflict_do_nothing(index_elements=[o.c.id])
    return sqlite.insert(o).on_conflict_do_nothing(index_elements=[o.c.id])
