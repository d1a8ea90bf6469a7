"""Freely worded tasks: found by what they mean and how they are answered, never by likeness alone."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wording import WordModel, ask, content, stream

from jitr_core.identify import Identifier, identify_stream, join_prompt, prompt_text
from jitr_core.identify.meaning import Meaning
from jitr_core.identify.pattern import Pattern
from jitr_core.types import Call, Template
from jitr_core.vectors import MemoryIndex

SEEDS = (1, 2, 3)


def found_in(
    counts: dict[str, int], seed: int, *, test: bool = True, others: int = 300
) -> tuple[Identifier, dict[str, Counter[str | None]], Counter[str | None]]:
    """The identifier, the jobs in each freely worded task, and the jobs of the stream."""
    calls, answers, jobs = stream(counts, seed, test=test, others=others)
    identifier = identifier_with()
    assigned = list(identify_stream(calls, identifier, answers=answers))
    assert identifier.meaning is not None
    tasks: dict[str, Counter[str | None]] = {t.task: Counter() for t, _ in identifier.meaning.patterns}
    for each, job in zip(assigned, jobs, strict=True):
        if each.final_task in tasks:
            tasks[each.final_task][job] += 1
    return identifier, tasks, Counter(jobs)


def identifier_with(model: Callable[[], WordModel | None] = WordModel) -> Identifier:
    identifier = Identifier()
    identifier.meaning = Meaning(model, MemoryIndex)
    return identifier


@pytest.fixture(scope="module")
def learnt() -> Identifier:
    """An identifier that knows the jobs "topic" and "good"."""
    return found_in({"topic": 150, "good": 150}, 1)[0]


def test_jobs_asked_in_ever_different_words_are_found_each_by_itself():
    caught, asked = Counter[str | None](), Counter[str | None]()
    for seed in SEEDS:
        _, tasks, jobs = found_in({"spam": 350, "topic": 250, "good": 250}, seed)
        for members in tasks.values():
            assert members.most_common(1)[0][1] >= 0.95 * members.total()
            caught.update(members)
        asked.update(jobs)
    assert caught[None] <= 0.01 * asked[None]
    assert caught.total() - caught[None] >= 0.5 * (asked.total() - asked[None])


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_opposite_questions_are_never_one_task(share: float):
    for seed in SEEDS:
        _, tasks, _ = found_in({"good": int(240 * share), "bad": int(240 * (1 - share)), "topic": 120}, seed)
        assert all(min(members["good"], members["bad"]) <= 0.05 * members.total() for members in tasks.values())


def test_a_question_with_a_word_of_its_own_is_not_caught(learnt):
    """One word turns a question round, and its vector hardly moves."""
    import random

    rng = random.Random(5)
    caught = Counter[str]()
    for _ in range(200):
        text = content(rng, "review", "yes")
        for question in ("was it enjoyed", "was it loathed", "was it mentioned"):
            call = Call("x", (("user", ask(rng, question, text)),))
            caught[question] += learnt.match(call) is not None
    assert caught["was it enjoyed"] > 150
    assert caught["was it loathed"] == caught["was it mentioned"] == 0


def test_the_question_about_a_text_far_from_all_others_is_not_caught(learnt):
    near, far = "was it enjoyed? room lovely hotel staff warm superb view", "was it enjoyed? zinc oxide lattice phonons"
    assert learnt.match(Call("x", (("user", near),))) is not None
    assert learnt.match(Call("x", (("user", far),))) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_one_off_requests_are_no_task(seed: int):
    assert found_in({}, seed, others=600)[1] == {}


def test_answers_that_follow_from_nothing_make_no_task():
    calls, _, _ = stream({"good": 300}, 4, others=0)
    identifier = identifier_with()
    for number, call in enumerate(calls):
        identifier.note_unplaced(call, ("yes", "no")[hash_free(number)])
    assert identifier.meaning is not None and identifier.meaning.patterns == []


def hash_free(number: int) -> int:
    return (number * 7919 // 13) % 2


def test_the_whole_prompt_is_the_input_and_the_calls_so_far_are_placed():
    calls, answers, _ = stream({"topic": 200}, 3, others=100)
    identifier = identifier_with()
    by_id = {call.id: call for call in calls}
    placed = {}
    for call, answer in zip(calls, answers, strict=True):
        if identifier.match(call) is None and identifier.learn(call).match is None:
            placed.update(identifier.note_unplaced(call, answer).placed)
    assert len(placed) > 60
    for name, match in placed.items():
        template = identifier.template(match.template)
        assert template is not None
        assert join_prompt(template.literals, match.slots) == prompt_text(by_id[name].messages)
        assert identifier.match(by_id[name]) == match


def test_calls_meet_only_under_the_same_system_message_app_and_tenant(learnt):
    asked = ("user", "was it enjoyed? room lovely hotel staff warm superb view")
    assert learnt.match(Call("x", (asked,))) is not None
    for other in (
        Call("x", (("system", "Be brief."), asked)),
        Call("x", (asked,), app="other"),
        Call("x", (asked,), tenant="other"),
        Call("x", (asked,), contract="json"),
        Call("x", (asked,), step="declared"),
    ):
        assert learnt.match(other) is None


def test_a_pattern_survives_as_text_and_recognises_alike(learnt):
    calls, _, _ = stream({"topic": 50, "good": 50}, 9, test=True)
    again = identifier_with()
    again.adopt(learnt.templates())
    copies = [(template, Pattern.from_json(pattern.to_json())) for template, pattern in learnt.meaning.patterns]
    again.meaning.adopt(copies)
    assert copies == learnt.meaning.patterns
    matches = [again.match(call) for call in calls]
    assert any(matches) and matches == [learnt.match(call) for call in calls]
    for _, pattern in copies:
        assert not any(call.messages[0][1] in pattern.to_json() for call in calls)


def test_a_pattern_of_another_model_recognises_nothing(learnt):
    class Other(WordModel):
        hash = "other"

    meaning = Meaning(Other, MemoryIndex)
    meaning.adopt(learnt.meaning.patterns)
    assert meaning.match(Call("x", (("user", "was it enjoyed? room lovely hotel staff warm superb view"),))) is None


def test_without_a_model_nothing_is_found_and_nothing_breaks():
    identifier = identifier_with(lambda: None)
    calls, answers, _ = stream({"topic": 200}, 3)
    assert len(list(identify_stream(calls, identifier, answers=answers))) == len(calls)
    assert identifier.meaning is not None and identifier.meaning.patterns == []


def test_the_same_stream_gives_the_same_tasks(learnt):
    again = found_in({"topic": 150, "good": 150}, 1)[0]
    assert [t for t, _ in again.meaning.patterns] == [t for t, _ in learnt.meaning.patterns] != []


ODD = st.text(alphabet=st.characters(codec=None), max_size=60) | st.sampled_from(
    [
        "",
        " ",
        "\x00",
        "\ud800",
        "?",
        '"""',
        "- - -",
        "is it any good?\ud800",
        "。。",
        "was it enjoyed" * 500,
        "请问好吗?",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "tool"]), ODD), max_size=4), ODD)
def test_no_input_raises(learnt: Identifier, messages: list[tuple[str, str]], answer: str):
    call = Call("odd", tuple(messages))
    if learnt.match(call) is None:
        learnt.note_unplaced(call, answer)


def test_hundreds_of_odd_calls_with_one_answer_do_not_raise():
    identifier = identifier_with()
    for number in range(300):
        said = ("", "?", "\x00", "\ud800 good", "x" * 5000, "a b c")[number % 6]
        identifier.note_unplaced(Call(str(number), (("user", said),)), ("yes", "no")[number % 2])
    assert identifier.meaning is not None and identifier.meaning.patterns == []


@pytest.mark.parametrize("name", ["mixed-app"])
def test_one_off_calls_of_an_app_stay_one_off(shared: Path, name: str):
    identifier = identifier_with()
    with gzip.open(shared / "data" / "calls" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    calls = [Call(r["id"], tuple((m["role"], m["content"]) for m in r["messages"])) for r in records]
    answers = [record["answer"] for record in records]
    assigned = list(identify_stream(calls, identifier, answers=answers))
    caught = [a for a, r in zip(assigned, records, strict=True) if r["task"] is None and a.final_task is not None]
    assert caught == []


def test_a_template_that_fits_goes_first():
    template = Template("p", "t", "default", "", "", "", ("\x1euser\x1fwas it enjoyed? ", ""))
    identifier, _, _ = found_in({"good": 200}, 1)
    call = Call("x", (("user", "was it enjoyed? room lovely hotel staff warm superb view"),))
    before = identifier.match(call)
    identifier.adopt([template])
    after = identifier.match(call)
    assert before is not None and before.task != "t" and after is not None and after.task == "t"
