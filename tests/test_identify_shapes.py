"""Every shape of prompt: the template is found, and the slots are exactly what varies."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_identify import text, user

from jitr_core.identify import Identifier, identify_stream, join_prompt, prompt_text
from jitr_core.identify.dates import undated
from jitr_core.identify.template import fit, key_of, make_template
from jitr_core.types import Call

Messages = tuple[tuple[str, str], ...]

EXAMPLES = "Text: the delivery was late\nLabel: complaint\n\nText: thanks a lot to everyone\nLabel: praise\n\n"
LABELS = "Labels: billing, shipping, returns, technical problem, other"


def retrieved(i: int) -> str:
    passages = [f"[{31 * i + k}] {text(7 * i + k, 30)}" for k in range(1 + i % 4)]
    return "\n".join(passages)


SHAPES: dict[str, tuple[Callable[[int], Messages], Callable[[int], tuple[str, ...]]]] = {
    "few-shot": (
        lambda i: (("user", f"Label each text.\n\n{EXAMPLES}Text: {text(i)}\nLabel:"),),
        lambda i: (text(i),),
    ),
    "system message": (
        lambda i: (("system", "Route the ticket to one of our five teams."), ("user", text(i))),
        lambda i: (text(i),),
    ),
    "few-shot as messages": (
        lambda i: (
            ("system", "Say whether the sentence is a request."),
            ("user", "open the door please"),
            ("assistant", "yes"),
            ("user", text(i)),
        ),
        lambda i: (text(i),),
    ),
    "chat history": (
        lambda i: (
            ("system", "Answer questions about our shop politely."),
            ("user", text(3 * i)),
            ("assistant", text(3 * i + 1)),
            ("user", text(3 * i + 2)),
        ),
        lambda i: (text(3 * i), text(3 * i + 1), text(3 * i + 2)),
    ),
    "retrieved context": (
        lambda i: (("user", f"Answer from the context only.\n\nContext:\n{retrieved(i)}\n\nQuestion: {text(i, 6)}?"),),
        lambda i: (retrieved(i)[1:], text(i, 6)),
    ),
    "numbers, dates and ids": (
        lambda i: (
            (
                "user",
                f"Today is 2026-{1 + i % 12:02}-{1 + i % 28:02}. Ticket #{48213 + 17 * i} is about this:\n"
                f"{text(i)}\nHow urgent is it on a scale of 1 to 5?",
            ),
        ),
        lambda i: (f"2026-{1 + i % 12:02}-{1 + i % 28:02}", f"#{48213 + 17 * i}", text(i)),
    ),
    "labels that stay": (
        lambda i: (("user", f"Which label fits the message?\n{LABELS}\nMessage: {text(i)}"),),
        lambda i: (text(i),),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_task_of_any_shape_is_one_task_whose_slots_are_what_varies(shape: str) -> None:
    messages, slots = SHAPES[shape]
    calls = [Call(f"c{i}", messages(i)) for i in range(40)]
    identifier = Identifier()
    final = {a.final_task for a in identify_stream(calls, identifier)}
    assert len(final) == 1 and None not in final
    for i in (0, 17, 39):
        match = identifier.match(calls[i])
        assert match is not None
        template = identifier.template(match.template)
        assert template is not None and join_prompt(template.literals, match.slots) == prompt_text(messages(i))
        assert match.slots == slots(i)


DAYS: dict[str, Callable[[int], str]] = {
    "iso": lambda day: f"2026-03-{day:02}",
    "with a time": lambda day: f"2026-03-{day:02}T08:00:00Z",
    "points": lambda day: f"{day}.3.2026",
    "in words": lambda day: f"{('Monday', 'Friday')[day % 2]}, March {day}, 2026",
    "in German": lambda day: f"{('Montag', 'Freitag')[day % 2]}, {day}. März 2026",
}


@pytest.mark.parametrize("written", DAYS)
@pytest.mark.parametrize(
    "frame",
    [
        (("system", "You sort the mail of a shop. Today is {}. Name the team."), ("user", "{}")),
        (("user", "Date: {}\nWhich team is to read this message?\n{}"),),
        (("user", "Which team is to read this message? It came on {}.\nMessage: {}\nTeam:"),),
    ],
    ids=["system message", "line", "sentence"],
)
def test_the_day_a_prompt_was_written_is_input_from_the_first_day_on(written: str, frame: Messages) -> None:
    def call(i: int) -> Call:
        parts = iter((DAYS[written](1 + i // 20), text(i)))
        filled = [(role, "".join(p if p != "{}" else next(parts) for p in re.split(r"(\{\})", s))) for role, s in frame]
        return Call(f"c{i}", tuple(filled))

    identifier = Identifier()
    found = list(identify_stream([call(i) for i in range(80)], identifier))
    assert len({each.final_task for each in found}) == 1 and all(each.task for each in found[20:])
    for i in (0, 79):
        match = identifier.match(call(i))
        assert match is not None and match.slots == (DAYS[written](1 + i // 20), text(i))


def test_dates_that_an_instruction_speaks_of_stay_in_it() -> None:
    spans = [("2020-01-01", "2020-12-31"), ("2021-01-01", "2021-12-31")]
    prompts = [f"Did it happen between {a} and {b}? Answer yes or no.\n{text(i)}" for a, b in spans for i in range(20)]
    found = [each.final_task for each in identify_stream(user(*prompts), Identifier())]
    assert len(set(found[:20])) == len(set(found[20:])) == 1 and found[0] != found[20]


@given(
    st.lists(st.sampled_from(["1.3.2026", "2026-03-01", "March 1, 2026", " ", ", ", ".", "On ", " team\n"]), max_size=6)
)
def test_a_template_without_its_date_fits_what_it_fitted(pieces: list[str]) -> None:
    literals = ("Sort it. ", *("".join(pieces[k::2]) or "x" for k in range(2)), "")
    prompt = join_prompt(literals, ("one", "two", "three"))
    slots = fit(undated(literals), prompt)
    assert slots is not None and join_prompt(undated(literals), slots) == prompt
    assert "".join(slots).count("2026") <= 1


def test_examples_that_change_are_input_and_the_instruction_is_not() -> None:
    def prompt(i: int) -> str:
        shots = "\n".join(f"Text: {text(90 * i + k)}\nMood: {('calm', 'angry')[k % 2]}" for k in range(2))
        return f"Judge the mood of the last text.\n\n{shots}\nText: {text(i)}\nMood:"

    calls = user(*(prompt(i) for i in range(40)))
    identifier = Identifier()
    assert len({a.final_task for a in identify_stream(calls, identifier)}) == 1
    match = identifier.match(calls[0])
    assert match is not None and text(0) in match.slots[-1]
    assert not any("Judge the mood" in slot for slot in match.slots)


def answered(pairs: list[tuple[str, str]]) -> list[str | None]:
    calls = user(*(prompt for prompt, _ in pairs))
    return [a.final_task for a in identify_stream(calls, answers=[answer for _, answer in pairs])]


def kinds_of(final: list[str | None], kinds: list[int]) -> dict[str | None, set[int]]:
    found: dict[str | None, set[int]] = {}
    for task, kind in zip(final, kinds, strict=True):
        found.setdefault(task, set()).add(kind)
    return found


def test_one_instruction_with_two_answer_spaces_is_two_tasks() -> None:
    pairs, kinds = [], []
    for i in range(60):
        kind = random.Random(i).randrange(2)
        options = [text(1000 + 10 * i + k, 6) for k in range(3)]
        listed = (
            "\n".join(f"- {option}" for option in options)
            if kind
            else "\n".join(f"{'ABC'[k]}. {o}" for k, o in enumerate(options))
        )
        answer = options[i % 3] if kind else "ABC"[i % 3]
        pairs.append((f"Pick the best continuation.\n\nStory: {text(i, 20)}\nOptions:\n{listed}", answer))
        kinds.append(kind)
    final = answered(pairs)
    late = kinds_of(final[30:], kinds[30:])
    assert all(len(found) == 1 for found in late.values()) and len(late) == 2 and None not in late


def test_a_field_that_says_what_to_do_parts_tasks_by_their_answers() -> None:
    jobs = {"sentiment": ["positive", "negative"], "topic": ["sports", "politics", "science"]}
    draw = random.Random(3)
    pairs, kinds = [], []
    for i in range(80):
        kind = draw.randrange(2)
        job = list(jobs)[kind]
        prompt = f"Analyse the text below and answer with one word.\nAnalysis: {job}\nText: {text(i)}"
        pairs.append((prompt, draw.choice(jobs[job])))
        kinds.append(kind)
    late = kinds_of(answered(pairs)[40:], kinds[40:])
    assert all(len(found) == 1 for found in late.values()) and len(late) == 2 and None not in late


def test_a_word_of_the_input_that_gives_the_label_away_parts_nothing() -> None:
    draw = random.Random(5)
    pairs = []
    for i in range(120):
        spam = draw.random() < 0.5
        opening = "Dear lucky winner of our draw, " if spam else ""
        pairs.append((f"Is this message spam or not?\nMessage: {opening}{text(i)}", "spam" if spam else "ham"))
    assert len(set(answered(pairs))) == 1


def test_answers_that_end_as_their_inputs_do_are_one_kind() -> None:
    pairs = []
    for i in range(120):
        end = "." if i % 3 else ""
        pairs.append((f"Rewrite this in plain words.\nSentence: {text(i).capitalize()}{end}", f"So {text(i)}{end}"))
    assert len(set(answered(pairs))) == 1


def test_questions_that_agree_by_luck_on_few_inputs_stay_two_tasks() -> None:
    questions = ["Which of the completions is more on topic?", "Which of the completions has the better style?"]
    draw = random.Random(0)
    pairs, kinds = [], []
    for i in range(60):
        for kind, question in enumerate(questions):
            value, answer = text(i if i < 15 else 500 * kind + i), "AB"[draw.randrange(2) if i >= 15 else i % 2]
            pairs.append((f"{question} Answer A or B.\nCompletions: {value}", answer if (i, kind) != (7, 1) else "A"))
            kinds.append(kind)
    assert all(len(found) == 1 for found in kinds_of(answered(pairs), kinds).values())


def test_a_short_prompt_within_a_long_one_is_not_the_same_job() -> None:
    short = "Answer yes or no.\nText: {}"
    long = "Is the following text toxic, rude or offensive to any of its readers? Answer yes or no.\nText: {}"
    draw = random.Random(1)
    pairs = [((short, long)[i % 2].format(text(i)), draw.choice(["yes", "no"])) for i in range(120)]
    final = answered(pairs)
    assert len({*final[40::2]}) == len({*final[41::2]}) == 1 and final[40] != final[41]


def learn_all(calls: list[Call], identifier: Identifier) -> list[tuple[str, ...]]:
    for call in calls:
        if identifier.match(call) is None:
            identifier.learn(call)
    return sorted(template.literals for template in identifier.templates())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(SHAPES)), st.randoms(use_true_random=False))
def test_while_calls_are_in_memory_their_order_changes_no_template(shape: str, order: random.Random) -> None:
    calls = [Call(f"c{i}", SHAPES[shape][0](i)) for i in range(12)]
    expected = learn_all(calls, Identifier(min_calls=12))
    order.shuffle(calls)
    assert learn_all(calls, Identifier(min_calls=12)) == expected and expected


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, max_size=3, unique=True), st.integers(0, 99))
def test_feeding_calls_again_changes_nothing_and_a_restart_goes_on_alike(shapes: list[str], seed: int) -> None:
    calls = [Call(f"{shape}{i}", SHAPES[shape][0](i + 100 * seed)) for i in range(30) for shape in shapes]
    first = Identifier()
    once = learn_all(calls, first)
    assert learn_all(calls, first) == once
    again = Identifier(first.templates())
    assert learn_all(calls, again) == once
    assert [again.match(call) for call in calls] == [first.match(call) for call in calls]


def test_a_restart_knows_the_templates_of_parted_tasks() -> None:
    calls, answers = [], []
    for i in range(80):
        special = i % 5 == 0
        body = f"The sentence '{text(i)}.' can be put simply as follows" if special else f"Complex: {text(i)}\nSimple"
        calls.append(Call(f"c{i}", (("user", f"Rewrite the complex sentence in simple words.\n\n{body}:"),)))
        answers.append(f"'{text(i, 4)}'" if special else text(i, 9).capitalize())
    first = Identifier()
    tasks = [a.final_task for a in identify_stream(calls, first, answers=answers)]
    assert len(set(tasks[40:])) == 2
    again = Identifier(first.templates())
    assert again.templates() == first.templates()
    assert [again.match(call) for call in calls] == [first.match(call) for call in calls]


def test_beyond_the_bound_no_new_task_is_looked_for_and_known_ones_stay() -> None:
    identifier = Identifier(max_tasks=3)

    def feed(number: int) -> str | None:
        match = None
        for i in range(9):
            call = Call(f"{number}-{i}", (("user", f"{text(9000 + number, 8)}.\nInput: {text(i)}"),))
            match = identifier.match(call) or identifier.learn(call).match
        return match.task if match else None

    tasks = [feed(0), feed(1), feed(2)]
    assert None not in tasks and feed(3) is None
    assert [feed(0), feed(1), feed(2)] == tasks
    identifier.forget(str(tasks[1]))
    assert feed(4) is not None


@pytest.mark.parametrize("system", [True, False])
def test_inputs_written_by_a_formula_are_one_task_under_their_instruction(system: bool) -> None:
    rng = random.Random(1)
    calls, answers = [], []
    question = "Is this review positive or negative? One word."
    for i in range(400):
        good = rng.random() < 0.5
        word = rng.choice(("lovely", "moving", "witty", "warm") if good else ("dull", "clumsy", "cold", "tedious"))
        review = f"A {word} film about {rng.choice(('love', 'war', 'chess'))}, number {rng.randrange(10**6)}."
        messages = (("system", question), ("user", review)) if system else (("user", f"{question}\nReview: {review}"),)
        calls.append(Call(str(i), messages))
        answers.append("Positive" if good else "Negative")
    assert len({a.final_task for a in identify_stream(calls, answers=answers)}) == 1


def test_answers_that_the_instruction_lists_are_one_job_however_inputs_are_worded() -> None:
    rng = random.Random(2)
    said = {
        "I would like to know about my {} order": "orders",
        "I would like to know about a refund for my {}": "refunds",
        "My new {} arrived broken": "repairs",
        "The {} I bought is still not here": "delivery",
    }
    calls, answers = [], []
    for i in range(300):
        wording = rng.choice(list(said))
        message = wording.format(f"{rng.choice(('phone', 'lamp', 'bike'))} {rng.randrange(1000)}")
        system = "Sort the message into orders, refunds, repairs or delivery."
        calls.append(Call(str(i), (("system", system), ("user", f"Message: {message}"))))
        answers.append(said[wording])
    assert len({a.final_task for a in identify_stream(calls, answers=answers)}) == 1


VALUES = ["INV-2026-{:05}", "A-{}", "mail{}@example.com", "https://shop.example/p?id={}", "${}.50", "#{}", "v{}.1/beta"]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("frame", ["Message: {}", 'Text:"{}"', "<input>{}</input>", "Id: {}.\nTopic:"])
@pytest.mark.parametrize("alone", [1, 2])
def test_no_template_takes_a_part_of_a_value_for_constant(frame: str, value: str, alone: int) -> None:
    values = [value.format(100 + 37 * i) for i in range(20)]
    inputs = [f"{text(i)} {each}" if i % alone else each for i, each in enumerate(values)]
    instruction = "What is the message about, and which order is it?\n"
    calls = [Call(f"c{i}", (("user", instruction + frame.format(each)),)) for i, each in enumerate(inputs)]
    identifier = Identifier()
    assert len({a.final_task for a in identify_stream(calls, identifier)}) == 1
    found = [identifier.match(call) for call in calls]
    assert [match and match.slots for match in found] == [(each,) for each in inputs]


def test_a_stored_template_that_cuts_values_fits_as_ever_and_no_more_once_it_is_widened() -> None:
    opening = "\x1euser\x1fSay what this is about and who should see to it. Id: "
    stored = make_template(key_of(Call("x", ())), (opening + "INV-2026-", ""), "t")
    identifier = Identifier([stored])

    def slots(prompt: str) -> tuple[str, ...] | None:
        match = identifier.match(Call("x", (("user", prompt),)))
        return match.slots if match else None

    plain = opening.removeprefix("\x1euser\x1f")
    assert slots(f"{plain}INV-2026-7") == ("7",)
    learned = identifier.learn(Call("late", (("user", f"{plain}INV-2027-8"),)))
    assert learned.match is not None and learned.match.task == "t"
    assert [slots(f"{plain}{each}") for each in ("INV-2026-7", "ORD-1")] == [("INV-2026-7",), ("ORD-1",)]
