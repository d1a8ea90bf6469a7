"""Numbers that need only be near the teacher's: which ones count as the same, and how they are learnt."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from easy import write_log
from typer.testing import CliRunner

from jitr_core import Policy, cli
from jitr_core.amounts import amount, bare, mostly_amounts
from jitr_core.base_models import BaseModels, HashingModel
from jitr_core.certify import Refusal, certify
from jitr_core.collect import build_dataset
from jitr_core.equivalence import equivalence
from jitr_core.errors import ArtifactError, TrainingError
from jitr_core.search import search_fields
from jitr_core.students import load_student
from jitr_core.students.numbers import Format
from jitr_core.types import Example

WITHIN = equivalence("number:10%")
LEXICAL = Policy(families=("lexical",))
JOBS = {"kitchen": 40, "wall": 120, "tap": 35, "lawn": 60, "sofa": 25, "shelf": 90, "car": 45, "lamp": 10}
PLACES = {"flat": 1.0, "house": 1.3, "farm": 1.8}


def estimates(count, form, seed=0):
    """Inputs with numbers that follow from two words, nearly; at a farm they are anybody's guess."""
    rng = random.Random(seed)
    for i in range(count):
        job, place = rng.choice(sorted(JOBS)), rng.choice(sorted(PLACES))
        minutes = JOBS[job] * PLACES[place] * math.exp(rng.gauss(0, 0.3 if place == "farm" else 0.005))
        text = f"{job} {place} no{i}"
        yield (text,), form(minutes, i, text)


def money(minutes, i, text):
    return f"${minutes * 31.7:,.2f}"


def nested(minutes, i, text):
    """A number, one of two texts, a code that is copied, and the number again as a text, now and then not known."""
    answer = {"time": round(minutes, 1), "unit": "min", "code": i, "cost": f"{minutes * 0.7:.0f} EUR"}
    return json.dumps(answer if "sofa" not in text else {**answer, "cost": "n/a"})


def dataset(pairs):
    return build_dataset([Example(x, a, group="\x1d".join(x), seq=i) for i, (x, a) in enumerate(pairs)], 20_000)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    models = BaseModels(tmp_path_factory.mktemp("bases"), encoder=HashingModel("e"))
    policy = Policy(families=("lexical", "encoder"))
    return search_fields(dataset(estimates(400, nested)), policy=policy, base_models=models, rule=WITHIN), models


@pytest.mark.parametrize(
    ("rule", "one", "other", "same"),
    [
        ("number:5%", "105", "100", True),
        ("number:5%", "100", "105.3", False),  # of the teacher's number
        ("number:5%", "-98", "-100", True),
        ("number:5%", "98", "-98", False),
        ("number:0.5", "3.5", "4", True),
        ("number:0.5", "3.4", "4", False),
        ("number:0", "1", "1", None),
        ("number:5%", "$1,020.00", "$1,000.00", True),
        ("number:5%", "$1,020.00", "€1,000.00", False),
        ("number:5%", "12 minutes", "12 hours", False),
        ("number:5%", "2024-03-01", "2024-03-02", False),
        ("number:5%", "It takes 12 minutes.", "It takes 12.1 minutes.", False),
        ("number:1", "yes", "yes", True),
        ("number:1", "true", "false", False),
        ("number:1", '{"a": [1, 2]}', '{"a": [1, 3]}', False),
        ("number:1", '{"a": 1, "b": "x"}', '{"b": "x", "a": 2}', True),
        ("number:1", '{"a": 1, "b": "x"}', '{"a": 1}', False),
        ("number:1", '{"a": "5 kg"}', '{"a": "6 kg"}', True),
        ("number:1", '{"a": true}', '{"a": 1}', False),
        ("number:1", '```json\n{"a": 1}\n```', '{"a": 1.5}', False),
    ],
)
def test_what_counts_as_near(rule, one, other, same):
    if same is None:
        with pytest.raises(Exception, match="is no equivalence"):
            equivalence(rule)
    else:
        assert equivalence(rule).same(one, other) is same


def test_tasks_of_amounts_are_told_from_others():
    assert mostly_amounts(["$5", "12 kg", "-3.5", "EUR 7", "40%"] * 2 + ["unknown"])
    assert not mostly_amounts(["Route 66", "A-12", "3 May 2024", "B2B"]) and not mostly_amounts([])
    assert amount("9" * 20) is None and amount("1e5") is None and bare("five") is None


@pytest.mark.parametrize(
    ("texts", "number", "written"),
    [
        (['"$1,250.00"', '"$3.50"'], 71234.567, '"$71,234.57"'),
        (["12", "7"], 9.4, "9"),
        (["12.0", "7.5"], 9.0, "9.0"),
        (["12", "7.25"], 9.5, "9.5"),
        (['"5 kg"', '"6 kg"', '"heavy"'], -0.2, '"0 kg"'),
    ],
)
def test_a_number_is_written_as_the_teacher_writes_it(texts, number, written):
    form = Format.of(texts)
    assert form is not None and form.write(number) == written
    assert form.read(written) == pytest.approx(number, abs=0.51)


def test_each_field_is_learnt_in_its_own_way_and_unsure_numbers_are_known(learnt):
    found, _ = learnt
    notes = {report.name.removeprefix("fields/"): report.note for report in found.candidates[1:]}
    assert "number by" in notes["time"]
    assert "copied as" in notes["code"] and notes["unit"] == "always the same"
    fresh = list(estimates(1_000, nested, seed=9))
    answers, confidence = found.fit().predict([slots for slots, _ in fresh])
    right = np.array([WITHIN.same(a, b) for a, (_, b) in zip(answers, fresh, strict=True)])
    farm = np.array(["farm" in slots[0] for slots, _ in fresh])
    surest = np.argsort(-confidence)[:500]
    assert right[surest].mean() > 0.95 and not farm[surest].any() and right[farm].mean() < 0.5
    given = json.loads(answers[int(surest[0])])
    assert list(given) == ["time", "unit", "code", "cost"] and isinstance(given["time"], float)
    assert {json.loads(a)["cost"][-4:] for a in np.array(answers)[surest]} <= {" EUR", "n/a"}


def test_what_is_said_of_inputs_held_back_holds_for_new_ones():
    found = search_fields(dataset(estimates(500, money)), policy=LEXICAL, base_models=BaseModels(), rule=WITHIN)
    right = np.array([WITHIN.same(a, b) for a, (_, b) in zip(found.predicted, estimates(500, money), strict=True)])
    fresh = list(estimates(2_000, money, seed=3))
    answers, confidence = found.fit().predict([(f"{slots[0]}0",) for slots, _ in fresh])  # words none has seen
    right_too = np.array([WITHIN.same(a, b) for a, (_, b) in zip(answers, fresh, strict=True)])
    assert right_too.mean() == pytest.approx(right.mean(), abs=0.05)
    assert confidence.mean() == pytest.approx(found.confidence.mean(), abs=0.05)
    assert confidence.mean() == pytest.approx(right_too.mean(), abs=0.05)


def test_a_loaded_student_decides_exactly_as_the_fitted_one(learnt, tmp_path):
    found, models = learnt
    student = found.fit()
    student.save(tmp_path / "artifact")
    loaded = load_student(tmp_path / "artifact", models)
    inputs = [slots for slots, _ in estimates(50, nested, seed=5)]
    (one, sure), (two, sure_too) = student.predict(inputs), loaded.predict(inputs)
    assert one == two and np.array_equal(sure, sure_too)
    heads = next((tmp_path / "artifact").glob("part-*/heads/student.json"))
    heads.write_text(heads.read_text() + " ")
    with pytest.raises(ArtifactError):
        load_student(tmp_path / "artifact", models)


def test_what_varies_by_chance_is_never_certified():
    rng = random.Random(1)
    pairs = [((f"{rng.choice(sorted(JOBS))} no{i}",), f"{rng.uniform(10, 500):.2f}") for i in range(300)]
    found = search_fields(dataset(pairs), policy=LEXICAL, base_models=BaseModels(), rule=WITHIN)
    right = np.array([WITHIN.same(a, b) for a, (_, b) in zip(found.predicted, pairs, strict=True)])
    assert isinstance(certify(found.confidence, right, target=0.95, delta=0.05), Refusal)


def test_amounts_with_many_rare_words_beside_them_are_learnt():
    rng = random.Random(1)
    pairs = [
        ((f"{job} no{i}",), f"${10 if job == 'lamp' else 40}" if rng.random() > 0.05 else f"ask {i}")
        for i, job in enumerate(rng.choices(["lamp", "door"], k=400))
    ]
    found = search_fields(dataset(pairs), policy=LEXICAL, base_models=BaseModels(), rule=WITHIN)
    assert np.mean([WITHIN.same(a, b) for a, (_, b) in zip(found.predicted, pairs, strict=True)]) > 0.9


def test_without_a_tolerance_open_numbers_are_refused_by_name():
    with pytest.raises(TrainingError, match="field time is written freely"):
        search_fields(dataset(estimates(300, nested)), policy=LEXICAL, base_models=BaseModels())


def test_numbers_far_and_wide_end_in_no_crash():
    rng = random.Random(1)
    odd = ["0", "-5", "999999999999", "0.000001", "7"]
    pairs = [((f"{rng.choice(sorted(JOBS))} no{i}",), rng.choice(odd) if i % 2 else str(i)) for i in range(200)]
    found = search_fields(dataset(pairs), policy=LEXICAL, base_models=BaseModels(), rule=WITHIN)
    assert np.isfinite(found.confidence).all() and found.fit().predict_one(("lamp no7",))[0]


def test_amounts_are_replaced_by_the_whole_loop(tmp_path: Path):
    calls = [
        {"messages": [{"role": "user", "content": f"What should this job cost?\n\nJob: {text}"}], "answer": answer}
        for (text,), answer in estimates(700, money)
    ]
    log, out = write_log(tmp_path / "log.jsonl", calls), tmp_path / "out.json"
    for rule, replaced in (("exact", False), ("number:10%", True)):
        command = ["replay", str(log), "--families", "lexical", "--equivalence", rule, "--json", str(out)]
        command += ["--decisions", str(tmp_path / "decisions.jsonl"), "--target", "0.9"]
        result = CliRunner().invoke(cli.app, command)
        assert result.exit_code == 0, result.output
        summary = json.loads(out.read_text())
        assert (summary["replaced"] > 0) is replaced, summary["tasks"]
    lines = map(json.loads, (tmp_path / "decisions.jsonl").read_text().splitlines())
    given = [(each["answer"], i) for i, each in enumerate(lines) if each["decision"] == "replacement"]
    assert all(answer.startswith("$") and answer[-3] == "." for answer, _ in given)
    assert np.mean([WITHIN.same(answer, calls[i]["answer"]) for answer, i in given]) >= 0.9
    assert summary["equivalence"]["rule"] == "number:10%" and summary["agreement"] < 0.5
