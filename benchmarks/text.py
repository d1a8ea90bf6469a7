"""Free text: what the mechanism does with generators too small to be of use, and what an answer costs.

Usage: python benchmarks/text.py [--no-mechanism] [--logs NAME …] [--rule chrf:0.5] [--runs 2000]

1. A synthetic task and a base model of 0.1 MB with random weights (tests/tiny_bases.py): tuned, certified, answering.
   Mechanism only: no generator of useful size was at hand, and this says nothing of quality.
2. Logs of real free-text tasks below $JITR_SHARED with the 0.26 M parameters of stories260k: honest refusals.
3. Simulated answerers: how often a certified threshold breaks its promise.

Exit code 1 where a tiny generator answers nothing, replaced answers agree significantly less often than promised, or
certified thresholds break their promise significantly more often than delta.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from easy import write_log
from tiny_bases import calls, messages, write_base

from jitr_core.base_models import BaseModels
from jitr_core.certify import certify
from jitr_core.config import Policy
from jitr_core.equivalence import equivalence, said
from jitr_core.search.text import _crossed
from jitr_core.students import load_student
from jitr_core.types import Certificate
from jitr_langchain.replay import replay

LOGS = ("translate-de-en-gpt4", "positive-reframing-chatgpt")


def run(log: Path, policy: Policy, *, state: Path | None = None) -> tuple[int, bool]:
    """Replay a log and print its searches and its figures: how many calls were replaced, and whether as promised."""
    rule, began = equivalence(policy.equivalence), time.perf_counter()
    total = replaced = equal = alike = 0

    def tell(event: dict[str, Any]) -> None:
        if event["kind"] == "search":
            report = event["report"]
            print(f"  call {event['at_call']:,}, {report.seconds:.0f} s: {report.refusal or f'chosen {report.chosen}'}")
            for each in report.candidates:
                agreed = "–" if each.agreement is None else f"{each.agreement:.3f}"
                print(f"    {each.name}: agreement {agreed} on watched inputs, {each.seconds:.1f} s. {each.note}")

    for _, call in replay([log], policy=policy, state=state, tell=tell):
        total += 1
        if call.decision is not None and call.decision.kind == "replacement":
            replaced += 1
            equal += call.answer.strip() == call.record.answer.strip()
            alike += rule.same(call.answer, call.record.answer)
    print(f"  {total:,} calls, {replaced:,} replaced (coverage {replaced / total:.3f}), ", end="")
    print(f"equal {equal:,}, by {said(policy.equivalence)} {alike:,}; {time.perf_counter() - began:.0f} s")
    below = replaced and binomtest(alike, replaced, policy.target, alternative="less").pvalue < 0.05
    return replaced, not below


def mechanism() -> bool:
    """A tiny generator is certified and answers; seconds an answer. Whether each did, as promised."""
    kept = True
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("causal", "seq2seq"):
            base = write_base(Path(folder) / kind, kind)
            size = (base / "model.safetensors").stat().st_size
            print(f"synthetic task, {kind} base of {size / 1e3:.0f} kB with random weights")
            log = write_log(Path(folder) / f"{kind}.jsonl", calls(900))
            # So few labels allowed, its four answers count as free text.
            policy = Policy(families=("static",), generators=(str(base),), max_labels=2)
            replaced, held = run(log, policy, state=Path(folder) / f"state-{kind}")
            kept &= held and replaced > 0
            artifacts = sorted((Path(folder) / f"state-{kind}" / "artifacts").glob("*/*/student.json"))
            if artifacts:
                speed(artifacts[-1].parent)
    return kept


def speed(artifact: Path) -> None:
    """Milliseconds an answer of a saved student takes, the way through its worker included."""
    student: Any = load_student(artifact, BaseModels(artifact))
    times, tokens = [], 0
    for text, _ in messages(100, seed=77):
        began = time.perf_counter()
        answer, _, _ = student.predict_one((text,))
        times.append((time.perf_counter() - began) * 1e3)
        tokens += len(answer.split()) + 1
    times.sort()
    size = sum(f.stat().st_size for f in artifact.iterdir())
    print(
        f"  an answer of {tokens / 100:.0f} tokens: p50 {times[50]:.0f} ms, p95 {times[95]:.0f} ms; {size / 1e3:.0f} kB"
    )


def validity(runs: int) -> bool:
    """Share of simulated tasks in which a certified threshold agrees less than promised; whether delta explains it."""
    kept = True
    for target, delta, base in ((0.9, 0.1, 1.5), (0.95, 0.05, 2.5), (0.95, 0.05, 2.94)):
        broken = certified = 0
        for seed in range(runs):
            rng = np.random.default_rng(seed)
            signs = rng.normal(size=(500, 4))
            share = 1 / (1 + np.exp(-(rng.normal(base, 0.3) + rng.uniform(0, 2) * signs[:, 0])))
            right = rng.random(500) < share
            confidence = _crossed(signs, right, rng.integers(0, 10, 500))
            found = certify(confidence, right, target=target, delta=delta)
            if isinstance(found, Certificate):
                certified += 1
                broken += bool(share[confidence >= found.threshold].mean() < target)
        told = f"{certified:,} certified, {broken:,} of {runs:,} broken ({broken / runs:.4f})"
        print(f"target {target}, delta {delta}, mean agreement near {1 / (1 + np.exp(-base)):.2f}: {told}")
        kept &= certified > 0 and binomtest(broken, runs, delta, alternative="greater").pvalue >= 0.05
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logs", nargs="*", default=LOGS)
    parser.add_argument("--rule", default="chrf:0.5")
    parser.add_argument("--no-mechanism", dest="mechanism", action="store_false")
    parser.add_argument("--runs", type=int, default=2000)
    options = parser.parse_args()
    kept = mechanism() if options.mechanism else True
    shared = Path(os.environ.get("JITR_SHARED", Path(__file__).parents[2] / "shared"))
    for name in options.logs:
        print(f"{name}, stories260k, {said(options.rule)}")
        base = str(shared / "models" / "stories260k")
        # One attempt, as each trains; patient, as two busy cores are slow.
        policy = Policy(
            generators=(base,),
            equivalence=options.rule,
            first_attempt=400,
            attempt_growth=10,
            generator_timeout_s=60.0,
        )
        kept &= run(shared / "data" / "calls" / f"{name}.jsonl.gz", policy)[1]
    kept &= validity(options.runs)
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
