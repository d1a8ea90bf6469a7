"""A prompt edited right beside a slot: the added text is found, and what only looks like it is left alone."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from easy import FILLER, easy_calls
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import POLICY, serve, trained, url

from jitr_core import JITR, Call
from jitr_core.identify import Identifier, join_prompt, prompt_text
from jitr_core.identify.edited import Edited
from jitr_core.identify.template import make_template
from jitr_core.types import Template

ENOUGH = 7
SYSTEM = ("system", "You sort messages of customers.")
LITERALS = prompt_text([SYSTEM, ("user", "")]), ""


def template(literals: tuple[str, ...] = LITERALS) -> Template:
    return make_template(("default", "", "", ""), literals)


def inputs(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join([*rng.choices(FILLER, k=rng.randint(1, 9)), f"no{seed}-{i}"]) for i in range(count)]


def follow(identifier: Identifier, texts: Iterable[str]) -> list[tuple[int, Template]]:
    """The templates found on the way, each with the number of its call."""
    found = []
    for number, text in enumerate(texts):
        match = identifier.match(Call("c", (SYSTEM, ("user", text)), "default"))
        assert match is not None
        found += [(number, each) for each in identifier.note_call(match).created]
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("A customer wrote us: ", ""),
        ("(If you are not sure, say unclear.) ", ""),
        ("Example:\nMy parcel is late.\nAnswer: delivery\n\nMessage: ", ""),
        ("", "\nThink about who wrote it."),
        ("", "\n\nAnswer in capitals"),
        ("Read the message:\n“", "”\nNow answer with one word."),
        ("以下は顧客からのメッセージです：", ""),
        ("X " * 1_500, ""),
    ],
)
def test_added_text_is_constant_after_a_few_different_inputs(before: str, after: str) -> None:
    identifier = Identifier([template()])
    assert not follow(identifier, inputs(ENOUGH))
    edited = [before + text + after for text in inputs(50, seed=1)]
    ((number, created),) = follow(identifier, edited)
    assert number == ENOUGH - 1 and created.task != template().task
    match = identifier.match(Call("c", (SYSTEM, ("user", f"{before}a new one{after}")), "default"))
    assert match is not None and match.template == created.id and match.slots == ("a new one",)
    old = identifier.match(Call("c", (SYSTEM, ("user", "as before")), "default"))
    assert old is not None and old.template == template().id


@pytest.mark.parametrize("mark", [".", " .", "?!", "。"])
def test_the_mark_that_most_inputs_end_with_is_not_added_text(mark: str) -> None:
    identifier = Identifier([template()])
    texts = [text + mark * (i % 10 != 9) for i, text in enumerate(inputs(60))]
    after = "\nThink about who wrote it."
    ((number, created),) = follow(identifier, texts[:20] + [text + after for text in texts[20:]])
    assert number == 20 + ENOUGH - 1
    for end in ("", mark):
        match = identifier.match(Call("c", (SYSTEM, ("user", f"a new one{end}{after}")), "default"))
        assert match is not None and (match.template, match.slots) == (created.id, (f"a new one{end}",))


def test_of_several_slots_the_one_beside_the_edit_is_found() -> None:
    literals = prompt_text([("user", "Is ")]), " a kind of ", "?"
    identifier = Identifier([template(literals)])
    found = []
    for number, (one, other) in enumerate(zip(inputs(60), inputs(60, seed=1), strict=True)):
        added = "" if number < 30 else ", as far as you know"
        match = identifier.match(Call("c", (("user", f"Is {one} a kind of {other}{added}?"),), "default"))
        assert match is not None
        found += [(number, each.literals) for each in identifier.note_call(match).created]
    assert found == [(30 + ENOUGH - 1, (*literals[:2], ", as far as you know?"))]


def conversations(rng: random.Random) -> Iterable[str]:
    for number in range(200):
        said = f"User: hello, this is customer {number}\n"
        for turn in range(rng.randint(1, 15)):
            yield said + f"User: {turn}"
            said += f"User: {turn}\nAssistant: {rng.choice(FILLER)}\n"


def formulas(rng: random.Random) -> Iterable[str]:
    for text in inputs(3_000):
        end = "\nSent from my telephone" if rng.random() < 0.7 else ""
        yield rng.choice(("Dear Sir or Madam,\n", "I would like to know ", "")) + text + end


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(conversations(random.Random(0)), id="conversations"),
        pytest.param(formulas(random.Random(0)), id="formulas"),
        pytest.param(inputs(50) + ["Where is my parcel today?", "Where is my parcel, please?"] * 100, id="recurring"),
        pytest.param([f"A customer wrote us: {text}" for text in inputs(100)], id="never otherwise"),
        pytest.param(inputs(50) + [f"Message: {text}" for text in inputs(50, seed=1)], id="a mere label"),
    ],
)
def test_inputs_that_are_alike_are_no_edit(texts: Iterable[str]) -> None:
    assert not follow(Identifier([template()]), texts)


def test_a_prompt_may_be_edited_again_and_back() -> None:
    identifier = Identifier([template()])
    marks = "", "A customer wrote us: ", "A customer wrote us: In a letter he said: ", ""
    texts = [mark + text for part, mark in enumerate(marks) for text in inputs(20, seed=part)]
    assert [number for number, _ in follow(identifier, texts)] == [20 + ENOUGH - 1, 40 + ENOUGH - 1]


def test_a_step_that_takes_any_prompt_takes_an_edited_one() -> None:
    identifier = Identifier([make_template(("default", "", "sort", ""), ("", ""))])
    for text in [*inputs(20), *(f"A customer wrote us: {text}" for text in inputs(20, seed=1))]:
        match = identifier.match(Call("c", (SYSTEM, ("user", text)), "default", step="sort"))
        assert match is not None and not identifier.note_call(match).created


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=60), st.integers(2, 4))
def test_whatever_the_inputs_a_narrower_template_is_one(slots: list[tuple[str, str]], enough: int) -> None:
    edited, literals = Edited(enough), ("a", "b", "c")
    for each in [*slots, *((f"one two three {one}", f"{other}. Say it") for one, other in slots)]:
        found = edited.note("t", literals, each)
        if found is not None:
            wider = "".join(found)
            assert len(found) == 3 and len(wider) > 3 and found[0].startswith("a") and found[2].endswith("c")
            assert join_prompt(literals, each).startswith(found[0]) and join_prompt(literals, each).endswith(found[2])


def test_a_release_stops_answering_an_edited_prompt_after_a_restart_too(tmp_path: Path) -> None:
    trained(tmp_path).close()
    jitr = JITR(url(tmp_path), policy=POLICY, training="off", seed=1)
    jitr.refresh()
    calls = easy_calls(120, seed=5)
    for call in calls:
        call["messages"][1]["content"] += "\nThink about who wrote it."
    first = serve(jitr, calls[:20], "first")
    jitr.flush()
    then = serve(jitr, calls[20:], "then")
    jitr.flush()
    assert set(first) & {"answered", "ood"} and set(then) == {"no_release"}
    assert "answered" in serve(jitr, easy_calls(30, seed=6), "old wording")
    jitr.flush()
    store = jitr.open_store()
    assert len(store.templates()) == 2 and not store.verify() and not jitr.faults
    jitr.close()
