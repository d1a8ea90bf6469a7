"""Whether a search pays: what a replacement could save within a horizon, against the search that looks for it.

An upper bound on purpose: as if the next release answered every call that none answers yet. What does not pay even then
is left alone; what may pay is searched. Counted work and counted calls only, so that two replays decide alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from .audit import audit_share
from .config import TUNING_FEWEST, TUNING_S
from .prices import Prices
from .savings import Rates, Traffic, bill

if TYPE_CHECKING:
    from .config import Policy
    from .store import Store, Usage

__all__ = ["Worth", "calls_per_day", "expected_audits", "search_s", "traffic_of", "worth"]

ANSWER_S = 0.001
"""Core-seconds of an answer at best: those of a word-based student, see docs/benchmarks.md."""

SEARCH_S = 5.0
LABEL_S = 0.06
"""Core-seconds of a search without tuning, in all and for each label: the budget of 60 for 1,000 short examples."""

_DAY_S = 86_400.0
_LATELY = 500  # calls by which it is judged how much the active release answers
_STEPS = 400  # in which the audits of a horizon are added up


@dataclass(frozen=True, slots=True)
class Worth:
    """What the next search of a task could bring, and what it costs.

    Attributes:
        calls_per_day: calls of the task a day.
        days: the horizon, in days.
        call_usd: what the teacher costs a call, in US dollars.
        saved_usd: most that can be saved within the horizon, in US dollars: calls not replaced yet, less audits and the
            replacement's own computing; may be negative.
        search_usd: what the search that is due costs, in US dollars; later ones are decided about later.
    """

    calls_per_day: float
    days: float
    call_usd: float
    saved_usd: float
    search_usd: float

    @property
    def pays(self) -> bool:
        """Whether a search can pay for itself."""
        return self.saved_usd > self.search_usd

    def __str__(self) -> str:
        saved = f"${self.saved_usd:.2g}" if self.saved_usd > 0 else "nothing"
        return (
            f"at ${self.call_usd:.2g} a call and about {self.calls_per_day:,.1f} calls a day a replacement could save "
            f"{saved} in {self.days:g} days, and searching for it costs ${self.search_usd:.2g}"
        )


def worth(store: Store, task: str, policy: Policy) -> Worth | None:
    """What the next search of a task could bring.

    Args:
        store: the state.
        task: id of the task.
        policy: horizon, prices and schedule.

    Returns:
        None where it cannot be said: no horizon is set, or a price or the rate of calls is not known.
    """
    if policy.horizon_days is None:
        return None
    usage, counts = store.usage(task), store.counts(task)
    paid = bill(map(traffic_of, usage), Prices(model=policy.price_model))
    if policy.calls_per_day is None:
        traffic = calls_per_day(store, task)
    else:
        traffic = policy.calls_per_day * counts.calls / max(_total(store.usage()), 1)
    if not paid.calls or paid.usd is None or traffic is None:
        return None
    rates = Rates(compute_usd_per_hour=policy.compute_usd_per_hour)
    active = store.active_release(task)
    # What it answers of late, not what it was certified to: prompts and inputs may have changed.
    coverage = store.coverage_lately(task, active.id, _LATELY) if active is not None else 0.0
    call_usd, coming = paid.usd / paid.calls, traffic * policy.horizon_days
    gained = (1 - coverage) * coming
    audits = expected_audits(gained, policy, answered=counts.answered, spent=store.answers(task).spent)
    saved = (gained - audits) * call_usd - rates.compute_usd(coming * ANSWER_S)
    search_usd = rates.compute_usd(search_s(store.label_count(task), policy))
    return Worth(traffic, policy.horizon_days, call_usd, saved, search_usd)


def expected_audits(
    calls: float,
    policy: Policy,
    *,
    answered: int = 0,
    spent: float = 0.0,
    starts: Sequence[int] = (),
    warnings: Sequence[int] = (),
) -> float:
    """Audits that come with so many answered calls of a fresh release, by the share that each of them is audited with.

    Args:
        calls: answered calls to come, ≥ 0.
        policy: gives the shares.
        answered: calls that the task's releases have answered before.
        spent: sum of the shares that those were audited with.
        starts: after how many of the calls to come another release takes over.
        warnings: after how many there is a warning of drift.
    """
    begins = sorted([(0, False), *((at, False) for at in starts), *((at, True) for at in warnings)])
    ends = [*(at for at, _ in begins[1:]), calls]
    done = total = 0.0
    for (begin, warned), end in zip(begins, ends, strict=True):
        before = 0.0
        for step in range(1, _STEPS + 1):
            upto = max(end - begin + 1, 1.0) ** (step / _STEPS) - 1
            since, given = int((upto + before) / 2), int(answered + done)
            share = audit_share(since, policy, answered=given, spent=spent + total, warned=warned)
            total += (upto - before) * share
            done, before = done + upto - before, upto
    return total


def search_s(labels: float, policy: Policy) -> float:
    """Estimated core-seconds of a search on so many labels: as if an encoder is tuned where one may be."""
    learnt = min(labels, policy.max_examples)
    tuning = TUNING_S * learnt if "lora" in policy.families and learnt >= TUNING_FEWEST else 0.0
    return min(SEARCH_S + LABEL_S * learnt + tuning, policy.search_work_s)


def traffic_of(part: Usage) -> Traffic:
    """Stored usage as traffic to be priced."""
    sizes = part.input_tokens, part.output_tokens, part.input_chars, part.output_chars
    return Traffic.measured(part.model, part.calls, *sizes)


def calls_per_day(store: Store, task: str, least_days: float = 1 / 24) -> float | None:
    """Calls of a task a day, by how long half of its later calls took, whichever half: the median over all of them.

    A clock that jumps spoils only the halves it jumps in, so a quarter of the later calls may have any time. Pauses
    between bursts are in every half once there were a few bursts, and the later calls follow growing traffic.

    Args:
        store: the state.
        task: id of the task.
        least_days: time, in days, that the calls are taken to have come in at least.

    Returns:
        None if the times of the calls are not known.
    """
    times, calls = store.call_times(task)
    if not times:
        return None
    lag = len(times) // 2
    took = median(late - early for early, late in zip(times, times[lag:], strict=False)) / max(lag, 1) * len(times)
    return calls / max(2 * took / _DAY_S, least_days)


def _total(usage: Iterable[Usage]) -> int:
    return sum(part.calls for part in usage)
