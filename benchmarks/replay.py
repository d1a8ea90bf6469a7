"""Replays call logs over several seeds, beside simpler ways to save, and checks what JITR promises.

    python benchmarks/replay.py --out out/replay            # logs from $JITR_SHARED/data/calls, about an hour
    python benchmarks/replay.py --logs my.jsonl --seeds 2   # a log of one's own
    python benchmarks/replay.py --families --audited        # also where every answer is audited, which saves nothing

Runs `jitr replay --shuffle` with the search over all families and with single ones, and an exact-match cache on the
same calls in the same order. A run that is there already is not repeated. Exits with 1 if a replay's agreement is
significantly below the target, a one-off call was replaced, or the search does not beat every single family.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scipy.special import betaincinv
from scipy.stats import t

from jitr_core.calllog import read_calls
from jitr_core.equivalence import canonical

LOGS = ("banking77-gpt4", "imdb-gold", "phrasebank-gpt4", "mixed-app", "rt-polarity-gpt35")
FLOORS = {"banking77-gpt4": 0.25, "imdb-gold": 0.50, "mixed-app": 0.10}
SINGLE = ("lexical", "static", "encoder")
TARGET = 0.95
AUDITED = "audited"


@dataclass(frozen=True)
class Run:
    """One replay, scored from its decisions alone."""

    calls: int
    replaced: int
    agreed: int
    one_off: int
    seconds: float

    @property
    def coverage(self) -> float:
        """Share of all calls that was replaced."""
        return self.replaced / self.calls

    @property
    def agreement(self) -> float | None:
        """Share of the replaced calls that agreed."""
        return self.agreed / self.replaced if self.replaced else None

    @property
    def upper(self) -> float:
        """Upper end of the exact 90% interval of the agreement; 1 where nothing was replaced."""
        wrong = self.replaced - self.agreed
        return float(betaincinv(self.agreed + 1, wrong, 0.95)) if wrong else 1.0


def replay(log: Path, seed: int, variant: str, out: Path) -> Run:
    """Replay a log, or take the run that is there."""
    name = out / f"{log.name.split('.')[0]}-{variant}-{seed}"
    summary, decisions = name.with_suffix(".json"), name.with_suffix(".jsonl")
    if not summary.exists():
        command = [sys.executable, "-m", "jitr_core.cli", "replay", str(log), "--shuffle", "--seed", str(seed)]
        command += ["--target", str(TARGET), "--decisions", str(decisions), "--json", str(summary)]
        command += [] if variant == "search" else ["--families", variant]
        if variant == AUDITED:
            command = [sys.executable, __file__, "--one", str(log), str(seed), str(name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        print(f"  {name.name}: done", file=sys.stderr, flush=True)
    return score(log, decisions, json.loads(summary.read_text())["seconds"])


def audited(log: Path, seed: int, name: Path) -> None:
    """Replay a log with every answer audited, so that labels are as many as calls; what `score` reads goes to files."""
    from jitr_core.config import Policy
    from jitr_langchain.replay import replay as replayed

    began = time.perf_counter()
    policy = Policy(target=TARGET, audit_share_start=1.0, audit_share_min=1.0)
    calls = sorted(replayed([log], policy=policy, seed=seed, shuffle=True), key=lambda each: each[0])
    with open(name.with_suffix(".jsonl"), "w", encoding="utf-8") as file:
        for _, call in calls:
            decision = {"id": call.record.id, "decision": call.decision.kind if call.decision else "teacher"}
            file.write(json.dumps({**decision, "answer": call.answer}) + "\n")
    name.with_suffix(".json").write_text(json.dumps({"seconds": time.perf_counter() - began}), encoding="utf-8")


def score(log: Path, decisions: Path, seconds: float) -> Run:
    """Count what the decisions did, against the recorded answers."""
    calls = replaced = agreed = one_off = 0
    truth = _truth(log)
    with open(decisions, encoding="utf-8") as file:
        for record, is_one_off, line in zip(read_calls([log]), truth, file, strict=True):
            decision = json.loads(line)
            assert decision["id"] == record.id, "decisions are not in the order of the log"
            calls += 1
            if decision["decision"] == "replacement":
                replaced += 1
                agreed += canonical(decision["answer"]) == canonical(record.said)
                one_off += is_one_off
    return Run(calls, replaced, agreed, one_off, seconds)


def _truth(log: Path) -> Iterator[bool]:
    """Whether each call is known to be a one-off call."""
    import gzip

    with gzip.open(log, "rt") if log.suffix == ".gz" else open(log) as file:
        for line in file:
            call = json.loads(line)
            yield "task" in call and call["task"] is None


def cache(log: Path, seed: int) -> Run:
    """An exact-match cache on the same calls in the same order; its first answer to a prompt is the one it keeps."""
    records = list(enumerate(read_calls([log])))
    random.Random(seed).shuffle(records)
    known: dict[str, str] = {}
    replaced = agreed = 0
    for _, record in records:
        prompt = json.dumps([dict(m) for m in record.messages], sort_keys=True)
        if prompt in known:
            replaced += 1
            agreed += canonical(known[prompt]) == canonical(record.said)
        known.setdefault(prompt, record.said)
    return Run(len(records), replaced, agreed, 0, 0.0)


def interval(values: list[float]) -> tuple[float, float]:
    """95% t-interval of the mean."""
    if len(values) < 2:
        return float("-inf"), float("inf")
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values) - half, statistics.mean(values) + half


def table(runs: dict[tuple[str, str], list[Run]]) -> list[str]:
    """Rows in Markdown: a log and a variant each, mean and range over seeds."""
    rows = ["| call log | method | coverage, mean (range) | agreement, pooled (range) | one-off | s a run |"]
    rows.append("|---|---|---|---|---|---|")
    for (log, variant), found in runs.items():
        coverage = [r.coverage for r in found]
        agreement = [r.agreement for r in found if r.agreement is not None]
        pooled = sum(r.agreed for r in found) / max(1, sum(r.replaced for r in found))
        said = f"{pooled:.3f} ({min(agreement):.3f}–{max(agreement):.3f})" if agreement else "–"
        rows.append(
            f"| {log} | {variant} | {statistics.mean(coverage):.3f} ({min(coverage):.3f}–{max(coverage):.3f}) | {said} "
            f"| {sum(r.one_off for r in found)} | {statistics.mean(r.seconds for r in found):.0f} |"
        )
    return rows


def broken(runs: dict[tuple[str, str], list[Run]]) -> list[str]:
    """What was promised and does not hold."""
    complaints = []
    for (log, variant), found in runs.items():
        if variant != "search":
            continue
        agreed, replaced = sum(r.agreed for r in found), sum(r.replaced for r in found)
        if any(r.upper < TARGET for r in found) or (replaced and agreed / replaced < TARGET):
            complaints.append(f"{log}: agreement below {TARGET}")
        if any(r.one_off for r in found):
            complaints.append(f"{log}: a one-off call was replaced")
        if statistics.mean(r.coverage for r in found) < FLOORS.get(log, 0):
            complaints.append(f"{log}: coverage below {FLOORS[log]}")
    return complaints


def compare(runs: dict[tuple[str, str], list[Run]], logs: list[str], single: list[str]) -> Iterator[tuple[str, bool]]:
    """The search against each single family: coverage averaged over the logs, paired over seeds."""
    for family in single:
        pairs = zip(*(zip(runs[log, "search"], runs[log, family], strict=True) for log in logs), strict=True)
        gains = [statistics.mean(a.coverage - b.coverage for a, b in pair) for pair in pairs]
        low, high = interval(gains)
        yield f"search − {family}: {statistics.mean(gains):+.4f} (95% interval {low:+.4f} to {high:+.4f})", low > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(os.environ.get("JITR_SHARED", "../shared")) / "data" / "calls"
    parser.add_argument("--logs", nargs="+", type=Path, default=[shared / f"{name}.jsonl.gz" for name in LOGS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--families", nargs="*", default=list(SINGLE), help="single families to compare with")
    parser.add_argument("--audited", action="store_true", help="also with every answer audited")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/replay"))
    options = parser.parse_args()
    if options.one:
        audited(Path(options.one[0]), int(options.one[1]), Path(options.one[2]))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    variants = ("search", *options.families, *([AUDITED] if options.audited else []))
    jobs = [(log, v, s) for v in variants for log in options.logs for s in range(options.seeds)]
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(lambda job: replay(job[0], job[2], job[1], options.out), jobs))
    runs: dict[tuple[str, str], list[Run]] = {}
    for log in options.logs:
        for variant in variants:
            key = (log.name.split(".")[0], variant)
            runs[key] = [r for (a, v, _), r in zip(jobs, done, strict=True) if a == log and v == variant]
        runs[log.name.split(".")[0], "exact cache"] = [cache(log, seed) for seed in range(options.seeds)]
    print("\n".join(table(runs)))
    complaints = broken(runs)
    for line, better in compare(runs, [log.name.split(".")[0] for log in options.logs], options.families):
        print(line)
        complaints += [] if better else [f"not above 0: {line}"]
    for complaint in complaints:
        print(f"BROKEN: {complaint}")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
