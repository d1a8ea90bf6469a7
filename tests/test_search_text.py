"""Search for free text without generators: copied and nearest answers, honest figures, reasons."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_bases import messages, write_base

from jitr_core.base_models import BaseModels
from jitr_core.base_models.prepare import add
from jitr_core.certify import certify
from jitr_core.collect import Dataset, build_dataset
from jitr_core.config import Policy
from jitr_core.equivalence import equivalence
from jitr_core.errors import TrainingError
from jitr_core.search import SearchResult, search_text
from jitr_core.search.judge import hindsight
from jitr_core.search.text import _crossed
from jitr_core.students import load_student
from jitr_core.students.answerers import Generator
from jitr_core.types import Certificate, Example, Slots


def dataset(pairs: list[tuple[Slots, str]]) -> Dataset:
    return build_dataset([Example(x, a, group="\x1d".join(x), seq=i) for i, (x, a) in enumerate(pairs)], 20_000)


def search(pairs: list[tuple[Slots, str]], folder: Path, rule: str = "exact", **policy: object) -> SearchResult:
    return search_text(
        dataset(pairs),
        policy=Policy(**policy),  # type: ignore[arg-type]
        base_models=BaseModels(folder),
        rule=equivalence(rule),
        coverage=lambda confidence, right: hindsight(confidence, right, 0.95),
    )


def greetings(count: int) -> list[tuple[Slots, str]]:
    rng = random.Random(0)
    names = [f"{a}{b}" for a in ("An", "Be", "Ca", "Do", "El") for b in ("na", "rt", "mo", "ra", "li")]
    found = []
    for i in range(count):
        name = f"{rng.choice(names)} {rng.choice(names)}{i}"
        found.append(((f"order {i}", name.lower()), f"Dear {name.title()}, thank you."))
    return found


def test_an_answer_that_holds_a_slot_is_copied(tmp_path: Path) -> None:
    found = search(greetings(200), tmp_path)
    assert found.chosen == "lexical/copied" and found.held is not None
    assert 70 <= found.held.sum() <= 90 and set(found.confidence[~found.held]) == {0.0}
    student = found.fit()
    student.save(tmp_path / "artifact")
    again = load_student(tmp_path / "artifact", BaseModels(tmp_path))
    answer, confidence, ood = again.predict_one(("order 7", "anna camo3"))
    assert answer == "Dear Anna Camo3, thank you." and confidence > 0.95 and not ood
    assert again.predict_one(("order 7", "anna camo3")) == student.predict_one(("order 7", "anna camo3"))


def test_what_was_asked_before_in_almost_the_same_words_is_answered_alike(tmp_path: Path) -> None:
    rng = random.Random(1)
    jobs = [(w, v) for w in ("clean", "fold", "paint", "mend") for v in ("kite", "boat", "lamp", "door", "coat")]
    topics = {f"{w}ing {v}s": f"Chapter {i} tells how to {w} a {v}, step by step." for i, (w, v) in enumerate(jobs)}
    pairs = [((f"{rng.choice(('about', 'on', 'tell of'))} {t} {i}",), a) for i in range(12) for t, a in topics.items()]
    found = search(pairs, tmp_path)
    assert found.chosen == "lexical/nearest"
    found.fit().save(tmp_path / "artifact")
    again = load_student(tmp_path / "artifact", BaseModels(tmp_path))
    assert again.predict_one(("tell of painting lamps 77",))[0] == topics["painting lamps"]


def test_texts_that_nothing_gives_are_refused_with_figures_and_what_to_do(tmp_path: Path) -> None:
    rng = random.Random(0)
    pairs = [((text,), " ".join(rng.choices("abcdefgh", k=12))) for text, _ in messages(120)]
    found = search(pairs, tmp_path)
    assert found.chosen is None and "agrees on none of 12 answers" in found.refusal
    assert "docs/text.md" in found.refusal
    assert [c.name for c in found.candidates] == ["lexical/copied", "lexical/nearest"]


def test_a_looser_equivalence_finds_agreement_where_equality_does_not(tmp_path: Path) -> None:
    pairs = [(x, a if i % 2 else a.upper().replace(",", " ;")) for i, (x, a) in enumerate(greetings(200))]
    strict, loose = search(pairs, tmp_path), search(pairs, tmp_path, "normalised")
    agreement = {r.name: r.agreement for r in strict.candidates}["lexical/copied"]
    assert agreement is not None and agreement < 0.8
    assert {r.name: r.agreement for r in loose.candidates}["lexical/copied"] == 1.0


def test_nothing_is_trained_while_no_figure_could_be_certified(tmp_path: Path) -> None:
    found = search_text(
        dataset(greetings(100)),
        policy=Policy(generators=("never looked for",)),
        base_models=BaseModels(tmp_path),
        rule=equivalence("exact"),
        coverage=lambda confidence, right: float(len(right) >= 59),
    )
    assert not found.candidates and "40 of 100 calls are held back" in found.refusal


def test_a_generator_that_is_named_and_added_is_tried_once_and_one_that_is_gone_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = []

    def learn(base: str, *_: object, **__: object) -> Generator:
        tuned.append(base)
        raise TrainingError("it is only counted here")

    monkeypatch.setattr(Generator, "learn", learn)
    named, added, gone = (write_base(tmp_path / name, "causal") for name in ("named", "added", "gone"))
    for base in (named, added, gone):
        add(tmp_path / "cache", str(base))
    shutil.rmtree(gone)
    monkeypatch.chdir(tmp_path)
    found = search_text(
        dataset([((text,), text[::-1]) for text, _ in messages(120)]),
        policy=Policy(families=("static",), generators=("named",)),
        base_models=BaseModels(tmp_path / "cache"),
        rule=equivalence("exact"),
        coverage=lambda confidence, right: 1.0,
    )
    assert tuned == ["named", str(added)]
    assert [c.name for c in found.candidates] == ["generator:named", "generator:added"]
    assert "it is only counted here" in found.refusal and "docs/text.md" not in found.refusal


def test_too_few_inputs_are_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="too few") as caught:
        search(greetings(20), tmp_path)
    assert caught.value.hint


def test_the_promise_holds_with_a_calibration_fitted_on_the_calls_that_are_certified() -> None:
    """200 simulated answerers whose signs tell more or less; the true agreement above the threshold is known."""
    broken, certified, delta, target = 0, 0, 0.2, 0.9
    for seed in range(200):
        rng = np.random.default_rng(seed)
        signs = rng.normal(size=(400, 4))
        slope, base = rng.uniform(0, 2), rng.uniform(0.5, 2.5)
        right_share = 1 / (1 + np.exp(-(base + slope * signs[:, 0])))
        right = rng.random(400) < right_share
        confidence = _crossed(signs, right, rng.integers(0, 10, 400))
        found = certify(confidence, right, target=target, delta=delta)
        if isinstance(found, Certificate):
            certified += 1
            broken += right_share[confidence >= found.threshold].mean() < target
    assert certified > 50 and broken <= 200 * delta
