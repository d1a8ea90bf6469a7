"""Tuned encoders in a search: whether tuning pays, cross-fitted scores, and the encoder that serves.

Tuning runs in a child process (`jitr_core.students.lora`): this one never loads torch, and survives if memory runs out.
How much is tuned follows from counted tokens, never from the clock.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from .._version import __version__
from ..base_models.models import BaseModel, OnnxEncoder
from ..base_models.sources import locate, public_name
from ..config import TUNING_FEWEST, TUNING_S
from ..errors import MissingExtraError, TrainingError
from .kept import digest, source_hash, tuned_part
from .tuned import TunedEncoder

__all__ = ["Plan", "Settings", "Tuner", "plan", "source_of"]

Promising = Callable[[NDArray[np.bool_], NDArray[np.float32]], str]

PARTS = 3
"""Parts of the inputs; each is scored by an encoder tuned on the others."""

_NEEDS = ("torch", "transformers", "peft", "onnx", "onnxruntime", "tokenizers")
_FEWEST_EACH = 50  # … for each answer: with few of them the linear layer learns them by heart
_MOST = 6_000  # inputs one encoder is tuned on
_ENOUGH = 0.8  # coverage in hindsight of the best frozen candidate from which tuning has too little to gain
# Estimated core-seconds of one token in one pass, forward and backward, MiniLM with two of its six layers frozen.
_TOKEN_S = 5e-4
_EPOCHS = 3
_TIMEOUT_S = 6 * 3600.0  # a child that hangs
_BEAT_S = 1.0  # how often it is told that tuning goes on: by then it is noticed that time is up
_SCORED = 100  # inputs after which it is told how far scoring is


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


def plan(
    tokens: Sequence[float], classes: int, covered: float, left: float = float("inf"), weight: float = 1.0
) -> Plan:
    """Whether tuning pays, and how much of it; from counted work and held-out figures.

    Args:
        tokens: of each input, at most what the encoder reads.
        classes: number of answers.
        covered: largest share of calls that the best frozen candidate could answer at the target, in hindsight.
        left: core-seconds that the search may still spend.
        weight: work of a token in the encoder, as a multiple of MiniLM's.

    Raises:
        TrainingError: it does not pay; says why.
    """
    n = len(tokens)
    if n < TUNING_FEWEST:
        raise TrainingError(f"not tuned: {n} different inputs, {TUNING_FEWEST} are needed")
    if covered >= _ENOUGH:
        raise TrainingError(f"not tuned: without it {covered:.0%} of the calls can be answered as promised")
    if n < _FEWEST_EACH * classes:
        raise TrainingError(f"not tuned: {n / classes:.0f} inputs for each answer, {_FEWEST_EACH} are needed")
    # Each part's encoder is tuned on the other parts, and the one that serves in as many steps.
    each_s = float(np.mean(tokens)) * _EPOCHS * (PARTS + 1) * _TOKEN_S * weight
    others = _paced_by(n)
    affordable = int(min(TUNING_S * n, left) / each_s)
    examples = min(n if affordable >= others else affordable, _MOST)
    if examples < TUNING_FEWEST:
        if TUNING_S * n <= left:
            raise TrainingError(f"not tuned: inputs are long, {examples} of {n} could be learnt from at a fair cost")
        raise TrainingError(
            f"not tuned: {examples} of {n} inputs could be learnt from within the work a search may do, "
            f"{max(left, 0):.0f} s are left of it"
        )
    return Plan(examples, _EPOCHS, min(examples, others) * each_s)


def _paced_by(inputs: int) -> int:
    """Inputs that a part's encoder is tuned on where none are left out."""
    return round(inputs * (1 - 1 / PARTS))


def source_of(encoder: BaseModel | None, known: str = "") -> str:
    """The folder that an encoder's weights come from.

    Args:
        encoder: the encoder.
        known: the source it was prepared from, "" if that is not known.

    Raises:
        TrainingError: it has no weights that could be tuned, or nobody knows where they are.
        ArtifactError: its source is not on this machine.
        MissingExtraError: what tuning needs is not installed.
    """
    if any(importlib.util.find_spec(module) is None for module in _NEEDS):
        raise MissingExtraError("train", "Tuning an encoder")
    source = getattr(encoder, "source", None)
    if source is not None:
        return str(source)
    if encoder is None or not isinstance(encoder, OnnxEncoder):
        raise TrainingError("the encoder has no weights that could be tuned.")
    if not known:
        raise TrainingError(
            f"not tuned: it is not known where the weights of {encoder.name} come from",
            hint="Prepare it from a folder or a hub id: `jitr models add`.",
        )
    return str(locate(known))


class Tuner:
    """Tunes an encoder for one set of inputs.

    Attributes:
        part_s: seconds that the last tuning took, by the clock.
    """

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
        kept: Path | None = None,
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
            known: the source it was prepared from, "" if that is not known.
            kept: a folder for encoders that are finished, of this search and of one with the same answers that it goes
                on with; None keeps none.

        Raises:
            TrainingError, ArtifactError, MissingExtraError: see `source_of`.
        """
        if encoder is None:
            raise TrainingError("there is no encoder to tune.")
        self.encoder, self.source = encoder, source_of(encoder, known)
        self.known, self.part_s = known, 0.0
        self._kept = kept / digest(__version__, source_hash(self.source), asdict(settings), seed) if kept else None
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
        for i in range(count):
            held = part == i
            encoder, rows = self._tuned(str(i), np.flatnonzero(~held)), np.flatnonzero(held)
            for done, row in enumerate(rows):
                if done % _SCORED == 0:
                    self._tell("scoring with tuned encoders", (i + done / len(rows)) / count)
                scores[row] = encoder.scores(self.texts[row])
            why = self.promising(held, scores) if self.promising and i == 0 else ""
            if why:
                raise TrainingError(f"given up after one of {count} parts: {why}.")
        return scores

    def fit(self) -> TunedEncoder:
        """The encoder tuned on everything, in as many steps as those that gave the scores.

        With as many passes it would take half as many steps more and be surer of itself than they were.
        """
        return self._tuned("all", np.arange(len(self.texts)))

    def _tuned(self, name: str, rows: NDArray[np.intp]) -> TunedEncoder:
        """An encoder tuned on these rows."""
        may = rows[self.labels[rows] >= 0]
        sample = self._sample(may)
        try:
            with self._place() as folder:
                learn, known = ([self._example(row) for row in some] for some in (sample, may))
                self.part_s = tuned_part(folder / name, learn, known, lambda to: self._run(self._job(sample), to))
                return TunedEncoder.read(folder / name)
        except OSError as error:
            raise TrainingError(f"an encoder could not be tuned: {error}.") from error

    @contextlib.contextmanager
    def _place(self) -> Iterator[Path]:
        """Where encoders are written: for good, or as long as the block lasts."""
        if self._kept is not None:
            yield self._kept
            return
        with tempfile.TemporaryDirectory(prefix="jitr-tuning-") as folder:
            yield Path(folder)

    def _example(self, row: int) -> str:
        return digest(self.texts[row], int(self.labels[row]))

    def _job(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        return {
            "source": self.source,
            "name": self.encoder.name,
            "published": public_name(self.known, self.encoder.name),
            "texts": [list(texts) for texts in self.texts],
            "labels": self.labels.tolist(),
            "classes": self.classes,
            "paced_by": _paced_by(len(self.texts)),
            "rows": rows.tolist(),
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
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as child,
        ):
            self._follow(child, json.dumps(job))
            child.wait()
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
        if child.returncode < 0:
            raise TrainingError(f"tuning was killed (signal {-child.returncode}), as happens when memory runs out.")
        if child.returncode:
            raise TrainingError(f"an encoder could not be tuned: {said[-1]}")

    def _follow(self, child: subprocess.Popen[str], job: str) -> None:
        """Give the child its job and pass on how far it is, until it ends; its input stays open as long as it may run.

        Raises:
            TrainingError: it hangs.
        """
        assert child.stdin is not None and child.stdout is not None
        said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        asking = threading.Thread(target=_ask, args=(child.stdin, child.stdout, job, said), daemon=True)
        asking.start()
        done, ends = 0.0, time.monotonic() + _TIMEOUT_S
        try:
            while time.monotonic() < ends:
                with contextlib.suppress(queue.Empty, ValueError):
                    line = said.get(timeout=_BEAT_S)
                    if line is None:
                        return
                    done = float(line)
                self._tell("tuning encoders", done)
            raise TrainingError(f"tuning took over {_TIMEOUT_S:.0f} s.")
        except BaseException:
            child.kill()
            raise
        finally:
            asking.join()

    def _tell(self, what: str, share: float) -> None:
        if self.progress:
            self.progress(what, share)


def _ask(stdin: TextIO, stdout: TextIO, job: str, said: queue.SimpleQueue[str | None]) -> None:
    """Give a child its job and pass on what it says, and None when it ends."""
    with contextlib.suppress(OSError):  # it died; its exit status tells
        stdin.write(f"{job}\n")
        stdin.flush()
    for line in stdout:
        said.put(line)
    with contextlib.suppress(OSError):
        stdin.close()
    said.put(None)
