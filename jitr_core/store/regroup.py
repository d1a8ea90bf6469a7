"""The part of the store that changes which calls make up a task: merging, splitting, declaring.

delta is spent once over everything that is ever released for a call. Hence a task that takes in another one goes on at
the later of their next attempts, a task that is split off or parted at that of the one it came from, and a release
serves on only where all it was certified on stays together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select

from ..errors import StoreError
from ..types import Declaration, Match, Slots, Task, Template
from . import rows
from .database import Database
from .parts import PROBATION, attempts_made, entry, last_details, last_row, regrouped, standing, survivors
from .schema import declarations, ledger, releases, tasks, templates
from .schema import observations as o

__all__ = ["Regrouping"]

_STARTS = ("rollback", "restart", "purge")
_OF_TASK, _OF_RELEASE = ("promise", "equivalence"), ("pin", "warning", "hold")
_PAGE = 2_000


class Regrouping:
    """Merges, splits, partings and declarations; a part of `Store`. Every change raises `Store.version`."""

    _database: Database
    _content_hash: Callable[[Slots], str]

    def merge_tasks(self, gone: str, survivor: str, *, by_hand: bool = False) -> bool:
        """Moves the calls and templates of a task to another one that does the same job.

        Releases answer the templates they were certified on, so the survivor's goes on; where it has none, the one
        that served the other task does. Once there were releases, audits have labelled the two tasks' calls unevenly:
        then calls are counted from now on, and earlier labels certify stratum by stratum, see `jitr_core.collect`.

        What the user said of the survivor's answers counts, else what was said of the other's.

        Args:
            gone: the task that goes; nothing happens if the two are one already.
            survivor: the older task, which stays.
            by_hand: the user says so. The miner must not touch what the user has decided or paused.

        Returns:
            Whether the two are one now.

        Raises:
            StoreError: one of the two does not exist.
        """
        with self._database.write(notify=True) as connection:
            merged = survivors(connection)
            survivor, gone = merged.get(survivor, survivor), merged.get(gone, gone)
            if gone == survivor:
                return True  # done already, perhaps the other way round by another process
            going, staying = _row(connection, gone), _row(connection, survivor)
            if going is None or staying is None:
                raise StoreError(
                    f"Tasks {gone!r} and {survivor!r} cannot be merged.", hint="Both must exist and differ."
                )
            held = [row for row in (going, staying) if row.decided or row.state == "paused"]
            if held and not by_hand:
                return False
            began = _began(connection, gone), _began(connection, survivor)
            restart = any(began) or _released(connection, gone, survivor)
            index = max(attempts_made(connection, gone), attempts_made(connection, survivor))
            moved = _ids(connection, gone)
            for table in (o, templates, declarations):
                connection.execute(table.update().where(table.c.task == gone).values(task=survivor))
            regrouped(connection)
            values, became = _served_after(connection, going, staying)
            if by_hand:
                values["decided"] = True
            _update(connection, survivor, **values, regroupings=staying.regroupings + 1)
            _forgo(connection, survivor, index)
            left = {"merged_into": survivor, "active_release": None, "state": "observing"}
            _update(connection, gone, **left, reason=f"merged into {survivor}", regroupings=going.regroupings + 1)
            why = "merged by hand" if by_hand else "both do the same job"
            told = {"gone": gone, "templates": moved, "by_hand": by_hand, "releases": became, "reason": why}
            self._note(connection, "merge", survivor, **told)
            self._hand_on(connection, gone, survivor)
            if restart:
                learnt = max(_learnt_from(start) for start in began)
                self._restart(connection, survivor, last_row(connection), index, learnt)
        return True

    def split_task(self, task: str, new: Task, moved: Collection[str]) -> None:
        """Makes some templates of a task, with their calls, a task of their own.

        A release certified on templates of both tasks is withdrawn: it was never measured on either alone. Any other
        one goes with its templates. What the user said of the task's answers counts for both.

        Args:
            task: id of the task.
            new: the task to be; it takes over state and reason of the one it comes from.
            moved: ids of the templates.

        Raises:
            StoreError: there is no such task, or a template is not its own; nothing is changed.
        """
        with self._database.write(notify=True) as connection:
            row = _row(connection, task)
            if row is None or not set(moved) < set(_ids(connection, task)):
                raise StoreError(
                    f"Task {task!r} cannot be split so.", hint="`jitr tasks show TASK` lists its templates."
                )
            index, start = attempts_made(connection, task), _began(connection, task)
            values = {"state": "paused" if row.state == "paused" else "observing", "reason": row.reason}
            kept = {"app": row.app, "tenant": row.tenant, "ignored": row.ignored, "decided": True, "forgone": index}
            born = {"id": new.id, "name": rows.storable(new.name), "created": self._database.clock()}
            connection.execute(tasks.insert(), {**born, **kept, **values})
            connection.execute(templates.update().where(templates.c.id.in_(moved)).values(task=new.id))
            written = select(templates.c.literals).where(templates.c.id.in_(moved))
            declared = (declarations.c.task == task) & declarations.c.literals.in_(written)
            connection.execute(declarations.update().where(declared).values(task=new.id))
            away = (o.c.task == task) & o.c.template.in_(moved)
            connection.execute(o.update().where(away).values(task=new.id))
            regrouped(connection)
            _update(connection, task, decided=True, regroupings=row.regroupings + 1)
            became = _divide_releases(connection, row, new.id, frozenset(moved))
            _settle(connection, task)
            for each in (task, new.id):
                told = {"new": new.id, "templates": sorted(moved), "releases": became, "reason": "split by hand"}
                self._note(connection, "split", each, **told)
            self._hand_on(connection, task, new.id)
            if start is not None:
                for each in (task, new.id):
                    self._restart(connection, each, start["row"], start["attempts"], _learnt_from(start))

    def part_template(
        self, parted: str, created: Sequence[Template], new: Task, place: Callable[[str, Slots], Match | None]
    ) -> bool:
        """Gives calls of a template that proved to serve two jobs templates of their own, with all their labels.

        A release serves on only if no call that goes was there before it: what is left was never measured alone.

        Args:
            parted: id of the template. It stays with its task, and so does what fits none of the new ones.
            created: the new templates: the first is the new task's, another one the old task's.
            new: the task to be.
            place: where a call belongs now, by the id of its template and its input; None if it stays where it is.

        Returns:
            Whether it is done, perhaps by another process. The user's decisions are never undone: then it is not.
        """
        with self._database.write(notify=True) as connection:
            task = connection.execute(select(templates.c.task).where(templates.c.id == parted)).scalar()
            row = _row(connection, task) if task is not None else None
            if row is None or row.decided or row.state == "paused":
                return False
            known = _row(connection, new.id)
            if known is not None:
                return known.merged_into is None
            index, start = attempts_made(connection, row.id), _began(connection, row.id)
            born = {"id": new.id, "name": rows.storable(new.name), "created": self._database.clock()}
            kept = {"app": row.app, "tenant": row.tenant, "forgone": index, "state": "observing", "reason": ""}
            connection.execute(tasks.insert(), {**born, **kept})
            owners = {template.id: new.id if template is created[0] else row.id for template in created}
            stored = set(connection.execute(select(templates.c.id).where(templates.c.id.in_(owners))).scalars())
            for template in [template for template in created if template.id not in stored]:
                connection.execute(templates.insert(), {**rows.template_row(template), "task": owners[template.id]})
            moved = self._replace(connection, row.id, place, owners)
            regrouped(connection)
            _update(connection, row.id, regroupings=row.regroupings + 1)
            withdrawn = _withdraw_mixed(connection, row, moved)
            _settle(connection, row.id)
            told = {"releases": dict.fromkeys(withdrawn, "withdrawn"), "reason": "its template served two jobs"}
            self._note(connection, "part", row.id, new=new.id, template=parted, **told)
            self._hand_on(connection, row.id, new.id)
            if start is not None:
                for each in (row.id, new.id):
                    self._restart(connection, each, start["row"], start["attempts"], _learnt_from(start))
        return True

    def _replace(
        self, connection: Connection, task: str, place: Callable[[str, Slots], Match | None], owners: dict[str, str]
    ) -> dict[str, int]:
        """Moves calls of a task to other templates; the first row that each template lost."""
        first: dict[str, int] = {}
        names = ("task", "template", "slots", "input_hash")
        update = o.update().where(o.c.n == bindparam("row")).values({name: bindparam(f"new_{name}") for name in names})
        page = select(o.c.n, o.c.template, o.c.slots).where(o.c.task == task, o.c.kept).order_by(o.c.n).limit(_PAGE)
        after = -1
        while found := connection.execute(page.where(o.c.n > after)).all():
            after = found[-1].n
            changes = []
            for each in found:
                match = place(each.template, tuple(json.loads(each.slots)))
                if match is not None and match.template in owners and match.template != each.template:
                    columns = {**rows.placement(match, self._content_hash), "task": owners[match.template]}
                    changes.append({"row": each.n, **{f"new_{name}": columns[name] for name in names}})
                    first.setdefault(each.template, each.n)
            if changes:
                connection.execute(update, changes)
        return first

    def declare_task(self, task: Task, declaration: Declaration) -> None:
        """Stores a task the user knows before its first call, and how its calls are recognised."""
        with self._database.write(notify=True) as connection:
            where = {"id": task.id, "app": rows.storable(task.app), "tenant": rows.storable(task.tenant)}
            values = {"name": rows.storable(task.name), "state": task.state, "reason": "", "decided": True}
            connection.execute(tasks.insert(), {**where, **values, "created": self._database.clock()})
            row = {name: rows.storable(value) for name, value in asdict(declaration).items() if name != "literals"}
            connection.execute(declarations.insert(), {**row, "literals": rows.dumps(declaration.literals)})
            self._note(connection, "declare", task.id, name=task.name, step=row["step"], literals=declaration.literals)

    def declarations(self) -> list[Declaration]:
        """All declarations, oldest first."""
        with self._database.read() as connection:
            query = select(declarations).order_by(declarations.c.n)
            return [rows.declaration_of(row) for row in connection.execute(query)]

    def joined_templates(self) -> frozenset[str]:
        """Ids of the templates that ever came to another task by a merge."""
        query = select(ledger.c.details).where(ledger.c.kind == "merge")
        with self._database.read() as connection:
            return frozenset(
                template
                for details in connection.execute(query).scalars()
                for template in json.loads(details)["templates"]
            )

    def _hand_on(self, connection: Connection, origin: str, task: str) -> None:
        """Says of a task what was last said of the one its calls came from, unless it has a word of its own."""
        row = _row(connection, task)
        active = None if row is None else row.active_release
        for kind in (*_OF_TASK, *_OF_RELEASE):
            said = last_details(connection, origin, kind)
            if said is None or (kind in _OF_TASK and last_details(connection, task, kind) is not None):
                continue
            if kind in _OF_TASK or (active is not None and said["release"] == active):
                entry(connection, self._database.clock(), kind, task, said)

    def _restart(self, connection: Connection, task: str, row: int, attempts: int, learnt: int) -> None:
        """Says that calls of a task are counted anew from a row on, and labels up to another are of no use any more."""
        before = select(func.count()).select_from(o).where(o.c.task == task, o.c.n <= row, o.c.replaceable)
        calls = connection.execute(before).scalar_one()
        start = {"row": row, "calls": calls, "attempts": attempts, "learnt": learnt}
        self._note(connection, "restart", task, start=start)

    def _note(self, connection: Connection, kind: str, task: str, **details: Any) -> None:
        entry(connection, self._database.clock(), kind, task, details)


def _row(connection: Connection, task: str) -> Row[Any] | None:
    return connection.execute(select(tasks).where(tasks.c.id == task)).first()


def _ids(connection: Connection, task: str) -> list[str]:
    query = select(templates.c.id).where(templates.c.task == task).order_by(templates.c.n)
    return list(connection.execute(query).scalars())


def _update(connection: Connection, task: str, **values: Any) -> None:
    connection.execute(tasks.update().where(tasks.c.id == task).values(**values))


def _began(connection: Connection, task: str) -> dict[str, int] | None:
    """Where the task's present begins, None if that is with its first call."""
    mine = ledger.c.task == task, ledger.c.kind.in_(_STARTS)
    last = connection.execute(select(ledger).where(*mine).order_by(ledger.c.n.desc()).limit(1)).first()
    start: dict[str, int] | None = json.loads(last.details).get("start") if last is not None else None
    return start


def _learnt_from(start: dict[str, int] | None) -> int:
    """Row after which labels are learnt from: what audits contradicted is not, what was merely labelled unevenly is."""
    return 0 if start is None else start.get("learnt", start["row"])


def _settle(connection: Connection, task: str) -> None:
    """Says of a task that nothing serves whether it has a release on probation, after its releases were divided."""
    row = _row(connection, task)
    if row is not None and row.state in ("observing", *PROBATION):
        _update(connection, task, state=standing(connection, task, row.active_release))


def _released(connection: Connection, *found: str) -> bool:
    return connection.execute(select(releases.c.id).where(releases.c.task.in_(found)).limit(1)).first() is not None


def _forgo(connection: Connection, task: str, index: int) -> None:
    """Makes the task's next attempt the one with this index, if it is not beyond it."""
    lacking = index - attempts_made(connection, task)
    if lacking > 0:
        _update(connection, task, forgone=tasks.c.forgone + lacking)


def _served_after(connection: Connection, going: Row[Any], staying: Row[Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What serves the survivor of a merge, its state (a pause of either stands), what the other's releases became."""
    values: dict[str, Any] = {}
    became: dict[str, str] = {}
    if staying.active_release is None and going.active_release is not None:
        carried = releases.c.id == going.active_release
        connection.execute(releases.update().where(carried).values(task=staying.id))
        values = {"active_release": going.active_release, "state": going.state, "reason": going.reason}
        became[going.active_release] = "active"
    mine = releases.c.task == going.id, releases.c.state != "withdrawn"
    became |= dict.fromkeys(connection.execute(select(releases.c.id).where(*mine)).scalars(), "retired")
    connection.execute(releases.update().where(*mine).values(state="retired"))
    for row in (going, staying):
        if row.state == "paused":
            values |= {"state": "paused", "reason": row.reason}
    return values, became


def _withdraw_mixed(connection: Connection, row: Row[Any], moved: dict[str, int]) -> list[str]:
    """Withdraws releases that were certified on templates while calls were theirs that are no more.

    Args:
        connection: within the transaction.
        row: the task.
        moved: the first such call's row by template.

    Returns:
        Ids of the releases.
    """
    asked = select(o.c.release, func.min(o.c.n)).where(o.c.release.is_not(None)).group_by(o.c.release)
    began = {release: n for release, n in connection.execute(asked)}
    mixed = []
    for release in connection.execute(select(releases).where(releases.c.task == row.id)).all():
        certified = json.loads(release.templates) or list(moved)
        lost = [moved[template] for template in certified if template in moved]
        if release.state != "withdrawn" and lost and min(lost) < began.get(release.id, min(lost) + 1):
            mixed.append(release.id)
    connection.execute(releases.update().where(releases.c.id.in_(mixed)).values(state="withdrawn"))
    if row.active_release in mixed:
        reason = "one of its templates proved to serve two jobs: certified for both together"
        _update(connection, row.id, active_release=None, state="observing", reason=reason)
    return mixed


def _divide_releases(connection: Connection, row: Row[Any], new: str, moved: frozenset[str]) -> dict[str, str]:
    """Gives each release of a task that was split to the part it was certified on; withdraws it if that is both.

    Returns:
        The state of each that does not stay as it was, by its id.
    """
    became: dict[str, str] = {}
    for release in connection.execute(select(releases).where(releases.c.task == row.id)).all():
        certified = set(json.loads(release.templates))
        mine = releases.c.id == release.id
        if certified and certified <= moved:
            # What it was compared with on probation was the old task's calls.
            state = "retired" if release.state in PROBATION else release.state
            became[release.id] = state
            connection.execute(releases.update().where(mine).values(task=new, state=state))
        elif not certified or certified & moved:
            became[release.id] = "withdrawn"
            connection.execute(releases.update().where(mine).values(state="withdrawn"))
        else:
            continue
        if release.id != row.active_release:
            continue
        torn = {"active_release": None, "state": "observing", "reason": "split: certified for both parts together"}
        paused = {"state": "paused", "reason": row.reason} if row.state == "paused" else {}
        _update(connection, row.id, **torn | paused)
        if certified and certified <= moved:
            serves = {"active_release": release.id, "state": row.state, "reason": row.reason}
            _update(connection, new, **serves)
            _update(connection, row.id, reason=paused.get("reason", "split"))
    return became
