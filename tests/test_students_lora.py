"""Tuned encoders: trained, saved, loaded and served alike; whatever fails says why and promotes nothing."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jitr_core.base_models import BaseModels, HashingModel
from jitr_core.collect import build_dataset
from jitr_core.config import Policy
from jitr_core.errors import ArtifactError, MissingExtraError, TrainingError
from jitr_core.search import search
from jitr_core.students import load_student, tuning
from jitr_core.students.lora import run_job
from jitr_core.students.recipes import candidates
from jitr_core.students.training import Bench, Classes
from jitr_core.students.tuning import Plan, Settings, Tuner, plan, source_of
from jitr_core.types import Example

pytest.importorskip("peft")
WORDS = [f"w{i}" for i in range(40)]
QUICK = Settings(rank=4, rate=1e-2, head_rate=1e-2, epochs=4, batch=8, dropout=0.0, frozen=0.5, max_tokens=32)
RUN = Tuner._run


class Tunable(HashingModel):
    """A base model without weights of its own, whose tuned form starts from a folder."""

    def __init__(self, source: Path) -> None:
        super().__init__("tiny")
        self.source = str(source)


@pytest.fixture(scope="module", autouse=True)
def _here():
    """Tuning in this process: a child loads torch for seconds. One test has a child."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tuner, "_run", lambda self, *job: run_job(*job, lambda share: self._tell("tuning", share)))
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a BERT of two small layers and random weights."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "good", "bad"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **size)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base_models(tiny, tmp_path_factory):
    return BaseModels(tmp_path_factory.mktemp("cache"), encoder=Tunable(tiny))


def pairs(n, seed=0):
    """Inputs whose answer hangs on one word."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        kind = int(rng.integers(2))
        made.append(((" ".join(rng.permutation([*rng.choice(WORDS, 5), ("good", "bad")[kind]])),), ("yes", "no")[kind]))
    return made


def bench(made, base_models, settings=QUICK, seed=0):
    inputs, answers = [x for x, _ in made], [a for _, a in made]
    found = Bench(inputs, Classes.of(answers, 300), np.arange(len(inputs)) % 10, base_models)
    encoder = base_models.get("encoder")
    found.tuner = Tuner(encoder, found.texts, found.classes.labels, found.folds, settings, 1_000, seed)
    return found


def recipe(name):
    return next(r for r in candidates(["lora"], paired=False) if r.name == name).without({"static"})


@pytest.fixture(scope="module")
def made(base_models, tmp_path_factory):
    """A student whose encoder was tuned, the bench it learnt on, and its artifact."""
    on = bench(pairs(80), base_models)
    student = on.fit(recipe("lora"))
    path = tmp_path_factory.mktemp("artifacts") / "one"
    student.save(path)
    return on, student, path


def test_a_tuned_student_learns_is_saved_and_answers_alike_when_loaded(made, base_models):
    on, student, path = made
    new = pairs(40, seed=1)
    answers, confidence = student.predict([x for x, _ in new])
    assert np.mean([a == b for a, (_, b) in zip(answers, new, strict=True)]) > 0.9
    loaded = load_student(path, base_models)
    assert (loaded.family, loaded.base_model) == ("lora", "tiny")
    again, same = loaded.predict([x for x, _ in new])
    assert again == answers and np.array_equal(same, confidence)
    crossed = on.crossed(recipe("lora"))
    assert np.mean(crossed.chosen == on.classes.labels) > 0.7


def test_what_serves_needs_no_base_model_and_no_torch(made, tmp_path):
    code = (
        "import sys; from jitr_core.base_models import BaseModels; from jitr_core.students import load_student; "
        f"s = load_student({str(made[2])!r}, BaseModels({str(tmp_path)!r})); s.predict_one(('w1 w2 w3 good',)); "
        "sys.exit(str({'torch', 'transformers', 'peft'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft and transformers between themselves
def test_the_adapter_is_one_that_peft_loads_over_the_base(made, tiny):
    import torch
    from peft import PeftModel
    from transformers import AutoModel, AutoTokenizer

    _, student, path = made
    config = json.loads((path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and str(tiny) not in json.dumps(config)
    base = AutoModel.from_pretrained(tiny, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    apart = []
    for (text,), _ in pairs(20, seed=2):
        ids = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**ids).last_hidden_state[0].mean(0)
        logits = (hidden / hidden.norm()).numpy() @ student.tuned.weight + student.tuned.bias
        expected = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        apart.append(np.abs(np.exp(student.tuned.scores((text,))) - np.exp(expected)).max())
    assert np.median(apart) < 0.05 and max(apart) < 0.3  # the error of int8, in a network so small
    together = student.tuned.scores(("w1 good", "w2"))
    assert np.array_equal(together, student.tuned.scores(("w1 good [SEP] w2",)))  # how slots are read together


def test_the_same_seed_makes_the_same_scores_and_another_seed_others(base_models):
    made = [bench(pairs(40), base_models, replace(QUICK, epochs=1), seed).tuner.fit() for seed in (0, 0, 1)]
    scores = [encoder.scores(("w1 w2 good",)) for encoder in made]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_encoders_tuned_from_one_base_share_its_network_and_each_says_its_own(made, base_models, tmp_path):
    other = [(x, {"yes": "no", "no": "yes"}[a]) for x, a in pairs(60, seed=3)]
    bench(other, base_models).fit(recipe("lora")).save(tmp_path / "other")
    one, two = (load_student(path, base_models) for path in (made[2], tmp_path / "other"))
    assert one.tuned._session is two.tuned._session is made[1].tuned._session
    texts = [x for x, _ in pairs(10, seed=4)]
    alone = [one.predict_one(x) for x in texts]
    both = [(one.predict_one(x), two.predict_one(x)) for x in texts]
    assert [first for first, _ in both] == alone
    assert sum(first[0] != second[0] for first, second in both) >= 9


def test_an_input_is_scored_by_an_encoder_that_never_saw_its_answer(base_models):
    made = pairs(60)
    turned = [(x, a if i % 10 else ("no" if a == "yes" else "yes")) for i, (x, a) in enumerate(made)]
    one, other = (bench(some, base_models, replace(QUICK, epochs=1)).tuner.crossed() for some in (made, turned))
    own = np.arange(60) % 10 % tuning.PARTS == 0  # the part that the turned fold belongs to
    assert np.array_equal(one[own], other[own])
    assert not np.array_equal(one[~own], other[~own])


def test_an_answer_is_as_likely_as_it_is_frequent_before_anything_is_learnt(base_models):
    made = [(x, "rare" if i % 10 == 0 else "usual") for i, (x, _) in enumerate(pairs(60))]
    on = bench(made, base_models, replace(QUICK, epochs=0))
    shares = np.exp(on.tuner.fit().scores(("w1 w2",)))
    assert shares[on.classes.answers.index("rare")] == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(("gpu", "bf16"), [(False, False), (True, True), (True, False)])
def test_tuning_uses_a_gpu_if_there_is_one_and_bf16_if_that_has_it(gpu, bf16, monkeypatch):
    import torch

    from jitr_core.students.lora import _device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    device, half = _device()
    assert (device.type == "cuda", half) == (gpu, bf16)


def test_a_network_from_random_weights_is_trained_whole(base_models):
    settings = replace(QUICK, pretrained=False, rate=2e-3)
    encoder = bench(pairs(60), base_models, settings).tuner.fit()
    assert encoder.scores(("w1 good",)).shape == (2,)


def test_a_changed_network_or_adapter_is_refused(base_models, made, tmp_path):
    import shutil

    for name in ("arrays.safetensors", "adapter_model.safetensors"):
        path = tmp_path / name.split(".")[0]
        shutil.copytree(made[2], path)
        data = bytearray((path / name).read_bytes())
        data[-1] ^= 1
        (path / name).write_bytes(data)
        with pytest.raises(ArtifactError, match="was changed"):
            load_student(path, base_models)


def dataset(some):
    return build_dataset([Example(x, a, group=f"{i}", seq=i) for i, (x, a) in enumerate(some)], 20_000)


@pytest.fixture
def eager(monkeypatch):
    """Tuning is always worth it, and takes no longer than a test may."""
    monkeypatch.setattr("jitr_core.search.trials.plan", lambda *_: Plan(1_000, 1, 1.0))
    monkeypatch.setattr("jitr_core.search.trials.Settings", lambda epochs: replace(QUICK, epochs=3))


def reasons(found):
    return {c.note for c in found.candidates if c.family == "lora"}


def test_a_search_tunes_where_it_pays_and_takes_the_better(base_models, eager, tmp_path):
    told = []
    found = search(
        dataset(pairs(80)),
        policy=Policy(families=("lora",)),
        base_models=base_models,
        progress=lambda what, share: told.append((what, share)),
    )
    assert found.chosen is not None and found.chosen.startswith("lora")
    assert all(0 <= share <= 1 for _, share in told)
    found.fit().save(tmp_path / "artifact")
    assert (tmp_path / "artifact" / "adapter_model.safetensors").exists()


def hinder(fault, tmp_path, monkeypatch):
    """Bring a fault about.

    Returns:
        The base models to search with, None for the usual ones; and a word of the reason to be given.
    """
    if fault == "unreadable":
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "config.json").write_text("{")
        return BaseModels(tmp_path, encoder=Tunable(tmp_path / "broken")), "cannot be read"
    if fault == "no weights":
        return BaseModels(tmp_path, encoder=HashingModel("e")), "no weights"
    if fault == "no extra":
        monkeypatch.setattr(tuning, "_NEEDS", ("no_such_module",))
        return None, "jitr[train]"
    if fault == "full disk":

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(tuning.tempfile, "TemporaryDirectory", full)
        return None, "No space left"
    body = {"no memory": "raise MemoryError", "killed": "import os; os.kill(os.getpid(), 9)"}[fault]
    script = f"import sys, jitr_core.students.lora as l\ndef f(*a):\n {body}\nl.run_job = f\nsys.exit(l.main())"
    popen = subprocess.Popen
    monkeypatch.setattr(Tuner, "_run", RUN)
    monkeypatch.setattr(
        tuning.subprocess, "Popen", lambda command, **k: popen([sys.executable, "-c", script, command[-1]], **k)
    )
    return None, "memory r"


@pytest.mark.parametrize("fault", ["unreadable", "no memory", "killed", "full disk", "no extra", "no weights"])
def test_what_hinders_tuning_is_said_and_the_others_stand(fault, base_models, eager, tmp_path, monkeypatch):
    models, expected = hinder(fault, tmp_path, monkeypatch)
    models = models or base_models
    found = search(dataset(pairs(80)), policy=Policy(families=("lexical", "lora")), base_models=models)
    assert found.chosen is not None and not found.chosen.startswith("lora")
    assert all(expected in reason for reason in reasons(found)), reasons(found)
    if fault in ("unreadable", "killed"):
        with pytest.raises(TrainingError, match="none of the families"):
            search(dataset(pairs(80)), policy=Policy(families=("lora",)), base_models=models)


def test_the_child_tunes_as_this_process_does(base_models, monkeypatch):
    quick = replace(QUICK, epochs=1)
    here = bench(pairs(40), base_models, quick).tuner.fit()
    monkeypatch.setattr(Tuner, "_run", RUN)
    child = bench(pairs(40), base_models, quick).tuner.fit()
    assert np.allclose(here.weight, child.weight, atol=1e-3)


def test_tuning_is_planned_by_counted_work():
    short = [30] * 2_000
    found = plan(short, 2, 0.1)
    assert isinstance(found, Plan) and found.examples == 2_000
    for tokens, classes, covered in ((short[:100], 2, 0.1), (short, 2, 0.9), (short, 77, 0.1)):
        with pytest.raises(TrainingError, match="not tuned"):
            plan(tokens, classes, covered)
    assert plan([128] * 4_000, 2, 0.1).examples < 4_000
    assert found.seconds <= 0.2 * 2_000 + 1e-6


def test_no_weights_no_tuning():
    with pytest.raises((TrainingError, MissingExtraError)):
        source_of(HashingModel("e"))
