"""What there is to say of a task, as plain values: for `jitr tasks --json`, and for the tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError
from ..files import verify_folder
from ..holds import Holds
from ..identify import answer_space
from ..manage import audited, missing_bases, pipelines, task_templates, unmet
from ..policies import Policies
from ..promises import ANSWERED, certified, promised, where
from ..settings import load_settings
from ..types import GIVEN
from ..worth import calls_per_day
from .wording import by_rule, share, warning_text

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from ..store import Store
    from ..types import Observation, Release, Task

__all__ = ["marked", "task_facts"]

_ANSWERS = 2_000  # latest labelled calls whose answers are looked at
_EXAMPLES = 3
_ALIKE, _ALIKE_WORDS = 0.75, 2_000  # share of the words of two prompts that read alike; words that are compared
_SEEN = 60  # latest calls among which examples are chosen


def task_facts(store: Store, task: Task | None = None) -> list[dict[str, Any]]:
    """All there is to say of every task, or of one; JSON values.

    Args:
        store: the opened state.
        task: only this one, with examples.

    Returns:
        For each task: `task` (its id), `name`, `app`, `tenant`, `state`, `reason`, `why` (it is or is not replaced),
        `decided` (by the user), `ignored`, `input_type` and `task_type` (as the teacher said), `templates` [{`id`,
        `step`, `text` with slots marked, `calls`}], `calls`, `calls_per_day` (of late, a day at least),
        `labels`, `replaced`, `coverage` in [0, 1], `audits`, `attempts`, `promise`, `answers` {`kind`, `labels`,
        `reason`}, `fields` [{`field`, `agreement`, `how`}] of structured answers, as the latest search found them,
        `replacement` or null (its `audited`, or null: see `jitr_core.estimate.Estimate`), `idle` (why that serves
        nobody: damaged files, or certified for less than its app asks for; or null), `pinned` (id of the release,
        or null), `held` (why the teacher answers in its place for now, or null), `missing_bases` (names of base models
        that it, or else the release on probation, needs and that are not here); and if it is one task `examples`
        [{`input`, `answer`}], `alike` [{`task`, `name`}]: other tasks whose prompt reads almost the same, as after an
        edit, `releases` [{`release`, `state`, `family`, `created`}], `history` [{`time`, `what`,
        `reason`, `figures`}]: every change of what serves it, and `searches`, see `jitr_core.types.SearchReport`: every
        candidate, how it fared, and what more calls would bring.
    """
    tasks = store.tasks()
    policies = Policies(store, load_settings())
    cold_path = pipelines(store, policies, f"sqlite:///{store.path}")
    wanted = tasks if task is None else [task]
    return [_facts(store, each, cold_path(each), policies, with_examples=task is not None) for each in wanted]


def _facts(store: Store, task: Task, cold_path: Pipeline, policies: Policies, *, with_examples: bool) -> dict[str, Any]:
    counts, release = store.counts(task.id), store.active_release(task.id)
    probation = store.probations().get(task.id)
    known = release or (probation.release if probation else None)
    space = answer_space(store.answer_counts(task.id, _ANSWERS))
    declared = [each for each in store.declarations() if each.task == task.id]
    facts: dict[str, Any] = {
        "task": task.id,
        "name": task.name,
        "app": task.app,
        "tenant": task.tenant,
        "state": task.state,
        "reason": task.reason,
        "decided": task.decided,
        "ignored": task.ignored,
        "input_type": task.input_type or None,
        "task_type": task.task_type or None,
        "declared": [
            {"step": each.step, "text": marked(each.literals) if each.literals else None} for each in declared
        ],
        "templates": _templates(store, task),
        "calls": counts.calls,
        "calls_per_day": round(calls_per_day(store, task.id, least_days=1.0) or counts.calls, 2),
        "labels": counts.labels,
        "replaced": counts.answered,
        "coverage": counts.answered / counts.calls if counts.calls else None,
        "audits": counts.audits,
        "attempts": store.attempts(task.id),
        "promise": cold_path.terms.promise(task.id),
        "answers": {"kind": space.kind, "labels": list(space.labels), "reason": space.reason},
        "fields": _fields(store, task),
        "replacement": None,
        "idle": _idle(store, task, release, policies) if release is not None else None,
        "pinned": pin.release if (pin := store.pinned(task.id)) else None,
        "held": _held(store, release) if release is not None else None,
        "missing_bases": missing_bases(known, cold_path.base_models) if known is not None else [],
    }
    if release is not None:
        facts["replacement"] = _replacement(store, release, cold_path)
    facts["why"] = _why(task, facts, cold_path)
    if with_examples:
        facts["releases"] = [
            {"release": each.id, "state": store.release_state(each.id), "family": each.family, "created": each.created}
            for each in store.releases(task.id)
        ]
        facts["alike"] = list(_alike(store, task, facts["templates"]))
        facts["history"] = list(_history(store, task))
        facts["searches"] = [asdict(report) for report in store.searches(task.id)]
        facts["examples"] = list(_examples(store.latest(task.id, _SEEN)))
    return facts


def _replacement(store: Store, release: Release, cold_path: Pipeline) -> dict[str, Any]:
    certificate = release.certificate
    return {
        "family": release.family,
        "base_model": release.base_model,
        "threshold": certificate.threshold,
        "size_bytes": release.size_bytes,
        "target": certificate.target,
        "agreement_low": certificate.agreement_low,
        "equivalence": certificate.equivalence,
        "promise": certificate.promise,
        "certified": certified(certificate),
        "where": where(certificate),
        "audited": audited(store, release, cold_path.base_models),
    }


def _held(store: Store, release: Release) -> str | None:
    """Why the teacher answers in place of a release that is in service; None if it does not."""
    if not Holds(store, lambda event: None).on(release.task, release.id):
        return None
    last = store.holds(release.task, release.id)[-1]
    compared = store.compared_since(release.task, release.id, last["row"])
    return f"{last['reason']} ({compared:,} so far)"


def _idle(store: Store, task: Task, release: Release, policies: Policies) -> str | None:
    """Why a release that is in service is not used; None if it is, as far as is known."""
    try:
        verify_folder(Path(release.path))
    except (ArtifactError, OSError) as error:
        return f"apps that start now do not use its replacement: {error} `jitr rollback {task.id}` withdraws it"
    why = unmet(store, policies, task, release)
    return f"its app does not use its replacement: {why}; a search may certify another one" if why else None


def _templates(store: Store, task: Task) -> list[dict[str, Any]]:
    """The templates of a task, with their calls."""
    return [
        {
            "id": each.template.id,
            "step": each.template.step.removeprefix(GIVEN),
            "text": marked(each.template.literals),
            "calls": each.calls,
        }
        for each in task_templates(store, task)
    ]


def _alike(store: Store, task: Task, templates: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Other tasks of the same app and tenant of whose most used template most words are this task's, in its order."""
    mine = _most_used(templates)
    for other in store.tasks():
        if other.id == task.id or (other.app, other.tenant) != (task.app, task.tenant) or other.ignored:
            continue
        compared = SequenceMatcher(None, mine, _most_used(_templates(store, other)), autojunk=False)
        if mine and compared.quick_ratio() >= _ALIKE and compared.ratio() >= _ALIKE:
            yield {"task": other.id, "name": other.name}


def _most_used(templates: list[dict[str, Any]]) -> list[str]:
    """The words of the template with the most calls; none without templates."""
    text = max(templates, key=lambda each: each["calls"])["text"] if templates else ""
    return str(text).split()[:_ALIKE_WORDS]


def _history(store: Store, task: Task) -> Iterator[dict[str, Any]]:
    """What happened to a task's releases, oldest first."""
    for entry in store.ledger(task.id):
        told, kind = entry.details, entry.kind
        release = told.get("release")
        if kind == "release":
            what = f"release {release} is {told['state']}"
        elif kind == "activate":
            what = f"release {release} is active" if release else f"the teacher answers, the task is {told['state']}"
        elif kind == "pin":
            what = f"release {release} is pinned" if release else "nothing is pinned any more"
        elif kind in ("state", "ignore", "unignore"):
            what = f"the task is {told.get('state', 'no longer ignored')}"
        elif kind == "merge":
            what = f"task {told['gone']} is merged into this one"
        elif kind in ("split", "part"):
            what = (
                "this task is split off another one" if told["new"] == task.id else f"task {told['new']} is split off"
            )
        elif kind == "hold":
            what = f"release {release} {'is held' if told['held'] else 'answers again'}"
        elif kind == "warning":
            what = f"release {release}, {warning_text(told)}"
        else:
            continue
        known = {name: told[name] for name in ("signal", "calls", "before", "since", "releases") if name in told}
        yield {
            "time": entry.time,
            "what": what,
            "reason": told.get("reason") or "",
            "figures": told.get("figures") or known or None,
        }


def _fields(store: Store, task: Task) -> list[dict[str, Any]]:
    """How each field of structured answers was learnt in the latest search that looked at them; its agreement."""
    latest = next((each.candidates for each in reversed(store.searches(task.id)) if each.candidates), [])
    return [
        {"field": each.name.removeprefix("fields/"), "agreement": each.agreement, "how": each.note}
        for each in latest
        if each.name.startswith("fields/")
    ]


def _why(task: Task, facts: dict[str, Any], cold_path: Pipeline) -> str:
    """Why a task is or is not replaced, and what comes next."""
    answers, release = facts["answers"], facts["replacement"]
    if task.state == "paused":
        return f"not replaced: {task.reason or 'paused'}"
    if facts["idle"]:
        return str(facts["idle"])
    if facts["held"]:
        return f"held: {facts['held']}"
    if facts["missing_bases"]:
        return (
            f"cannot be loaded here: its base model {' and '.join(facts['missing_bases'])} is not prepared in "
            f"{cold_path.base_models.folder}, or only in another version; apps that start now with this folder ask the "
            "teacher. `jitr models` lists what is here, JITR_CACHE names another folder"
        )
    if release is not None:
        return _served(task, release)
    if task.state in ("shadow", "canary"):
        does = "compared silently" if task.state == "shadow" else "answers a share of the calls"
        return f"on probation, {does}: {task.reason}"
    if not facts["calls"]:
        return "no calls yet"
    missing = cold_path.missing(task)
    due = f"the next search is due in {missing:,} calls" if missing else "the next search is due"
    unlabelled = facts["calls"] - facts["replaced"] - facts["labels"]
    if unlabelled > facts["calls"] / 2:
        # A search learns nothing from them: whoever expects a replacement should hear of it.
        due += (
            f"; {unlabelled:,} of {facts['calls']:,} calls teach nothing: they ask for what no student can give "
            "(several answers, logprobs, a choice of tools), or their texts are deleted"
        )
    if task.state == "refused":
        return f"not replaced: {task.reason.removesuffix('.')}; {due}"
    if answers["kind"] == "text" and facts["labels"]:
        return f"not replaceable as it looks, unless they are parts of their inputs: {answers['reason']}; {due}"
    if not facts["labels"]:
        return f"nothing to learn from: no call has a labelled answer; {due}"
    return f"replaceable as it looks: {answers['reason']}; {due}"


def _served(task: Task, release: dict[str, Any]) -> str:
    """Where a release answers, on what grounds, and what is promised of it."""
    low = f"agreement{by_rule(release['equivalence'])} ≥ {share(release['agreement_low'])}"
    if release["promise"] != ANSWERED:
        low = f"shown: {promised(release['promise'], release['agreement_low'])}{by_rule(release['equivalence'])}"
    # What was done by hand is the task's reason then; the certificate is as it was.
    act = "" if task.reason == release["certified"] else f"{task.reason}; "
    return f"replaced where {release['where']}: {act}{release['certified']}, {low}"


def _examples(seen: list[Observation]) -> Iterator[dict[str, Any]]:
    """The latest calls with an answer of each kind, the latest first."""
    told: set[str] = set()
    spare = []
    for each in reversed(seen):
        match, answer = each.decision.match, each.answer.text if each.answer else each.decision.answer
        if match is None or answer is None:
            continue
        example = {"input": list(match.slots), "answer": answer}
        if answer in told:
            spare.append(example)
            continue
        told.add(answer)
        yield example
        if len(told) == _EXAMPLES:
            return
    yield from spare[: _EXAMPLES - len(told)]


def marked(literals: tuple[str, ...] | list[str]) -> str:
    r"""A template for reading: its slots in braces, its messages introduced by their roles.

    Example:
        >>> marked(("\x1esystem\x1fSort it.\x1euser\x1fMessage: ", ""))
        'system: Sort it.\nuser: Message: {input}'
    """
    names = ["{input}"] if len(literals) == 2 else [f"{{input {i}}}" for i in range(1, len(literals))]
    text = "".join(part for pair in zip(literals, [*names, ""], strict=True) for part in pair)
    return text.replace("\x1e", "\n").replace("\x1f", ": ").removeprefix("\n")
