"""Transfer beats scratch: every candidate family by number of examples, the search's choice, and what was best.

python benchmarks/transfer.py --out transfer.jsonl          # about 25 minutes on one core, embeddings at hand
python benchmarks/transfer.py --out transfer.jsonl --table  # the tables again, from the file; --plot FILE.svg
python benchmarks/transfer.py --out lora.jsonl --lora --sizes 500 2000 --seeds 1  # with tuned encoders; an hour

Accuracy is measured on a fixed test set of 1,000 texts (trec: 500) against gold labels, for banking77-gpt4 against the
teacher's answers; coverage is the share of the test set that could be answered at 0.95 in hindsight. Seconds are of one
core's CPU time, for search and training with embeddings at hand: those are kept between runs in the cache folder.

With `--lora` encoders are tuned where the product's rule allows it, by their examples: at least 500, and 50 an answer.
The search decides by itself whether to tune. Where it does not, an encoder is tuned all the same, to be judged as it
would serve, alone: joined with other heads it is only where the search cross-fitted it. Exit code 1 where the search's
choice is on average more than 0.01 below the best candidate.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import plots
from transfer_data import SETS, Texts, load

from jitr_core.base_models import BaseModels
from jitr_core.base_models.models import BaseModel
from jitr_core.base_models.sources import locate
from jitr_core.config import Policy
from jitr_core.errors import TrainingError
from jitr_core.search import search
from jitr_core.search.judge import half_errors, hindsight, tokens_of
from jitr_core.students import LinearStudent
from jitr_core.students.kept import digest
from jitr_core.students.recipes import candidates
from jitr_core.students.text import normalise
from jitr_core.students.training import Bench, Crossed
from jitr_core.students.tuning import Settings, Tuner, plan
from jitr_core.students.views import arrange, embedding_vector

SIZES = (100, 500, 2000)
FAMILIES = ("lexical", "static", "encoder", "stacked")
TUNED = (*FAMILIES, "lora")
MOST_REGRET = 0.01
T95 = {1: 12.706, 2: 4.303, 4: 2.776}  # quantiles of Student's t, by degrees of freedom


class Remembering:
    """A base model that embeds each text once; what it knows already comes from the cache folder."""

    def __init__(self, model: BaseModel, source: str | None = None) -> None:
        self.model, self.name, self.hash, self.blocks = model, model.name, model.hash, model.blocks
        self.source = source  # where weights to be tuned come from
        self.known: dict[str, np.ndarray] = {}

    def embed(self, text: str) -> np.ndarray:
        """See `BaseModel.embed`."""
        if text not in self.known:
            self.known[text] = self.model.embed(text)
        return self.known[text]


def remembering(cache: str | None) -> BaseModels:
    """All base models of a cache folder, kept in memory with their embeddings."""
    models = BaseModels(cache)
    why = models.prepare()
    if why:
        raise SystemExit(why)
    keys = [key for kind in ("encoder", "static") for key in models.keys(kind)]
    sources = {key: str(locate(models.facts(key).source)) for key in models.keys("encoder")}
    given = {key: Remembering(models.get(key), sources.get(key)) for key in keys}
    further = [(models.facts(key), given[key]) for key in keys if key not in ("encoder", "static")]
    return BaseModels(cache, encoder=given["encoder"], static=given["static"], further=further)


def cpu_s() -> float:
    """CPU seconds of this process and of children that ended."""
    return sum(os.times()[:4])


def cell(texts: Texts, size: int, seed: int, models: BaseModels, families: tuple[str, ...]) -> dict:
    """One data set, size and seed: each candidate on its own, and what the search chooses.

    Raises:
        TrainingError: encoders are to be tuned, and by the product's rule these examples are too few.
    """
    dataset = texts.sample(size, seed)
    row: dict = {"size": size, "seed": seed, "candidates": {}}
    with tempfile.TemporaryDirectory() as folder:  # encoders that the search tuned need not be tuned again
        if "lora" in families:
            examples = plan([tokens_of(x[0]) for x in dataset.inputs], len(set(dataset.labels)), 0.0).examples
            frozen = search(dataset, policy=Policy(families=FAMILIES), base_models=models, seed=seed)
            row["frozen"] = score(frozen.fit(), texts)
        benches: dict[bytes, Bench] = {}  # what the search trained on all inputs need not be trained again
        began = cpu_s()
        policy, kept = Policy(families=families), Path(folder)
        found = search(dataset, policy=policy, base_models=models, seed=seed, benches=benches, kept=kept)
        chosen = found.fit()
        row |= {"chosen": found.chosen, "seconds": cpu_s() - began, "search": score(chosen, texts)}
        bench = next(each for each in benches.values() if each.n == len(dataset.inputs))
        if "lora" in families:
            row["why"] = next(c.note for c in found.candidates if c.family == "lora")
            if not any(c.family == "lora" and c.agreement is not None for c in found.candidates):
                families = FAMILIES
                row["candidates"]["lora"] = alone(tuner(bench, models, examples, seed, kept), bench, texts)
        dropped = {c.base_model for c in found.candidates if "dropped" in c.note and c.name.startswith("static probe")}
        partner = next(key for key in models.keys("static") if models.facts(key).name not in dropped)
        for static in models.keys("static"):
            for recipe in candidates(families, paired=False):
                if static != partner and recipe.base != "static":
                    continue
                bound = recipe.on({"static": static})
                began = cpu_s()
                student = bench.fit(bound)
                took = cpu_s() - began
                name = recipe.name + (f":{models.get(static).name}" if recipe.base == "static" else "")
                row["candidates"][name] = {"family": recipe.family, "seconds": took, **score(student, texts)}
                row["candidates"][name] |= cross_fitted(bench.crossed(bound), bench.classes.labels)
    return row


def tuner(bench: Bench, models: BaseModels, examples: int, seed: int, kept: Path) -> Tuner:
    """Tunes encoders as the search would."""
    return Tuner(
        models.get("encoder"),
        bench.texts,
        bench.classes.labels,
        bench.folds,
        Settings(),
        examples,
        seed,
        kept=kept / digest(bench.classes.answers),
    )


def alone(given: Tuner, bench: Bench, texts: Texts) -> dict:
    """An encoder that the search did not tune, or gave up: tuned on everything, as it would serve, by its scores."""
    began = cpu_s()
    tuned = given.fit()
    took = cpu_s() - began
    scores = np.stack([tuned.scores(arrange([normalise(text)], bench.slots)) for text in texts.test])
    said = [bench.classes.answers[i] for i in scores.argmax(axis=1)]
    right = np.array([a == b for a, b in zip(said, texts.test_labels, strict=True)])
    found = {
        "accuracy": float(right.mean()),
        "coverage": hindsight(np.exp(scores.max(axis=1).astype(float)), right, 0.95),
    }
    return {"family": "lora", "seconds": took, **found}


def score(student: LinearStudent, texts: Texts) -> dict:
    """Accuracy on the test set, and the coverage at 0.95 in hindsight; as `predict` has them, all inputs at once."""
    inputs = [arrange([normalise(text)], student.slots) for text in texts.test]
    weights = {kind: v.matrix([v.bag(one) for one in inputs]) for kind, v in student.vocabularies.items()}
    vectors = {
        view: np.stack([embedding_vector(student.models[view].embed, student.models[view].blocks, x) for x in inputs])
        for view in {*student.landmarks, *student.names}
    }
    scores = np.zeros((len(student.heads), len(inputs), len(student.answers)), np.float32)
    for i, head in enumerate(student.heads):
        scores[i] = head.bias
        for kind, matrix in head.linear.items():
            scores[i] += weights[kind] @ matrix
        for view, blocks in head.blocks.items():
            scores[i] += student.landmarks[view].kernel(vectors[view], blocks) @ head.dual[view]
        if head.names:
            scores[i] += student.names[head.names].scores(vectors[head.names])
        if head.tuned:
            scores[i] += np.stack([student.tuned.scores(one) for one in inputs])
    chosen, confidence = student.combination.decide(scores)
    shut = [student.seen((text,)) is None for text in texts.test]
    right = np.array([student.answers[c] == b for c, b in zip(chosen, texts.test_labels, strict=True)])
    return {"accuracy": float(right.mean()), "coverage": hindsight(np.where(shut, 0, confidence), right, 0.95)}


def cross_fitted(crossed: Crossed, labels: np.ndarray) -> dict:
    """What a search can know of a candidate, of which several could rank it."""
    right = crossed.chosen == labels
    half = half_errors(crossed.confidence, right)
    return {"agreement": float(right.mean()), "logp": float(crossed.logp.mean()), "half_errors": half}


def mean_interval(values: list[float]) -> str:
    """Mean ± half the 95% t-interval over seeds; of one seed its value."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    half = T95.get(len(values) - 1, 1.96) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.3f} ± {half:.3f}"


def table(rows: list[dict], families: tuple[str, ...]) -> float:
    """Print accuracies and regrets; the mean regret in accuracy."""
    cells = defaultdict(list)
    for row in rows:
        cells[row["set"], row["size"]].append(row)
    without = ["search without lora"] if "lora" in families else []
    heads = ["set", "examples", *families, *without, "search", "best", "regret", "seconds"]
    print("Accuracy, mean ± 95% interval over seeds; of a family its best candidate in hindsight.\n")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    regrets, missed = [], []
    for (name, size), found in sorted(cells.items(), key=lambda item: (SETS.index(item[0][0]), item[0][1])):
        parts = []
        for family in families:
            best = [max(c["accuracy"] for c in r["candidates"].values() if c["family"] == family) for r in found]
            parts.append(mean_interval(best))
        best = [max(c["accuracy"] for c in r["candidates"].values()) for r in found]
        chosen = [r["search"]["accuracy"] for r in found]
        parts += [mean_interval([r["frozen"]["accuracy"] for r in found]) for _ in without]
        regrets += [b - c for b, c in zip(best, chosen, strict=True)]
        tops = [max(c["coverage"] for c in r["candidates"].values()) for r in found]
        missed += [b - r["search"]["coverage"] for b, r in zip(tops, found, strict=True)]
        regret = np.mean(regrets[-len(found) :])
        seconds = np.mean([r["seconds"] for r in found])
        print(
            f"| {name} | {size:,} | {' | '.join(parts)} | {mean_interval(chosen)} | {mean_interval(best)} "
            f"| {regret:.3f} | {seconds:.1f} |"
        )
    print(f"\nRegret in accuracy, mean of {len(regrets)} cells: {np.mean(regrets):.4f}, most {max(regrets):.3f}")
    print(f"Regret in coverage at 0.95 in hindsight: {np.mean(missed):.4f}, most {max(missed):.3f}")
    return float(np.mean(regrets))


def plot(rows: list[dict], path: Path) -> None:
    """Accuracy by number of examples: of each family its best candidate, and what the search chose; 95% intervals."""
    sets = [name for name in SETS if any(row["set"] == name for row in rows)]
    figure, axes = plots.panels(len(sets), 1 + 1.7 * len(sets), 2.9, sharey=True)
    looks = zip((*FAMILIES, "search"), (plots.GREY, plots.GREEN, plots.ORANGE, plots.PINK, plots.BLUE), strict=True)
    for i, (family, colour) in enumerate(looks):
        for axis, name in zip(axes, sets, strict=True):
            cells = defaultdict(list)
            for row in (row for row in rows if row["set"] == name):
                of = [c["accuracy"] for c in row["candidates"].values() if c["family"] == family]
                cells[row["size"]].append(row["search"]["accuracy"] if family == "search" else max(of))
            sizes = np.array(sorted(cells))
            error = [T95.get(len(v) - 1, 1.96) * np.std(v, ddof=1) / len(v) ** 0.5 for _, v in sorted(cells.items())]
            means = [np.mean(v) for _, v in sorted(cells.items())]
            last = family == "search"
            style = {"lw": 2 if last else 1, "marker": "o" if last else ".", "label": family}
            axis.errorbar(sizes * 1.05 ** (i - 2), means, error, color=colour, ls="-" if last else "--", **style)
            axis.set(xscale="log", title=name, xlabel="examples", ylim=(0, 1), yticks=(0, 0.5, 1))
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axis.minorticks_off()
            axis.grid(visible=False, axis="x")
    axes[0].set_ylabel("accuracy")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", ncols=5, fontsize=8, frameon=False)
    plots.save(figure, path, top=0.92)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", default=None)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lora", action="store_true", help="tuned encoders take part; a file of its own")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", type=Path, help="draw the accuracies (needs matplotlib)")
    options = parser.parse_args()
    families = TUNED if options.lora else FAMILIES
    if not options.table:
        models = remembering(options.cache)
        rows = [json.loads(line) for line in options.out.open(encoding="utf-8")] if options.out.exists() else []
        done = {(row["set"], row["size"], row["seed"]) for row in rows}
        for name in options.sets:
            texts = load(name)
            for size in options.sizes:
                for seed in range(options.seeds):
                    if (name, size, seed) in done:
                        continue
                    try:
                        row = {"set": name, **cell(texts, size, seed, models, families)}
                    except TrainingError as error:
                        print(name, size, seed, error, flush=True)
                        continue
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    print(name, size, seed, row["chosen"], round(row["search"]["accuracy"], 3), flush=True)
    rows = [json.loads(line) for line in options.out.read_text(encoding="utf-8").splitlines()]
    regret = table(rows, families)
    if options.plot:
        plot(rows, options.plot)
    return int(regret > MOST_REGRET)


if __name__ == "__main__":
    sys.exit(main())
