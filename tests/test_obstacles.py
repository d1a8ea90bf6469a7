"""A refusal says what stands in the way, where that is not the number of labels."""

from __future__ import annotations

import json
import random
from pathlib import Path

from easy import easy_calls
from hypothesis import given
from hypothesis import strategies as st
from test_engine import POLICY, serve, url

from jitr_core import JITR
from jitr_core.obstacles import obstacle
from jitr_core.types import CandidateReport


def refused(folder: Path, calls: list[dict]) -> str:
    """Why the calls' only task is not replaced."""
    jitr = JITR(url(folder), policy=POLICY, training="inline", seed=1)
    serve(jitr, calls)
    jitr.flush()
    (task,) = jitr.open_store().tasks()
    jitr.close()
    assert task.state == "refused"
    return task.reason


def test_a_teacher_that_writes_one_label_in_several_ways_is_told_of(tmp_path: Path) -> None:
    rng = random.Random(0)
    calls = easy_calls(250)
    for call in calls:
        call["answer"] = rng.choice((call["answer"], call["answer"].title(), f"{call['answer']}."))
    reason = refused(tmp_path, calls)
    assert "in case and punctuation alone" in reason and "normalised" in reason
    assert "“delivery.”" in reason or "“billing.”" in reason


def test_the_field_that_agrees_least_is_named(tmp_path: Path) -> None:
    rng = random.Random(0)
    calls = easy_calls(250)
    for call in calls:
        call["answer"] = json.dumps({"queue": call["answer"], "mood": rng.choice(("calm", "angry"))})
    assert "the field that agrees least is mood" in refused(tmp_path, calls)


def test_labels_that_are_explained_are_told_of_at_every_attempt(tmp_path: Path) -> None:
    calls = easy_calls(350)
    for i, call in enumerate(calls):
        call["answer"] = (
            f"{call['answer'].title()}. Because it says {call['messages'][1]['content'].split()[-1]} ({i})."
        )
    for count in (250, 350):
        reason = refused(tmp_path / str(count), calls[:count])
        assert "free text" in reason and "one of 2 labels" in reason and "“Billing.”" in reason, reason


def test_texts_that_begin_anyhow_have_no_labels() -> None:
    rng = random.Random(0)
    assert "labels" not in obstacle([f"Dear {rng.random()}, thank you. {i}" for i in range(99)], [], 0.95)
    assert "labels" not in obstacle(["Yes.", "No."] * 40, [], 0.95)
    assert "labels" not in obstacle([f"Well, {i}" for i in range(99)], [], 0.95), "what all begin with is no label"


def test_a_hard_task_has_no_obstacle_but_itself(tmp_path: Path) -> None:
    assert "normalised" not in refused(tmp_path, easy_calls(250, noise=0.6))


@given(st.lists(st.sampled_from(["A+", "A", "1.5", "15", "yes", "no", "", "…", "-1", "1"]), max_size=40))
def test_what_means_something_else_is_no_other_spelling(answers: list[str]) -> None:
    assert obstacle(answers, [], 0.95) == ""


def test_fields_that_all_agree_as_promised_are_no_obstacle() -> None:
    fields = [CandidateReport(f"fields/{name}", "fields", None, agreement=0.97) for name in "ab"]
    assert obstacle(["{}"], fields, 0.95) == "" and "is a, in 97%" in obstacle(["{}"], fields, 0.98)
