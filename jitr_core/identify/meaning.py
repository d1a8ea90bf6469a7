"""Tasks that are asked in ever different words, found by neighbours and confirmed by their answers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..types import Call, Match, Template
from .onejob import MIN_GROUP, Pieces, fit_gate, groups
from .pattern import Pattern, pieces, said
from .template import Key, key_of, make_template
from .text import prompt_text

__all__ = ["Found", "Meaning", "Model", "Neighbours", "Pattern"]

MAX_ANSWER = 64
"""Characters of the longest answer that may be a label."""

MIN_REPEATS = 8
"""How often an answer must have come to be one."""

MAX_LABELS = 32
"""Most labels looked at together, the most frequent ones."""

MAX_NEAREST = 512
"""Neighbours of a call that are looked at together."""

MAX_RECENT = 1_000
"""Unplaced calls kept in memory: what a question is told from."""

MAX_FRAMES = 256
"""Frames whose label-like calls are kept."""

GROWTH = 1.25
"""Factor by which the label-like calls must have grown for another look."""

QUANTILE = 0.995
"""Share of the other calls, in (0, 1), that must score below a pattern's bound."""

FAR = 0.05
"""Share of the members, in [0, 1), that may lie farther from their middle than a call that is still caught."""

MAX_TEXT = 1_000
"""Characters of a message that its vector is made of."""

Vector = NDArray[np.float32]
Frame = tuple[Key, tuple[tuple[str, str], ...]]
"""What must be equal: app, tenant, step and contract, and all messages but the last."""


class Model(Protocol):
    """What gives the vectors."""

    @property
    def hash(self) -> str:
        """Hash of everything its vectors depend on."""

    def embed(self, text: str) -> Vector:
        """The vector of a text, of any length."""


class Neighbours(Protocol):
    """Where unplaced calls are kept by their vectors; `jitr_core.vectors` has two kinds."""

    def add(self, items: Sequence[tuple[str, str, Vector, str, str]]) -> None:
        """Keep (id, frame, vector, text, answer) of calls; known ids are replaced."""

    def nearest(self, frame: str, vector: Vector, k: int) -> list[tuple[str, Vector, str, str]]:
        """(id, vector, text, answer) of the k calls of this frame nearest to the vector, nearest first."""

    def keep(self, ids: set[str]) -> None:
        """Drop all calls but these."""

    def drop(self, ids: Sequence[str]) -> None:
        """Drop these calls; unknown ids are ignored."""

    def close(self) -> None:
        """Let go of the files, if there are any."""


class _Known(NamedTuple):
    """A pattern ready for matching."""

    template: Template
    words: frozenset[str]
    gate: NDArray[np.float32]
    bound: float
    middle: Vector
    reach: float


class _Unplaced(NamedTuple):
    id: str
    frame: Frame
    role: str
    text: str
    answer: str


class Found(NamedTuple):
    """A task that was found: its template, what its calls are told by, its calls so far by id, and what to call it."""

    template: Template
    pattern: Pattern
    placed: tuple[tuple[str, Match], ...]
    name: str


class Meaning:
    """Finds and recognises freely worded tasks. `match` may be called from any thread, the rest from one.

    Args:
        model: loads the model that gives the vectors, called once it is needed; None while it is not at hand.
        neighbours: opens the index of unplaced calls, called once it is needed.
    """

    def __init__(self, model: Callable[[], Model | None], neighbours: Callable[[], Neighbours]) -> None:
        self._load, self._open = model, neighbours
        self._model: Model | None = None
        self._index: Neighbours | None = None
        self._recent: deque[_Unplaced] = deque(maxlen=MAX_RECENT)
        self._fresh: dict[Frame, dict[str, _Unplaced]] = {}
        self._answers: dict[Frame, Counter[str]] = {}
        self._due: dict[Frame, float] = {}
        self._known: dict[Frame, tuple[_Known, ...]] = {}
        self._patterns: list[tuple[Template, Pattern]] = []

    @property
    def patterns(self) -> list[tuple[Template, Pattern]]:
        """The known patterns with their templates."""
        return self._patterns

    def close(self) -> None:
        """Let go of the index."""
        if self._index is not None:
            self._index.close()
            self._index = None

    def after_fork(self) -> None:
        """Leave the index to the parent process."""
        self._index = None

    def knows(self, task: str) -> bool:
        """Whether a task is told by one of the known patterns."""
        return any(template.task == task for template, _ in self._patterns)

    # ---- recognising --------------------------------------------------------------------------------------------

    def adopt(self, patterns: Iterable[tuple[Template, Pattern]]) -> None:
        """Recognise exactly these patterns from now on; those of another model are left out."""
        self._patterns = list(patterns)
        known: dict[Frame, tuple[_Known, ...]] = {}
        model = self._ready() if self._patterns else None
        for template, pattern in self._patterns:
            if model is None or pattern.model != model.hash:
                continue
            frame = (key_of(template), (*pattern.messages, (pattern.role, "")))
            gate, middle = np.array(pattern.gate, np.float32), np.array(pattern.middle, np.float32)
            one = _Known(template, pattern.words, gate, pattern.bound, middle, pattern.reach)
            known[frame] = (*known.get(frame, ()), one)
        self._known = known

    def _ready(self) -> Model | None:
        self._model = self._model or self._load()
        return self._model

    def _embed(self, text: str) -> Vector:
        assert self._model is not None  # nothing is embedded before the model is at hand
        # A lone surrogate is more than a tokenizer takes.
        vector = self._model.embed(text if text.isascii() else text.encode("utf-8", "replace").decode())
        return vector / np.float32(max(float(vector @ vector) ** 0.5, 1e-9))

    def match(self, call: Call) -> Match | None:
        """The freely worded task of a call that fits no template, its whole prompt being the input; mostly None."""
        if not self._known or not call.messages:
            return None
        known = self._known.get(_frame(call))
        if known is None:
            return None
        best = self._best(known, call.messages[-1][1])
        return Match(best.task, best.id, (prompt_text(call.messages),)) if best is not None else None

    def _best(self, known: Sequence[_Known], text: str) -> Template | None:
        """The template whose question a text asks most clearly."""
        best: Template | None = None
        clearest = 0.0
        whole: Vector | None = None
        for piece in pieces(text):
            spoken = said(piece)
            for one in known:
                if not one.words.issuperset(spoken):
                    continue
                score = float(self._embed(piece) @ one.gate[:-1] + one.gate[-1]) - one.bound
                if score < 0 or (best is not None and score <= clearest):
                    continue
                whole = self._embed(text[:MAX_TEXT]) if whole is None else whole
                if float(whole @ one.middle) >= one.reach:
                    best, clearest = one.template, score
        return best

    # ---- finding ------------------------------------------------------------------------------------------------

    def note(self, call: Call, answer: str) -> list[Found]:
        """Take in an unplaced call with the teacher's answer.

        Returns:
            The tasks this made, mostly none. They are recognised already.
        """
        if call.step or not call.messages or not call.messages[-1][1].strip():
            return []
        frame = _frame(call)
        one = _Unplaced(call.id, frame, call.messages[-1][0], call.messages[-1][1], answer.strip())
        self._recent.append(one)
        if not 0 < len(one.answer) <= MAX_ANSWER:
            return []
        self._fresh.setdefault(frame, {})[call.id] = one
        counts = self._answers[frame] = self._answers.pop(frame, Counter())
        counts[one.answer] += 1
        self._forget_some(frame)
        if counts[one.answer] < MIN_REPEATS:
            return []
        alike = sum(count for count in counts.values() if count >= MIN_REPEATS)
        if alike < self._due.get(frame, 2 * MIN_GROUP):
            return []
        self._due[frame] = alike * GROWTH
        return self._look(one) if self._ready() is not None else []

    def _forget_some(self, frame: Frame) -> None:
        """Bound what is kept: of a frame, and in the number of frames."""
        counts, fresh = self._answers[frame], self._fresh[frame]
        if len(counts) > MAX_RECENT:
            for answer in [answer for answer, count in counts.items() if count < MIN_REPEATS]:
                del counts[answer]
        if len(fresh) > MAX_RECENT:
            del fresh[next(iter(fresh))]
        if len(self._answers) > MAX_FRAMES:
            gone = next(iter(self._answers))
            for kept in (self._answers, self._fresh, self._due):
                kept.pop(gone, None)

    def _look(self, seed: _Unplaced) -> list[Found]:
        """Look for tasks among the label-like neighbours of a call."""
        index = self._index = self._index or self._open()
        place = repr(seed.frame)
        fresh = [one for one in self._fresh.pop(seed.frame, {}).values() if not self._caught(one)]
        index.add([(one.id, place, self._embed(one.text[:MAX_TEXT]), one.text, one.answer) for one in fresh])
        near = index.nearest(place, self._embed(seed.text[:MAX_TEXT]), MAX_NEAREST)
        counts = Counter(answer for *_, answer in near)
        labels = {answer for answer, count in counts.most_common(MAX_LABELS) if count >= MIN_REPEATS}
        members = [
            (_Unplaced(name, seed.frame, seed.role, text, answer), vector)
            for name, vector, text, answer in near
            if answer in labels
        ]
        members = [(one, vector) for one, vector in members if not self._caught(one)]
        if len(members) < MIN_GROUP:
            return []
        whole = np.stack([vector for _, vector in members])
        inside = {one.id for one, _ in members}
        others = [one.text for one in self._recent if one.id not in inside and one.frame == seed.frame]
        texts = [one.text for one, _ in members]
        found = []
        for group in groups(whole, self._embedded(texts), self._embedded(others), [one.answer for one, _ in members]):
            made = self._pattern([members[i][0] for i in group], whole[group])
            if made is not None:
                found.append(self._task(*made, [one for one, _ in members]))
                index.drop([name for name, _ in found[-1].placed])
        if found:
            del self._answers[seed.frame], self._due[seed.frame]
        return found

    def _caught(self, one: _Unplaced) -> bool:
        """Whether a known pattern has the call by now."""
        return self._best(self._known.get(one.frame, ()), one.text) is not None

    def _task(self, template: Template, pattern: Pattern, name: str, near: Sequence[_Unplaced]) -> Found:
        """Recognise a task from now on; those of the calls that it is recognised in belong to it."""
        before = {one.id for one in near if self._caught(one)}
        self.adopt([*self._patterns, (template, pattern)])
        placed = []
        for one in near:
            if one.id not in before and self._caught(one):
                prompt = prompt_text((*pattern.messages, (one.role, one.text)))
                placed.append((one.id, Match(template.task, template.id, (prompt,))))
        return Found(template, pattern, tuple(placed), name)

    def _pattern(self, group: Sequence[_Unplaced], whole: NDArray[np.float32]) -> tuple[Template, Pattern, str] | None:
        """What calls that are one job are told by, if their question can be told from other text."""
        middle = whole.mean(0)
        middle /= np.linalg.norm(middle)
        reach = float(np.quantile(whole @ middle, FAR))
        inside, labels = {one.id for one in group}, {one.answer for one in group}
        others = [
            one
            for one in self._recent
            if one.id not in inside
            and one.frame == group[0].frame
            # A call nearby with the same answers may be of this job.
            and (one.answer not in labels or float(self._embed(one.text[:MAX_TEXT]) @ middle) < reach)
        ]
        texts = [one.text for one in group]
        gate = fit_gate(self._embedded(texts), self._embedded([one.text for one in others]), QUANTILE)
        flat = [said(piece) for text in texts for piece in pieces(text)]
        asks = [flat[place] for place, sure in zip(gate.asks, gate.sure, strict=True) if sure]
        common = Counter(word for ask in asks for word in ask)
        known = frozenset(word for word, count in common.items() if count > 1)
        asks = [ask for ask in asks if known.issuperset(ask)]
        if len(asks) < MIN_GROUP // 2:
            return None
        key, before = group[0].frame
        template = make_template(key, ("", ""), _task_of(key, [one.id for one in group]))
        assert self._model is not None
        pattern = Pattern(
            self._model.hash,
            before[:-1],
            group[0].role,
            known,
            _rounded(gate.weights),
            gate.bound,
            _rounded(middle),
            reach,
        )
        typical = " ".join([word for word, count in common.most_common(6) if count >= 0.1 * len(asks)])
        return template, pattern, f"{typical} ({', '.join(sorted(labels)[:3])})"

    def _embedded(self, texts: Sequence[str]) -> Pieces:
        found = [(i, piece) for i, text in enumerate(texts) for piece in pieces(text)]
        vectors = [self._embed(piece) for _, piece in found]
        width = len(self._embed(""))
        return Pieces(np.array(vectors, np.float32).reshape(-1, width), np.array([i for i, _ in found], np.intp))

    def keep(self, ids: set[str]) -> bool:
        """Forget all unplaced calls but these; False if the index was not opened yet, so that it forgot nothing."""
        self._recent = deque((one for one in self._recent if one.id in ids), MAX_RECENT)
        for frame, fresh in self._fresh.items():
            self._fresh[frame] = {name: one for name, one in fresh.items() if name in ids}
        if self._index is not None:
            self._index.keep(ids)
        return self._index is not None


def _frame(call: Call) -> Frame:
    return key_of(call), (*call.messages[:-1], (call.messages[-1][0], ""))


def _task_of(key: Key, ids: Sequence[str]) -> str:
    return make_template(key, ("meaning", *ids)).task


def _rounded(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)
