"""What a million calls of Poodle's scenario cost with JITR: audits, deferrals and training in one bill, beside its 82×.

    python benchmarks/bill.py --log data/calls/imdb-gold.jsonl.gz [--plot FILE.svg]   # two replays, some minutes

Poodle replaces an LLM for the sentiment of film reviews after 5,000 of a million requests, without audits, and reports
82 times less cost at an accuracy of 0.90 (LLM: 0.937). Its price of a request is not published with it; a price here is
that of `--price-model` by genai-prices, and what is compared is the factor. The log is replayed, then taken to go on to
a million calls: deferrals at the coverage of its last fifth, audits by the share that decays and begins again with
every search, as if each brought another release, searches as they come due at the seconds of the last one, and
`--answer-s` for each answer. Word-based students do best on film reviews. Coverage and agreement are given with their
exact 95% intervals, and the factor at the ends of that of coverage: what is unknown of one order of one log is more.

Exit code 1 where the answers surely agree less often than the target (one-sided 95% bound), where the factor may not be
above 1, or where audits are more than a hundredth of the answered calls or cost more than the deferrals.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plots
from probation import interval

from jitr_core.calllog import read_calls
from jitr_core.certify import next_attempt
from jitr_core.config import Policy
from jitr_core.savings import Rates, Traffic, bill, checked_prices, estimate_tokens
from jitr_core.worth import expected_audits

POODLE = 82.0  # times less cost, without audits


@dataclass(frozen=True)
class Found:
    """What a replay says of the time after it.

    Attributes:
        tail: calls of the last fifth of the log.
        covered: how many of them were replaced.
        agreement: share of all replaced answers that agreed, in [0, 1].
        before: calls the teacher answered within the log.
        searches: searches in the log.
        search_s: seconds of the last one.
    """

    tail: int
    covered: int
    agreement: float
    before: int
    searches: int
    search_s: float


def replayed(log: Path, target: float, families: str, seed: int) -> Found:
    """Replay the log at a target."""
    with tempfile.TemporaryDirectory() as folder:
        out, lines = Path(folder) / "out.json", Path(folder) / "lines.jsonl"
        command = [sys.executable, "-m", "jitr_core.cli", "replay", str(log), "--shuffle", "--seed", str(seed)]
        command += ["--target", str(target), "--families", families, "--json", str(out), "--decisions", str(lines)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        summary: dict[str, Any] = json.loads(out.read_text())
        last = [json.loads(line) for line in lines.read_text().splitlines()]
    searches = sorted(
        (s for t in summary["tasks"] for s in t["searches"] if s["candidates"]), key=lambda s: s["at_call"]
    )
    # Decisions stand in the order of the log, which the replay shuffles: the same order again.
    order = list(range(len(last)))
    random.Random(seed).shuffle(order)
    tail = [last[i]["decision"] == "replacement" for i in order[-len(order) // 5 :]]
    return Found(
        len(tail),
        sum(tail),
        summary["agreement"] or 0.0,
        summary["calls"] - summary["replaced"],
        len(searches),
        searches[-1]["seconds"],
    )


def bill_at(
    coverage: float, records: int, alone: float, found: Found, policy: Policy, options: argparse.Namespace
) -> tuple[list[float], tuple[float, float, float]]:
    """The bill of a million calls at a later coverage.

    Returns:
        In dollars: teacher alone, deferrals, audits, searches, inference, in all. And what is audited: of the answered
        calls, of all, and of the answered ones if no other release follows.
    """
    rates, calls = Rates(compute_usd_per_hour=options.compute_usd_per_hour), options.calls
    answered = records - found.before + coverage * (calls - records)
    index, later = found.searches, []
    while (at := next_attempt(index, policy).calls) < calls:
        index += 1
        later.append(int(records - found.before + coverage * max(at - records, 0)))
    audits, stays = expected_audits(answered, policy, starts=later), expected_audits(answered, policy)
    parts = [(calls - answered) * alone, audits * alone]
    parts += [rates.compute_usd(index * found.search_s), rates.compute_usd(calls * options.answer_s)]
    return [calls * alone, *parts, sum(parts)], (audits / answered, audits / calls, stays / answered)


def show(log: Path, found: Found, target: float, options: argparse.Namespace) -> tuple[list[float], bool]:
    """Print the bill of a million calls; it, and whether it contradicts what is said of it."""
    prices, policy = checked_prices(options.price_model), Policy(target=target)
    records = list(read_calls([log]))
    chars = sum(len(str(m.get("content") or "")) for record in records for m in record.messages)
    tokens = estimate_tokens(chars) / len(records), estimate_tokens(sum(len(r.said) for r in records)) / len(records)
    alone = bill([Traffic(options.price_model, 1, *tokens)], prices).usd
    assert alone is not None
    replaced = len(records) - found.before
    coverage, (least, most) = found.covered / found.tail, interval(found.covered, found.tail)
    agreed = round(found.agreement * replaced)
    low, high = interval(agreed, replaced)
    parts, (audited, of_all, stays) = bill_at(coverage, len(records), alone, found, policy, options)
    factors = [
        (at := bill_at(each, len(records), alone, found, policy, options)[0])[0] / at[-1] for each in (least, most)
    ]
    cells = " | ".join(f"${part:,.2f}" for part in parts)
    print(
        f"| {target:g} | {coverage:.3f} ({least:.3f} to {most:.3f}) | {found.agreement:.3f} ({low:.3f} to {high:.3f}) "
        f"| {cells} | {parts[0] / parts[-1]:.1f}× ({factors[0]:.1f} to {factors[1]:.1f}) | "
        f"{audited:.2%} | {of_all:.2%} | {stays:.2%} |",
        flush=True,
    )
    _, deferrals, audits, *_ = parts
    failed = interval(agreed, replaced, 0.1)[1] < target or factors[0] <= 1 or audited > 0.01 or audits > deferrals
    return parts, failed


def plot(bills: dict[float, list[float]], path: Path) -> None:
    """The bills beside the teacher's alone, in dollars."""
    names = ("calls left to the LLM", "audits", "searches and inference")
    figure, (axis,) = plots.panels(1, 8, 0.8 + 0.45 * (len(bills) + 1))
    alone = next(iter(bills.values()))[0]
    rows = {"the LLM alone": (alone, 0.0, 0.0)}
    rows |= {f"JITR, target {target:g}": (b[1], b[2], b[3] + b[4]) for target, b in bills.items()}
    start = [0.0] * len(rows)
    for i, (name, colour) in enumerate(zip(names, (plots.GREY, plots.ORANGE, plots.BLUE), strict=True)):
        values = [row[i] for row in rows.values()]
        axis.barh(list(rows), values, 0.6, left=start, color=colour, label=name)
        start = [a + b for a, b in zip(start, values, strict=True)]
    for place, total in enumerate(start):
        axis.text(total, place, f"  ${total:,.0f}" + (f", {alone / total:.1f}× less" if place else ""), va="center")
    axis.set(xlabel="dollars for a million calls", xlim=(0, 1.15 * alone), ylim=(len(rows) - 0.5, -0.5))
    axis.grid(visible=False, axis="y")
    axis.legend(fontsize=8, loc="lower right")
    plots.save(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the bills, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--targets", type=float, nargs="*", default=[0.9, 0.95])
    parser.add_argument("--families", default="lexical")
    parser.add_argument("--price-model", default="gpt-4.1")
    parser.add_argument("--compute-usd-per-hour", type=float, default=0.05)
    parser.add_argument("--answer-s", type=float, default=0.01, help="core-seconds an answer takes, at most")
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="draw the bills (needs matplotlib)")
    options = parser.parse_args(argv)
    print(
        "| target | coverage, later | agreement | teacher alone | deferrals | audits | searches | inference "
        "| with JITR | factor | audited of answered | of all | of answered, if never replaced again |\n"
        f"|{'---|' * 13}"
    )
    bills, failed = {}, False
    for target in options.targets:
        found = replayed(options.log, target, options.families, options.seed)
        bills[target], wrong = show(options.log, found, target, options)
        failed |= wrong
    shares = (0.0, 0.001, 0.01, 0.05, 0.09)
    most = ", ".join(f"{share:g}: {1 / (share + 1 / POODLE):.0f}×" for share in shares)
    print(f"Poodle, at most, by the share of requests it would audit: {most}")
    if options.plot:
        plot(bills, options.plot)
    print("FAILED" if failed else "holds")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
