"""Structured answers: each field as it can be learnt, and a whole answer only if all of it can be trusted."""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections import Counter

import numpy as np
import pytest
from easy import write_log
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from jitr_core import JITR, Policy, cli
from jitr_core.base_models import BaseModels, HashingModel
from jitr_core.collect import build_dataset
from jitr_core.equivalence import equivalent
from jitr_core.errors import ArtifactError, TrainingError
from jitr_core.forms import fits
from jitr_core.identify import answer_space
from jitr_core.layout import reader
from jitr_core.search import search_fields
from jitr_core.search.trials import Trials
from jitr_core.structured import Style, joined, nested, structured
from jitr_core.students import load_student
from jitr_core.students.copier import CopyBench
from jitr_core.students.plans import extracted
from jitr_core.students.spans import FORMS, copies, tokens
from jitr_core.types import Example, Form
from jitr_langchain.replay import replay

LEXICAL = Policy(families=("lexical",))
MOODS = {"good": "love enjoy great", "bad": "hate broken awful"}


def review(rng):
    """An input and its answer: label, boolean, copied text, number, constant, optional field and a list of labels."""
    mood, gift = rng.choice(sorted(MOODS)), rng.random() < 0.4
    brand = "".join(rng.choice("BDKLMNRT") + rng.choice("aeiou") for _ in range(2)).capitalize()
    price = round(rng.uniform(1, 90), 2)
    tags = [tag for tag in ("box", "lid", "wire") if rng.random() < 0.4]
    parts = [
        f"I {rng.choice(MOODS[mood].split())} it",
        f"brand {brand} no {rng.randint(0, 10**6)}",
        f"paid ${price:.2f}",
    ]
    parts += [f"the {tag} is fine" for tag in tags] + (["it was a gift"] if gift else [])
    answer = {"mood": mood, "gift": gift, "item": {"brand": brand, "price": price}, "source": "web", "tags": tags}
    if rng.random() < 0.3:
        code = rng.randint(100, 999)
        parts.append(f"code {code}")
        answer["code"] = code
    rng.shuffle(parts)
    return (", ".join(parts),), json.dumps(answer)


def reviews(count, seed=0):
    rng = random.Random(seed)
    return [review(rng) for _ in range(count)]


def dataset(pairs):
    return build_dataset([Example(x, a, group="\x1d".join(x), seq=i) for i, (x, a) in enumerate(pairs)], 20_000)


def compose(pairs, **options):
    return search_fields(dataset(pairs), policy=LEXICAL, base_models=BaseModels(), **options)


@pytest.fixture(scope="module")
def composed():
    return compose(reviews(150))


# Taking apart and writing.


@pytest.mark.parametrize(
    "answer",
    [
        '{"a": {"b": [1, 2], "c": null}, "d": {}}',
        '{"a":1,"b":"ü"}',
        '{"a": "\\u00fc"}',
        '```json\n{\n  "a": 1.5\n}\n```',
        '{\n    "a": true\n}\n',
        '["x", "y"]',
        "12.5",
    ],
)
def test_an_answer_is_written_as_the_teacher_writes_it(answer):
    taken = structured(answer)
    assert taken is not None and Style.of([taken]).write(taken.values) == answer


@pytest.mark.parametrize(
    "answer",
    ["", "yes", "{", '{"a": NaN}', '"text"', "true", "```json\n{}", "[" * 5_000, '{"a":' * 50 + "1" + "}" * 50]
    + [json.dumps({str(i): i for i in range(500)}), '{"a": "' + "x" * 200_000 + '"}', "{'a': 1}"],
)
def test_what_is_no_manageable_json_is_no_structured_answer(answer):
    assert structured(answer) is None


def test_paths_that_contradict_each_other_make_no_answer():
    for values in ({("a",): "1", ("a", "b"): "1"}, {(): "1", ("a",): "1"}, {("a", "b"): "1", ("a",): "2"}):
        with pytest.raises(ValueError):
            nested(values)


def test_objects_are_labels_where_one_field_tells_the_others_and_fields_otherwise():
    tells = [json.dumps({"team": t, "queue": t.upper()}) for t in ("a", "b", "c") * 10]
    varies = [json.dumps({"team": "abc"[i % 3], "urgent": bool(i % 2)}) for i in range(30)]
    lists = [json.dumps([t for j, t in enumerate("abc") if i >> j & 1]) for i in range(64)]
    assert [answer_space(each).kind for each in (tells, varies, lists)] == ["labels", "fields", "fields"]
    assert answer_space(f"```json\n{each}\n```" for each in varies).kind == "fields"


# Copying.


@pytest.mark.parametrize(
    ("text", "value", "form"),
    [
        ("brand Nike, 12oz", "Nike", "as it stands"),
        ("brand Nike, 12oz", "12", "as it stands"),
        ("by NIKE  Air", "NIKE Air", "with single blanks"),
        ("by NIKE", "nike", "in lower case"),
        ("by nike air", "Nike Air", "in title case"),
        ("it is $1,299.00 now", 1299.0, "as a number"),
        ("it is $1,299.00 now", 1299, "as an integer"),
        ("year 2024", 2024.0, "as a decimal number"),
        ("at -5 degrees", -5, "as a number"),
    ],
)
def test_values_are_found_where_they_stand_in_the_input(text, value, form):
    read, wanted = tokens([text]), json.dumps(value)
    found = list(copies(read, wanted, form))
    assert len(found) == 1 and FORMS[form](read.text(*found[0])) == wanted


@pytest.mark.parametrize("value", ['"ik"', '"nike\\nair"', "true", "null", '""', '[" nike"]'])
def test_parts_of_words_and_other_values_are_not_copied(value):
    assert not list(copies(tokens(["by nike\nair"]), value, "as it stands"))


def test_a_copier_finds_values_it_never_saw_by_what_stands_around_them():
    rng = random.Random(1)
    made = []
    for _ in range(120):
        one, other = ("".join(rng.choices("abcdefgh", k=5)).capitalize() for _ in range(2))
        made.append((f"from {one} to {other}" if rng.random() < 0.5 else f"to {other} from {one}", other))
    bench = CopyBench([tokens([text]) for text, _ in made], [json.dumps(v) for _, v in made], "as it stands")
    copier = bench.fit(np.arange(100))
    found = [copier.copy((text,)) for text, _ in made[100:]]
    assert [json.loads(each.value) for each in found] == [value for _, value in made[100:]]
    assert not any(each.known for each in found) and min(each.probability for each in found) > 0.5
    assert copier.copy(("",)).value is None


# Composing.


def test_every_field_is_learnt_in_its_own_way(composed):
    said = {report.name: report.note for report in composed.candidates}
    assert composed.chosen == composed.candidates[0].name == "fields"
    assert said["fields/mood"].startswith("labels") and said["fields/gift"].startswith("labels")
    assert said["fields/item.brand"].startswith("copied as it stands")
    assert said["fields/item.price"].startswith("copied as a number")
    assert said["fields/source"] == "always the same" and said["fields/tags"].startswith("list of 3 labels")
    assert said["fields/code"].startswith("copied as a number")
    assert composed.candidates[0].agreement > 0.8 and composed.candidates[0].score > 0.7


def test_whole_answers_hold_for_inputs_never_seen_and_combinations_that_never_came(composed):
    student, new = composed.fit(), reviews(100, seed=9)
    answers, confidence = student.predict([x for x, _ in new])
    right = np.array([a == b for a, (_, b) in zip(answers, new, strict=True)])
    assert right.mean() > 0.85 and confidence[right].mean() > confidence.mean() - 1e-9
    taught = {a for _, a in reviews(150)}
    assert not taught & set(answers)
    assert abs(confidence.mean() - right.mean()) < 0.1


def test_an_artifact_serves_what_was_saved_and_none_that_was_changed(composed, tmp_path):
    student, inputs = composed.fit(), [x for x, _ in reviews(20, seed=5)] + [("",), ("zzz " * 5_000,)]
    student.save(tmp_path / "artifact")
    loaded = load_student(tmp_path / "artifact", BaseModels())
    assert [loaded.predict_one(x) for x in inputs] == [student.predict_one(x) for x in inputs]
    assert [loaded.predict_one(x)[1] for x in inputs[-2:]] == [0.0, 0.0]
    assert {f.suffix for f in (tmp_path / "artifact").rglob("*") if f.is_file()} == {".json", ".safetensors"}
    part = next((tmp_path / "artifact").glob("part-*")) / "student.json"
    part.write_text(part.read_text() + " ")
    with pytest.raises(ArtifactError):
        load_student(tmp_path / "artifact", BaseModels())


def test_an_input_is_embedded_once_for_all_fields(tmp_path):
    encoder = HashingModel("e")
    models = BaseModels(tmp_path / "cache", encoder=encoder)
    policy = Policy(families=("encoder",))
    student = search_fields(dataset(reviews(80)), policy=policy, base_models=models).fit()
    student.save(tmp_path / "artifact")
    loaded = load_student(tmp_path / "artifact", models)
    assert (loaded.family, loaded.base_model) == ("fields", "e") and len(loaded.parts) > 3
    inputs = [x for x, _ in reviews(5, seed=5)]
    expected = [student.predict_one(x) for x in inputs]
    before = encoder.calls
    assert [loaded.predict_one(x) for x in inputs] == expected
    assert encoder.calls - before == len(inputs)


def test_fields_that_never_came_together_are_not_given_together():
    rng, pairs = random.Random(0), []
    for i in range(120):
        first = i % 2 == 0
        words = f"{'apple' if first else 'pear'} {rng.randint(0, 9999)}"
        pairs.append(((words,), json.dumps({"a": rng.choice("xy"), ("b" if first else "c"): "z"})))
    student = compose(pairs).fit()
    for text in ("apple 1", "pear 1", "apple pear 5", "neither 7"):
        answer, confidence, _ = student.predict_one((text,))
        assert set(json.loads(answer or '{"a": 0, "b": 0}')) in ({"a", "b"}, {"a", "c"})
        assert answer or confidence == 0


def test_answers_that_are_no_json_are_never_given_and_cost_confidence():
    pairs = reviews(150)
    spoilt = [(x, "Sorry, I cannot help." if i % 10 == 0 else a) for i, (x, a) in enumerate(pairs)]
    found = compose(spoilt)
    assert found.candidates[0].agreement <= 0.9
    assert all(structured(each) for each in found.predicted if each)


# Bad input: a clear reason, and nothing is promoted.


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda i: {"mood": "ab"[i % 2], "note": f"written {i * 7919} freely {i}"}, "field note is written freely"),
        (lambda i: {f"key{i}": 1, f"other{i}": 2}, "too few answers have the same fields"),
        (lambda i: {"rows": [{"n": i, "m": i * 3}], "mood": "ab"[i % 2]}, "field rows is written freely"),
    ],
    ids=["free text", "other keys each time", "objects in a list"],
)
def test_what_cannot_be_learnt_is_refused_by_name(answer, reason):
    rng = random.Random(0)
    pairs = [((f"word{rng.randint(0, 50)} text {i}",), json.dumps(answer(i))) for i in range(100)]
    assert answer_space(a for _, a in pairs).kind == "fields"
    with pytest.raises(TrainingError, match=reason):
        compose(pairs)


def test_the_seconds_of_a_search_are_those_of_all_its_fields(tmp_path, monkeypatch):
    clock, tried = itertools.count(), []
    book = Trials.book

    def booked(self, recipe, bench):
        tried.append(recipe.name.partition("@")[0])
        return book(self, recipe, bench)

    monkeypatch.setattr("jitr_core.search.trials.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(Trials, "book", booked)
    models = BaseModels(tmp_path, encoder=HashingModel("e"))
    policy = Policy(families=("lexical", "encoder"), search_seconds=8)
    search_fields(dataset(reviews(100)), policy=policy, base_models=models)
    assert "encoder" in tried and "encoder" not in tried[-9:] and tried[-1] == "lexical/word"


def test_a_handful_of_examples_is_refused():
    with pytest.raises(TrainingError, match="too few"):
        compose(reviews(6))


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([f"label{i}" for i in range(10_000)] * 2, "text"),
        ([f"label{i}" for i in range(100)] * 3, "labels"),
        ([json.dumps({"id": i, "x": i % 7}) for i in range(500)], "fields"),
        ([json.dumps({"a": 1, "b": 2})] * 50, "labels"),
        ([f"{{broken {i}" for i in range(50)], "text"),
    ],
    ids=["10,000 classes", "three examples a class", "almost all different", "one class only", "invalid JSON"],
)
def test_answer_spaces_of_bad_input(answers, kind):
    assert answer_space(answers).kind == kind


SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "item": {"type": "object"}, "code": {"type": "integer"}},
    "required": ["mood", "gift", "item", "source", "tags"],
}


def test_calls_of_a_demanded_tool_are_replaced_by_the_whole_loop(tmp_path, monkeypatch):
    tool = {"type": "function", "function": {"name": "Review", "parameters": SCHEMA}}
    calls = [
        {
            "messages": [{"role": "user", "content": f"Read this review: {text}"}],
            "tools": [tool],
            "tool_choice": {"type": "function", "function": {"name": "Review"}},
            "tool_calls": [{"id": "c1", "function": {"name": "Review", "arguments": answer}}],
            "model": "gpt-4.1",
        }
        for (text,), answer in reviews(420)
    ]
    log = write_log(tmp_path / "calls.jsonl", calls)
    done = [each for _, each in replay([log], policy=LEXICAL, state=tmp_path / "state")]
    given = [each for each in done if each.decision is not None and each.decision.kind == "replacement"]
    assert len(given) > 80
    assert np.mean([equivalent(each.answer, each.record.said) for each in given]) >= 0.95
    assert all(fits(Form("tool", "Review", SCHEMA), each.answer) for each in given)
    assert [each.answer for each in done if each not in given][:3] == ["", "", ""]  # as recorded
    url = f"sqlite:///{tmp_path / 'state' / 'jitr.db'}"
    shown = CliRunner().invoke(cli.app, ["tasks", "show", done[-1].task, "--url", url])
    assert "field item.brand: copied as it stands" in shown.output and "fields, " in shown.output, shown.output
    listed = json.loads(CliRunner().invoke(cli.app, ["tasks", "--url", url, "--json"]).output)
    assert {"field": "source", "agreement": 1.0, "how": "always the same"} in listed[0]["fields"]
    monkeypatch.delitem(sys.modules, "jsonschema")
    app = JITR(url, training="off")
    app.refresh()
    assert "jsonschema" in sys.modules  # not first in a call
    app.close()


# Answers in plain text that are taken from the input.

SENDERS = (
    ("Ada", "Bo", "Cem", "Dana", "Eve", "Finn", "Gus", "Hana"),
    ("Stone", "Rivers", "Okafor", "Lund", "Ito", "Weber"),
)


def letters(count, seed=0, unsigned=0.3):
    """Letters, of which some are signed, with who signed them, and a day that is named before another one."""
    rng = random.Random(seed)
    for i in range(count):
        name = f"{rng.choice(SENDERS[0])} {rng.choice(SENDERS[1])}{rng.randint(10, 99)}"
        day, other = (f"{rng.randint(1, 28)} {rng.choice(['May', 'June'])} {rng.randint(1990, 2030)}" for _ in range(2))
        text = f"letter {i} of {day}, answer by {other}"
        signed = rng.random() >= unsigned
        yield (f"{text}, signed {name}" if signed else f"{text}, nobody signed",), name if signed else "none", day


@pytest.mark.parametrize("asked", ["signer", "day"])
def test_what_is_taken_from_the_input_is_replaced_by_the_whole_loop_as_it_stands_there(asked, tmp_path):
    instruction = {"signer": "Who signed the letter? Or none.", "day": "Of what day is the letter?"}[asked]
    said = [((text,), {"signer": who, "day": day}[asked]) for (text,), who, day in letters(400)]
    assert answer_space(answer for _, answer in said).kind == "text"
    calls = [
        {"messages": [{"role": "user", "content": f"{instruction}\n\n{text}"}], "answer": f"{answer}\n", "model": "m"}
        for (text,), answer in said
    ]
    log = write_log(tmp_path / "calls.jsonl", calls)
    done = [each for _, each in replay([log], policy=LEXICAL, state=tmp_path / "state")]
    given = [each for each in done if each.decision is not None and each.decision.kind == "replacement"]
    assert len(given) > 80
    assert np.mean([each.answer == each.record.answer for each in given]) >= 0.95
    earlier = {each.record.answer for each in done[:200]}
    assert any(each.answer not in earlier for each in given), "answers that never came before can be given"


def test_texts_that_are_written_freely_are_not_taken_for_parts_of_their_inputs():
    rng = random.Random(1)
    inputs = [(f"message {i} about a {rng.choice(['boat', 'house'])} {rng.random()}",) for i in range(200)]
    assert not extracted(inputs, [f"Thank you for message number {i}!" for i in range(200)])
    assert not extracted(inputs, ["a", "boat"] * 100), "a handful of words that stand there are labels"
    some = [text.split(" about")[0] if i % 3 == 0 else f"reply {i}" for i, (text,) in enumerate(inputs)]
    assert not extracted(inputs, some)
    most = [text.split(" about")[0] if i % 3 else f"reply {i}" for i, (text,) in enumerate(inputs)]
    assert extracted(inputs, most)


# How answers are laid out.


def taught(write, count=150, seed=0):
    """Inputs that name some of three things, and what is written of those."""
    rng, pairs = random.Random(seed), []
    for _ in range(count):
        tags = [tag for tag in ("box", "lid", "wire") if rng.random() < 0.5] or ["none"]
        words = [*tags, f"no {rng.randint(0, 10**6)}", rng.choice(["late", "fine"])]
        rng.shuffle(words)
        pairs.append(((" ".join(words),), write(tags, words)))
    return pairs


def obj(tags, words):
    return json.dumps({"tags": tags, "late": "late" in words})


@pytest.mark.parametrize(
    "write",
    [
        lambda tags, words: f"Sure! {obj(tags, words)}",
        lambda tags, words: f"Here is the JSON [as asked]:\n```json\n{obj(tags, words)}\n```\nAnything else?",
        lambda tags, words: ", ".join(tags),
        lambda tags, words: "\n".join(f"- {tag}" for tag in tags),
        lambda tags, words: "\n".join(f"{n}. {tag}" for n, tag in enumerate(tags, 1)),
        lambda tags, words: joined(tags, ", ", " and "),
        lambda tags, words: joined(tags, ", ", ", and "),
    ],
    ids=["sentence", "sentence and code block", "commas", "bullets", "numbered", "and", "comma and"],
)
def test_answers_are_given_as_the_teacher_lays_them_out(write, tmp_path):
    pairs = taught(write)
    assert answer_space(answer for _, answer in pairs * 2).kind == "fields"
    student, new = compose(pairs).fit(), taught(write, 60, seed=7)
    student.save(tmp_path / "artifact")
    answers, _ = load_student(tmp_path / "artifact", BaseModels()).predict([x for x, _ in new])
    assert np.mean([given == teachers for given, (_, teachers) in zip(answers, new, strict=True)]) > 0.9


@given(
    st.lists(st.from_regex(r"[a-m]{2,5}( [a-m]{2,5})?", fullmatch=True), min_size=3, max_size=6, unique=True),
    st.sampled_from(["{}", "- {}", "{n}. {}", "{n}) {}"]),
    st.sampled_from([", ", " and ", ", and ", " und "]),
)
def test_lists_in_plain_text_are_read_as_they_were_written(labels, item, last):
    """Whatever the labels and the way: all items come out, and written again the very text does."""
    lists = [list(some) for n in range(1, len(labels) + 1) for some in itertools.combinations(labels, n)]
    if item == "{}":
        texts = [joined(each, ", ", "" if last == ", " else last) for each in lists]
    else:
        texts = ["\n".join(item.replace("{n}", str(n)).format(x) for n, x in enumerate(each, 1)) for each in lists]
    read = reader(Counter(texts * 5))
    for text, each in zip(texts, lists, strict=True):
        taken = read(text)
        assert taken is not None and json.loads(taken.values[()]) == each
        assert Style.of([taken]).write(taken.values) == text


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["bread and butter", "fish and chips", "soup"] * 20, "labels"),
        (["1. Turn it off\n2. Turn it on", "1. Call us", "1. Wait\n2. Call us\n3. Complain"] * 20, "labels"),
        ([f"1. Take {i} and {i * 7}\n2. Add {i * 3}, then wait" for i in range(80)], "text"),
        (["yes, but", "yes", "no", "no, but"] * 20, "labels"),
        ([f"{city}, {land}" for city, land in zip("abcdefgh", "AABBCCDD", strict=True)] * 5, "labels"),
        ([f"Well, I {i} think, so {i * 7}, or not" for i in range(80)], "text"),
        ([f"{i} times: " + json.dumps({"a": i % 3, "b": i % 2, "c": i % 5}) for i in range(80)], "text"),
        ([f"{'AB'[i % 2]}: " + obj("abcde"[i % 3 : 2 + i % 4], ["late"][: i % 2]) for i in range(80)], "labels"),
        ([f"See [{i}] and {{x: {i}}}" for i in range(80)], "text"),
    ],
    ids=[
        "labels with an and",
        "instructions",
        "numbered sentences",
        "labels with a comma",
        "places",
        "sentences",
        "sentences that differ",
        "JSON with commas",
        "no JSON",
    ],
)
def test_what_only_looks_like_a_list_or_like_json_is_none(answers, kind):
    assert answer_space(answers).kind == kind


def test_an_answer_in_another_frame_is_not_agreed_with():
    pairs = [
        (x, a if i % 20 else a.replace("Sure!", "OK:"))
        for i, (x, a) in enumerate(taught(lambda *t: f"Sure! {obj(*t)}"))
    ]
    found = compose(pairs)
    assert found.candidates[0].agreement <= 0.95
    assert all(each.startswith("Sure! {") for each in found.predicted if each)


WEIGHTS = {
    "amount": lambda kg: f"{kg} kg",
    "number": str,
    "field": lambda kg: json.dumps({"weight": kg}),
    "text field": lambda kg: json.dumps({"weight": f"{kg} kg"}),
}


def weighed(count, write, seed=0):
    """Messages that hold a weight and a width, and what is written of the weight."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        kg = rng.randint(1, 9_999)
        words = [
            f"{kg} kg",
            f"{rng.randint(1, 999)} cm",
            rng.choice(["to Rome", "to Oslo"]),
            rng.choice(["box", "bag"]),
        ]
        rng.shuffle(words)
        found.append(((" ".join(words),), write(kg)))
    return found


@pytest.mark.parametrize("form", WEIGHTS)
def test_a_number_with_a_unit_is_copied_in_whatever_form_it_is_asked_for(form, tmp_path):
    pairs = weighed(150, WEIGHTS[form])
    space = answer_space(answer for _, answer in pairs)
    assert (space.kind, "amounts" in space.reason) == ("fields", form == "amount")
    student, new = compose(pairs).fit(), weighed(60, WEIGHTS[form], seed=7)
    student.save(tmp_path / "artifact")
    answers, _ = load_student(tmp_path / "artifact", BaseModels()).predict([x for x, _ in new])
    assert np.mean([given == teachers for given, (_, teachers) in zip(answers, new, strict=True)]) > 0.9


def test_amounts_that_the_input_does_not_say_are_refused_by_name():
    rng = random.Random(0)
    with pytest.raises(TrainingError, match="field answer is written freely"):
        compose([(x, f"{rng.randint(10_000, 99_999)} kg") for x, _ in weighed(150, str)])
    few = answer_space(f"{rng.choice([5, 10, 20])} kg" for _ in range(150))
    assert few.kind == "labels" and set(few.labels) == {"5 kg", "10 kg", "20 kg"}


def test_a_log_of_amounts_is_replaced(tmp_path):
    prompt = "What does the parcel weigh? Answer with number and unit alone.\nParcel: "
    calls = [
        {"messages": [{"role": "user", "content": prompt + text}], "answer": answer}
        for (text,), answer in weighed(300, WEIGHTS["amount"])
    ]
    done = [each for _, each in replay([write_log(tmp_path / "calls.jsonl", calls)], policy=LEXICAL)]
    given = [each for each in done if each.decision is not None and each.decision.kind == "replacement"]
    assert len(given) > 50 and np.mean([each.answer == each.record.said for each in given]) >= 0.95


@pytest.mark.parametrize("form", ["INV-2026-{}", "mail{}@example.com"])
def test_a_copied_value_is_found_although_a_part_of_it_never_varies(tmp_path, form):
    rng, calls = random.Random(0), []
    for _ in range(250):
        topic, about = rng.choice([("refund", "money back"), ("order", "buy one"), ("return", "send it back")])
        words = [*rng.sample("the my hello parcel still thanks soon never box red green shop".split(), 5), about]
        what = form.format(rng.randint(10_000, 99_999))
        rng.shuffle(words)
        prompt = f"Extract the topic of the message and what it is about, as JSON.\nMessage: {' '.join(words)} {what}"
        answer = json.dumps({"topic": topic, "what": what})
        calls.append({"messages": [{"role": "user", "content": prompt}], "answer": answer})
    done = [each for _, each in replay([write_log(tmp_path / "calls.jsonl", calls)], policy=LEXICAL)]
    given = [each for each in done if each.decision is not None and each.decision.kind == "replacement"]
    assert len(given) > 30 and all(each.answer == each.record.said for each in given)


def test_a_log_whose_answers_cannot_be_learnt_stays_with_the_teacher(tmp_path):
    rng = random.Random(3)
    calls = [
        {
            "messages": [{"role": "user", "content": f"Summarise this text: {rng.random()} and {rng.random()}"}],
            "answer": json.dumps({"summary": f"It says {rng.random()}", "words": rng.randint(5, 9)}),
            "response_format": {"type": "json_object"},
        }
        for _ in range(230)
    ]
    told = []
    log = write_log(tmp_path / "calls.jsonl", calls)
    done = [each for _, each in replay([log], policy=LEXICAL, tell=told.append)]
    assert all(each.decision.kind == "teacher" for each in done)
    (refusal,) = {event["report"].refusal for event in told if event["kind"] == "search"}
    assert "field summary is written freely" in refusal
