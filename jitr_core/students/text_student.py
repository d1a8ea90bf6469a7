"""The student of free text: an answerer, and how likely the teacher would agree with what it says."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError
from ..files import write_folder
from ..types import Slots
from .answerers import Answerer, Said, restore_answerer, unhurried
from .combine import logistic, sigmoid
from .lexical import Vocabulary
from .ood import Gate
from .text import normalise
from .views import arrange

__all__ = ["Calibration", "TextStudent", "restore_text_student"]

_FORMAT = 2
_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """From an answer's signs to the probability, in [0, 1], that the teacher agrees: a logistic regression.

    Attributes:
        centre, spread: shape (f,), to standardise the signs.
        coefficients: shape (f + 1,), the constant last.
    """

    centre: _Array
    spread: _Array
    coefficients: _Array

    @classmethod
    def fit(cls, signs: _Array, right: NDArray[np.bool_]) -> Calibration:
        """Fitted on answers the answerer did not learn.

        Args:
            signs: shape (n, f).
            right: shape (n,), whether the teacher agreed.
        """
        centre, spread = signs.mean(axis=0), signs.std(axis=0) + 1e-6
        return cls(centre, spread, logistic((signs - centre) / spread, right))

    def __call__(self, signs: _Array) -> _Array:
        """Probabilities, shape (n,), of answers with these signs, shape (n, f)."""
        return sigmoid((signs - self.centre) / self.spread @ self.coefficients[:-1] + self.coefficients[-1])


@dataclass(frozen=True, slots=True)
class TextStudent:
    """See `Student`.

    Attributes:
        answerer: gives the answers.
        calibration: gives the confidence.
        vocabulary: what answerers compare inputs by.
        gate: decides what is out of distribution.
        slots: number of texts an input is arranged into for both.
    """

    answerer: Answerer
    calibration: Calibration
    vocabulary: Vocabulary
    gate: Gate
    slots: int

    @property
    def family(self) -> str:
        """See `CandidateReport.family`."""
        return self.answerer.family

    @property
    def base_model(self) -> str | None:
        """Name of the pretrained model, None without one."""
        return self.answerer.base_model

    @property
    def blocking(self) -> bool:
        """Whether an answer may take long enough to hold up an event loop."""
        return self.answerer.blocking

    def predict_one(self, slots: Slots) -> tuple[str, float, bool]:
        """See `Student.predict_one`.

        Raises:
            ArtifactError: the answerer could not be asked.
        """
        return self._predict(slots, self.answerer.say)

    def _predict(self, slots: Slots, say: Callable[[Slots], Said | None]) -> tuple[str, float, bool]:
        texts = arrange([normalise(slot) for slot in slots], self.slots)
        if self.gate.closed(texts, sum(map(len, slots))):
            return "", 0.0, True
        said = say(slots)
        if said is None:
            return "", 0.0, False
        return said.text, float(self.calibration(_signs([said]))[0]), False

    def predict(self, inputs: Sequence[Slots]) -> tuple[list[str], _Array]:
        """See `Student.predict`; nobody waits for these answers, see `unhurried`."""
        found = [self._predict(slots, functools.partial(unhurried, self.answerer)) for slots in inputs]
        return [answer for answer, _, _ in found], np.array([confidence for _, confidence, _ in found], np.float64)

    def save(self, path: Path) -> None:
        """See `Student.save`."""
        write_folder(Path(path), self._write)

    def _write(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        settings, own = self.answerer.write(folder)
        vocabulary, arrays = self.vocabulary.state()
        arrays = {f"vocabulary.{key}": value for key, value in arrays.items()}
        arrays |= {f"answerer.{key}": value for key, value in own.items()}
        gate, own = self.gate.state()
        arrays |= {f"gate.{key}": value for key, value in own.items()}
        save_file({key: np.ascontiguousarray(value) for key, value in sorted(arrays.items())}, folder / _ARRAYS)
        names = ("centre", "spread", "coefficients")
        told = {
            "format": _FORMAT,
            "kind": "text",
            "method": type(self.answerer).__name__,
            "answerer": settings,
            "calibration": {name: getattr(self.calibration, name).tolist() for name in names},
            "vocabulary": vocabulary,
            "gate": gate,
            "slots": self.slots,
        }
        text = json.dumps(told, ensure_ascii=True, indent=1, sort_keys=True)
        (folder / "student.json").write_text(text, encoding="utf-8")


_ARRAYS = "arrays.safetensors"


def _signs(said: Sequence[Said]) -> _Array:
    return np.array([each.signs for each in said], np.float64).reshape(len(said), -1)


def restore_text_student(folder: Path, settings: dict[str, Any]) -> TextStudent:
    """A student from its verified artifact; a generator is in memory then.

    Args:
        folder: where it is.
        settings: its `student.json`.

    Raises:
        ArtifactError: it is of another version, or its generator cannot be used here.
    """
    from safetensors.numpy import load_file

    if settings["format"] != _FORMAT:
        raise ArtifactError(f"{folder} was written by another version of JITR.", hint="Train the task again.")
    arrays = load_file(folder / _ARRAYS)

    def under(prefix: str) -> dict[str, NDArray[Any]]:
        return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}

    vocabulary = Vocabulary.restore(settings["vocabulary"], under("vocabulary."))
    return TextStudent(
        restore_answerer(settings["method"], settings["answerer"], under("answerer."), folder, vocabulary),
        Calibration(**{key: np.array(value, np.float64) for key, value in settings["calibration"].items()}),
        vocabulary,
        Gate.restore(settings["gate"], under("gate.")),
        int(settings["slots"]),
    )
