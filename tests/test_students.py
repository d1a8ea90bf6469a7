"""Students and their artifacts: what is trained is what serves."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jitr_core.base_models import BaseModels, HashingModel
from jitr_core.errors import ArtifactError
from jitr_core.students import load_student
from jitr_core.students.recipes import CandidateRecipe, candidates
from jitr_core.students.training import Bench, Classes

WORDS = [f"w{i}" for i in range(120)]


def texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [(" ".join(rng.choice(WORDS, 7)) + (" good" if i % 2 else " bad"),) for i in range(n)]


def pairs(n, seed=0):
    rng = np.random.default_rng(seed)
    made = [tuple(" ".join(rng.choice(WORDS, 4)) for _ in range(2)) for _ in range(n)]
    return [(a, a if i % 2 else b) for i, (a, b) in enumerate(made)]


@pytest.fixture
def base_models(tmp_path):
    return BaseModels(tmp_path / "cache", encoder=HashingModel("e"), static=HashingStatic())


class HashingStatic(HashingModel):
    """A static model: one block of the name recipes ask for."""

    def __init__(self):
        super().__init__("s")
        self.blocks = (("static", 64),)


def bench(inputs, base_models, answers=("yes ", "no\n")):
    labels = [answers[i % 2] for i in range(len(inputs))]
    return Bench(inputs, Classes.of(labels, 300), np.arange(len(inputs)) // 2 % 5, base_models)


def recipe(name, paired=False):
    return next(r for r in candidates(("lexical", "static", "encoder", "stacked"), paired=paired) if r.name == name)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", [r.name for r in candidates(("lexical", "static", "encoder", "stacked"), paired=True)])
def test_a_loaded_student_decides_exactly_as_the_fitted_one(name, paired, base_models, tmp_path):
    inputs = pairs(80) if paired else texts(80)
    fitted = bench(inputs, base_models).fit(recipe(name, paired))
    fitted.save(tmp_path / "artifact")
    loaded = load_student(tmp_path / "artifact", base_models)
    new = (pairs(30, 1) if paired else texts(30, 1)) + inputs[:5] + [("",), ("日本",), ("w1 " * 9000,)]
    assert [loaded.predict_one(x) for x in new] == [fitted.predict_one(x) for x in new]
    answers, confidence = loaded.predict(new)
    assert list(zip(answers, confidence.tolist(), strict=True)) == [loaded.predict_one(x)[:2] for x in new]
    assert set(answers) <= {"yes ", "no\n"}
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_the_same_data_make_the_same_bytes(base_models, tmp_path):
    for place in ("a", "b"):
        bench(texts(60), base_models).fit(recipe("stacked")).save(tmp_path / place)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["arrays.safetensors", "manifest.json", "student.json"]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


@pytest.mark.parametrize("damage", ["change", "remove", "no manifest", "garbage manifest", "other version", "nothing"])
def test_a_damaged_artifact_is_refused_with_a_hint(damage, base_models, tmp_path):
    path = tmp_path / "artifact"
    if damage != "nothing":
        bench(texts(40), base_models).fit(recipe("lexical/word")).save(path)
    arrays, manifest = path / "arrays.safetensors", path / "manifest.json"
    if damage == "change":
        data = bytearray(arrays.read_bytes())
        data[-1] ^= 1
        arrays.write_bytes(data)
    elif damage == "remove":
        arrays.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "garbage manifest":
        manifest.write_text("[1,")
    elif damage == "other version":
        manifest.write_text(json.dumps({"format": 99, "files": {}}))
    with pytest.raises(ArtifactError) as caught:
        load_student(path, base_models)
    assert caught.value.hint


def test_a_student_wants_the_very_base_model_it_was_trained_on(base_models, tmp_path):
    bench(texts(40), base_models).fit(recipe("encoder")).save(tmp_path / "artifact")
    other = BaseModels(tmp_path / "cache", encoder=HashingModel("other"))
    with pytest.raises(ArtifactError, match="another version"):
        load_student(tmp_path / "artifact", other)
    with pytest.raises(ArtifactError, match="not prepared"):
        load_student(tmp_path / "artifact", BaseModels(tmp_path / "empty"))


def test_an_artifact_never_replaces_what_is_there_and_leaves_nothing_behind(base_models, tmp_path):
    student = bench(texts(40), base_models).fit(recipe("lexical/word"))
    student.save(tmp_path / "artifact")
    with pytest.raises(ArtifactError, match="exists"):
        student.save(tmp_path / "artifact")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["artifact"]


def test_inputs_unlike_the_training_inputs_are_out_of_distribution(base_models):
    student = bench(texts(200), base_models).fit(recipe("lexical"))
    for strange in ("", "   ", "Съешь ещё этих мягких французских булок", "!!! ??? ###", "x" * 1_000_000):
        answer, confidence, ood = student.predict_one((strange,))
        assert (answer in ("yes ", "no\n"), confidence, ood) == (True, 0.0, True)
    assert np.mean([student.predict_one(x)[2] for x in texts(300, seed=5)]) < 0.01


def test_empty_inputs_are_no_surprise_where_there_were_some(base_models):
    inputs = [*texts(60), ("",), (" ",)]
    student = bench(inputs, base_models).fit(recipe("lexical"))
    assert student.predict_one(("",))[2] is False


def test_the_gate_lets_nearly_all_training_inputs_through(base_models):
    assert bench(texts(300), base_models).gated()[1].mean() < 0.01


def test_the_words_of_an_answer_speak_for_it(tmp_path):
    rng = np.random.default_rng(0)
    made = [(f"{' '.join(rng.choice(WORDS, 3))} colour{i % 20}",) for i in range(60)]
    classes = Classes.of([f"about_colour{i % 20}" for i in range(60)], 300)
    tried = Bench(made, classes, np.arange(60) // 20, BaseModels(tmp_path, encoder=HashingModel("e")))
    full = recipe("encoder/final")
    bare = CandidateRecipe("bare", "encoder", "encoder", tuple(h for h in full.heads if h.names is None))
    assert tried.crossed(full).logp.mean() > tried.crossed(bare).logp.mean() + 0.1


def test_predicting_loads_neither_sklearn_nor_torch_nor_scipy(base_models, tmp_path):
    bench(texts(40), base_models).fit(recipe("lexical")).save(tmp_path / "artifact")
    code = (
        "import sys; from jitr_core.base_models import BaseModels; from jitr_core.students import load_student; "
        f"s = load_student({str(tmp_path / 'artifact')!r}, BaseModels('nowhere')); s.predict_one(('w1 w2 good',)); "
        "sys.exit(str({'sklearn', 'torch', 'transformers', 'scipy', 'onnxruntime'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.strip() == ""
