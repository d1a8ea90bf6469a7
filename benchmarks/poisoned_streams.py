"""Streams for `poisoned.py`: clean rows of a log, and what teachers, attackers and seasons make of them."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from certificate_streams import load_rows

HELD_OUT = 2500
COPIES = 200
SYNTHETIC = "synthetic"

Row = tuple[str, str]
"""Input and the teacher's answer."""


@dataclass(frozen=True)
class Scene:
    """What is done to a stream.

    Attributes:
        noise: share of calls, in [0, 1], whose answer is another one, each equally likely.
        flood: share of the calls, in [0, 1], that an attacker makes.
        inputs: how many different inputs he makes them with.
        copies: whether he changes an input a little each time, so that no two are equal.
        answers: what the teacher says to him: `right`, always the same `wrong` one, or `mixed`, any each time.
        stops: whether he stops as soon as there is a release.
        period: calls of a season, 0 for none; seasons alternate between two halves of the classes, 9 to 1.
        late: whether the second season comes only after `LATE` calls, and then stays.
    """

    noise: float = 0.0
    flood: float = 0.0
    inputs: int = 1
    copies: bool = False
    answers: str = "right"
    stops: bool = False
    period: int = 0
    late: bool = False


LATE = 1_600

SCENES = {
    "clean": Scene(),
    "noise 2%": Scene(noise=0.02),
    "noise 10%": Scene(noise=0.1),
    "one input, right": Scene(flood=0.3),
    "one input, wrong": Scene(flood=0.3, answers="wrong"),
    "one input, mixed": Scene(flood=0.3, answers="mixed"),
    "50 inputs, mixed": Scene(flood=0.3, inputs=50, answers="mixed"),
    "copies, right": Scene(flood=0.3, copies=True),
    "copies, wrong": Scene(flood=0.3, copies=True, answers="wrong"),
    "copies, mixed": Scene(flood=0.3, copies=True, answers="mixed"),
    "one input, stops": Scene(flood=0.6, stops=True),
    "copies, stops": Scene(flood=0.6, copies=True, stops=True),
    "seasons of 700": Scene(period=700),
    "seasons of 2,000": Scene(period=2_000),
    "unseen season": Scene(late=True),
}


class Stream:
    """One life's calls, in an order of its own.

    Attributes:
        held: clean calls that are not in the stream, with the teacher's answers; with seasons as many of each.
        flood: calls as the attacker makes them, none of which is in the stream either.
    """

    def __init__(self, rows: Sequence[Row], scene: Scene, seed: Sequence[int]) -> None:
        """A stream of a scene."""
        self.scene, self._rng = scene, np.random.default_rng(seed)
        order = self._rng.permutation(len(rows))
        shuffled = [rows[i] for i in order]
        self.answers = sorted({answer for _, answer in rows})
        taken: dict[str, list[Row]] = {answer: [] for answer in self.answers}
        held = [self._told(row) for row in shuffled[scene.inputs : HELD_OUT + scene.inputs]]
        self._fresh, self._at = shuffled[HELD_OUT + scene.inputs :], 0
        for row in self._fresh:
            taken[row[1]].append(row)
        some = list(self._rng.permutation(self.answers))
        halves = some[: len(some) // 2], some[len(some) // 2 :]
        self._halves = [[row for answer in half for row in taken[answer]] for half in halves]
        both = [[row for row in held if row[1] in half] for half in halves]
        self.held = [row for pair in zip(*both, strict=False) for row in pair] if scene.period or scene.late else held
        self._half = np.array([row[1] in halves[1] for row in self.held], dtype=int)
        self._words = sorted({word for text, _ in rows[:500] for word in text.split()})
        self._own = [
            (row, str(self._rng.choice([a for a in self.answers if a != row[1]]))) for row in shuffled[: scene.inputs]
        ]
        self.flood = [self._attack() for _ in range(COPIES)] if scene.flood else []

    def next(self, call: int, released: bool) -> tuple[str, str, bool]:
        """The next call: input, teacher's answer, and whether it is the attacker's."""
        scene = self.scene
        if scene.flood and not (scene.stops and released) and self._rng.random() < scene.flood:
            return (*self._attack(), True)
        if scene.period or scene.late:
            season = self._season(call)
            mine = self._halves[season if self._rng.random() < 0.9 else 1 - season]
            return (*self._told(mine[int(self._rng.integers(len(mine)))]), False)
        self._at += 1
        return (*self._told(self._fresh[(self._at - 1) % len(self._fresh)]), False)

    def clean(self, call: int) -> np.ndarray:
        """Which of `held` are like the clean calls of that time: all, or 9 of the season to 1 of the other."""
        if not (self.scene.period or self.scene.late):
            return np.arange(len(self.held))
        mine = self._half == self._season(call)
        return np.sort(np.concatenate([np.flatnonzero(mine), np.flatnonzero(~mine)[: mine.sum() // 9]]))

    def _season(self, call: int) -> int:
        """0 or 1."""
        return int(call >= LATE if self.scene.late else bool(call // self.scene.period % 2))

    def _told(self, row: Row) -> Row:
        if self.scene.noise and self._rng.random() < self.scene.noise:
            return row[0], str(self._rng.choice([a for a in self.answers if a != row[1]]))
        return row

    def _attack(self) -> Row:
        (text, right), wrong = self._own[int(self._rng.integers(len(self._own)))]
        answer = {"right": right, "wrong": wrong}.get(self.scene.answers) or str(self._rng.choice(self.answers))
        return (self._copy(text) if self.scene.copies else text), answer

    def _copy(self, text: str) -> str:
        """An input with another word, two words swapped, a slip of the pen and something after it."""
        rng, words = self._rng, text.split()
        at = int(rng.integers(len(words)))
        words[at] = self._words[int(rng.integers(len(self._words)))]
        if len(words) > 2:
            at = int(rng.integers(len(words) - 1))
            words[at], words[at + 1] = words[at + 1], words[at]
        at = int(rng.integers(len(words)))
        words[at] += string.ascii_lowercase[int(rng.integers(26))]
        return " ".join([*words, f"{rng.integers(10**6)}"])


def rows_of(shared: Path, name: str) -> list[Row]:
    """Clean rows of a log, or of a synthetic task with classes of words; empty where the log is missing."""
    if name != SYNTHETIC:
        return [(" ".join(text.split()), answer) for text, answer in load_rows(shared, name)]
    rng, rows = np.random.default_rng(0), []
    common = [f"w{i}" for i in range(400)]
    odds = 1 / np.arange(1, 401)
    for _ in range(6000):
        topic, size = int(rng.integers(4)), int(rng.integers(8, 16))
        # how plainly a text says what it is about; where it hardly does, no student can know
        says = rng.random(size) < rng.beta(2, 3)
        about = np.where(rng.random(size) < 0.7, topic, rng.integers(4, size=size))
        fill = rng.choice(common, size=size, p=odds / odds.sum())
        words = [f"t{t}x{rng.integers(40)}" if s else w for s, t, w in zip(says, about, fill, strict=True)]
        rows.append((" ".join(words), f"topic {topic}"))
    return rows
