"""Races of base models: the good ones win, and winning by luck is worth nothing."""

from __future__ import annotations

import numpy as np
import pytest

from jitr_core.search.bracket import HALVES, Bracket, half_of
from jitr_core.students.training import Crossed

FOLDS = 10


def crossed(logp: np.ndarray) -> Crossed:
    return Crossed(np.zeros(len(logp), np.intp), np.zeros(len(logp)), logp)


def race(scores: dict[str, np.ndarray], folds: np.ndarray) -> Bracket:
    bracket = Bracket(list(scores))
    bracket.judge({key: crossed(logp) for key, logp in scores.items()}, half_of(folds), last=True)
    return bracket


def test_the_best_wins_every_race_and_of_even_ones_the_cheapest() -> None:
    rng = np.random.default_rng(0)
    folds = rng.integers(FOLDS, size=500)
    noise = rng.standard_normal(500)
    middle, dear = (noise + 0.01 * rng.standard_normal(500) for _ in range(2))
    middle += dear.mean() - middle.mean()
    bracket = race({"cheap": noise - 1, "middle": middle, "dear": dear}, folds)
    assert bracket.winner(-1) == "middle" and bracket.running == []
    assert {bracket.winner(half) for half in range(HALVES)} <= {"middle", "dear"}


def test_the_clearly_worse_drop_out_early_and_at_least_half_of_many() -> None:
    rng = np.random.default_rng(0)
    folds = rng.integers(FOLDS, size=250)
    bracket = Bracket([str(i) for i in range(9)])
    same = rng.standard_normal(250)
    tried = {str(i): crossed(same + 0.3 * rng.standard_normal(250) - (5 if i < 2 else 0)) for i in range(9)}
    bracket.judge(tried, half_of(folds), last=False)
    assert len(bracket.alive[-1]) <= 5 and not {"0", "1"} & set(bracket.running)
    bracket.judge({key: tried[key] for key in bracket.running[1:]}, half_of(folds), last=False)
    assert all(keys for keys in bracket.alive.values())


def test_one_that_could_not_be_tried_drops_out_unless_it_is_the_last() -> None:
    folds = np.arange(100) % FOLDS
    bracket = Bracket(["a", "b"])
    bracket.judge({"b": crossed(np.zeros(100))}, half_of(folds), last=False)
    assert bracket.winner(-1) == "b"
    alone = Bracket(["a"])
    assert alone.running == [] and alone.winner(1) == "a" and Bracket([]).winner(0) is None


@pytest.mark.parametrize(("led", "winner"), [(-4.0, "own"), (0.5, "own"), (2.0, "own"), (4.5, "earlier")])
def test_an_encoder_of_an_earlier_task_wins_only_if_it_leads_by_far(led: float, winner: str) -> None:
    rng = np.random.default_rng(0)
    folds = rng.integers(FOLDS, size=400)
    scores = rng.standard_normal((3, 400)) * 0.1
    scores -= scores.mean(axis=1, keepdims=True)
    difference = scores[1] - scores[0]
    scores[1] += led * difference.std() / len(difference) ** 0.5
    tried = {key: crossed(each) for key, each in zip(("own", "earlier", "dear"), scores, strict=True)}
    for last in (True, False):
        bracket = Bracket(["own", "earlier", "dear"], ["earlier"])
        bracket.judge(tried, half_of(folds), last=last)
        assert "own" in bracket.alive[-1] if winner == "own" else "own" not in bracket.alive[-1]
        assert bracket.winner(-1) == winner


def test_no_input_has_a_say_in_its_own_base_model() -> None:
    """The luck of the best of eight equals shows on the inputs that chose it, and is gone on those that did not."""
    rng = np.random.default_rng(1)
    naive, honest = [], []
    for _ in range(300):
        folds = rng.integers(FOLDS, size=200)
        scores = {str(i): rng.standard_normal(200) for i in range(8)}
        best = max(scores, key=lambda key: scores[key].mean())
        naive.append(scores[best].mean())
        bracket = race(scores, folds)
        honest.append(np.mean([scores[str(bracket.winner(int(h)))][i] for i, h in enumerate(half_of(folds))]))
    error = 1 / (200 * 300) ** 0.5
    assert np.mean(naive) > 10 * error and abs(np.mean(honest)) < 4 * error
