"""The demo's call log: what ships is what the generator writes, and it is as varied and noisy as it says."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from typing import Any

import pytest

from jitr_core.demo import calls_path
from jitr_core.demo.generate import AMBIGUOUS, NOISE, demo_calls


@pytest.fixture(scope="module")
def calls() -> list[dict[str, Any]]:
    with gzip.open(calls_path(), "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def of_task(calls, task):
    return [call for call in calls if call["task"] == task]


def test_the_shipped_log_is_what_the_generator_writes(calls):
    assert calls == demo_calls()


def test_the_shipped_log_is_small():
    assert calls_path().stat().st_size < 200_000


def test_every_line_has_the_pinned_format(calls):
    for call in calls:
        assert call["answer"] == call["answer"].strip() != ""
        assert call["model"] == "gpt-4.1"
        assert [message["role"] for message in call["messages"]] in (["user"], ["system", "user"])
        assert all(message["content"].strip() for message in call["messages"])
        assert not any("{" in message["content"] for message in call["messages"])


def test_there_are_three_steps_and_about_a_tenth_of_one_off_calls(calls):
    count = Counter(call["task"] for call in calls)
    assert set(count) == {"triage", "review", "reply", None}
    assert len(calls) >= 1500
    assert min(count["triage"], count["review"]) >= 1200
    assert 0.08 <= count[None] / len(calls) <= 0.12


def test_no_one_off_prompt_recurs_often_enough_to_be_a_task(calls):
    opening = Counter(call["messages"][0]["content"].lower()[:14] for call in of_task(calls, None))
    assert opening.most_common(1)[0][1] < 8


@pytest.mark.parametrize("task", ["triage", "review", "reply"])
def test_inputs_are_varied_with_few_exact_duplicates(calls, task):
    texts = [call["messages"][-1]["content"] for call in of_task(calls, task)]
    assert len(set(texts)) >= 0.97 * len(texts)


def test_the_text_step_has_no_short_list_of_answers(calls):
    answers = [call["answer"] for call in of_task(calls, "reply")]
    assert len(set(answers)) > 0.8 * len(answers)


@pytest.mark.parametrize(("task", "labels"), [("triage", 6), ("review", 2)])
def test_the_share_of_slips_and_of_ambiguous_inputs_is_as_documented(calls, task, labels):
    own = of_task(calls, task)
    assert len({call["answer"] for call in own}) == labels
    ambiguous = [call for call in own if "gold" not in call]
    assert abs(len(ambiguous) / len(own) - AMBIGUOUS) < 0.02
    slips = sum(call["answer"] != call["gold"] for call in own if "gold" in call)
    assert 0.25 * NOISE * len(own) < slips < 0.75 * NOISE * len(own)  # the others are on ambiguous inputs


@pytest.mark.parametrize("task", ["triage", "review"])
def test_a_plain_student_agrees_on_its_most_confident_calls_and_is_unsure_of_ambiguous_ones(calls, task):
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    own = of_task(calls, task)
    texts = [call["messages"][-1]["content"] for call in own]
    answers = np.array([call["answer"] for call in own])
    ambiguous = np.array(["gold" not in call for call in own])
    student = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=4))
    student.fit(texts[:900], answers[:900])
    shares = student.predict_proba(texts[900:])
    right = student.classes_[shares.argmax(axis=1)] == answers[900:]
    surest = np.argsort(-shares.max(axis=1))[: int(0.7 * len(right))]
    assert right[surest].mean() >= 0.965
    assert ambiguous[900:][surest].mean() < 0.5 * ambiguous[900:].mean()
