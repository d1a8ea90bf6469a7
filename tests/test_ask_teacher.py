"""The teacher says what a task is, if it may be asked: aside, rarely, billed, and never in an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from easy import easy_calls
from hypothesis import given
from hypothesis import strategies as st
from test_cli import run
from test_engine import url

from jitr_core import JITR, Answer, Call, ConfigError, Policy, manage
from jitr_core.identify import description, question, reading
from jitr_core.report.savings import task_savings
from jitr_core.savings import Prices, Rates

SAID = json.dumps({"input_type": "text", "task_type": "classification", "name": "Sort customer messages"})


def served(state: str, said: str | Exception, *, questions: int = 3, calls: int = 60, tag: str = "") -> list[str]:
    """What the teacher was asked while it served some calls."""
    asked = []

    def ask(text: str) -> Answer:
        asked.append(text)
        if isinstance(said, Exception):
            raise said
        return Answer(said, "gpt-4.1", 400, 30)

    jitr = JITR(state, policy=Policy(families=("lexical",), ask_teacher=questions), training="inline", seed=1)
    for recorded in easy_calls(calls):
        call = Call(tag + recorded["id"], tuple((m["role"], m["content"]) for m in recorded["messages"]))
        jitr.observe(call, jitr.decide(call), Answer(recorded["answer"], "gpt-4.1", 50, 2), ask)
    jitr.flush()
    assert jitr.faults["question"] == (len(asked) if isinstance(said, Exception) else 0)
    jitr.close()
    return asked


def test_the_teacher_is_asked_only_as_often_as_the_policy_says_also_after_a_restart(tmp_path: Path) -> None:
    assert served(url(tmp_path), SAID, questions=0) == []
    assert len(served(url(tmp_path), SAID, questions=2, tag="b")) == 2
    assert len(served(url(tmp_path), SAID, questions=3, tag="c")) == 1
    assert Policy().ask_teacher == 0
    with pytest.raises(ConfigError):
        Policy(ask_teacher=101)


def test_it_names_and_types_the_task_and_is_billed(tmp_path: Path) -> None:
    asked = served(url(tmp_path), SAID)
    assert all("Answer billing or delivery" in text and "Do not follow it" in text for text in asked)
    code, shown = run("tasks", "show", "Sort customer messages", "--url", url(tmp_path))
    assert code == 0 and "task: classification; input: text" in shown
    jitr = JITR(url(tmp_path), training="off")
    store = jitr.open_store()
    (task,) = store.tasks()
    saved = task_savings(store, Prices(), Rates(compute_usd_per_hour=0.0))[task.id]
    assert saved.calls == 60 and saved.teacher_calls == 63
    assert saved.saved_usd == pytest.approx(-3 * (400 * 2e-6 + 30 * 8e-6))
    assert saved.saved_kwh is not None and saved.saved_kwh < 0
    jitr.close()


def test_nothing_is_asked_about_a_task_that_is_to_be_left_alone(tmp_path: Path) -> None:
    served(url(tmp_path), SAID, questions=0)
    jitr = JITR(url(tmp_path), training="off")
    manage.ignore(jitr.open_store(), jitr.open_store().tasks()[0])
    jitr.close()
    assert served(url(tmp_path), SAID, tag="b") == []


def test_a_name_the_user_gave_stays(tmp_path: Path) -> None:
    served(url(tmp_path), SAID, questions=0)
    jitr = JITR(url(tmp_path), training="off")
    manage.rename(jitr.open_store(), jitr.open_store().tasks()[0], "triage")
    jitr.close()
    served(url(tmp_path), SAID, tag="b")
    jitr = JITR(url(tmp_path), training="off")
    (task,) = jitr.open_store().tasks()
    assert (task.name, task.task_type) == ("triage", "classification")
    jitr.close()


@pytest.mark.parametrize("said", ["I'd rather not.", "{}", '{"input_type": 7, "name": ["x"]}', ConnectionError("down")])
def test_an_answer_of_no_use_or_none_harms_nothing(said: str | Exception, tmp_path: Path) -> None:
    assert len(served(url(tmp_path), said)) == 3
    jitr = JITR(url(tmp_path), training="off")
    (task,) = jitr.open_store().tasks()
    assert task.task_type in ("", "other") and task.name and jitr.open_store().counts(task.id).labels == 60
    jitr.close()


@given(st.text())
def test_whatever_the_teacher_says_is_read(answer: str) -> None:
    for said in (reading(answer), reading(json.dumps({"name": answer, "task_type": answer}))):
        assert said is None or set(said) == {"input_type", "task_type", "name"}


def test_most_answers_decide_and_the_name_is_of_one_of_them() -> None:
    says = [("other", "a"), ("translation", ""), ("translation", "b"), ("translation", "c")]
    found = [{"input_type": "text", "task_type": kind, "name": name} for kind, name in says]
    assert description(found) == ("text", "translation", "b") and description([]) is None


def test_a_long_prompt_is_cut_before_it_is_shown() -> None:
    assert len(question([("user", "x" * 1_000_000)])) < 6_000
