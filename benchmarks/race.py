"""Search is cheap: among many base models, the search's choice and time against evaluating every candidate in full.

python benchmarks/race.py trec                   # 46 candidates, some ten minutes of one core
python benchmarks/race.py --luck                 # what choosing among equal base models costs: simulated, some minutes
python benchmarks/race.py banking77-gpt4 --alike # how alike the candidates of one search are right and wrong
python benchmarks/race.py trec --rank            # which cheap score ranks base models best: LogME or the linear probe

Base models: MiniLM, MiniLM cut to some layers, MiniLM's shape with random weights (see bases.py), MiniLM's token
table, and potion-base-4m. Cut and random ones are stand-ins for a model hub. In full means: every recipe on every base
model, or pair of encoder and token table, cross-fitted on all inputs with embeddings of its own. Each base model's
embeddings are made and timed once here, and counted for each candidate. Seconds are of one core's CPU time. Exit code 1
where a search's choice is more than 0.01 below the best candidate, or took more than a tenth of the time of them all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bases import CUTS, RANDOM, make
from scipy.stats import kendalltau
from transfer import FAMILIES, Remembering, score
from transfer_data import load, shared

from jitr_core.base_models import BaseModels
from jitr_core.base_models.prepare import add
from jitr_core.certify import Refusal, certify
from jitr_core.config import Policy
from jitr_core.search import FOLDS, search
from jitr_core.search.bracket import HALVES, Bracket, half_of
from jitr_core.students.recipes import PROBES, candidates
from jitr_core.students.text import normalise
from jitr_core.students.training import Bench, Classes, Crossed

KINDS = ("encoder", "static")
MOST_LOST, MOST_SHARE = 0.01, 0.1


def prepared(cache: Path, names: list[str]) -> BaseModels:
    """All base models, prepared in a cache folder; its embeddings are forgotten."""
    BaseModels(cache).prepare()
    for path in make(cache / "made", names).values():
        add(cache, str(path))
    add(cache, str(shared().parent / "models" / "potion-base-4m"))
    for file in cache.glob("embeddings.sqlite3*"):
        file.unlink()
    return BaseModels(cache)


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """LogME (You et al. 2021): log-evidence of a linear model of each class, by fixed-point iteration."""
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    n, d = features.shape
    evidences = []
    for c in np.unique(labels):
        y = (labels == c).astype(float)
        z = (u.T @ y) ** 2
        rest = float(y @ y - z.sum())
        alpha = beta = 1.0
        for _ in range(11):
            t = alpha / beta
            gamma = float((s**2 / (s**2 + t)).sum())
            m2 = float((s**2 * z / (s**2 + t) ** 2).sum())
            residual = rest + float((z * t**2 / (s**2 + t) ** 2).sum())
            alpha, beta = gamma / (m2 + 1e-9), (n - gamma) / (residual + 1e-9)
        value = d / 2 * np.log(alpha) + n / 2 * np.log(beta) - n / 2 * np.log(2 * np.pi)
        value -= beta / 2 * residual + alpha / 2 * m2 + 0.5 * np.log(alpha + beta * s**2).sum()
        value -= 0.5 * max(d - len(s), 0) * np.log(alpha)
        evidences.append(value / n)
    return float(np.mean(evidences))


def embedded(models: BaseModels, key: str, inputs: list[tuple[str, ...]]) -> float:
    """Embed all inputs with one base model; CPU seconds."""
    began = time.process_time()
    models.embed(key, [normalise(x[0]) for x in inputs])
    return time.process_time() - began


def remembering(models: BaseModels) -> BaseModels:
    """The same models, with what they embed kept in memory."""
    keys = [key for kind in KINDS for key in models.keys(kind)]
    given = {key: Remembering(models.get(key)) for key in keys}
    further = [(models.facts(key), given[key]) for key in keys if key not in KINDS]
    return BaseModels(models.folder, encoder=given["encoder"], static=given["static"], further=further)


def everything(name: str, models: BaseModels, seed: int, size: int) -> bool:
    """The search, then every candidate in full; whether the search was good and quick enough."""
    texts = load(name)
    dataset = texts.sample(size, seed)
    fast = remembering(models)
    began = time.process_time()
    found = search(dataset, policy=Policy(families=FAMILIES), base_models=fast, seed=seed)
    student = found.fit()
    search_s = time.process_time() - began
    print(f"{name}: {len(dataset.inputs):,} inputs; chosen {found.chosen} in {search_s:.0f} s", flush=True)
    for each in found.candidates:
        print(f"  {each.name}: {each.seconds:.1f} s by the clock; {each.note}", flush=True)
    chosen = score(student, texts)
    embedding_s = {key: embedded(models, key, dataset.inputs) for kind in KINDS for key in models.keys(kind)}
    # What the search had embedded already came from the cache: its base model is timed on a sample.
    sample = [f"{x[0]} again" for x in dataset.inputs[:300]]
    for key in models.keys("encoder"):
        began = time.process_time()
        for text in sample:
            models.get(key).embed(normalise(text))
        embedding_s[key] = (time.process_time() - began) / len(sample) * len(dataset.inputs)
    rows = []
    classes, folds = Classes.of(dataset.labels, 300), dataset.folds(FOLDS)
    for recipe, keys in grid(models):
        bench = Bench(dataset.inputs, classes, folds, fast)
        bound = recipe.on(keys)
        began = time.process_time()
        bench.crossed(bound)
        took = time.process_time() - began + sum(embedding_s[keys[role]] for role in roles(recipe))
        rows.append({"name": recipe.name, **keys, "seconds": took, **score(bench.fit(bound), texts)})
        print(f"  {json.dumps(rows[-1])}", flush=True)
    best = max(row["accuracy"] for row in rows)
    full_s = sum(row["seconds"] for row in rows)
    lost, ratio = best - chosen["accuracy"], full_s / search_s
    print(
        f"| {name} | {len(dataset.inputs):,} | {len(rows)} | {best:.3f} | {chosen['accuracy']:.3f} | {lost:.3f} ",
        end="",
    )
    print(f"| {full_s:,.0f} s | {search_s:,.0f} s | 1/{ratio:.1f} |", flush=True)
    return lost <= MOST_LOST and search_s <= MOST_SHARE * full_s


def roles(recipe) -> set[str]:
    """Kinds of base models that a recipe looks at."""
    return {view for head in recipe.heads for view in (*head.kernels, head.names) if view in KINDS}


def grid(models: BaseModels):
    """Every recipe on every base model, or pair of them, that it looks at."""
    for recipe in candidates(FAMILIES, paired=False):
        used = roles(recipe)
        for encoder in models.keys("encoder") if "encoder" in used else ["encoder"]:
            for static in models.keys("static") if "static" in used else ["static"]:
                yield recipe, {"encoder": encoder, "static": static}


def rank(name: str, models: BaseModels, seed: int, sizes: tuple[int, ...] = (100, 250, 500), full: int = 2000) -> None:
    """Which score of a sample puts base models in the order they have on many more inputs."""
    texts = load(name)
    dataset = texts.sample(full, seed)
    keys = [(kind, key) for kind in KINDS for key in models.keys(kind)]
    classes, folds = Classes.of(dataset.labels, 300), dataset.folds(FOLDS)
    truth = []
    for kind, key in keys:
        bench = Bench(dataset.inputs, classes, folds, models)
        truth.append(float((bench.crossed(PROBES[kind].on({kind: key})).chosen == classes.labels).mean()))
    for size in sizes:
        part = Classes(classes.answers, classes.labels[:size])
        scores: dict[str, list[float]] = {"probe, log-probability": [], "probe, agreement": [], "LogME": []}
        seconds = dict.fromkeys(scores, 0.0)
        for kind, key in keys:
            vectors = models.embed(key, [normalise(x[0]) for x in dataset.inputs[:size]])
            vectors = vectors[:, : models.get(key).blocks[0][1]]
            began = time.process_time()
            bench = Bench(dataset.inputs[:size], part, folds[:size], models)
            crossed = bench.crossed(PROBES[kind].on({kind: key}))
            for way in ("probe, log-probability", "probe, agreement"):
                seconds[way] += time.process_time() - began
            scores["probe, log-probability"].append(float(crossed.logp.mean()))
            scores["probe, agreement"].append(float((crossed.chosen == part.labels).mean()))
            began = time.process_time()
            scores["LogME"].append(logme(vectors - vectors.mean(axis=0), part.labels))
            seconds["LogME"] += time.process_time() - began
        for way, found in scores.items():
            tau, lost = kendalltau(found, truth).statistic, max(truth) - truth[int(np.argmax(found))]
            print(f"| {name} | {size} | {way} | {tau:.2f} | {lost:.3f} | {seconds[way]:.2f} |", flush=True)


def luck(alike: float, draws: int = 2000, n: int = 1000, models: int = 8, agreement: float = 0.949) -> None:
    """What choosing the best of equal models costs: any release is wrong here, at a target of 0.95, delta 0.05.

    `alike` is the share of inputs on which all models are right or wrong together.
    """
    rng = np.random.default_rng(0)
    released = {
        "chosen by all inputs": 0,
        "ten parts, each chosen by the nine others": 0,
        "race": 0,
        "one base model": 0,
    }
    for _ in range(draws):
        folds = rng.integers(FOLDS, size=n)
        right = np.where(rng.random(n) < alike, rng.random(n) < agreement, rng.random((models, n)) < agreement)
        confidence = rng.random((models, n))
        tried = {
            str(i): Crossed(np.zeros(n, np.intp), confidence[i], np.where(right[i], -0.1, -2.5)) for i in range(models)
        }
        bracket = Bracket(list(tried))
        bracket.judge(tried, half_of(folds), last=True)
        by_fold = np.array([int(bracket.winner(half)) for half in range(HALVES)])[half_of(folds)]
        by_nine = np.array([right[:, folds != fold].mean(axis=1).argmax() for fold in range(FOLDS)])[folds]
        best, at = right.mean(axis=1).argmax(), np.arange(n)
        for way, rows in zip(released, (best, by_nine, by_fold, 0), strict=True):
            chosen = np.broadcast_to(rows, n)
            found = certify(confidence[chosen, at], right[chosen, at], target=0.95, delta=0.05)
            released[way] += not isinstance(found, Refusal)
    for way, count in released.items():
        print(f"| {alike} | {way} | {count / draws:.3f} |")


def likeness(name: str, models: BaseModels, size: int) -> None:
    """How alike candidates are right and wrong, cross-fitted: mean correlation of all pairs, and of the best four's."""
    texts = load(name)
    inputs = [(normalise(text),) for text in texts.pool[:size]]
    folds = np.random.default_rng(0).integers(FOLDS, size=len(inputs))
    bench = Bench(inputs, Classes.of(texts.pool_labels[: len(inputs)], 300), folds, models)
    tried = [bench.crossed(recipe) for recipe in candidates(FAMILIES, paired=False)]
    right = np.array([crossed.chosen == bench.classes.labels for crossed in tried], float)
    best = right[np.argsort(right.mean(axis=1))[-4:]]
    means = [(np.corrcoef(rows).sum() - len(rows)) / (len(rows) * (len(rows) - 1)) for rows in (right, best)]
    print(f"| {name} | {len(inputs)} | {means[0]:.2f} | {means[1]:.2f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--cache", type=Path, default=None, help="a folder of its own; a temporary one by default")
    parser.add_argument("--rank", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=3_000, help="inputs to learn from, at most")
    parser.add_argument("--bases", nargs="*", default=[*CUTS, *RANDOM], help="cut and random base models to take part")
    parser.add_argument("--luck", action="store_true")
    parser.add_argument("--alike", action="store_true")
    options = parser.parse_args()
    if options.luck:
        for alike in (0.0, 0.5, 0.8):
            luck(alike)
    kept = True
    with tempfile.TemporaryDirectory() as scratch:
        cache = options.cache or Path(scratch)
        for name in options.sets:
            if options.alike:
                likeness(name, BaseModels(), options.size)
                continue
            models = prepared(cache, options.bases)
            if options.rank:
                rank(name, models, options.seed)
            else:
                kept &= everything(name, models, options.seed, options.size)
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
