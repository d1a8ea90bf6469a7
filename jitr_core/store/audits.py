"""The part of the store that tells what audits have shown."""

from __future__ import annotations

from sqlalchemy import Integer, case, func, select

from .database import Database
from .records import Audited, Drawn, Given
from .schema import observations as o

__all__ = ["Audits"]

_REPLACED = o.c.kind == "replacement"


class Audits:
    """Answers given and answers audited; a part of `Store`."""

    _database: Database

    def audited(self, task: str, release: str | None = None, *, deferred: bool = False) -> list[Audited]:
        """The audited answers of a task that have not expired, in the order of the stream.

        Args:
            task: id of the task.
            release: if given, only answers of this release.
            deferred: also the calls that a student was unsure of and the coin chose: a fair sample of all calls.
        """
        # what a student was not asked, as of a template that the release does not answer, has no confidence
        chosen = _REPLACED | (o.c.audit & o.c.confidence.is_not(None)) if deferred else _REPLACED
        given = case((_REPLACED, o.c.replacement_answer))
        query = (
            select(o.c.id, o.c.release, given, o.c.answer, o.c.confidence, o.c.audit_share)
            .where(o.c.task == task, o.c.labelled, chosen)
            .order_by(o.c.n)
        )
        if release is not None:
            query = query.where(o.c.release == release)
        with self._database.read() as connection:
            return [Audited(*row) for row in connection.execute(query)]

    def given(self, task: str, release: str) -> Given:
        """The answers a release has given whose texts are kept.

        Args:
            task: id of the task.
            release: the release.
        """
        mine = o.c.task == task, o.c.release == release, _REPLACED, o.c.kept
        failed = select(o.c.audit_share).where(*mine, o.c.audit, ~o.c.labelled)
        with self._database.read() as connection:
            answered, least = connection.execute(select(func.count(), func.min(o.c.audit_share)).where(*mine)).one()
            return Given(answered, 1.0 if least is None else least, tuple(connection.execute(failed).scalars()))

    def drawn(self, task: str, release: str, limit: int) -> Drawn:
        """What came of the audits of the latest answers of a release.

        Args:
            task: id of the task.
            release: the release.
            limit: at most so many answers.
        """
        columns = o.c.audit_share, o.c.asked, (o.c.audit & ~o.c.asked).label("failed")
        latest = select(*columns).where(o.c.task == task, o.c.release == release, _REPLACED)
        last = latest.order_by(o.c.n.desc()).limit(limit).subquery()
        sums = [func.coalesce(func.sum(each.cast(Integer)), 0) for each in (last.c.asked, last.c.failed)]
        query = select(func.count(), func.coalesce(func.sum(last.c.audit_share), 0.0), *sums).select_from(last)
        with self._database.read() as connection:
            return Drawn(*connection.execute(query).one())
