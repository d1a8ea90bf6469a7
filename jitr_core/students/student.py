"""The student: views of an input, heads that score its classes, one answer and its confidence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..base_models.models import BaseModel
from ..base_models.store import BaseModels
from ..files import write_folder
from ..types import Slots
from .combine import Combination
from .lexical import Vocabulary
from .ood import Gate
from .pairs import pair_features
from .text import normalise
from .tuned import AdaptedEncoder, TunedEncoder
from .views import Landmarks, Names, arrange, embedding_vector

__all__ = ["FORMAT", "Head", "LinearStudent", "Student", "restore_linear"]

FORMAT = 2
"""Version of the artifacts."""


class Student(Protocol):
    """A small model that answers a task's inputs."""

    @property
    def family(self) -> str:
        """See `CandidateReport.family`."""

    @property
    def base_model(self) -> str | None:
        """Name of the pretrained model, None for lexical."""

    def predict_one(self, slots: Slots) -> tuple[str, float, bool]:
        """Answer, confidence in [0, 1], and whether the input is out of distribution (then the confidence is 0)."""

    def predict(self, inputs: Sequence[Slots]) -> tuple[list[str], NDArray[np.float64]]:
        """Answers and confidences of many inputs, exactly as `predict_one` gives them."""

    def save(self, path: Path) -> None:
        """Write the artifact: a folder that appears whole or not at all."""


@dataclass(frozen=True, slots=True)
class Head:
    """Scores of every class: a linear function of kernels and of lexical weights.

    Attributes:
        name: of the recipe.
        linear: for each vocabulary, shape (p, c).
        blocks: for each view with landmarks, the weights of its blocks in the kernel.
        dual: for each such view, shape (m, c).
        bias: shape (c,).
        names: view whose embeddings are compared with the answers', None for none.
        tuned: whether the scores are those of the student's tuned encoder.
    """

    name: str
    linear: dict[str, NDArray[np.float32]]
    blocks: dict[str, dict[str, float]]
    dual: dict[str, NDArray[np.float32]]
    bias: NDArray[np.float32]
    names: str | None = None
    tuned: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        linear: dict[str, NDArray[np.float32]],
        blocks: dict[str, dict[str, float]],
        dual: dict[str, NDArray[np.float32]],
        bias: NDArray[np.float32],
        names: str | None = None,
        tuned: bool = False,
    ) -> Head:
        """A head whose arrays lie in memory and are summed as after loading: both round alike to the last bit."""
        settled = _settled({"": bias})[""]
        return cls(name, _settled(linear), dict(sorted(blocks.items())), _settled(dual), settled, names, tuned)

    def beside(self, other: Head) -> Head:
        """A head of the same features that gives the scores of this one, and then those of another."""

        def joined(one: dict[str, NDArray[np.float32]], two: dict[str, NDArray[np.float32]]) -> Any:
            return {key: np.hstack([one[key], two[key]]) for key in one}

        linear, dual = joined(self.linear, other.linear), joined(self.dual, other.dual)
        return Head.of(self.name, linear, self.blocks, dual, np.concatenate([self.bias, other.bias]))


class Seen(NamedTuple):
    """One input as a student's heads see it.

    Attributes:
        texts: its normalised slots.
        vectors: by view, shape (1, d).
        distances: by view, what has been computed of them, see `Landmarks.kernel`.
    """

    texts: tuple[str, ...]
    vectors: dict[str, NDArray[np.float32]]
    distances: dict[str, dict[int, NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class LinearStudent:
    """A student whose heads are linear in fixed features; see `Student`.

    Attributes:
        family: see `CandidateReport.family`.
        base_model: name of the pretrained model, None for lexical.
        answers: the answer of each class, as the teacher writes it.
        slots: number of texts an input is arranged into.
        vocabularies: by kind.
        landmarks: by view: "encoder", "static", "pairs".
        names: the answers' own embeddings, by view.
        models: the base models of the views that have one.
        heads: at least one, or none if there is only one class.
        combination: None if there is only one class.
        gate: decides what is out of distribution.
        constant: confidence of the only answer, if there is only one class.
        tuned: the encoder that was tuned for the task, if a head needs it.
    """

    family: str
    base_model: str | None
    answers: tuple[str, ...]
    slots: int
    vocabularies: dict[str, Vocabulary]
    landmarks: dict[str, Landmarks]
    names: dict[str, Names]
    models: dict[str, BaseModel]
    heads: tuple[Head, ...]
    combination: Combination | None
    gate: Gate
    constant: float = 0.0
    scales: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    tuned: TunedEncoder | None = None

    def predict_one(self, slots: Slots) -> tuple[str, float, bool]:
        """See `Student.predict_one`."""
        seen = self.seen(slots)
        if seen is None:
            return self.answers[0], 0.0, True
        if self.combination is None:
            return self.answers[0], self.constant, False
        chosen, confidence = self.combination.decide(self.scores(seen))
        return self.answers[chosen[0]], float(confidence[0]), False

    def seen(self, slots: Slots) -> Seen | None:
        """What is to be scored of an input; None if it is out of distribution."""
        texts = arrange([normalise(slot) for slot in slots], self.slots)
        if self.gate.closed(texts, sum(map(len, slots))):
            return None
        seen, view = self.look(texts), self.gate.view
        if view is not None:
            distance = self.landmarks[view].nearest(seen.vectors[view], seen.distances[view])
            if self.gate.too_far(texts, float(distance[0])):
                return None
        return seen

    def look(self, texts: tuple[str, ...]) -> Seen:
        """The same of texts, whatever they are; they are normalised, and as many as the task has."""
        vectors = {view: self._vector(view, texts)[None] for view in {*self.landmarks, *self.names}}
        return Seen(texts, vectors, {view: {} for view in vectors})

    def on(self, models: dict[str, BaseModel]) -> LinearStudent:
        """The same student with other objects for its base models."""
        return replace(self, models=models)

    def predict(self, inputs: Sequence[Slots]) -> tuple[list[str], NDArray[np.float64]]:
        """See `Student.predict`."""
        found = [self.predict_one(slots) for slots in inputs]
        return [answer for answer, _, _ in found], np.array([confidence for _, confidence, _ in found], np.float64)

    def scores(self, seen: Seen) -> NDArray[np.float32]:
        """Scores of each head, shape (v, 1, c)."""
        weights = {}
        for kind in {kind for head in self.heads for kind in head.linear}:
            vocabulary = self.vocabularies[kind]
            known = vocabulary.known(vocabulary.bag(seen.texts))
            weights[kind] = known.place, vocabulary.weights(known)
        texts, vectors, memo = seen
        scores = np.empty((len(self.heads), 1, len(self.answers)), np.float32)
        for i, head in enumerate(self.heads):
            total = head.bias.copy()
            for kind, matrix in head.linear.items():
                place, weight = weights[kind]
                total += _product(weight, matrix[place])
            for view, blocks in head.blocks.items():
                total += _product(self.landmarks[view].kernel(vectors[view], blocks, memo[view])[0], head.dual[view])
            if head.names:
                total += self.names[head.names].scores(vectors[head.names])[0]
            if head.tuned and self.tuned is not None:
                total += self.tuned.scores(texts)
            scores[i, 0] = total
        return scores

    def _vector(self, view: str, texts: tuple[str, ...]) -> NDArray[np.float32]:
        if view == "pairs":
            return pair_features(texts, self.vocabularies["word"], self.vocabularies["char"]) * self.scales["pairs"]
        model = self.models[view]
        return embedding_vector(model.embed, model.blocks, texts)

    def save(self, path: Path) -> None:
        """Write the artifact: safetensors, JSON, and a manifest of hashes.

        Raises:
            ArtifactError: there is something at `path` already.
            OSError: the disk is full or not writable.
        """
        write_folder(Path(path), self._write)

    def _write(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        arrays: dict[str, NDArray[Any]] = {}
        settings: dict[str, Any] = {
            "format": FORMAT,
            "family": self.family,
            "base_model": self.base_model,
            "answers": list(self.answers),
            "slots": self.slots,
            "constant": self.constant,
            "models": {view: {"name": m.name, "hash": m.hash} for view, m in self.models.items()},
            "heads": [{"name": h.name, "blocks": h.blocks, "names": h.names, "tuned": h.tuned} for h in self.heads],
            "vocabularies": {},
            "landmarks": {},
        }
        for view, model in self.models.items():
            if isinstance(model, AdaptedEncoder):  # no prepared one: it travels with whatever rests on it
                settings["models"][view]["own"], own = model.state()
                arrays |= {f"model.{view}.{key}": value for key, value in own.items()}
        settings["gate"], own = self.gate.state()
        arrays |= {f"gate.{key}": value for key, value in own.items()}
        for kind, vocabulary in self.vocabularies.items():
            settings["vocabularies"][kind], own = vocabulary.state()
            arrays |= {f"vocabulary.{kind}.{key}": value for key, value in own.items()}
        for view, landmarks in self.landmarks.items():
            settings["landmarks"][view], own = landmarks.state()
            arrays |= {f"landmarks.{view}.{key}": value for key, value in own.items()}
        for view, names in self.names.items():
            arrays |= {f"names.{view}.centre": names.centre, f"names.{view}.points": names.points}
        for i, head in enumerate(self.heads):
            arrays[f"head.{i}.bias"] = head.bias
            arrays |= {f"head.{i}.linear.{kind}": matrix for kind, matrix in head.linear.items()}
            arrays |= {f"head.{i}.dual.{view}": matrix for view, matrix in head.dual.items()}
        if self.tuned is not None:
            settings["tuned"], own = self.tuned.state()
            arrays |= {f"tuned.{key}": value for key, value in own.items()}
            self.tuned.write_adapter(folder)
        arrays |= {f"scale.{view}": scale for view, scale in self.scales.items()}
        if self.combination is not None:
            arrays |= {f"combination.{key}": getattr(self.combination, key) for key in _COMBINATION}
        save_file(
            {key: np.ascontiguousarray(value) for key, value in sorted(arrays.items())}, folder / "arrays.safetensors"
        )
        text = json.dumps(settings, ensure_ascii=True, indent=1, sort_keys=True)
        (folder / "student.json").write_text(text, encoding="utf-8")


def _settled(arrays: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    return {key: np.ascontiguousarray(value, np.float32) for key, value in sorted(arrays.items())}


def _product(row: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The product of a row and a matrix on one thread, whatever BLAS is set to; see `Landmarks`."""
    found: NDArray[np.float32] = row @ matrix if matrix.size < _SMALL else np.einsum("m,mc->c", row, matrix)
    return found


_SMALL = 100_000  # entries up to which BLAS uses one thread anyway
_COMBINATION = ("weights", "reliability", "centre", "spread", "coefficients")


def restore_linear(settings: dict[str, Any], arrays: dict[str, NDArray[Any]], base_models: BaseModels) -> LinearStudent:
    """The student that `LinearStudent.save` wrote.

    Args:
        settings: of its `student.json`.
        arrays: of its `arrays.safetensors`.
        base_models: the base models of this machine.

    Raises:
        ArtifactError: its base model is not at hand.
    """

    def under(prefix: str) -> dict[str, NDArray[Any]]:
        return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}

    def model(view: str, told: dict[str, Any]) -> BaseModel:
        if "own" in told:
            return AdaptedEncoder(told["own"], under(f"model.{view}."))
        return base_models.by_hash(view, told["name"], told["hash"])

    heads = [
        Head.of(
            each["name"],
            under(f"head.{i}.linear."),
            each["blocks"],
            under(f"head.{i}.dual."),
            arrays[f"head.{i}.bias"],
            each["names"],
            each.get("tuned", False),
        )
        for i, each in enumerate(settings["heads"])
    ]
    combination = under("combination.")
    return LinearStudent(
        family=settings["family"],
        base_model=settings["base_model"],
        answers=tuple(settings["answers"]),
        slots=int(settings["slots"]),
        vocabularies={
            kind: Vocabulary.restore(own, under(f"vocabulary.{kind}."))
            for kind, own in settings["vocabularies"].items()
        },
        landmarks={
            view: Landmarks.restore(own, under(f"landmarks.{view}.")) for view, own in settings["landmarks"].items()
        },
        names={view: Names(**under(f"names.{view}.")) for view in sorted({h.names for h in heads if h.names})},
        models={view: model(view, told) for view, told in settings["models"].items()},
        heads=tuple(heads),
        combination=Combination(**combination) if combination else None,
        gate=Gate.restore(settings["gate"], under("gate.")),
        constant=float(settings["constant"]),
        scales=under("scale."),
        tuned=TunedEncoder(settings["tuned"], under("tuned.")) if "tuned" in settings else None,
    )
