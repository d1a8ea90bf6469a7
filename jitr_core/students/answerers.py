"""What gives a text as an answer: a slot copied, the answer to the likest earlier input, or a tuned generator."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError, TrainingError
from ..types import Slots
from .generator_worker import shared_worker
from .lexical import Vocabulary
from .text import normalise
from .views import arrange

__all__ = ["Answerer", "Copied", "Generator", "Nearest", "Said", "restore_answerer", "unhurried"]

_RECIPE = {"rank": 16, "batch": 16, "epochs": 10, "steps": 500}
_SLOW_S = 120.0  # seconds beyond the timeout in which an answer is waited for while nobody else waits
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
Pairs = Sequence[tuple[Slots, str]]


class Said(NamedTuple):
    """An answer.

    Attributes:
        text: the answer.
        signs: shape (f,), numbers that tell how good it may be; the same ones for every answer of an answerer.
    """

    text: str
    signs: tuple[float, ...]


class Answerer(Protocol):
    """Gives texts as answers, without saying how likely they are right."""

    @property
    def family(self) -> str:
        """See `CandidateReport.family`."""

    @property
    def base_model(self) -> str | None:
        """Name of the pretrained model, None without one."""

    @property
    def blocking(self) -> bool:
        """Whether an answer may take long enough to hold up an event loop."""

    def say(self, slots: Slots) -> Said | None:
        """The answer to an input; None if there is none to give.

        Raises:
            ArtifactError: it could not be asked.
        """

    def write(self, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Settings and arrays to store; files of its own are written to `folder`."""


_FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str.strip,
    "lower": lambda text: text.strip().lower(),
    "upper": lambda text: text.strip().upper(),
    "title": lambda text: text.strip().title(),
}


@dataclass(frozen=True, slots=True)
class Copied:
    """A slot of the input between constant texts.

    Attributes:
        slot: which one, from 0.
        form: how it is written, a key of `_FORMS`.
        before, after: the constant texts.
    """

    slot: int
    form: str
    before: str
    after: str
    family = "lexical"
    base_model = None
    blocking = False

    @classmethod
    def learn(cls, pairs: Pairs) -> Copied:
        """What explains most of the answers.

        Raises:
            TrainingError: no answer holds a slot of its input.
        """
        counts: Counter[tuple[int, str, str, str]] = Counter()
        for slots, answer in pairs:
            for i, slot in enumerate(slots):
                for form, written in _FORMS.items():
                    text = written(slot)
                    if text and text in answer:
                        before, _, after = answer.strip().partition(text)
                        counts[i, form, before, after] += 1
        if not counts:
            raise TrainingError("no answer holds a slot of its input.")
        return cls(*max(counts, key=lambda key: counts[key]))

    def say(self, slots: Slots) -> Said | None:
        """See `Answerer.say`."""
        text = _FORMS[self.form](slots[self.slot]) if self.slot < len(slots) else ""
        return Said(f"{self.before}{text}{self.after}", ()) if text else None

    def write(self, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """See `Answerer.write`."""
        return {"slot": self.slot, "form": self.form, "before": self.before, "after": self.after}, {}


@dataclass(frozen=True, slots=True)
class Nearest:
    """The answer to the likest input, by the cosine of TF-IDF weights.

    Attributes:
        vocabulary: of the features.
        matrix: shape (n, p), sparse, weights of the inputs.
        answers: n answers.
        slots: number of texts an input is arranged into.
    """

    vocabulary: Vocabulary
    matrix: Any
    answers: tuple[str, ...]
    slots: int
    family = "lexical"
    base_model = None
    blocking = False

    @classmethod
    def learn(cls, pairs: Pairs, vocabulary: Vocabulary, slots: int) -> Nearest:
        """Keeps inputs and answers."""
        bags = [vocabulary.bag(arrange([normalise(s) for s in each], slots)) for each, _ in pairs]
        return cls(vocabulary, vocabulary.matrix(bags), tuple(answer for _, answer in pairs), slots)

    def say(self, slots: Slots) -> Said | None:
        """See `Answerer.say`; the signs are the likeness, and its lead over inputs that were answered otherwise."""
        known = self.vocabulary.known(self.vocabulary.bag(arrange([normalise(s) for s in slots], self.slots)))
        wanted = np.zeros(self.matrix.shape[1], np.float32)
        wanted[known.place] = self.vocabulary.weights(known)
        likeness = self.matrix @ wanted
        order = np.argsort(-likeness, kind="stable")
        best = int(order[0])
        other = next((float(likeness[i]) for i in order[1:] if self.answers[i] != self.answers[best]), 0.0)
        return Said(self.answers[best], (float(likeness[best]), float(likeness[best]) - other))

    def write(self, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """See `Answerer.write`; the vocabulary is the student's."""
        arrays = {"data": self.matrix.data, "indices": self.matrix.indices, "indptr": self.matrix.indptr}
        return {"answers": list(self.answers), "slots": self.slots}, arrays


@dataclass(frozen=True, slots=True)
class Generator:
    """A LoRA-tuned generator in the worker process.

    Attributes:
        base: folder or hub id of its base model.
        folder: where its adapter is, in peft's own format.
        hash, device: of the base it was trained on, and what it ran on.
        max_tokens: most tokens of an answer.
        timeout_s: seconds after which the teacher answers instead.
        patient: whether it also waits while the worker loads or trains another.
    """

    base: str
    folder: Path
    hash: str
    device: str
    max_tokens: int
    timeout_s: float
    patient: bool = False
    _made: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False, compare=False)
    family = "generator"
    blocking = True

    @classmethod
    def learn(
        cls,
        base: str,
        learn: Pairs,
        watch: Pairs,
        *,
        seed: int,
        timeout_s: float,
        progress: Callable[[float], None] | None = None,
    ) -> Generator:
        """Trains an adapter in the worker process.

        Args:
            base: folder or hub id of the base model, on this machine.
            learn: what is learnt.
            watch: what tells when to stop.
            seed: drives weights and order.
            timeout_s: see `Generator`.
            progress: told the share done.

        Raises:
            TrainingError: the base cannot be used, or training failed.
        """
        base = str(Path(base).resolve()) if Path(base).is_dir() else base  # the app may change its working folder
        made = tempfile.TemporaryDirectory(prefix="jitr-adapter-")
        pairs, out = Path(made.name) / "pairs.json", Path(made.name) / "adapter"
        pairs.write_text(json.dumps({"learn": list(learn), "watch": list(watch)}), encoding="utf-8")
        request = {"base": base, "pairs": str(pairs), "out": str(out), "recipe": {**_RECIPE, "seed": seed}}
        try:
            done = shared_worker().train(request, progress)
        finally:
            pairs.unlink(missing_ok=True)
        return cls(base, out, done["hash"], done["device"], int(done["max_tokens"]), timeout_s, _made=made)

    @property
    def base_model(self) -> str:
        """See `Answerer.base_model`."""
        return Path(self.base).name if Path(self.base).is_dir() else self.base

    def load(self) -> None:
        """Have it in memory.

        Raises:
            ArtifactError: it cannot be used here.
        """
        shared_worker().load(self._request())

    def say(self, slots: Slots) -> Said | None:
        """See `Answerer.say`; the signs are mean, least and sum of the tokens' log-probabilities, and log length."""
        reply = shared_worker().answer(self._request(), slots, self.timeout_s, wait=self.patient)
        logp = reply["logp"]
        if not reply["ended"] or not logp:
            return None
        return Said(reply["text"], (sum(logp) / len(logp), min(logp), sum(logp), math.log(len(logp))))

    def write(self, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """See `Answerer.write`."""
        for name in _ADAPTER:
            shutil.copyfile(self.folder / name, folder / name)
        names = ("base", "hash", "device", "max_tokens", "timeout_s")
        return {name: getattr(self, name) for name in names}, {}

    def _request(self) -> dict[str, Any]:
        return {
            "base": self.base,
            "adapter": str(self.folder),
            "hash": self.hash,
            "device": self.device,
            "max_tokens": self.max_tokens,
        }


def unhurried(answerer: Answerer, slots: Slots) -> Said | None:
    """The answer to an input while no app waits: slow is not hung, but what is too late for an app is no answer.

    Raises:
        ArtifactError: it could not be asked.
    """
    if not isinstance(answerer, Generator):
        return answerer.say(slots)
    began = time.perf_counter()
    said = replace(answerer, timeout_s=answerer.timeout_s + _SLOW_S, patient=True).say(slots)
    return None if time.perf_counter() - began > answerer.timeout_s else said


def restore_answerer(
    method: str, settings: dict[str, Any], arrays: dict[str, NDArray[Any]], folder: Path, vocabulary: Vocabulary
) -> Answerer:
    """The inverse of `Answerer.write`.

    Args:
        method: class of the answerer.
        settings: what `write` gave.
        arrays: what it gave besides.
        folder: where the artifact is.
        vocabulary: the student's.

    Raises:
        ArtifactError: there is no such method, or a generator cannot be used here.
    """
    if method == "Copied":
        return Copied(**settings)
    if method == "Nearest":
        from scipy.sparse import csr_matrix

        answers = tuple(settings["answers"])
        parts = (arrays["data"], arrays["indices"], arrays["indptr"])
        return Nearest(
            vocabulary, csr_matrix(parts, (len(answers), len(vocabulary.hashes))), answers, settings["slots"]
        )
    if method == "Generator":
        found = Generator(folder=folder, **settings)
        found.load()
        return found
    raise ArtifactError(f"{folder} was written by another version of JITR.", hint="Train the task again.")
