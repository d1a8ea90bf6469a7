"""The part of the store that keeps what the user wants of a task's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from sqlalchemy import select

from ..errors import StoreError
from ..types import Release
from . import rows
from .parts import PROBATION, entry, standing
from .releases import Releases
from .schema import releases, tasks

__all__ = ["Wanted"]


class Wanted(Releases):
    """What counts for one task by the user's word; a part of `Store`."""

    def want(
        self,
        kind: Literal["promise", "equivalence"],
        task: str,
        details: dict[str, Any],
        meets: Callable[[Release], bool],
        reason: str,
        figures: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Keeps what the user wants of a task's answers, in one transaction with what follows for its releases.

        Args:
            kind: what the user spoke of.
            task: id of the task; the miner leaves it as it is from now on.
            details: the user's word, as the ledger keeps it.
            meets: whether a release was certified for that. The active one serves no more if not; one on probation is
                withdrawn.
            reason: why, for the task and the ledger.
            figures: what is known of the releases at work, by id.

        Raises:
            StoreError: there is no such task.
        """
        with self._database.write(notify=True) as connection:
            row = connection.execute(select(tasks).where(tasks.c.id == task)).first()
            if row is None:
                raise StoreError(f"There is no task {task!r}.", hint="`jitr tasks` lists the tasks.")
            entry(connection, self._database.clock(), kind, task, details)
            connection.execute(tasks.update().where(tasks.c.id == task).values(decided=True))
            at_work = releases.c.state.in_(("active", *PROBATION)), releases.c.task == task
            found = connection.execute(select(releases).where(*at_work)).all()
            unmet = [each for each in found if not meets(rows.release_of(each, self._database))]
            for each in unmet:
                if each.state in PROBATION:
                    self._end_probation(connection, row, each.id, reason, figures.get(each.id))
            if row.active_release in [each.id for each in unmet]:
                self._set_state(connection, row.active_release, "retired")
                state = "paused" if row.state == "paused" else standing(connection, task, None)
                told = figures.get(row.active_release)
                self._point(connection, task, None, state, reason, before=row.active_release, figures=told)
