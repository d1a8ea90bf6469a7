"""The student of structured answers: a student for each field, and an answer only if all of them are confident.

Every field has a **gate**, a student of labels: the field's usual values, that there is none, that it is copied from
the input, or that it is a list of labels. What is copied a copier finds; each label of a list has a student of its own;
a number that need not be the teacher's to the last digit comes from a regression.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as Folder
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..base_models.models import BaseModel
from ..files import write_folder
from ..structured import MISSING, Path, Style
from ..types import Slots
from .combine import Trust
from .copier import Copied, Copier
from .spans import tokens
from .student import FORMAT

__all__ = [
    "COPIED",
    "LISTED",
    "NUMBER",
    "Certainty",
    "Choice",
    "Field",
    "FieldsStudent",
    "Part",
    "combined",
    "restore_fields",
]

COPIED, LISTED, NUMBER = "<copied>", "<list>", "<number>"
"""What a gate says of a field that is copied from the input, a list of labels, or a number. JSON never begins so."""

_Array = NDArray[np.float64]


class Choice(NamedTuple):
    """What a student of labels said: its label, and its confidence in [0, 1]."""

    label: str
    confidence: float


class Certainty(NamedTuple):
    """A field's value in one input, and the figures that speak for it.

    Attributes:
        value: encoded; `MISSING` if the field is left out; None if nothing could be found.
        figures: shape (f,).
    """

    value: str | None
    figures: _Array


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a task's answers.

    Attributes:
        path: where it stands.
        kind: constant, labels, copied, list or number; for the reader.
        constant: the encoded value it always has, None if it varies.
        gate: which of the student's parts is its gate, −1 if it is constant.
        copier: finds what is copied, None if nothing is.
        items: encoded labels of a list, in the order in which lists have them, and the part that says "yes" or "no".
        trust: how far its value is to be trusted, None if it is constant.
        number: which of the student's parts gives its number, −1 for none.
    """

    path: Path
    kind: str
    constant: str | None = None
    gate: int = -1
    copier: Copier | None = None
    items: tuple[tuple[str, int], ...] = ()
    trust: Trust | None = None
    number: int = -1

    def certainty(self, said: Sequence[Choice], copied: Copied | None) -> Certainty:
        """The field's value, from what the parts said and the copier found."""
        if self.constant is not None:
            return Certainty(self.constant, np.zeros(0))
        label, confidence = said[self.gate]
        number = said[self.number] if self.number >= 0 else None
        return combined(label, confidence, copied, [(item, said[part]) for item, part in self.items], number)


def combined(
    label: str,
    confidence: float,
    copied: Copied | None,
    items: Sequence[tuple[str, Choice]],
    number: Choice | None = None,
) -> Certainty:
    """A field's value and the figures that speak for it.

    Args:
        label: what the gate said.
        confidence: how sure it was.
        copied: what the copier found, None if there is none.
        items: of each label of a list, what its part said.
        number: what the part for its number said, None if it has none.
    """
    figures = [_logit(confidence)]
    value: str | None = label
    if copied is not None:
        taken = label == COPIED
        figures += [taken * _logit(copied.probability), taken * _logit(1 - copied.second)]
        figures += [float(taken), float(taken and copied.known)]
        value = copied.value if taken else value
    if number is not None:
        taken = label == NUMBER
        figures += [taken * _logit(number.confidence), float(taken)]
        value = number.label if taken else value
    if items:
        listed = label == LISTED
        sure = [_logit(choice.confidence) for _, choice in items]
        figures += [listed * min(sure), listed * sum(np.log(choice.confidence + 1e-6) for _, choice in items)]
        if listed:
            value = "[" + ", ".join(item for item, choice in items if choice.label == "yes") + "]"
    return Certainty(value, np.array(figures))


def _logit(share: float) -> float:
    share = min(max(share, 1e-6), 1 - 1e-6)
    return float(np.log(share) - np.log(1 - share))


def whole_figures(confidences: _Array) -> _Array:
    """What speaks for whole answers, shape (n, 3), from the confidences of their fields, shape (n, k)."""
    if not confidences.shape[1]:
        return np.zeros((len(confidences), 3))
    logs = np.log(np.clip(confidences, 1e-6, 1 - 1e-6))
    all_right = np.exp(logs.sum(axis=1))
    least = confidences.min(axis=1)
    return np.column_stack([_logits(all_right), _logits(least), (1 - confidences).sum(axis=1)])


def _logits(shares: _Array) -> _Array:
    clipped = np.clip(shares, 1e-6, 1 - 1e-6)
    found: _Array = np.log(clipped) - np.log(1 - clipped)
    return found


class _Remembering:
    """A base model that embeds the text it has just embedded no second time: the parts read the same input."""

    def __init__(self, model: BaseModel) -> None:
        self.name, self.hash, self.blocks = model.name, model.hash, model.blocks
        self.model = model
        self._last: tuple[str, NDArray[np.float32]] | None = None

    def embed(self, text: str) -> NDArray[np.float32]:
        """See `BaseModel.embed`."""
        last = self._last
        if last is None or last[0] != text:
            last = self._last = text, self.model.embed(text)
        return last[1]


class Part(Protocol):
    """A student of labels, or of a number."""

    @property
    def base_model(self) -> str | None:
        """Name of the pretrained model, None for lexical."""

    @property
    def models(self) -> dict[str, BaseModel]:
        """The base models of its views."""

    def on(self, models: dict[str, BaseModel]) -> Part:
        """The same student with other objects for its base models."""

    def predict_one(self, slots: Slots) -> tuple[str, float, bool]:
        """See `Student.predict_one`."""

    def save(self, path: Folder) -> None:
        """See `Student.save`."""


def _sharing(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts, with base models that remember what another part had embedded."""
    models: dict[str, BaseModel] = {}
    for part in parts:
        for model in part.models.values():
            models.setdefault(model.hash, model if isinstance(model, _Remembering) else _Remembering(model))
    return tuple(part.on({view: models[m.hash] for view, m in part.models.items()}) for part in parts)


@dataclass(frozen=True, slots=True)
class FieldsStudent:
    """A small model that answers a task's inputs with structured answers. Implements `Student`.

    Attributes:
        family: see `CandidateReport.family`.
        base_model: names of the pretrained models of its parts, None if they are all lexical.
        style: how answers are written.
        fields: their fields.
        orders: the combinations of fields that the teacher gave, each in its order; no other is given.
        parts: students of labels, shared among fields that vary alike, and of numbers.
        trust: how far a whole answer is to be trusted.
    """

    family: str
    base_model: str | None
    style: Style
    fields: tuple[Field, ...]
    orders: tuple[tuple[Path, ...], ...]
    parts: tuple[Part, ...]
    trust: Trust

    @classmethod
    def of(
        cls,
        style: Style,
        fields: Sequence[Field],
        orders: Sequence[tuple[Path, ...]],
        parts: Sequence[Part],
        trust: Trust,
    ) -> FieldsStudent:
        """A student of these parts."""
        names = sorted({part.base_model for part in parts if part.base_model})
        return cls("fields", ", ".join(names) or None, style, tuple(fields), tuple(orders), _sharing(parts), trust)

    def predict_one(self, slots: Slots) -> tuple[str, float, bool]:
        """See `Student.predict_one`."""
        said = []
        for part in self.parts:
            label, confidence, strange = part.predict_one(slots)
            if strange:
                return "", 0.0, True
            said.append(Choice(label, confidence))
        read = tokens(slots) if any(field.copier for field in self.fields) else None
        values: dict[Path, str] = {}
        sure = []
        for field in self.fields:
            copied = field.copier.copy(read) if field.copier and read and said[field.gate].label == COPIED else None
            if field.copier and copied is None:
                copied = Copied(None, 0.0, 0.0, False)
            value, figures = field.certainty(said, copied)
            if value is None:
                return "", 0.0, False
            if field.trust is not None:
                sure.append(float(field.trust.of(figures[None])[0]))
            if value != MISSING:
                values[field.path] = value
        answer = written(values, self.orders_by_set(), self.style)
        if answer is None:
            return "", 0.0, False
        return answer, float(self.trust.of(whole_figures(np.array([sure])))[0]), False

    def orders_by_set(self) -> Mapping[frozenset[Path], tuple[Path, ...]]:
        """The combinations of fields that may be given."""
        return {frozenset(order): order for order in self.orders}

    def predict(self, inputs: Sequence[Slots]) -> tuple[list[str], NDArray[np.float64]]:
        """See `Student.predict`."""
        found = [self.predict_one(slots) for slots in inputs]
        return [answer for answer, _, _ in found], np.array([confidence for _, confidence, _ in found], np.float64)

    def save(self, path: Folder) -> None:
        """Write the artifact: JSON, safetensors, a folder for each part, and a manifest of hashes.

        Raises:
            ArtifactError: there is something at `path` already.
            OSError: the disk is full or not writable.
        """
        write_folder(Folder(path), self._write)

    def _write(self, folder: Folder) -> None:
        from safetensors.numpy import save_file

        arrays: dict[str, NDArray[Any]] = {f"trust.{key}": getattr(self.trust, key) for key in _TRUST}
        settings: dict[str, Any] = {
            "format": FORMAT,
            "kind": "fields",
            "family": self.family,
            "base_model": self.base_model,
            "style": {name: getattr(self.style, name) for name in Style.__slots__},
            "orders": [[list(path) for path in order] for order in self.orders],
            "parts": len(self.parts),
            "fields": [],
        }
        for i, field in enumerate(self.fields):
            own: dict[str, Any] = {
                "path": list(field.path),
                "kind": field.kind,
                "constant": field.constant,
                "gate": field.gate,
                "number": field.number,
            }
            own["items"] = [list(item) for item in field.items]
            if field.trust is not None:
                arrays |= {f"field.{i}.trust.{key}": getattr(field.trust, key) for key in _TRUST}
            if field.copier is not None:
                own["copier"], found = field.copier.state()
                arrays |= {f"field.{i}.copier.{key}": value for key, value in found.items()}
            settings["fields"].append(own)
        for i, part in enumerate(self.parts):
            part.save(folder / f"part-{i:03}")
        whole = {key: np.ascontiguousarray(value) for key, value in sorted(arrays.items())}
        save_file(whole, folder / "arrays.safetensors")
        text = json.dumps(settings, ensure_ascii=True, indent=1, sort_keys=True)
        (folder / "student.json").write_text(text, encoding="utf-8")


_TRUST = ("centre", "spread", "coefficients")


def written(values: Mapping[Path, str], orders: Mapping[frozenset[Path], tuple[Path, ...]], style: Style) -> str | None:
    """The answer with these values, None if the teacher never gave one with these fields."""
    order = orders.get(frozenset(values))
    return None if order is None else style.write({path: values[path] for path in order}) or None


def restore_fields(
    settings: dict[str, Any], arrays: dict[str, NDArray[Any]], load_part: Callable[[str], Part]
) -> FieldsStudent:
    """The student that `FieldsStudent.save` wrote.

    Args:
        settings: of its `student.json`.
        arrays: of its `arrays.safetensors`.
        load_part: loads the part in a folder of this name.
    """

    def under(prefix: str) -> dict[str, NDArray[Any]]:
        return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}

    fields = [
        Field(
            path=tuple(own["path"]),
            kind=own["kind"],
            constant=own["constant"],
            gate=own["gate"],
            copier=Copier.restore(own["copier"], under(f"field.{i}.copier.")) if "copier" in own else None,
            items=tuple((item, int(part)) for item, part in own["items"]),
            trust=Trust(**trust) if (trust := under(f"field.{i}.trust.")) else None,
            number=int(own.get("number", -1)),
        )
        for i, own in enumerate(settings["fields"])
    ]
    orders = [tuple(tuple(path) for path in order) for order in settings["orders"]]
    parts = [load_part(f"part-{i:03}") for i in range(settings["parts"])]
    return FieldsStudent.of(Style(**settings["style"]), fields, orders, parts, Trust(**under("trust.")))
