"""Calls that crowd around one input do not carry a release."""

from __future__ import annotations

import numpy as np
import pytest
from easy import easy_calls
from test_engine import POLICY, serve, url

from jitr_core import JITR
from jitr_core.certify import Refusal, certify
from jitr_core.crowd import apart
from jitr_core.types import Certificate

PROMISES = ("answered", "overall", "classes", 'cost:{"x": {"*": 1}}')
APART = np.arange(1_000) % 5 < 2
NAMES = [f"word{i}" for i in range(300)]


def judged(wrong: np.ndarray, confidence: np.ndarray, alone: np.ndarray, promise: str) -> Certificate | Refusal:
    said = ["x"] * len(wrong)
    return certify(confidence, ~wrong, target=0.95, delta=0.01, promise=promise, given=said, teacher=said, apart=alone)


@pytest.mark.parametrize("promise", PROMISES)
def test_a_certificate_is_not_carried_by_a_crowd(promise):
    wrong, sure = APART & (np.arange(1_000) % 45 == 0), np.full(1_000, 0.9)
    assert isinstance(judged(wrong, sure, np.ones(1_000, bool), promise), Certificate)
    found = judged(wrong, sure, APART, promise)
    assert isinstance(found, Refusal) and "do not repeat one input" in found.reason


@pytest.mark.parametrize("promise", PROMISES)
def test_the_threshold_is_as_strict_as_the_calls_in_no_crowd_need_it(promise):
    rng = np.random.default_rng(0)
    sure = np.round(rng.random(1_000), 6)
    wrong = APART & (sure < 0.5) & (np.arange(1_000) % 40 == 0)
    loose, strict = judged(wrong, sure, np.ones(1_000, bool), promise), judged(wrong, sure, APART, promise)
    assert isinstance(loose, Certificate) and isinstance(strict, Certificate)
    assert strict.coverage < loose.coverage
    answered = APART & (sure >= (strict.thresholds.get("x") or strict.threshold))
    assert (answered & wrong).sum() <= 0.05 * (APART.sum() if promise == "overall" else answered.sum())


def test_of_a_crowd_and_a_bad_rest_no_more_than_delta_are_certified():
    rng, certified = np.random.default_rng(0), 0
    for _ in range(300):
        alone = rng.random(400) < 0.6
        wrong = alone & (rng.random(400) > 0.9499)
        found = certify(rng.random(400), ~wrong, target=0.95, delta=0.05, apart=alone)
        certified += isinstance(found, Certificate)
    assert certified <= 24  # P(Binomial(300, 0.05) > 24) = 0.01


def test_copies_of_an_input_crowd_and_different_inputs_do_not():
    rng = np.random.default_rng(0)
    own = "please tell me at once where my blue parcel has been all these days"
    copies = [(f"{own} {NAMES[i]} {i}",) for i in range(60)]
    inputs = copies + [(" ".join(rng.choice(NAMES, 9)),) for _ in range(140)]
    assert (apart(inputs, np.arange(200)[::-1], 0.05)[::-1] == (np.arange(200) >= 60)).all()


def test_one_input_asked_again_and_again_is_a_crowd_whatever_its_script():
    inputs = [(text,) for text in ("我的卡在哪里", "how do I pay", "")]
    assert apart(inputs, np.array([0, 1, 0, 0, 2]), 0.4).tolist() == [False, True, False, False, True]


def test_short_inputs_of_a_few_words_to_choose_from_are_no_crowd():
    inputs = [(call["messages"][1]["content"],) for call in easy_calls(300)]
    assert apart(inputs, np.arange(300), 0.05).all()


def test_where_nearly_all_calls_are_one_crowd_there_are_no_others_to_speak():
    inputs = [("the very same",), *((name,) for name in NAMES[:20])]
    calls = np.array([0] * 980 + list(range(1, 21)))
    assert apart(inputs, calls, 0.05).all()
    assert (~apart(inputs, calls, 0.01)[:980]).all()


def test_a_flood_of_copies_brings_no_release_that_fails_on_the_other_calls(tmp_path):
    rng = np.random.default_rng(3)
    jitr = JITR(url(tmp_path), policy=POLICY, training="inline", seed=1)
    told: list[str] = []
    jitr._listener = lambda event: told.append(event["report"].refusal) if event["kind"] == "search" else None
    calls = []
    for i in range(420):
        words, said = [*rng.choice(NAMES, 8)], ("no", "yes")[int(rng.random() < 0.95)]
        if rng.random() < 0.7:
            words, said = ["tell", "me", "where", "my", "blue", "parcel", "is", f"{i}"], "yes"
        text = [{"role": "system", "content": "Answer yes or no."}, {"role": "user", "content": " ".join(words)}]
        calls.append({"id": f"c{i}", "messages": text, "answer": said})
    serve(jitr, calls)
    jitr.flush()
    (task,) = jitr.open_store().tasks()
    assert task.state != "active" and any("repeat one input" in refusal for refusal in told), told
    jitr.close()
