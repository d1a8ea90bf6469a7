"""Tuned encoders in a search: whether tuning pays, cross-fitted scores, and the encoder that serves.

Tuning runs in a child process (`jitr_core.students.lora`): this one never loads torch, and survives if memory runs out.
How much is tuned follows from counted tokens, never from the clock.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base_models.models import BaseModel, OnnxEncoder
from ..base_models.sources import find_source, locate
from ..errors import MissingExtraError, TrainingError
from .tuned import TunedEncoder

__all__ = ["Plan", "Settings", "Tuner", "plan", "source_of"]

Promising = Callable[[NDArray[np.bool_], NDArray[np.float32]], str]

PARTS = 3
"""Parts of the inputs; each is scored by an encoder tuned on the others."""

_NEEDS = ("torch", "transformers", "peft", "onnx", "onnxruntime", "tokenizers")
_FEWEST = 500  # inputs below which a tuned encoder was no better than a frozen one
_FEWEST_EACH = 50  # … for each answer: with few of them the linear layer learns them by heart
_MOST = 6_000  # inputs one encoder is tuned on
_ENOUGH = 0.8  # coverage in hindsight of the best frozen candidate from which tuning has too little to gain
# Estimated core-seconds: of one token in one pass, forward and backward, MiniLM with two of its six layers frozen; and
# what tuning may cost for every input seen so far. A task is expected to go on about as long as it has been going on.
_TOKEN_S, _WORTH_S = 5e-4, 0.2
_EPOCHS = 3
_TIMEOUT_S = 6 * 3600.0  # a child that hangs


@dataclass(frozen=True, slots=True)
class Settings:
    """How an encoder is tuned.

    Attributes:
        rank: of the adapter.
        alpha: its scale, alpha / rank.
        rate: of learning, of the adapter.
        head_rate: of learning, of the linear layer.
        decay: of weights.
        dropout: of hidden states in the layers that are tuned.
        batch: inputs of a step.
        epochs: passes over the inputs.
        frozen: share of the layers, the lowest ones, that are not tuned.
        pretrained: False starts from random weights, to show what pretraining is worth; nothing is frozen then.
        max_tokens: of an input.
    """

    rank: int = 16
    alpha: int = 32
    rate: float = 1e-3
    head_rate: float = 5e-3
    decay: float = 0.01
    dropout: float = 0.1
    batch: int = 16
    epochs: int = 3
    frozen: float = 1 / 3
    pretrained: bool = True
    max_tokens: int = 128


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is tuned.

    Attributes:
        examples: most inputs an encoder is tuned on.
        epochs: passes over them.
        seconds: estimated, of all tunings together, on one core.
    """

    examples: int
    epochs: int
    seconds: float


def plan(tokens: Sequence[float], classes: int, covered: float) -> Plan:
    """Whether tuning pays, and how much of it; from counted work and held-out figures.

    Args:
        tokens: of each input, at most what the encoder reads.
        classes: number of answers.
        covered: largest share of calls that the best frozen candidate could answer at the target, in hindsight.

    Raises:
        TrainingError: it does not pay; says why.
    """
    if len(tokens) < _FEWEST:
        raise TrainingError(f"not tuned: {len(tokens)} different inputs, {_FEWEST} are needed")
    if covered >= _ENOUGH:
        raise TrainingError(f"not tuned: without it {covered:.0%} of the calls can be answered as promised")
    if len(tokens) < _FEWEST_EACH * classes:
        raise TrainingError(f"not tuned: {len(tokens) / classes:.0f} inputs for each answer, {_FEWEST_EACH} are needed")
    # Each part's encoder is tuned on the other parts, the one that serves on everything.
    each_s = float(np.mean(tokens)) * _EPOCHS * PARTS * _TOKEN_S
    affordable = int(_WORTH_S * len(tokens) / each_s)
    examples = min(len(tokens), _MOST, affordable)
    if examples < _FEWEST:
        raise TrainingError(
            f"not tuned: inputs are long, {examples} of {len(tokens)} could be learnt from at a fair cost"
        )
    return Plan(examples, _EPOCHS, examples * each_s)


def source_of(encoder: BaseModel | None, known: str = "") -> str:
    """Where the weights of an encoder come from: a folder or a hub id.

    Args:
        encoder: the encoder.
        known: the source it was prepared from, if that is known.

    Raises:
        TrainingError: it has none that could be tuned.
        MissingExtraError: what tuning needs is not installed.
    """
    if any(importlib.util.find_spec(module) is None for module in _NEEDS):
        raise MissingExtraError("train", "Tuning an encoder")
    if isinstance(encoder, OnnxEncoder):
        return str(locate(known)) if known else find_source()
    source = getattr(encoder, "source", None)
    if source is None:
        raise TrainingError("the encoder has no weights that could be tuned.")
    return str(source)


class Tuner:
    """Tunes an encoder for one set of inputs."""

    def __init__(
        self,
        encoder: BaseModel | None,
        texts: Sequence[tuple[str, ...]],
        labels: NDArray[np.intp],
        folds: NDArray[np.intp],
        settings: Settings,
        examples: int,
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
        promising: Promising | None = None,
        known: str = "",
    ) -> None:
        """A tuner.

        Args:
            encoder: the base model.
            texts: n inputs, as normalised slots.
            labels: shape (n,), their classes, −1 where none is right: not learnt from.
            folds: shape (n,).
            settings: how.
            examples: most inputs an encoder is tuned on.
            seed: of everything random.
            progress: told what is going on and the share done.
            promising: given which inputs were scored, shape (n,), and all scores, says why more is not worth it, or "".
            known: the source it was prepared from, if that is known.

        Raises:
            TrainingError, MissingExtraError: see `source_of`.
        """
        if encoder is None:
            raise TrainingError("there is no encoder to tune.")
        self.encoder, self.source = encoder, source_of(encoder, known)
        self.texts, self.labels, self.folds = list(texts), labels, folds
        self.classes = int(labels.max()) + 1
        self.settings, self.examples, self.seed, self.progress = settings, examples, seed, progress
        self.promising = promising

    def crossed(self) -> NDArray[np.float32]:
        """Scores of every input by an encoder that was not tuned on its part, shape (n, c).

        Parts are unions of folds: equal inputs are never apart. The first part is tried alone, and the others only if
        it is promising.

        Raises:
            TrainingError: the first part was not promising, or tuning failed.
        """
        present = np.unique(self.folds)
        part = np.searchsorted(present, self.folds) % min(PARTS, len(present))
        count = int(part.max()) + 1
        scores = np.zeros((len(self.texts), self.classes), np.float32)
        for parts in ([0], list(range(1, count))):
            with self._tuned([np.flatnonzero(part != i) for i in parts]) as folders:
                for i, folder in zip(parts, folders, strict=True):
                    encoder = TunedEncoder.read(folder)
                    for row in np.flatnonzero(part == i):
                        scores[row] = encoder.scores(self.texts[row])
                    self._tell("scoring with tuned encoders", (i + 1) / count)
            why = self.promising(part == 0, scores) if self.promising and parts == [0] else ""
            if why:
                raise TrainingError(f"given up after one of {count} parts: {why}.")
        return scores

    def fit(self) -> TunedEncoder:
        """The encoder tuned on everything, in as many steps as those that gave the scores.

        With as many passes it would take half as many steps more and be surer of itself than they were.
        """
        with self._tuned([np.arange(len(self.texts))]) as folders:
            return TunedEncoder.read(folders[0])

    @contextlib.contextmanager
    def _tuned(self, parts: list[NDArray[np.intp]]) -> Any:
        """Folders of encoders tuned on these rows, as long as the block lasts."""
        try:
            with tempfile.TemporaryDirectory(prefix="jitr-tuning-") as folder:
                self._run(self._job(parts), Path(folder))
                yield [Path(folder) / str(i) for i in range(len(parts))]
        except OSError as error:
            raise TrainingError(f"an encoder could not be tuned: {error}.") from error

    def _job(self, parts: list[NDArray[np.intp]]) -> dict[str, Any]:
        return {
            "source": self.source,
            "name": self.encoder.name,
            "texts": [list(texts) for texts in self.texts],
            "labels": self.labels.tolist(),
            "classes": self.classes,
            "paced_by": round(len(self.texts) * (1 - 1 / PARTS)),
            "parts": [self._sample(rows[self.labels[rows] >= 0]).tolist() for rows in parts],
            "settings": asdict(self.settings),
            "seed": self.seed,
        }

    def _sample(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """At most as many rows as the plan allows, drawn by the seed."""
        if len(rows) <= self.examples:
            return rows
        return np.sort(np.random.default_rng(self.seed).permutation(rows)[: self.examples])

    def _run(self, job: dict[str, Any], folder: Path) -> None:
        """Run the child. Inputs reach it through a pipe: they are on no disk.

        Raises:
            TrainingError: it failed; with the last line it said.
        """
        command = [sys.executable, "-m", "jitr_core.students.lora", str(folder)]
        # Freed memory is kept for the next step: giving it back and asking for it again costs a tenth of the time.
        kept = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
        # A base model that is prepared is at hand: nothing is downloaded here.
        fixed = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        environment = {"OMP_NUM_THREADS": "1", **kept, **os.environ, **fixed}
        with (
            (folder / "errors").open("wb") as errors,
            subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as child,
        ):
            guard = threading.Timer(_TIMEOUT_S, child.kill)
            guard.daemon = True
            guard.start()
            try:
                self._follow(child, json.dumps(job))
            except BaseException:
                child.kill()
                raise
            finally:
                guard.cancel()
        if child.returncode < 0:
            raise TrainingError(f"tuning was killed (signal {-child.returncode}), as happens when memory runs out.")
        if child.returncode:
            said = (folder / "errors").read_text(errors="replace").strip().splitlines() or ["no message"]
            raise TrainingError(f"an encoder could not be tuned: {said[-1]}")

    def _follow(self, child: subprocess.Popen[str], job: str) -> None:
        """Give the child its job, and pass on how far it is."""
        assert child.stdin is not None and child.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died; its exit status tells
            child.stdin.write(job)
            child.stdin.close()
        for line in child.stdout:
            with contextlib.suppress(ValueError):
                self._tell("tuning encoders", float(line))

    def _tell(self, what: str, share: float) -> None:
        if self.progress:
            self.progress(what, share)
