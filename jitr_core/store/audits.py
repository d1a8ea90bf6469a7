"""The part of the store that tells what audits have shown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Integer, case, func, select

from ..types import Answer
from . import rows
from .database import Database
from .parts import entry, last_details, last_row
from .records import Answers, Audited, Drawn, Given
from .schema import counters, ledger
from .schema import observations as o

__all__ = ["Audits"]

_PENDING = select(o.c.n, o.c.model, o.c.replaceable, o.c.kept).where(o.c.pending)
_REPLACED = o.c.kind == "replacement"
_HELD = o.c.reason == "audit_hold"
_REGROUPINGS = select(counters.c.value).where(counters.c.name == "regroupings")


def _holds(connection: Connection, task: str, release: str) -> list[dict[str, Any]]:
    query = select(ledger.c.details).where(ledger.c.task == task, ledger.c.kind == "hold").order_by(ledger.c.n)
    told = (json.loads(details) for details in connection.execute(query).scalars())
    return [each for each in told if each["release"] == release]


def _is_held(connection: Connection, task: str, release: str) -> bool:
    told = _holds(connection, task, release)
    return bool(told) and bool(told[-1]["held"])


class Audits:
    """Answers given and answers audited; a part of `Store`."""

    _database: Database
    _answers: dict[str, Answers]

    def audited(
        self, task: str, release: str | None = None, *, deferred: bool = False, held: bool = False, after: int = 0
    ) -> list[Audited]:
        """The audited answers of a task that have not expired, in the order of the stream.

        Args:
            task: id of the task.
            release: if given, only answers of this release.
            deferred: also the calls that a student was unsure of and the coin chose: a fair sample of all calls.
            held: also what a held release would have answered where the teacher did.
            after: only what was stored after this row.
        """
        answers = _REPLACED | _HELD if held else _REPLACED
        # what a student was not asked, as of a template that the release does not answer, has no confidence
        chosen = answers | (o.c.audit & o.c.confidence.is_not(None)) if deferred else answers
        given = case((answers, o.c.replacement_answer))
        query = (
            select(o.c.id, o.c.release, given, o.c.answer, o.c.confidence, o.c.audit_share)
            .where(o.c.task == task, o.c.labelled, chosen, o.c.n > after)
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
        columns = o.c.audit_share, o.c.asked, (o.c.audit & ~o.c.asked & ~o.c.pending).label("failed")
        latest = select(*columns).where(o.c.task == task, o.c.release == release, _REPLACED)
        last = latest.order_by(o.c.n.desc()).limit(limit).subquery()
        sums = [func.coalesce(func.sum(each.cast(Integer)), 0) for each in (last.c.asked, last.c.failed)]
        query = select(func.count(), func.coalesce(func.sum(last.c.audit_share), 0.0), *sums).select_from(last)
        with self._database.read() as connection:
            return Drawn(*connection.execute(query).one())

    def unwatched(self, task: str, release: str) -> tuple[int, float]:
        """How long none of a release's audits has come back.

        Args:
            task: id of the task.
            release: the release.

        Returns:
            Audits that came to nothing, or have not come back, since its answers were compared last; and the seconds
            between the calls of the first and the last of them.
        """
        mine = o.c.task == task, o.c.release == release
        last = select(o.c.n).where(*mine, _REPLACED | _HELD, o.c.asked).order_by(o.c.n.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(last).scalar() or 0
            missed = select(func.count(), func.min(o.c.time), func.max(o.c.time))
            missed = missed.where(*mine, _REPLACED, o.c.audit, ~o.c.asked, o.c.n > row)
            number, first, latest = connection.execute(missed).one()
        return number, latest - first if number else 0.0

    def warn(
        self, task: str, details: Mapping[str, Any], since: int = 0, hold: Mapping[str, Any] | None = None
    ) -> bool:
        """Notes a warning of drift, which raises the share of audits in every process, and the hold that follows.

        Args:
            task: id of the task.
            details: `release`, `row` of the call that gave it away, and what explains it.
            since: row of the warning that the caller knows of, 0 if of none.
            hold: `reason` and `figures`, see `hold`; None to hold nothing.

        Returns:
            False if another process warned of this release meanwhile.
        """
        with self._database.write(notify=True) as connection:
            last = last_details(connection, task, "warning")
            if last is not None and last["release"] == details["release"] and last["row"] > since:
                return False
            entry(connection, self._database.clock(), "warning", task, dict(details))
            if hold is not None:
                held = {"release": details["release"], "held": True, **hold, "row": last_row(connection)}
                entry(connection, self._database.clock(), "hold", task, held)
        return True

    def compared_since(self, task: str, release: str, row: int) -> int:
        """Answers of a release, given or held back, that were compared with the teacher's, stored after a row."""
        mine = o.c.task == task, o.c.release == release, o.c.n > row, _REPLACED | _HELD, o.c.asked
        with self._database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(o).where(*mine)).scalar_one())

    def hold(self, task: str, release: str, held: bool, reason: str, figures: Mapping[str, Any]) -> bool:
        """Notes that the teacher answers in place of a release, or does no longer.

        Args:
            task: id of the task.
            release: the release.
            held: whether it does from now on.
            reason: why.
            figures: what the reason rests on.

        Returns:
            False if that was so already.
        """
        if (self.held_since(task, release) is not None) == held:  # nobody has to look again
            return False
        details = {"release": release, "held": held, "reason": reason, "figures": figures}
        with self._database.write(notify=True) as connection:
            if _is_held(connection, task, release) == held:
                return False
            entry(connection, self._database.clock(), "hold", task, {**details, "row": last_row(connection)})
        return True

    def holds(self, task: str, release: str) -> list[dict[str, Any]]:
        """What the ledger says of the holds of a release, oldest first: `held`, `reason`, `figures` and `row`."""
        with self._database.read() as connection:
            return _holds(connection, task, release)

    def held_since(self, task: str, release: str) -> int | None:
        """The last row of the store when a release was held; None if it is not."""
        told = self.holds(task, release)
        return int(told[-1]["row"]) if told and told[-1]["held"] else None

    def conclude_audits(self, done: Sequence[tuple[str, Answer | None]]) -> int:
        """Says what came of audits; their calls move to the end of the stream, where labels stand as they come.

        Args:
            done: (id of the answered call, the teacher's answer or None where the audit came to nothing). Calls whose
                audit is not pending stay as they are: they were purged, or given up.

        Returns:
            How many were pending.
        """
        if not done:
            return 0
        with self._database.write() as connection:
            row = first = last_row(connection)
            for call, answer in done:
                found = connection.execute(_PENDING.where(o.c.id == rows.storable(call))).first()
                if found is None:
                    continue
                row += 1
                told = rows.answered(answer, found.model, found.replaceable, kept=found.kept) if answer else {}
                connection.execute(o.update().where(o.c.n == found.n).values(n=row, pending=False, **told))
        return row - first

    def give_up_audits(self, older_s: float) -> int:
        """Concludes audits that nobody makes any more, as those of a process that was killed: they came to nothing.

        Args:
            older_s: age of their calls in seconds, longer than a process tries.

        Returns:
            How many there were.
        """
        with self._database.read() as connection:
            old = select(o.c.id).where(o.c.pending, o.c.time < self._database.clock() - older_s)
            calls = connection.execute(old.order_by(o.c.n)).scalars().all()
        return self.conclude_audits([(call, None) for call in calls])

    def answers(self, task: str) -> Answers:
        """What the releases of a task have answered; costs no more than counting what is new since the last time.

        Args:
            task: id of the task.
        """
        known = self._answers.get(task, Answers())
        with self._database.read() as connection:
            regroupings = connection.execute(_REGROUPINGS).scalar()
            if known.regroupings != regroupings:
                known = Answers(regroupings=regroupings)
            # With one writer at a time, rows are committed in the order of n, so none turns up behind the last one.
            new = o.c.task == task, o.c.n > known.last, _REPLACED, ~o.c.pending
            query = select(o.c.release, func.count(), func.sum(o.c.audit_share), func.max(o.c.n)).where(*new)
            found = connection.execute(query.group_by(o.c.release)).all()
        releases = Counter(known.releases)
        releases.update({release: number for release, number, _, _ in found})
        spent = known.spent + sum(share for _, _, share, _ in found)
        self._answers[task] = Answers(releases, spent, max([known.last, *(last for *_, last in found)]), regroupings)
        return self._answers[task]
