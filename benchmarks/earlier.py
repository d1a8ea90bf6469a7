"""Do a user's earlier replacements help a later task? The class scores of one, or the encoder that was tuned for it.

python benchmarks/earlier.py scores                       # some five minutes of one core
python benchmarks/earlier.py tuned --out earlier.jsonl    # about an hour of one core; --table prints the tables again
python benchmarks/earlier.py learnt --out earlier.jsonl   # a minute, after that

`scores`: an earlier task's student (encoder family, 2,000 examples) scores the inputs of a later task; candidates of
the encoder family with and without a head on these scores are compared on the later task's test set, three seeds.

`tuned`: an encoder tuned for an earlier task, as a search tunes the one that serves, becomes a base model of the later
task's search. The search has the default encoder alone, the tuned one alone, or may choose. Tuned encoders are kept
beside FILE, and cells that are in FILE are not measured again. It fails where having the choice costs accuracy.

`learnt`: the encoder tuned for sst2, judged by inputs it learnt from, and by others: why a search does the latter only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from bases import with_adapter
from transfer import FAMILIES, Remembering, mean_interval, remembering, score
from transfer_data import Texts, load

from jitr_core.base_models import BaseModels
from jitr_core.base_models.models import BaseModel
from jitr_core.base_models.prepare import add_encoder
from jitr_core.config import Policy
from jitr_core.earlier import known_share
from jitr_core.errors import TrainingError
from jitr_core.search import FOLDS, search
from jitr_core.search.judge import tokens_of
from jitr_core.students.recipes import CandidateRecipe, HeadRecipe, candidates
from jitr_core.students.text import normalise
from jitr_core.students.training import Bench, Classes
from jitr_core.students.tuning import Settings, Tuner, plan

PAIRS = (
    ("sst2", "phrasebank-gpt4", "both sentiment"),
    ("clinc150", "banking77-gpt4", "both intents"),
    ("trec", "agnews", "unrelated"),
)
SIZES, SEEDS = (100, 500), 3

# Not sst2 with rt-polarity: they share sentences. Nor clinc150: a search would not tune for so many answers.
TUNED_PAIRS = (
    ("sst2", "phrasebank-gpt4", "both sentiment"),
    ("sst2", "imdb-gold", "both film reviews"),
    ("imdb-gold", "rt-polarity-gpt35", "both film reviews"),
    ("sst2", "trec", "unrelated"),
    ("sst2", "agnews", "unrelated"),
)
EARLIER = 3_000  # examples of the earlier task, of which the plan says how many are learnt
TUNED_SIZES = {"phrasebank-gpt4": (100, 500), "rt-polarity-gpt35": (100, 500, 1_000, 2_000)}
TESTED = {"phrasebank-gpt4": 600, "imdb-gold": 500}


class WithEarlier:
    """An encoder whose embedding is followed by what an earlier student makes of the text."""

    def __init__(self, encoder: BaseModel, student) -> None:
        self.encoder, self.student = encoder, student
        self.name, self.hash = encoder.name, f"{encoder.hash}+earlier"
        self.blocks = (*encoder.blocks, ("earlier", len(student.answers)))
        self.known: dict[str, np.ndarray] = {}

    def embed(self, text: str) -> np.ndarray:
        """See `BaseModel.embed`."""
        if text not in self.known:
            scores = self.student.scores(self.student.look((text,)))
            pooled = np.exp(np.tensordot(self.student.combination.weights, scores[:, 0], axes=1))
            own = (pooled / np.linalg.norm(pooled)).astype(np.float32)
            self.known[text] = np.concatenate([self.encoder.embed(text), own])
        return self.known[text]


def scores() -> None:
    """Print the table of class scores as features."""
    base = remembering(None)
    alone = next(r for r in candidates(("encoder",), paired=False) if r.name == "encoder")
    head = HeadRecipe("earlier", (), {"encoder": {"earlier": 1.0}})
    joint = HeadRecipe("final+earlier", (), {"encoder": {"final": 0.5, "earlier": 0.5}})
    helped = CandidateRecipe("encoder+earlier", "encoder", "encoder", (*alone.heads, head, joint))
    print("| earlier | later | examples | encoder | with earlier scores | gain |\n|---|---|---|---|---|---|")
    for earlier, later, how in PAIRS:
        source = load(earlier).sample(2000, 0)
        student = search(source, policy=Policy(), base_models=base, families=("encoder",)).fit()
        models = BaseModels(None, encoder=WithEarlier(base.get("encoder"), student), static=base.get("static"))
        texts = load(later, test=500)
        for size in SIZES:
            found: dict[str, list[float]] = {"encoder": [], "encoder+earlier": []}
            for seed in range(SEEDS):
                dataset = texts.sample(min(size, len(texts.pool)), seed)
                bench = Bench(dataset.inputs, Classes.of(dataset.labels, 300), dataset.folds(FOLDS), models)
                for recipe in (alone, helped):
                    found[recipe.name].append(score(bench.fit(recipe), texts)["accuracy"])
            gain = [b - a for a, b in zip(*found.values(), strict=True)]
            cells = [mean_interval(values) for values in (*found.values(), gain)]
            print(f"| {earlier} | {later}, {how} | {size} | {' | '.join(cells)} |", flush=True)


def inputs_of(name: str, test: int = 1_000) -> Texts:
    """A data set, less what a template puts around every input."""
    texts = load(name, test)
    everything = [*texts.pool, *texts.test]
    start = len(os.path.commonprefix(everything))
    end = len(os.path.commonprefix([text[::-1] for text in everything]))
    pool, tested = ([text[start : len(text) - end] for text in some] for some in (texts.pool, texts.test))
    return replace(texts, pool=pool, test=tested)


def tuned_for(name: str, plain: BaseModels, folder: Path) -> tuple[BaseModels, str]:
    """A cache folder's base model that is tuned for a data set, tuned now if it is not there; and its key."""
    own = BaseModels(folder)
    if own.keys("encoder"):
        return own, own.keys("encoder")[0]
    dataset = inputs_of(name).sample(EARLIER, 0)
    classes = Classes.of(dataset.labels, 300)
    texts = [tuple(normalise(slot) for slot in slots) for slots in dataset.inputs]
    try:
        tokens = [tokens_of(" ".join(each)) for each in texts]
        found = plan(tokens, len(classes.answers), 0.0, Policy().search_work_s)
        examples, epochs = found.examples, found.epochs
    except TrainingError as error:
        print(f"{name}: a search would not tune for it: {error}", file=sys.stderr, flush=True)
        examples, epochs = len(texts), Settings().epochs
    prepared = BaseModels(plain.folder)
    encoder, facts = prepared.get("encoder"), prepared.facts("encoder")
    tuner = Tuner(
        encoder, texts, classes.labels, dataset.folds(FOLDS), Settings(epochs=epochs), examples, known=facts.source
    )
    began = time.perf_counter()
    tuned = tuner.fit()
    print(f"{name}: {examples} examples, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tuner.source)
    with tempfile.TemporaryDirectory() as adapter:
        tuned.write_adapter(Path(adapter))
        merged = with_adapter(tuner.source, Path(adapter)).merge_and_unload()
    facts = replace(facts, name=f"tuned-for-{name}", source="", tuned_for=name)
    return own, add_encoder(folder, merged, tokenizer, facts)


def cell(texts: Texts, size: int, seed: int, ways: dict[str, BaseModels]) -> dict:
    """One later data set, size and seed: what searches with these base models come to, and the encoder family alone."""
    dataset = texts.sample(size, seed)
    recipe = next(r for r in candidates(("encoder",), paired=False) if r.name == "encoder")
    row: dict = {"size": size, "seed": seed}
    for way, models in ways.items():
        began = time.process_time()
        found = search(dataset, policy=Policy(families=FAMILIES), base_models=models, seed=seed)
        row[way] = {"chosen": found.chosen, **score(found.fit(), texts), "seconds": time.process_time() - began}
        if way != "choice":
            bench = Bench(dataset.inputs, Classes.of(dataset.labels, 300), dataset.folds(FOLDS), models)
            row[way]["encoder"] = score(bench.fit(recipe), texts)
    return row


def tuned(out: Path, cache: str | None, seeds: int, pairs: list[str]) -> None:
    """Measure what is not in the file yet."""
    rows = [json.loads(line) for line in out.open(encoding="utf-8")] if out.exists() else []
    done = {(row["earlier"], row["later"], row["size"], row["seed"]) for row in rows}
    plain = remembering(cache)
    encoder, static = plain.get("encoder"), plain.get("static")
    for earlier, later, _ in TUNED_PAIRS:
        if pairs and f"{earlier}:{later}" not in pairs:
            continue
        own, key = tuned_for(earlier, plain, out.with_suffix("") / earlier)
        model = Remembering(own.get(key))
        ways = {
            "default": BaseModels(cache, encoder=encoder, static=static),
            "tuned": BaseModels(cache, encoder=model, static=static),
            "choice": BaseModels(cache, encoder=encoder, static=static).beside(
                {"earlier": (model, "encoder", earlier)}
            ),
        }
        texts = inputs_of(later, TESTED.get(later, 1_000))
        for size in TUNED_SIZES.get(later, (100, 500, 1_000)):
            for seed in (each for each in range(seeds) if (earlier, later, size, each) not in done):
                row = {"earlier": earlier, "later": later, **cell(texts, size, seed, ways)}
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                said = " ".join(f"{way} {row[way]['accuracy']:.3f} {row[way]['coverage']:.3f};" for way in ways)
                print(earlier, later, size, seed, said, row["choice"]["chosen"], flush=True)


def learnt_from(out: Path, cache: str | None) -> None:
    """Print what a task's own inputs say of the encoder that was tuned on them, and what others say of it."""
    plain, name, size = remembering(cache), "sst2", 1_000
    own, key = tuned_for(name, plain, out.with_suffix("") / name)
    texts = inputs_of(name)
    order = np.random.default_rng(0).permutation(len(texts.pool))  # as `Texts.sample` draws with seed 0
    recipe = next(r for r in candidates(("encoder",), paired=False) if r.name == "encoder")
    print("| encoder | inputs | known | agreement, cross-fitted | later |\n|---|---|---|---|---|")
    for encoder in (plain.get("encoder"), Remembering(own.get(key))):
        models = BaseModels(cache, encoder=encoder, static=plain.get("static"))
        for what, rows in (("learnt from", order[:EARLIER]), ("others", order[EARLIER:])):
            some = replace(texts, pool=[texts.pool[i] for i in rows], pool_labels=[texts.pool_labels[i] for i in rows])
            dataset = some.sample(size, 1)
            bench = Bench(dataset.inputs, Classes.of(dataset.labels, 300), dataset.folds(FOLDS), models)
            crossed = float(np.mean(bench.crossed(recipe).chosen == bench.classes.labels))
            later = score(bench.fit(recipe), texts)["accuracy"]
            known = known_share(dataset.inputs, [(texts.pool[i],) for i in order[:EARLIER]])
            print(f"| {encoder.name} | {what} | {known:.3f} | {crossed:.3f} | {later:.3f} |", flush=True)


def table(rows: list[dict]) -> bool:
    """Print accuracy and coverage in hindsight; True if having the choice costs accuracy significantly somewhere."""
    cells = defaultdict(list)
    for row in rows:
        cells[row["earlier"], row["later"], row["size"]].append(row)
    costs = False
    for what in ("accuracy", "coverage"):
        print(f"\n{what}, mean ± 95% interval over seeds; regret against the better of the first two.\n")
        print(
            "| earlier | later | examples | encoder alone: gain | default | tuned | choice | took it | gain | regret |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        for earlier, later, how in TUNED_PAIRS:
            for (_, _, size), found in sorted((k, v) for k, v in cells.items() if k[:2] == (earlier, later)):
                by = {way: [row[way][what] for row in found] for way in ("default", "tuned", "choice")}
                pairs = list(zip(by["default"], by["tuned"], by["choice"], strict=True))
                gain, regret = [c - d for d, _, c in pairs], np.mean([max(d, t) - c for d, t, c in pairs])
                alone = [row["tuned"]["encoder"][what] - row["default"]["encoder"][what] for row in found]
                took = sum("tuned-for-" in row["choice"]["chosen"] for row in found)
                means = " | ".join(mean_interval(values) for values in by.values())
                print(
                    f"| {earlier} | {later}, {how} | {size:,} | {mean_interval(alone)} | {means} "
                    f"| {took}/{len(found)} | {mean_interval(gain)} | {regret:.3f} |"
                )
                if what == "accuracy" and len(found) > 1:
                    mean, half = (float(part) for part in mean_interval(gain).split(" ± "))
                    costs |= mean + half < 0
    return costs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scores", "tuned", "learnt"))
    parser.add_argument("--out", type=Path, help="of `tuned` and `learnt`")
    parser.add_argument("--cache", default=None)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--pairs", nargs="+", default=[], metavar="EARLIER:LATER", help="some pairs only")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if options.what == "scores":
        scores()
        return 0
    if options.out is None:
        parser.error("--out is missing")
    if options.what == "learnt":
        learnt_from(options.out, options.cache)
        return 0
    if not options.table:
        tuned(options.out, options.cache, options.seeds, options.pairs)
    return int(table([json.loads(line) for line in options.out.read_text(encoding="utf-8").splitlines()]))


if __name__ == "__main__":
    sys.exit(main())
