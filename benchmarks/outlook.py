"""How well the outlook foretells the first release: each attempt's estimate beside what came.

python benchmarks/outlook.py    # some ten minutes of one core

Calls of a log in random orders; at each attempt of the schedule a search, its outlook, and its certificate. Exit code 1
where the outlook is as many attempts off as always saying "the next one", or more, or foretells a share of calls that
is on average more than 0.15 too high or too low.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys

import numpy as np
from transfer import remembering
from transfer_data import shared

from jitr_core.certify import Refusal, certify, next_attempt
from jitr_core.collect import build_dataset
from jitr_core.config import Policy
from jitr_core.outlook import look_ahead
from jitr_core.search import search
from jitr_core.types import Example

MOST_OFF = 0.15


def calls_of(name: str) -> list[tuple[str, str]]:
    with gzip.open(shared() / "calls" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [(line["messages"][-1]["content"], line["answer"]) for line in lines]


def say(calls: int | None, coverage: float) -> str:
    return "none" if calls is None else f"{calls:,}, {coverage:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", nargs="+", default=["phrasebank-gpt4", "banking77-gpt4"])
    parser.add_argument("--families", nargs="+", default=["static", "encoder"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    models, policy = remembering(None), Policy()
    dues = [next_attempt(index, policy)[0] for index in range(20)]
    off: list[tuple[int, int]] = []  # attempts between what was foretold and what came; "the next one" and what came
    shares, too_soon = [], 0
    print("| log | seed | at calls | foretold: calls, coverage | came: calls, coverage |\n|---|---|---|---|---|")
    for name in options.logs:
        calls = calls_of(name)
        for seed in range(options.seeds):
            order = np.random.default_rng(seed).permutation(len(calls))
            told, came, share = [], None, 0.0
            for index, due in enumerate(dues):
                delta = next_attempt(index, policy)[1]
                if due > len(calls):
                    break
                examples = [Example((calls[i][0],), calls[i][1], calls[i][0], at) for at, i in enumerate(order[:due])]
                dataset = build_dataset(examples, policy.max_examples)
                found = search(dataset, policy=policy, base_models=models, families=options.families, seed=seed)
                right = np.array([found.predicted[g] == a for g, a in zip(dataset.group, dataset.answers, strict=True)])
                proof = certify(found.confidence[dataset.group], right, target=policy.target, delta=delta)
                if not isinstance(proof, Refusal):
                    came, share = due, proof.coverage
                    break
                seen = look_ahead(found.curve, calls=due, attempts=index + 1, policy=policy)
                told.append((index, seen.calls, seen.coverage))
            for index, foretold, coverage in told:
                due = dues[index]
                print(f"| {name} | {seed} | {due:,} | {say(foretold, coverage)} | {say(came, share)} |", flush=True)
                if came is not None:
                    foretold_at = len(dues) if foretold is None else dues.index(foretold)
                    off.append((abs(foretold_at - dues.index(came)), dues.index(came) - index - 1))
                    shares += [] if foretold is None else [coverage - share]
                else:
                    too_soon += foretold is not None and foretold <= len(calls)
    ours, next_one = np.mean(off, axis=0)
    right = (np.array(off) == 0).sum(axis=0)
    print(f"{len(off)} estimates before a release, beside always saying 'the next attempt': {ours:.2f} attempts off")
    print(f"against {next_one:.2f}, {right[0]} right against {right[1]}; coverage {np.mean(shares):+.2f} on average")
    print(f"{too_soon} estimates foretold a release within a log that brought none")
    return int(ours >= next_one or abs(float(np.mean(shares))) > MOST_OFF)


if __name__ == "__main__":
    sys.exit(main())
