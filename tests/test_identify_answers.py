"""Answer spaces, content hashes, and when two tasks are one job."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from jitr_core.identify import Identifier, answer_space, content_hash, identify_stream, normalise
from jitr_core.types import Call


def test_many_intents_over_few_hundred_calls_are_labels() -> None:
    draw = random.Random(0)
    space = answer_space(f"intent_{min(int(draw.expovariate(0.06)), 76)}" for _ in range(500))
    assert space.kind == "labels" and 40 <= len(space.labels) <= 77


def test_strays_do_not_open_a_closed_set() -> None:
    answers = ["positive", "negative "] * 95 + [f"I cannot say, because {i}" for i in range(10)]
    space = answer_space(answers)
    assert space.kind == "labels" and set(space.labels) == {"positive", "negative"}
    assert "10 strays" in space.reason


def test_free_text_says_why_it_is_no_closed_set() -> None:
    space = answer_space([*(f"a sentence about {i}" for i in range(496)), "yes", "yes", "no", "no"])
    assert space.kind == "text"
    assert space.reason == "answers are free text: 498 different answers in 500 calls"


def test_json_objects_are_fields_unless_they_are_a_small_closed_set() -> None:
    assert answer_space(json.dumps({"brand": f"b{i}"}) for i in range(50)).kind == "fields"
    assert answer_space([json.dumps({"spam": bool(i % 2)}) for i in range(50)]).kind == "labels"


def test_too_many_labels_and_too_few_answers_are_text() -> None:
    assert answer_space([f"l{i % 50}" for i in range(500)], max_labels=40).reason.startswith("too many labels: 50")
    assert answer_space(["yes"] * 3).reason.startswith("too few answers")
    assert answer_space([]).kind == "text"


@given(st.lists(st.text(max_size=5)))
def test_labels_are_always_among_the_answers(answers: list[str]) -> None:
    space = answer_space(answers)
    assert set(space.labels) <= {answer.strip() for answer in answers}
    assert (space.kind == "labels") == bool(space.labels)


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing_more_to_the_hash(text: str) -> None:
    assert content_hash((text,)) == content_hash((f"  {text}\n",))
    assert normalise(f" {text} ") == normalise(text)


def test_inputs_of_several_slots_are_not_confused_by_where_they_are_cut() -> None:
    assert content_hash(("a b", "c")) != content_hash(("a", "b c"))


def reworded(questions: list[str], same_answers: bool) -> set[str | None]:
    """Final tasks when two wordings get the same 40 inputs, answered alike or the other way round."""
    draw = random.Random(0)
    inputs = [
        " ".join(draw.choices("amber basin cargo delta ember fjord glade harbor".split(), k=9)) for _ in range(40)
    ]
    calls, answers = [], []
    for number, question in enumerate(questions):
        for i, value in enumerate(inputs):
            calls.append(Call(f"{number}-{i}", (("user", f"{question}\nText: {value}"),)))
            answers.append("Yes" if (i % 3 == 0) == (same_answers or number == 0) else "No")
    return {a.final_task for a in identify_stream(calls, Identifier(), answers=answers)}


def test_a_reworded_prompt_that_gets_the_same_answers_is_the_same_task() -> None:
    questions = ["Is the text below about nature or not?", "Say whether the following text deals with nature."]
    assert len(reworded(questions, same_answers=True)) == 1


def test_opposite_questions_stay_two_tasks_however_alike_they_look() -> None:
    questions = ["Is the review below positive? Answer Yes or No.", "Is the review below negative? Answer Yes or No."]
    assert len(reworded(questions, same_answers=False)) == 2


def test_white_space_and_punctuation_alone_make_no_new_task() -> None:
    def calls(frame: str, first: int) -> list[Call]:
        return [Call(f"c{i}", (("user", frame.format(f"{i}x{i * 7919} " * 3)),)) for i in range(first, first + 10)]

    log = calls("Classify this ticket. Reply with a word.\nTicket: {}", 0)
    log += calls("Classify this ticket: reply with a word!\n\nTicket:\n{}", 50)
    assert len({a.final_task for a in identify_stream(log)}) == 1
