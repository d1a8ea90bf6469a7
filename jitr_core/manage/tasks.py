"""What a user decides about tasks: which calls belong together, what they are called, what is forgotten."""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..earlier import ARTIFACTS, dependants, withdraw_orphans
from ..equivalence import honours, said, storable
from ..errors import ConfigError
from ..freely import forget
from ..identify import Decisions, join_prompt, key_of, pattern, prompt_text, supersedes, task_name, unused
from ..promises import fulfils, promise, promised
from ..promote import KEPT
from ..terms import HEARD, unheard
from ..types import GIVEN, Declaration, Task, Template
from .figures import at_hand, at_work, of_task

if TYPE_CHECKING:
    from ..store import Store

__all__ = [
    "TemplateCalls",
    "compare_by",
    "declare",
    "find_task",
    "ignore",
    "merge",
    "promise_by",
    "purge",
    "rename",
    "split",
    "task_templates",
    "unignore",
]

_COMPARED, _EARLIER = 500, 10_000  # latest calls of a task, and of none, that a declared template is compared with


@dataclass(frozen=True, slots=True)
class TemplateCalls:
    """A template of a task with the narrower versions it grew out of.

    Attributes:
        template: its widest version, which is in force.
        ids: ids of all versions.
        calls: number of calls of all versions.
    """

    template: Template
    ids: tuple[str, ...]
    calls: int


def find_task(store: Store, name: str) -> Task:
    """The task with this id, name or unambiguous beginning of either, or the one it was merged into.

    Raises:
        ConfigError: there is none, or several.
    """
    tasks = store.tasks()
    exact = [t for t in tasks if name in (t.id, t.name)]
    found = exact or [t for t in tasks if t.id.startswith(name) or t.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if not found:
        merged = store.task(name)
        if merged is not None:
            return merged
        raise ConfigError(f"no task {name!r}.", hint="`jitr tasks` lists them.")
    raise ConfigError(f"{name!r} could be {', '.join(t.id for t in found)}.", hint="Give the id.")


def task_templates(store: Store, task: Task) -> list[TemplateCalls]:
    """The templates of a task that are in force, oldest first."""
    known = [template for template in store.templates() if template.task == task.id]
    counts = store.template_counts(task.id)
    found: list[TemplateCalls] = []
    taken: set[str] = set()
    # Of two that stand for each other, the later is in force.
    for template in reversed(known):
        wider = [t for t in known if supersedes(t, template) and not supersedes(template, t)]
        if template.id in taken or wider:
            continue
        ids = (template.id, *(t.id for t in known if supersedes(template, t) and t.id not in taken))
        taken.update(ids)
        found.append(TemplateCalls(template, ids, sum(counts.get(each, 0) for each in ids)))
    return found[::-1]


def rename(store: Store, task: Task, name: str) -> None:
    """Call a task something else.

    Raises:
        ConfigError: the name is empty or another task's.
    """
    store.rename(task.id, _free_name(store, name, task.app, task.tenant, task))


def merge(store: Store, tasks: Sequence[Task]) -> Task:
    """Make one task of several that do the same job; the oldest survives, and a pause of any of them stands.

    The replacement in service goes on with the calls it was certified on; the others wait for the next search. What was
    said by hand of the survivor's answers (`promise_by`, `compare_by`) counts, else what was said of the others'.

    Returns:
        The survivor.

    Raises:
        ConfigError: fewer than two tasks, tasks of several apps or tenants, or an ignored one.
    """
    wanted = {task.id for task in tasks}
    found = [task for task in store.tasks() if task.id in wanted]
    if len(found) < 2:
        raise ConfigError("merging takes at least two tasks.")
    if len({(task.app, task.tenant) for task in found}) > 1:
        raise ConfigError("these tasks belong to different apps or tenants.", hint="Tasks never span them.")
    ignored = next((task for task in found if task.ignored), None)
    if ignored is not None:
        raise ConfigError(f"task {ignored.name!r} is ignored.", hint=f"`jitr tasks unignore {ignored.id}` ends that.")
    for gone in found[1:]:
        store.merge_tasks(gone.id, found[0].id, by_hand=True)
    return store.task(found[0].id) or found[0]


def split(store: Store, task: Task, templates: Sequence[str], name: str | None = None) -> Task:
    """Make some templates of a task, with their calls, a task of their own, which the miner never merges again.

    A replacement certified on templates of both parts is withdrawn. Both parts go on spending delta where the task
    stood, so that no call gets a fresh one.

    Args:
        store: the state.
        task: the task.
        templates: ids of templates, or unambiguous beginnings of them.
        name: what to call the new task; by default the first words of its template.

    Returns:
        The new task.

    Raises:
        ConfigError: a template is not one of the task's, or nothing would stay or go.
    """
    known = task_templates(store, task)
    chosen = [_one_template(known, task, wanted) for wanted in templates]
    moved = sorted({version for each in chosen for version in each.ids})
    if not chosen or len(moved) == sum(len(each.ids) for each in known):
        raise ConfigError(
            f"{len(known)} templates make up task {task.name!r}; a part of them must go and a part stay.",
            hint=f"`jitr tasks show {task.id}` lists them.",
        )
    wanted_name = (
        name if name is not None else unused(task_name(chosen[0].template), {task.name for task in store.tasks()})
    )
    new = Task(_new_id(), task.app, task.tenant, _free_name(store, wanted_name, task.app, task.tenant))
    store.split_task(task.id, new, moved)
    return store.task(new.id) or new


def ignore(store: Store, task: Task) -> None:
    """Leave a task alone for good: nothing is searched for it and the teacher answers; its calls are still counted."""
    store.ignore(task.id, of_task(store, task))


def unignore(store: Store, task: Task) -> None:
    """End `ignore`: the release that was active, if any, serves again.

    Raises:
        ConfigError: it is not ignored.
    """
    if not task.ignored:
        raise ConfigError(f"task {task.name!r} is not ignored.")
    store.unignore(task.id, of_task(store, task))


def declare(
    store: Store,
    name: str,
    *,
    messages: Sequence[tuple[str, str]] = (),
    step: str = "",
    app: str = "default",
    tenant: str = "",
) -> Task:
    """Make a task known before its first call. Earlier calls that belong to no task and fit become its own.

    Args:
        store: the state.
        name: what to call it.
        messages: (role, text) pairs of its prompt with slots in braces, see `jitr_core.identify.pattern`; () takes
            every call of the step.
        step: only calls of this step; "" if it may be any.
        app: whose calls.
        tenant: whose calls within the app.

    Raises:
        ConfigError: neither messages nor a step are given, the name is taken, the template cannot be read, or its
            calls belong to another task already.
    """
    if not messages and not step:
        raise ConfigError("say how its calls are recognised.", hint="Give a template or a step.")
    name = _free_name(store, name, app, tenant)
    declaration = Declaration(_new_id(), app, tenant, step, pattern(messages) if messages else ())
    other = _owner(store, declaration)
    if other is not None:
        raise ConfigError(
            f"its calls belong to task {other.name!r} ({other.id}) already.",
            hint="`jitr tasks rename` names that one, `jitr tasks split` takes templates out of it; a step=… in the "
            "app makes a task of all calls from then on.",
        )
    task = Task(declaration.task, app, tenant, name)
    store.declare_task(task, declaration)
    earlier = store.unplaced(_EARLIER, app=app, tenant=tenant)
    decisions = Decisions(declarations=(declaration,))
    placed = [(call.id, decisions.place(key_of(call), prompt_text(call.messages))) for call in earlier]
    found = [(call, *place) for call, place in placed if place is not None]
    store.save_templates([template for _, template, _ in found])
    store.assign([(call, match) for call, _, match in found])
    return store.task(task.id) or task


def compare_by(store: Store, task: Task, rule: str) -> None:
    """Say by which rule a task's answers count as the teacher's; a release that promised less serves no more.

    Nor does it stay on probation.

    Raises:
        ConfigError: there is no such rule, or it is a function, which no state may name.
    """
    told = {"rule": storable(rule)}
    reason = f"agreement now counts by {said(rule)}: to be certified anew"
    figures = {each.id: at_hand(store, each) for each in at_work(store, task)}
    store.want("equivalence", task.id, told, lambda each: honours(each.certificate.equivalence, rule), reason, figures)


def promise_by(store: Store, task: Task, text: str) -> str:
    """Say what is promised of a task's answers; a release that promised less serves no more, nor is it on probation.

    Returns:
        What to tell the user of answers that the promise names and the teacher never gave, see `terms.unheard`.

    Raises:
        ConfigError: there is no such promise.
    """
    promise(text)
    reason = f"what is promised now is {promised(text)}: to be certified anew"
    figures = {each.id: at_hand(store, each) for each in at_work(store, task)}
    told = {"promise": text}
    store.want("promise", task.id, told, lambda each: fulfils(each.certificate.promise, text), reason, figures)
    return unheard(text, store.answer_counts(task.id, HEARD))


def _owner(store: Store, declaration: Declaration) -> Task | None:
    """The task that has calls a declaration would take, None if there is none."""
    decisions = Decisions(declarations=(declaration,))
    by_id = {template.id: template for template in store.templates()}
    known = [d for d in store.declarations() if (d.app, d.tenant) == (declaration.app, declaration.tenant)]
    same = next((d for d in known if (d.step, d.literals) == (declaration.step, declaration.literals)), None)
    for task in store.tasks(declaration.app):
        mine = [t for t in by_id.values() if t.task == task.id and t.tenant == declaration.tenant]
        if same is not None and same.task == task.id:
            return task
        if not declaration.literals:
            if any(t.step.removeprefix(GIVEN) == declaration.step for t in mine):
                return task
            continue
        inputs = [(t, ("x",) * (len(t.literals) - 1)) for t in mine]
        matches = [seen.decision.match for seen in (store.latest(task.id, _COMPARED) if mine else ())]
        inputs += [(by_id[m.template], m.slots) for m in matches if m is not None and m.template in by_id]
        if any(decisions.place(key_of(t), join_prompt(t.literals, slots)) for t, slots in inputs):
            return task
    return None


def _one_template(known: Sequence[TemplateCalls], task: Task, wanted: str) -> TemplateCalls:
    found = [each for each in known if any(version.startswith(wanted) for version in each.ids)]
    if len(found) != 1 or not wanted:
        raise ConfigError(
            f"task {task.name!r} has {'several templates' if found else 'no template'} {wanted!r}.",
            hint=f"`jitr tasks show {task.id}` lists them.",
        )
    return found[0]


def _free_name(store: Store, name: str, app: str, tenant: str, task: Task | None = None) -> str:
    """The name, if it can be a task's."""
    name = " ".join(name.split())
    if not name:
        raise ConfigError("a task needs a name.")
    for other in store.tasks(app):
        if other.tenant == tenant and name in (other.name, other.id) and (task is None or other.id != task.id):
            raise ConfigError(f"there is a task {name!r} already.", hint="`jitr tasks` lists them.")
    return name


def _new_id() -> str:
    return f"t_{uuid.uuid4().hex[:16]}"


def lost_with(store: Store, task: Task | None = None, tenant: str | None = None) -> list[Task]:
    """Tasks that would lose replacements if a task, or a tenant's tasks, were purged, see `purge`."""
    going = {each.id for each in store.tasks() if each.tenant == tenant} if task is None else {task.id}
    return dependants(store, store.path.parent / ARTIFACTS, going)


def purge(store: Store, *, task: Task | None = None, tenant: str | None = None, before: float | None = None) -> int:
    """Delete stored calls, and with a whole task or tenant its templates, releases and artifacts too.

    Replacements of other tasks go as well that rest on an encoder tuned for it: the teacher answers their calls.
    Without a task, tenant or time everything goes.

    Args:
        store: the state.
        task: only this task.
        tenant: only this tenant.
        before: only calls before this time, in seconds since the epoch.

    Returns:
        Number of calls deleted.
    """
    if task is None and tenant is None and before is None:
        purged = [store.purge(task=each.id) for each in store.tasks()] + [store.purge(before=math.inf)]
    else:
        purged = [store.purge(task=task.id if task else None, tenant=tenant, before=before)]
    forget(store)
    # A killed search may have learnt from what was purged, too.
    for path in (*(Path(path) for part in purged for path in part.paths), store.path.parent / KEPT):
        shutil.rmtree(path, ignore_errors=True)
    withdraw_orphans(store, store.path.parent / ARTIFACTS)
    return sum(part.observations for part in purged)
