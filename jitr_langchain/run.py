"""Running a replay for the command line: progress, figures, files."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitr_core.files import written
from jitr_core.integration import is_replaceable, settings_of
from jitr_core.promises import where
from jitr_core.report.tally import Tally
from jitr_core.savings import Rates, Savings, Traffic, bill, checked_prices, estimate_tokens, rates_text, settle

from .replay import Replayed, replay

if TYPE_CHECKING:
    from jitr_core.calllog import CallRecord
    from jitr_core.config import Policy
    from jitr_core.equivalence import Equivalence
    from jitr_core.prices import Prices
    from jitr_core.report import ReplayView

__all__ = ["run_replay"]

_DEFERRED_SHOWN = 5


@dataclass(slots=True)
class _Spent:
    """Traffic of the replay by model: what the app asked for, and what reached the teacher."""

    everything: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0] * 4))
    asked: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0] * 4))

    def add(self, record: CallRecord, *, asked: bool) -> None:
        tokens = _tokens(record)
        for traffic in (self.everything, self.asked) if asked else (self.everything,):
            for i, value in enumerate((1.0, *tokens)):
                traffic[record.model][i] += value

    @staticmethod
    def traffic(parts: dict[str, list[float]]) -> list[Traffic]:
        return [Traffic(model, int(n), i, o, estimated) for model, (n, i, o, estimated) in parts.items()]


def _tokens(record: CallRecord) -> tuple[float, float, float]:
    """Input and output tokens of a recorded call, and how many of both are estimated from its characters."""
    found: list[float] = []
    estimated = 0.0
    prompt = sum(len(str(m.get("content") or "")) for m in record.messages)
    for keys, chars in (
        (("input_tokens", "prompt_tokens"), prompt),
        (("output_tokens", "completion_tokens"), len(record.said)),
    ):
        told = next((float(record.usage[k]) for k in keys if isinstance(record.usage.get(k), int | float)), None)
        if told is None:
            told = float(estimate_tokens(chars))
            estimated += told
        found.append(told)
    return found[0], found[1], estimated


class _Run:
    """One replay: hears the engine's events, counts calls, and puts the summary together."""

    def __init__(self, view: ReplayView, prices: Prices, rates: Rates, rule: Equivalence) -> None:
        self.view, self.prices, self.rates = view, prices, rates
        self.tally, self.spent = Tally(rule=rule), _Spent()
        self.names: dict[str, str] = {}
        self.refusals: dict[str, str] = {}
        self.deferred: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.teacher_calls = self.beyond = 0
        self.training_s = self.inference_s = 0.0
        self.tasks: list[dict[str, Any]] = []

    def hear(self, event: dict[str, Any]) -> None:
        """Take in an event of the engine."""
        kind = event["kind"]
        if kind == "placed":
            self.tally.placed(event["task"], event["calls"])
        elif kind == "merged":
            self.tally.merged(event["gone"], event["task"])
        elif kind == "search":
            self.tally.search(event["task"], event["report"], event["at_call"])
            self.training_s += event["report"].seconds
        elif kind == "end":
            self.teacher_calls = event["teacher_calls"]
            self._collect(event["jitr"])
        self.view.event(event)

    def call(self, replayed: Replayed) -> None:
        """Count a call."""
        decision = replayed.decision
        self.beyond += not is_replaceable(settings_of(replayed.record.options))
        self.tally.call(decision, replayed.task, replayed.answer, replayed.record.said)
        teacher = decision is None or decision.kind == "teacher" or decision.audit
        self.spent.add(replayed.record, asked=teacher)
        if decision is not None and decision.reason in ("deferral", "ood") and decision.match is not None:
            shown = self.deferred[decision.match.task]
            if len(shown) < _DEFERRED_SHOWN:
                text = " | ".join(decision.match.slots)
                shown.append({"input": text[:200], "reason": decision.reason, "confidence": decision.confidence})
        self.view.call(self.tally)

    def _collect(self, jitr: Any) -> None:
        """What the state knows at the end."""
        store = jitr.open_store()
        deferred: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for task_id, shown in self.deferred.items():
            deferred[self.tally.survivor(task_id)] += shown
        self.inference_s = jitr.inference_seconds()
        for task in store.tasks():
            release = store.active_release(task.id)
            self.tasks.append(
                {
                    "task": task.id,
                    "name": task.name,
                    "state": task.state,
                    "reason": task.reason,
                    **self.tally.task(task.id),
                    "replacement": release
                    and {
                        "family": release.family,
                        "base_model": release.base_model,
                        "threshold": release.certificate.threshold,
                        "size_bytes": release.size_bytes,
                        "equivalence": release.certificate.equivalence,
                        "promise": release.certificate.promise,
                        "where": where(release.certificate),
                    },
                    "deferred_examples": deferred[task.id][:_DEFERRED_SHOWN],
                }
            )

    def summary(self, policy: Policy, seconds: float, calls_per_day: float | None) -> dict[str, Any]:
        """The figures of `--json`."""
        savings = self.savings()
        notes = [rates_text(self.prices, self.rates, savings.estimated_share)]
        if self.beyond:
            what = "several answers, logprobs or a choice of tools"
            notes.insert(0, f"Calls that ask for what no student can give ({what}): {self.beyond:,}.")
        if calls_per_day and savings.break_even_calls is not None:
            days = savings.break_even_calls / calls_per_day
            notes.append(f"Training is paid for after {days:,.1f} days at {calls_per_day:,.0f} calls a day.")
        return {
            "target": policy.target,
            "delta": policy.delta,
            "promise": policy.promise,
            **self.tally.total(),
            "teacher_calls": self.teacher_calls,
            "audits": self.tally.audits,
            "seconds": round(seconds, 3),
            "cost_teacher_only_usd": savings.cost_teacher_only_usd,
            "cost_usd": savings.cost_usd,
            "kwh_teacher_only": savings.kwh_teacher_only,
            "kwh": savings.kwh,
            "break_even_calls": savings.break_even_calls,
            "tasks": self.tasks,
            "notes": notes,
        }

    def savings(self) -> Savings:
        """Money and energy of the whole replay."""
        firsts = [t["first_replaced_at"] for t in self.tasks if t["first_replaced_at"] is not None]
        return settle(
            bill(_Spent.traffic(self.spent.everything), self.prices, self.rates),
            bill(_Spent.traffic(self.spent.asked), self.prices, self.rates),
            replaced=self.tally.replaced,
            audits=self.tally.audits,
            training_cpu_s=self.training_s,
            inference_cpu_s=self.inference_s,
            calls_served=self.tally.calls - min(firsts) if firsts else 0,
            rates=self.rates,
        )


def _decision_line(replayed: Replayed) -> dict[str, Any]:
    decision = replayed.decision
    return {
        "id": replayed.record.id,
        "decision": decision.kind if decision else "teacher",
        "reason": decision.reason if decision else "no_task",
        "audited": decision is not None and decision.kind == "replacement" and decision.audit,
        "answer": replayed.answer,
        "confidence": decision.confidence if decision else None,
        "task": replayed.task,
    }


def run_replay(
    calls: Sequence[Path],
    *,
    policy: Policy,
    seed: int = 0,
    shuffle: bool = False,
    state: Path | None = None,
    json_out: Path | None = None,
    decisions_out: Path | None = None,
    price_model: str | None = None,
    compute_usd_per_hour: float = 0.05,
    calls_per_day: float | None = None,
) -> dict[str, Any]:
    """Replay call logs, show what happens, and write what was asked for.

    Args:
        calls: the logs.
        policy: what is promised.
        seed: drives the order, splits, training and audits.
        shuffle: replay in an order permuted by the seed.
        state: folder to keep the state in.
        json_out: where the summary goes.
        decisions_out: where the decisions go, a line a call, in the order of the logs.
        price_model: bill the calls as this model's.
        compute_usd_per_hour: price of one core in US dollars.
        calls_per_day: traffic, to date the break-even.

    Returns:
        The summary, as `--json` has it.

    Raises:
        CallLogError: a log is malformed; nothing has been written then.
        ConfigError: no price list knows `price_model`.
    """
    from jitr_core.base_models import BaseModels
    from jitr_core.report import ReplayView
    from jitr_core.terms import rule_at_work

    rule = rule_at_work(policy.equivalence, BaseModels(policy.cache_dir), prepare=True)
    prices = checked_prices(price_model)
    began = time.perf_counter()
    lines: dict[int, dict[str, Any]] = {}
    with ReplayView() as view:
        run = _Run(view, prices, Rates(compute_usd_per_hour=compute_usd_per_hour), rule)
        for position, replayed in replay(calls, policy=policy, seed=seed, shuffle=shuffle, state=state, tell=run.hear):
            run.call(replayed)
            if decisions_out is not None:
                lines[position] = _decision_line(replayed)
        summary = run.summary(policy, time.perf_counter() - began, calls_per_day)
        view.summary(summary)
    # Escaped, as a lone surrogate, which a log may hold, cannot be written in UTF-8.
    if decisions_out is not None:
        with written(decisions_out) as file:
            file.writelines(json.dumps(lines[i]) + "\n" for i in sorted(lines))
    if json_out is not None:
        with written(json_out) as file:
            json.dump(summary, file, indent=2)
    return summary
