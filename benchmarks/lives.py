"""Whole lives of two tasks in one state: does the later one gain by what was tuned for the earlier one?

    python benchmarks/lives.py --out lives.jsonl                                 # hours of one core
    python benchmarks/lives.py --out lives.jsonl --pairs sst2:trec --orders 1
    python benchmarks/lives.py --out lives.jsonl --table                         # prints the table again

A call log of the earlier task is replayed once. A copy of its state then lives through the log of the later task, and
beside it a state of its own lives through the same calls in the same order with the same seed: `jitr replay` with the
default policy. Logs and the earlier state are kept beside FILE, and lives that are in FILE are not lived again.

Exits with 1 where the later task's agreement is significantly below the target, where it costs coverage significantly
that there was an earlier task, or where calls of the later task went to the earlier one's replacement.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from itertools import islice
from pathlib import Path

from replay import TARGET, Run, interval, score
from transfer_data import shared

from jitr_core.base_models import BaseModels
from jitr_core.earlier import listed
from jitr_core.store import Store
from jitr_core.students import descriptions

PAIRS = {  # earlier, later: how they are related, and in how many orders the later one is lived
    ("sst2", "phrasebank-gpt4"): ("both sentiment", 5),
    ("sst2", "trec"): ("unrelated", 3),
    ("sst2", "imdb-gold"): ("both film reviews", 2),
}
CALLS = {"sst2": 3_000, "trec": 1_200, "imdb-gold": 2_500}  # the first of each; else all there are
PROMPTS = {
    "sst2": "Is this sentence from a film review positive or negative? Answer with one word.\n\n"
    "Sentence: {}\n\nSentiment:",
    "trec": "What does this question ask for: ABBR, DESC, ENTY, HUM, LOC or NUM? Reply with the label only.\n\n{}",
}
WAYS = ("alone", "after")


def log_of(name: str, folder: Path) -> Path:
    """A call log of so many first calls; texts of a labelled set get a prompt around them."""
    path = folder / f"{name}.jsonl"
    if not path.exists():
        kind = "labelled" if name in PROMPTS else "calls"
        with gzip.open(shared() / kind / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            lines = [json.loads(line) for line in islice(file, CALLS.get(name))]
        if name in PROMPTS:
            lines = [call_of(name, i, line) for i, line in enumerate(lines)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def call_of(name: str, i: int, line: dict) -> dict:
    """A call that an app might have made about a labelled text."""
    messages = [{"role": "user", "content": PROMPTS[name].format(line["text"])}]
    return {"id": f"{name}-{i}", "messages": messages, "answer": line["label"], "model": "gold"}


def live(log: Path, state: Path, cache: Path, files: Path, *more: str) -> dict:
    """Replay a log in a state, with no embeddings at hand; the summary. The files hold what came of it."""
    for file in cache.glob("embeddings.sqlite3*"):
        file.unlink()  # else whoever lives second would find those of the first
    command = [sys.executable, "-m", "jitr_core.cli", "replay", str(log), "--state", str(state), *more]
    command += ["--target", str(TARGET), "--decisions", f"{files}-decisions.jsonl", "--json", f"{files}.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "JITR_CACHE": str(cache)}
    with open(f"{files}.log", "w", encoding="utf-8") as said:
        subprocess.run(command, check=True, stdout=said, stderr=subprocess.STDOUT, env=environment)
    return json.loads(Path(f"{files}.json").read_text(encoding="utf-8"))


def url_of(state: Path) -> str:
    """Where the database of a state is."""
    return f"sqlite:///{state / 'jitr.db'}"


def earlier_state(name: str, folder: Path, cache: Path) -> Path:
    """The state in which the earlier task was lived through, lived now if it was not."""
    state, summary = folder / name, folder / f"{name}.json"
    if not summary.exists():
        shutil.rmtree(state, ignore_errors=True)
        live(log_of(name, folder), state, cache, folder / name)
    with Store(url_of(state)) as store:
        there = any(listed(store))
    if not there:
        raise RuntimeError(f"{name} was not replaced by a tuned encoder: there is nothing to measure")
    return state


def later(name: str, seed: int, earlier: Path | None, folder: Path, cache: Path) -> dict:
    """A life of the later task, in a copy of the earlier task's state or, with None, in a state of its own."""
    log, state = log_of(name, folder), folder / "now"
    files = folder / f"{name}-{seed}-{f'after-{earlier.name}' if earlier else 'alone'}"
    shutil.rmtree(state, ignore_errors=True)
    before = set()
    if earlier:
        shutil.copytree(earlier, state)
        with Store(url_of(state)) as store:
            before = {task.id for task in store.tasks()}
    summary = live(log, state, cache, files, "--shuffle", "--seed", str(seed))
    run = score(log, Path(f"{files}-decisions.jsonl"), summary["seconds"])
    own = [task for task in summary["tasks"] if task["task"] not in before]
    firsts = [task["first_replaced_at"] for task in own if task["first_replaced_at"] is not None]
    with Store(url_of(state)) as store:
        searches = [search for task in own for search in store.searches(task["task"]) if search.candidates]
        releases = [release for task in own for release in store.releases(task["task"])]
    made_of = [[told for each in descriptions(r.path) for told in each["models"].values()] for r in releases]
    shutil.rmtree(state)
    return {
        "calls": run.calls,
        "replaced": run.replaced,
        "agreed": run.agreed,
        "seconds": run.seconds,
        "first": min(firsts, default=None),
        "strays": sum(task["calls"] for task in summary["tasks"] if task["task"] in before),
        "searches": len(searches),
        "offered": sum(any(" tuned for " in (c.base_model or "") for c in each.candidates) for each in searches),
        "chosen": [search.chosen for search in searches],
        "releases": [release.family for release in releases],
        "rest": sum(any("own" in told for told in models) for models in made_of),
    }


def measure(out: Path, pairs: list[str], orders: int | None) -> None:
    """Live through what is not in the file yet."""
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    cache = folder / "cache"
    if why := BaseModels(cache).prepare():  # before a clock runs
        raise RuntimeError(why)
    done = {(row["earlier"], row["later"], row["seed"], row["way"]) for row in read(out)}
    for (earlier, name), (_, own) in PAIRS.items():
        if pairs and f"{earlier}:{name}" not in pairs:
            continue
        state = earlier_state(earlier, folder, cache)
        for seed in range(orders or own):
            for way in (each for each in WAYS if (earlier, name, seed, each) not in done):
                found = later(name, seed, state if way == "after" else None, folder, cache)
                row = {"earlier": earlier, "later": name, "seed": seed, "way": way, **found}
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(*(f"{key} {value}" for key, value in row.items()), sep="; ", file=sys.stderr, flush=True)


def read(out: Path) -> list[dict]:
    """The lives that are in the file."""
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []


def both(rows: list[dict]) -> dict[tuple[str, str], list[tuple[dict, dict]]]:
    """By pair of tasks, the later one's lives alone and after the earlier one, order by order."""
    known = {(row["earlier"], row["later"], row["seed"], row["way"]): row for row in rows}
    found = defaultdict(list)
    for earlier, name, seed, way in known:
        if way == "alone" and (earlier, name, seed, "after") in known:
            found[earlier, name].append(tuple(known[earlier, name, seed, each] for each in WAYS))
    return found


def run_of(row: dict) -> Run:
    """What replays are judged by."""
    return Run(row["calls"], row["replaced"], row["agreed"], 0, row["seconds"])


def line_of(earlier: str, name: str, lives: list[tuple[dict, dict]]) -> str:
    """A row of the table: what the later task's lives came to, alone and after the earlier one."""
    ways = list(zip(*lives, strict=True))
    runs = [[run_of(row) for row in way] for way in ways]
    gains = [after.coverage - alone.coverage for alone, after in zip(*runs, strict=True)]
    low, high = interval(gains)
    cells = [f"{len(lives)}", *(f"{statistics.mean(run.coverage for run in way):.3f}" for way in runs)]
    cells.append(f"{statistics.mean(gains):+.3f}" + (f" ± {(high - low) / 2:.3f}" if len(gains) > 1 else ""))
    cells.append(", ".join(pooled(way) for way in runs))
    cells.append(
        "; ".join(", ".join("–" if row["first"] is None else f"{row['first'] + 1:,}" for row in way) for way in ways)
    )
    cells.append(f"{sum(after['rest'] > 0 for _, after in lives)}/{len(lives)}")
    cells.append(", ".join(f"{statistics.mean(run.seconds for run in way):.0f}" for way in runs))
    return f"| {earlier} | {name}, {PAIRS[earlier, name][0]} | {' | '.join(cells)} |"


def broken(pair: str, lives: list[tuple[dict, dict]]) -> list[str]:
    """What was promised and does not hold."""
    runs = [[run_of(row) for row in way] for way in zip(*lives, strict=True)]
    complaints = []
    if any(run.upper < TARGET for way in runs for run in way):
        complaints.append(f"{pair}: agreement below {TARGET}")
    if interval([after.coverage - alone.coverage for alone, after in zip(*runs, strict=True)])[1] < 0:
        complaints.append(f"{pair}: the earlier task costs coverage")
    if any(after["strays"] for _, after in lives):
        complaints.append(f"{pair}: calls of the later task went to the earlier one")
    return complaints


def table(rows: list[dict]) -> list[str]:
    """Print what was measured; what was promised and does not hold."""
    print("Coverage of all calls of the later task; its gain ± 95% interval over orders. Two figures: alone, after.\n")
    print("| earlier | later | orders | alone | after | gain | agreement | first replaced at call | rests on it | s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    complaints = []
    for (earlier, name), lives in both(rows).items():
        print(line_of(earlier, name, lives))
        complaints += broken(f"{earlier}, then {name}", lives)
    return complaints


def pooled(runs: list[Run]) -> str:
    """Agreement of all replaced calls."""
    replaced = sum(run.replaced for run in runs)
    return f"{sum(run.agreed for run in runs) / replaced:.3f}" if replaced else "–"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", nargs="+", default=[], metavar="EARLIER:LATER", help="some pairs only")
    parser.add_argument("--orders", type=int, help="of the later task; else 5, 3 and 2")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.table:
        measure(options.out, options.pairs, options.orders)
    complaints = table(read(options.out))
    for complaint in complaints:
        print(f"BROKEN: {complaint}")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
