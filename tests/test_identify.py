"""Identification: templates are found, slots are exact, one-off calls stay one-off."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitr_core.identify import Identifier, identify_stream, join_prompt, prompt_text, supersedes
from jitr_core.identify.template import make_template
from jitr_core.types import Call

WORDS = (
    "amber basin cargo delta ember fjord glade harbor island jungle kernel lemon marble nectar orchid pebble quartz "
    "river saddle timber umbra velvet willow xenon yellow zephyr anchor bridge candle dragon engine falcon garden"
).split()


def text(seed: int, count: int = 9) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def user(*prompts: str, **fields: str) -> list[Call]:
    return [Call(f"c{i}", (("user", prompt),), **fields) for i, prompt in enumerate(prompts)]


def run(calls: Iterable[Call], identifier: Identifier | None = None) -> tuple[Identifier, list[str | None]]:
    identifier = identifier or Identifier()
    return identifier, [a.final_task for a in identify_stream(calls, identifier)]


def slots_of(identifier: Identifier, prompt: str, **fields: str) -> tuple[str, ...] | None:
    match = identifier.match(Call("x", (("user", prompt),), **fields))
    return match.slots if match else None


@pytest.mark.parametrize(
    ("system", "contract", "found"),
    [
        ("Route the SMS.", "demands a tool", True),
        ("Route the SMS.", "", False),
        ("You are a helpful assistant.", "demands a tool", False),
    ],
    ids=["with a form", "without one", "says nothing"],
)
def test_few_words_are_an_instruction_where_a_form_of_answer_goes_with_them(
    system: str, contract: str, found: bool
) -> None:
    calls = [Call(f"c{i}", (("system", system), ("user", text(i))), contract=contract) for i in range(40)]
    identifier, final = run(calls)
    assert {task is not None for task in final} == {found}
    if found:
        match = identifier.match(calls[0])
        assert match is not None and match.slots == (text(0),) and len(set(final)) == 1


def test_few_words_that_many_forms_go_with_are_no_instruction() -> None:
    instructions = ("Name the capital of the country", "Say how old the person is", "Count the fruit in the basket")
    calls = [
        Call(f"{k}-{i}", (("system", "Be brief."), ("user", f"{said}: {text(100 * k + i)}")), contract="json")
        for k, said in enumerate((*instructions, "Find the town that the letter came from"))
        for i in range(10)
    ]
    calls += [
        Call(f"late{i}", (("system", "Be brief."), ("user", text(9_000 + i))), contract="json") for i in range(40)
    ]
    final = run(calls)[1]
    assert len(set(final[:40])) == 4 and None not in final[:40] and set(final[40:]) == {None}


@pytest.mark.parametrize(
    ("literals", "slots"),
    [
        (("Classify the sentiment of this review. Answer with one word.\n\nReview: ", ""), 1),
        (("", "\n\nIs the review above positive or negative?"), 1),
        (("Is the following review positive or negative?\n\nReview: ", "\n\nSentiment:"), 1),
        (("Do the two descriptions match? Entity 1: ", ". Entity 2: ", ".\nAnswer Yes or No."), 2),
        (("Q: ", "\n\nA:"), 1),
        (("Read this paragraph.\n", "\nAccording to the above context, answer the question.\nQuestion: ", ""), 2),
    ],
    ids=["end", "start", "middle", "two", "labels only", "inner line"],
)
def test_the_input_is_found_wherever_it_stands(literals: Sequence[str], slots: int) -> None:
    inputs = [tuple(text(100 * i + k, 5 + (7 * i + k) % 9) for k in range(slots)) for i in range(12)]
    identifier, final = run(user(*(join_prompt(literals, values) for values in inputs)))
    assert len(set(final)) == 1 and final[0] is not None
    assert slots_of(identifier, join_prompt(literals, inputs[3])) == inputs[3]


def test_six_calls_are_no_task_and_the_seventh_places_the_earlier_ones() -> None:
    calls = user(*(f"Name the colour of the following thing.\nThing: {text(i)}" for i in range(7)))
    identifier = Identifier()
    for call in calls[:6]:
        assert identifier.match(call) is None
        assert identifier.learn(call).match is None
    learned = identifier.learn(calls[6])
    assert learned.match is not None
    assert [call_id for call_id, _ in learned.placed] == [f"c{i}" for i in range(6)]
    assert {match.task for _, match in learned.placed} == {learned.match.task}


def test_one_off_requests_that_merely_start_alike_stay_one_off() -> None:
    starts = ["Write a", "Write a short", "Write a short story", "Write a short story about", "Write an essay on"]
    starts += ["What is the", "What is", "What is the difference between", "Explain the difference between", "What are"]
    starts += ["Give me an example of a", "Give me an", "Give me a list of", "Give an example of", "Give me some"]
    starts += ["Generate a list of", "Generate a", "Generate a list of ten", "Make a list of", "Create a list of"]
    ends = ["please", "in simple words", "for children", "with reasons", "and explain it", "today", ""]
    prompts = [f"{starts[i % 20]} {text(i, 1 + i % 6)} {ends[i % 7]}{'?' if i % 4 else '.'}" for i in range(600)]
    assert set(run(user(*prompts))[1]) == {None}


def test_tasks_that_share_all_but_one_word_of_their_instruction_are_two() -> None:
    prompts = [
        f"Translate the word to {('German', 'French')[i % 2]}\n\nInput: {text(i, 1)}{i}\nOutput:" for i in range(60)
    ]
    _, final = run(user(*prompts))
    assert len(set(final[::2])) == 1 and len(set(final[1::2])) == 1
    assert final[0] != final[1] and None not in final


def test_many_instructions_in_one_frame_are_not_one_task() -> None:
    instructions = [
        f"In this task, you are given {text(900 + k, 6)} and must return {text(950 + k, 5)}." for k in range(12)
    ]
    order = random.Random(1)
    picks = [order.randrange(12) for _ in range(400)]
    prompts = [f"{instructions[k]}\n\nInput: {text(i)}\nOutput:" for i, k in enumerate(picks)]
    _, final = run(user(*prompts))
    by_task: dict[str | None, set[int]] = {}
    for k, task in zip(picks, final, strict=True):
        by_task.setdefault(task, set()).add(k)
    assert all(len(kinds) == 1 for task, kinds in by_task.items() if task)
    assert len([task for task in by_task if task]) == 12


def test_a_word_that_all_first_inputs_share_becomes_input_when_it_varies() -> None:
    frame = "Is the following review positive or negative?\n\nReview: {}\n\nSentiment:"
    narrow = [frame.format(f"The {text(i)}.") for i in range(8)]
    identifier = Identifier()
    for call in user(*narrow):
        identifier.learn(call)
    (template,) = identifier.templates()
    assert slots_of(identifier, narrow[0]) == (text(0),)
    learned = identifier.learn(Call("late", (("user", frame.format("No way!")),)))
    assert learned.match is not None and learned.match.slots == ("No way!",)
    assert [t.task for t in learned.created] == [template.task]
    assert slots_of(identifier, narrow[0]) == (f"The {text(0)}.",)
    identifier.adopt([template])
    assert Identifier([template, *learned.created]).templates() == identifier.templates() == learned.created


def test_a_generic_system_message_makes_no_task_and_a_telling_one_does() -> None:
    def chat(system: str) -> list[Call]:
        return [Call(f"c{i}", (("system", system), ("user", text(i)))) for i in range(20)]

    assert set(run(chat("You are a helpful assistant."))[1]) == {None}
    assert None not in run(chat("Translate the user's German text into English."))[1]


def test_a_declared_step_is_one_task_whatever_its_wordings() -> None:
    frames = ["Classify the ticket.\nTicket: {}", "{}\n\nWhich team should handle the ticket above?"]
    calls = [Call(f"c{i}", (("user", frames[i // 20].format(text(i))),), step="triage") for i in range(40)]
    identifier, final = run(calls)
    assert len(set(final)) == 1 and final[0] is not None
    assert slots_of(identifier, frames[0].format("my card"), step="triage") == ("my card",)
    assert slots_of(identifier, frames[1].format("my card"), step="triage") == ("my card",)


def test_a_declared_step_without_constant_text_takes_the_whole_prompt() -> None:
    identifier, final = run(user(*(text(i) for i in range(12)), step="free"))
    assert len(set(final)) == 1 and final[0] is not None
    assert slots_of(identifier, "anything", step="free") == ("\x1euser\x1fanything",)


def test_app_tenant_step_and_contract_keep_calls_apart() -> None:
    prompts = [f"Name the colour of the following thing.\nThing: {text(i)}" for i in range(20)]
    identifier, _ = run(user(*prompts, tenant="a"))
    assert slots_of(identifier, prompts[0], tenant="a") is not None
    for other in (
        {"tenant": "b"},
        {"tenant": "a", "app": "z"},
        {"tenant": "a", "contract": "k"},
        {"tenant": "a", "step": "s"},
    ):
        assert slots_of(identifier, prompts[0], **other) is None


def test_the_most_specific_template_wins() -> None:
    general = [f"{text(i)}\n\nPlease write a summary of the text above:" for i in range(10)]
    special = [
        f"This is a legal document.\nText: {text(i)}\n\nPlease write a summary of the text above:"
        for i in range(50, 70)
    ]
    identifier, _ = run(user(*special, *general))
    assert slots_of(identifier, special[0]) == (text(50),)
    assert slots_of(identifier, general[0]) == (text(0),)


def test_another_process_that_adopts_the_templates_matches_alike() -> None:
    calls = user(*(f"Name the colour of the following thing.\nThing: {text(i)}" for i in range(20)))
    first, _ = run(calls)
    second = Identifier(first.templates())
    second.adopt(first.templates())
    assert second.templates() == first.templates()
    assert [second.match(call) for call in calls] == [first.match(call) for call in calls]


def test_a_forgotten_task_is_unknown_again() -> None:
    identifier, final = run(user(*(f"Name the colour of the following thing.\nThing: {text(i)}" for i in range(20))))
    identifier.forget(str(final[0]))
    assert identifier.templates() == []


def test_the_pool_is_bounded() -> None:
    identifier = Identifier(max_pool=50)
    for call in user(*(text(i, 12) for i in range(500))):
        identifier.learn(call)
    assert len(identifier._pool) == 50
    assert len(identifier._pool.buckets) < 50 * 120


def test_tasks_do_not_depend_on_hash_randomisation() -> None:
    code = (
        "from tests.test_identify import run, text, user\n"
        "frame = 'Name the {} of the following thing.\\nThing: {}'\n"
        "calls = user(*(frame.format(('colour', 'size')[i % 2], text(i)) for i in range(60)))\n"
        "print([t.id for t in run(calls)[0].templates()])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(["."] + sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and "p_" in outputs.pop()


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_calls_does_not_change_a_template(order: random.Random) -> None:
    prompts = [f"Name the colour of the following thing.\nThing: {text(i)}!\nColour:" for i in range(8)]
    order.shuffle(prompts)
    identifier, _ = run(user(*prompts))
    assert [t.literals for t in identifier.templates()] == [
        ("\x1euser\x1fName the colour of the following thing.\nThing: ", "!\nColour:")
    ]


def test_feeding_a_templates_calls_again_changes_nothing() -> None:
    calls = user(*(f"Name the colour of the following thing.\nThing: {text(i)}" for i in range(20)))
    identifier, _ = run(calls)
    before = identifier.templates()
    run(calls, identifier)
    assert identifier.templates() == before


ODD = st.text(alphabet=st.characters(codec=None), max_size=40) | st.sampled_from(
    ["", "{x}", "{{}}", "\x1e", "\x1f", "\x1euser\x1f", "\x00", "\ud800", "Thing: ", "\n", "مرحبا", "请翻译", "e\u0301"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ODD, min_size=1, max_size=30), st.booleans())
def test_no_input_raises_or_is_lost_and_slots_rebuild_the_prompt(inputs: list[str], framed: bool) -> None:
    frame = "Name the colour of the following thing.\nThing: {}\nColour:" if framed else "{}"
    calls = user(*(frame.replace("{}", value) for value in inputs))
    identifier = Identifier(min_calls=3)
    for call in calls:
        match = identifier.match(call) or identifier.learn(call).match
        if match is not None:
            template = identifier.template(match.template)
            assert template is not None
            assert join_prompt(template.literals, match.slots) == prompt_text(call.messages)
    assert len(list(identify_stream(calls))) == len(calls)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), ODD), max_size=5))
def test_messages_can_always_be_told_apart(messages: list[tuple[str, str]]) -> None:
    prompt = prompt_text(messages)
    assert prompt.count("\x1e") == prompt.count("\x1f") == len(messages)


def test_a_megabyte_and_an_empty_conversation_are_taken_in() -> None:
    identifier = Identifier(min_calls=3)
    for i in range(4):
        big = Call(f"b{i}", (("user", f"Summarise this text in one line.\n\n{text(i, 3)} {str(i) * 1_000_000}"),))
        empty = Call(f"e{i}", ())
        for call in (big, empty):
            if identifier.match(call) is None:
                identifier.learn(call)
    assert slots_of(identifier, "Summarise this text in one line.\n\nshort") == ("short",)


def test_chat_history_of_any_length_never_mixes_messages() -> None:
    def call(i: int) -> Call:
        history = tuple((("user", "assistant")[k % 2], text(50 * i + k)) for k in range(2 * (i % 4)))
        return Call(
            f"c{i}", (("system", "Answer questions about our shop politely."), *history, ("user", text(7000 + i)))
        )

    calls = [call(i) for i in range(80)]
    identifier, final = run(calls)
    assert None not in final
    sizes = Counter(len(match.slots) for c in calls if (match := identifier.match(c)))
    assert sizes == {1: 20, 3: 20, 5: 20, 7: 20}


def test_a_template_that_takes_any_prompt_is_no_wider_version_of_another():
    key = ("shop", "", "triage", "")
    narrow = make_template(key, ("\x1euser\x1fSort: ", "."), "t")
    assert supersedes(make_template(key, ("\x1euser\x1f", "."), "t"), narrow)
    assert not supersedes(make_template(key, ("", ""), "t"), narrow)
