"""The student of numbers: a regression, how far it may be off, and the number written as the teacher writes it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..amounts import Tolerance, amount_in
from ..base_models.models import BaseModel
from ..files import write_folder
from ..structured import encoded
from ..types import Slots
from .combine import Trust
from .student import FORMAT, LinearStudent

__all__ = ["Format", "NumberStudent", "Scale", "figures", "restore_number"]

_Array = NDArray[np.float64]
_MOST_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Format:
    """How a teacher writes the numbers of a field.

    Attributes:
        before, after: what stands around them: a currency, a unit.
        least, most: decimals.
        grouped: whether thousands are set apart by commas.
        quoted: whether they are texts in JSON.
    """

    before: str
    after: str
    least: int
    most: int
    grouped: bool
    quoted: bool

    @classmethod
    def of(cls, values: Sequence[str]) -> Format | None:
        """The format of most of these encoded values; None if hardly any is a number."""
        found = [(each, value.startswith('"')) for value in values if (each := amount_in(value)) is not None]
        frames = Counter((each.before, each.after, quoted) for each, quoted in found)
        if not frames:
            return None
        before, after, quoted = max(frames, key=lambda frame: (frames[frame], frame))
        digits = [each.digits for each, text in found if (each.before, each.after, text) == (before, after, quoted)]
        decimals = [len(text.partition(".")[2]) for text in digits]
        grouped = any("," in text for text in digits)
        return cls(before, after, min(decimals), min(max(decimals), _MOST_DECIMALS), grouped, quoted)

    def read(self, value: str) -> float | None:
        """The number in an encoded value; None if it is no number of this format."""
        found = amount_in(value)
        if found is None or (found.before, found.after, value.startswith('"')) != (
            self.before,
            self.after,
            self.quoted,
        ):
            return None
        return found.value

    def write(self, number: float) -> str:
        """The encoded value of a number.

        Example:
            >>> Format("$", "", 2, 2, True, True).write(1250.5), Format("", "", 0, 2, False, False).write(12.50)
            ('"$1,250.50"', '12.5')
        """
        text = f"{number:{',' if self.grouped else ''}.{self.most}f}"
        whole, _, decimals = text.partition(".")
        while len(decimals) > self.least and decimals.endswith("0"):
            decimals = decimals[:-1]
        digits = f"{whole}.{decimals}" if decimals else whole
        digits = digits.removeprefix("-") if not digits.strip("-0.,") else digits
        return encoded(f"{self.before}{digits}{self.after}") if self.quoted else digits


@dataclass(frozen=True, slots=True)
class Scale:
    """How numbers are seen by a regression: standardised, as logarithms where shares count and all are > 0.

    Attributes:
        log: whether logarithms are taken.
        centre, spread: of what is standardised.
        tolerance: how far a number may be from the teacher's.
    """

    log: bool
    centre: float
    spread: float
    tolerance: Tolerance

    @classmethod
    def of(cls, numbers: _Array, tolerance: Tolerance) -> Scale:
        """The scale of some numbers, shape (n,)."""
        log = tolerance.relative and bool((numbers > 0).all())
        seen = np.log(numbers) if log else numbers
        return cls(log, float(seen.mean()), float(seen.std()) or 1.0, tolerance)

    def seen(self, numbers: _Array) -> _Array:
        """Numbers as a regression sees them."""
        return ((np.log(numbers) if self.log else numbers) - self.centre) / self.spread

    def number(self, seen: float, low: float, high: float) -> float:
        """The inverse of `seen`, kept between two numbers."""
        value = seen * self.spread + self.centre
        value = math.exp(min(value, 700.0)) if self.log else value
        return min(max(value, low), high)

    def width(self, seen: _Array) -> _Array:
        """How far the teacher's number may be from one that is seen so, in the same measure, shape (n,), > 0."""
        bound = self.tolerance.bound
        if self.log:
            return np.full(len(seen), math.log1p(bound) / self.spread)
        width = (
            bound * np.abs(seen * self.spread + self.centre) if self.tolerance.relative else np.full(len(seen), bound)
        )
        return np.maximum(width / self.spread, 1e-9)


def figures(level: _Array, off: _Array, width: _Array) -> _Array:
    """What speaks for numbers, shape (n, 4).

    Args:
        level: shape (n,), what the heads say together.
        off: shape (n,), the logarithm of how far that is off, by the heads for it.
        width: shape (n,), how far it may be off.
    """
    margin = np.log(width) - off
    return np.column_stack([margin, np.minimum(margin, 0.0), level, np.abs(level)])


@dataclass(frozen=True, slots=True)
class NumberStudent:
    """A small model that answers inputs with a number, as an encoded value; see `Student`.

    Attributes:
        format: how it is written.
        scale: how it is seen.
        low, high: the least and the largest number the teacher gave; none beyond is given.
        weights: shape (v,), of the heads, ≥ 0.
        off: what the logarithm of how far they are off is centred at, and its spread.
        trust: how far a number is to be trusted.
        scorer: the heads: the first score of each is the number, the second how far off it is.
    """

    format: Format
    scale: Scale
    low: float
    high: float
    weights: _Array
    off: tuple[float, float]
    trust: Trust
    scorer: LinearStudent

    @property
    def family(self) -> str:
        """See `CandidateReport.family`."""
        return self.scorer.family

    @property
    def base_model(self) -> str | None:
        """Name of the pretrained model, None for lexical."""
        return self.scorer.base_model

    @property
    def models(self) -> dict[str, BaseModel]:
        """The base models of its views."""
        return self.scorer.models

    def on(self, models: dict[str, BaseModel]) -> NumberStudent:
        """The same student with other objects for its base models."""
        return replace(self, scorer=self.scorer.on(models))

    def predict_one(self, slots: Slots) -> tuple[str, float, bool]:
        """See `Student.predict_one`."""
        seen = self.scorer.seen(slots)
        if seen is None:
            return "", 0.0, True
        scores = self.scorer.scores(seen).astype(np.float64)[:, 0]
        levels, centre, spread = scores[:, :1], *self.off
        level = self.weights @ levels
        off = centre + spread * scores[:, 1].mean(keepdims=True)
        value = self.format.write(self.scale.number(float(level[0]), self.low, self.high))
        return value, float(self.trust.of(figures(level, off, self.scale.width(level)))[0]), False

    def predict(self, inputs: Sequence[Slots]) -> tuple[list[str], _Array]:
        """See `Student.predict`."""
        found = [self.predict_one(slots) for slots in inputs]
        return [answer for answer, _, _ in found], np.array([confidence for _, confidence, _ in found], np.float64)

    def save(self, path: Path) -> None:
        """Write the artifact: JSON, safetensors, a folder for the heads, and a manifest of hashes.

        Raises:
            ArtifactError: there is something at `path` already.
            OSError: the disk is full or not writable.
        """
        write_folder(Path(path), self._write)

    def _write(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        settings = {
            "format": FORMAT,
            "kind": "number",
            "number": {name: getattr(self.format, name) for name in Format.__slots__},
            "scale": {"log": self.scale.log, "centre": self.scale.centre, "spread": self.scale.spread},
            "tolerance": {"bound": self.scale.tolerance.bound, "relative": self.scale.tolerance.relative},
            "low": self.low,
            "high": self.high,
            "off": list(self.off),
        }
        arrays = {"weights": self.weights, **{f"trust.{name}": getattr(self.trust, name) for name in Trust.__slots__}}
        save_file({key: np.ascontiguousarray(arrays[key]) for key in sorted(arrays)}, folder / "arrays.safetensors")
        self.scorer.save(folder / "heads")
        text = json.dumps(settings, ensure_ascii=True, indent=1, sort_keys=True)
        (folder / "student.json").write_text(text, encoding="utf-8")


def restore_number(
    settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], scorer: LinearStudent
) -> NumberStudent:
    """The student that `NumberStudent.save` wrote.

    Args:
        settings: of its `student.json`.
        arrays: of its `arrays.safetensors`.
        scorer: its heads.
    """
    centre, spread = settings["off"]
    return NumberStudent(
        format=Format(**settings["number"]),
        scale=Scale(**settings["scale"], tolerance=Tolerance(**settings["tolerance"])),
        low=float(settings["low"]),
        high=float(settings["high"]),
        weights=arrays["weights"],
        off=(float(centre), float(spread)),
        trust=Trust(**{name: arrays[f"trust.{name}"] for name in Trust.__slots__}),
        scorer=scorer,
    )
