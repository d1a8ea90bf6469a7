"""What the answers of a release have shown so far: for readers, and for the ledger when a user decides about it."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from ..equivalence import EXACT, OWN
from ..errors import ConfigError, JITRError
from ..estimate import estimate
from ..settings import load_settings
from ..terms import Terms, rule_at_work

if TYPE_CHECKING:
    from ..base_models import BaseModels
    from ..policies import Policies
    from ..store import Store
    from ..types import Release, Task

__all__ = ["at_hand", "at_work", "audited", "of_task", "unmet"]


def audited(store: Store, release: Release, base_models: BaseModels) -> dict[str, Any] | None:
    """What audits say of all answers a release has given, see `jitr_core.estimate.Estimate`.

    Args:
        store: the state.
        release: the release.
        base_models: pretrained models, one of which its rule of comparison may need.

    Returns:
        None where there is nothing to say, or no telling here.
    """
    given, rule = store.given(release.task, release.id), release.certificate.equivalence
    if not given.answered or rule.startswith(OWN):  # the user's own function may ask a language model
        return None
    try:
        same = cache(rule_at_work(rule, base_models).same)
    except JITRError:
        return None
    seen: list[tuple[float, bool | None]] = [(share, None) for share in given.failed]
    for each in store.audited(release.task, release.id):
        seen.append((each.audit_share, each.replacement is not None and same(each.replacement, each.teacher)))
    return asdict(estimate(given.answered, seen, least=given.least)) if seen else None


def unmet(store: Store, policies: Policies, task: Task, release: Release) -> str:
    """What a release was certified for, and what its app asks for, if that is more, as far as can be told; else "".

    It cannot where the app noted no policy. Nor can whether two rules of the user's own are the same: a state names
    none of them.
    """
    policy = policies.at_work(task.app, task.tenant)
    if policy is None:
        return ""
    certificate = release.certificate
    if certificate.equivalence.startswith(OWN):
        release = replace(release, certificate=replace(certificate, equivalence=EXACT))
    return Terms(store, policy).unmet(task.id, release)


def at_work(store: Store, task: Task) -> list[Release]:
    """The active release and the one on probation, as far as there are any."""
    active, probation = store.active_release(task.id), store.probations().get(task.id)
    return [*([] if active is None else [active]), *([] if probation is None else [probation.release])]


def of_task(store: Store, task: Task) -> dict[str, Any] | None:
    """What is known of the release that serves a task, else of the one on probation, as `at_hand`; None without any."""
    return next((at_hand(store, release) for release in at_work(store, task)), None)


def at_hand(store: Store, release: Release) -> dict[str, Any]:
    """What is known of a release, as figures for the ledger.

    Returns:
        `release` (its id), and of one that has answered calls what `audited` says, or `answered` and `audits` alone
        where that says nothing; of another one what its comparisons as a shadow were when the ledger was last told,
        `compared` and `differed`.
    """
    from ..base_models import BaseModels

    try:
        cache = load_settings().policy.cache_dir
    except ConfigError:
        cache = None  # a setting that cannot be used keeps nobody from a decision
    told = audited(store, release, BaseModels(cache))
    if told is None:
        number = store.given(release.task, release.id).answered
        if number or not (told := _compared(store, release)):
            told = {"answered": number, "audits": len(store.audited(release.task, release.id))}
    return {"release": release.id, **told}


def _compared(store: Store, release: Release) -> dict[str, Any] | None:
    """What the ledger says last of a release's comparisons, None if it says nothing."""
    mine = [each.details for each in store.ledger(release.task) if each.kind == "release"]
    told = [each["figures"] for each in mine if each["release"] == release.id and each["figures"]]
    return next((figures for figures in reversed(told) if "compared" in figures), None)
