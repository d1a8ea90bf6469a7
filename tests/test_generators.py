"""Text generators: trained, saved, loaded, certified and refused; and what happens when their process fails.

Their base models are random and tiny: this shows that the mechanism works, and nothing of quality.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from tiny_bases import calls, messages, write_base

from jitr_core import JITR, Answer, ArtifactError, Call, Policy, TrainingError
from jitr_core.base_models import BaseModels
from jitr_core.base_models.prepare import add
from jitr_core.certify import certify
from jitr_core.collect import build_dataset
from jitr_core.equivalence import equivalence
from jitr_core.files import MANIFEST
from jitr_core.search import SearchResult, search_text
from jitr_core.search.judge import hindsight
from jitr_core.students import load_student
from jitr_core.students.answerers import Generator
from jitr_core.students.generator_worker import GeneratorWorker, shared_worker
from jitr_core.students.text_student import TextStudent
from jitr_core.types import Certificate, Example
from jitr_langchain import JITRChatModel

pytestmark = pytest.mark.timeout(400)  # torch is loaded more than once, perhaps on a busy machine


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: write_base(folder / kind, kind) for kind in ("causal", "seq2seq")}


def search(pairs: list[tuple[str, str]], base: Path | str | None, folder: Path) -> SearchResult:
    """Tunes a base, or what was added to the base models in a folder."""
    examples = [Example((x,), a, group=x, seq=i) for i, (x, a) in enumerate(pairs)]
    return search_text(
        build_dataset(examples, 20_000),
        policy=Policy(families=("static",), generators=(str(base),) if base else ()),
        base_models=BaseModels(folder),
        rule=equivalence("exact"),
        coverage=lambda confidence, right: hindsight(confidence, right, 0.95),
    )


def certified(found: SearchResult, pairs: list[tuple[str, str]]) -> Certificate:
    assert found.held is not None
    right = [p == a for p, (_, a), h in zip(found.predicted, pairs, found.held, strict=True) if h]
    certificate = certify(found.confidence[found.held], right, target=0.9, delta=0.1)
    assert isinstance(certificate, Certificate)
    return certificate


@pytest.fixture(scope="module")
def artifact(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved student on the causal base, and what it said before it was saved."""
    folder = tmp_path_factory.mktemp("artifact")
    pairs = messages(150)
    add(folder, str(bases["causal"]))
    found = search(pairs, None, folder)
    assert found.chosen == "generator:causal"
    assert certified(found, pairs).coverage > 0.5
    student = found.fit()
    said = [student.predict_one((text,)) for text, _ in messages(5, seed=9)]
    student.save(folder / "student")
    (folder / "said.json").write_text(json.dumps(said))
    return folder / "student"


def loaded(artifact: Path, timeout_s: float = 30.0) -> TextStudent:
    student = load_student(artifact, BaseModels(artifact.parent))
    assert isinstance(student, TextStudent)
    assert isinstance(student.answerer, Generator)
    object.__setattr__(student.answerer, "timeout_s", timeout_s)
    return student


def ready(student: TextStudent, within_s: float = 200.0) -> None:
    """Waits until the worker answers again."""
    object.__setattr__(student.answerer, "timeout_s", 30.0)
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            student.predict_one((messages(1)[0][0],))
            return
        except ArtifactError:
            time.sleep(0.2)
    raise AssertionError("the worker did not come back")


def test_what_was_saved_says_the_same_with_the_same_confidence(artifact: Path) -> None:
    student = loaded(artifact)
    said = [list(student.predict_one((text,))) for text, _ in messages(5, seed=9)]
    assert said == json.loads((artifact.parent / "said.json").read_text())
    assert [answer for answer, _, _ in said] == [answer for _, answer in messages(5, seed=9)]
    assert student.family == "generator" and student.base_model == "causal" and student.blocking
    assert student.predict_one(("совсем другое дело",))[1:] == (0.0, True)


def test_an_encoder_decoder_is_tuned_too(bases: dict[str, Path], tmp_path: Path) -> None:
    pairs = messages(150)
    found = search(pairs, bases["seq2seq"], tmp_path)
    (report,) = found.candidates
    assert report.agreement is not None and report.agreement > 0.3
    student = found.fit()
    student.save(tmp_path / "student")
    again, text = loaded(tmp_path / "student"), (messages(1, seed=9)[0][0],)
    assert again.predict_one(text) == student.predict_one(text)


def test_answers_that_follow_from_nothing_are_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    pairs = [(text, f"we are sorry {i} times {i * 7919 % 101} now") for i, (text, _) in enumerate(messages(60))]
    found = search(pairs, bases["causal"], tmp_path)
    assert found.chosen is None and "generator:causal: agrees on none of 6 answers" in found.refusal


def test_a_base_that_is_not_here_is_said_to_be_fetched(tmp_path: Path) -> None:
    found = search(messages(60), "nobody/nothing-small", tmp_path)
    assert "hf download nobody/nothing-small" in found.refusal
    shutil.rmtree(tmp_path / "odd", ignore_errors=True)
    (tmp_path / "odd").mkdir()
    assert "cannot be read" in search(messages(60), tmp_path / "odd", tmp_path).refusal


def test_inputs_longer_than_the_base_can_take_are_left_to_the_teacher(artifact: Path) -> None:
    student = loaded(artifact)
    assert student.answerer.say(("please " * 200,)) is None


def test_peft_loads_the_adapter_by_itself(artifact: Path, bases: dict[str, Path]) -> None:
    code = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
ids = torch.tensor([tokenizer(text + "\\n\\n").input_ids])
out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=15, do_sample=False)
print(tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True))
"""
    settings = json.loads((artifact / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "causal", "no path of this machine"
    text, answer = messages(1, seed=9)[0]
    command = [sys.executable, "-c", code, str(bases["causal"]), str(artifact), text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == answer, done.stderr


def test_many_adapters_share_one_base_and_one_process(artifact: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(artifact, other)
    weights = load_file(other / "adapter_model.safetensors")
    save_file({name: value * 0 for name, value in weights.items()}, other / "adapter_model.safetensors")
    _write_manifest(other)
    one, two, starts = loaded(artifact), loaded(other), shared_worker().starts
    text = (messages(1, seed=9)[0][0],)
    answers = [student.answerer.say(text) for student in (one, two, one, two)]
    assert answers[0] == answers[2] != answers[1] == answers[3]
    assert shared_worker().starts == starts


def _write_manifest(folder: Path) -> None:
    import hashlib

    files = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir() if f.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "files": files}))


def test_a_damaged_adapter_is_never_served_and_harms_no_other(artifact: Path, tmp_path: Path) -> None:
    student, damaged = loaded(artifact), tmp_path / "damaged"
    shutil.copytree(artifact, damaged)
    weights = damaged / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="was changed"):
        loaded(damaged)
    _write_manifest(damaged)
    with pytest.raises(ArtifactError):
        loaded(damaged)
    assert student.predict_one((messages(1, seed=9)[0][0],))[0] == messages(1, seed=9)[0][1]


def test_another_base_under_the_same_name_is_refused(artifact: Path, tmp_path: Path) -> None:
    moved, base = tmp_path / "moved", write_base(tmp_path / "base", "causal", seed=5)
    shutil.copytree(artifact, moved)
    settings = json.loads((moved / "student.json").read_text())
    settings["answerer"]["base"] = str(base)
    (moved / "student.json").write_text(json.dumps(settings))
    _write_manifest(moved)
    with pytest.raises(ArtifactError, match="not the one it was trained on"):
        loaded(moved)


def test_an_app_is_not_kept_waiting_by_another_generator_that_is_loaded(artifact: Path) -> None:
    student, worker, text = loaded(artifact), shared_worker(), (messages(1, seed=9)[0][0],)
    with worker._lengthy():
        began = time.monotonic()
        with pytest.raises(ArtifactError, match="loading or training"):
            student.predict_one(text)
        assert time.monotonic() - began < 2
        said: list[Any] = []
        patient = threading.Thread(target=lambda: said.append(student.predict([text])))
        patient.start()  # a comparison, which nobody waits for
        time.sleep(0.2)
        assert not said
    patient.join(30)
    assert said[0][0] == [student.predict_one(text)[0]]


def test_an_answer_that_is_slow_while_students_are_compared_is_none_and_harms_no_other(artifact: Path) -> None:
    student, pid, text = loaded(artifact, timeout_s=1e-4), shared_worker().pid, (messages(1, seed=9)[0][0],)
    assert student.predict([text])[0] == [""]
    assert shared_worker().pid == pid is not None
    ready(student)
    assert student.predict([text])[0] == [student.predict_one(text)[0]]


def test_a_worker_that_was_closed_stays_closed(artifact: Path) -> None:
    worker = GeneratorWorker()
    worker.close()
    with pytest.raises(ArtifactError, match="closed"):
        worker.load({})
    with pytest.raises(TrainingError, match="closed"):
        worker.train({})


# Few enough labels are allowed that these answers count as texts.
POLICY = {
    "target": 0.8,
    "max_labels": 2,
    "delta": 0.2,
    "first_attempt": 150,
    "families": ("static",),
    "generator_timeout_s": 30.0,
}


@pytest.fixture
def served(bases: dict[str, Path], tmp_path: Path) -> Iterator[JITR]:
    """An engine whose text task a generator answers."""
    policy = Policy(**POLICY, generators=(str(bases["causal"]),))  # type: ignore[arg-type]
    jitr = JITR(f"sqlite:///{tmp_path / 'jitr.db'}", policy=policy, training="inline", seed=1)
    for recorded in calls(160):
        call = Call(recorded["id"], tuple((m["role"], m["content"]) for m in recorded["messages"]))
        jitr.observe(call, jitr.decide(call), Answer(recorded["answer"], "gpt-4.1"))
    jitr.flush()
    yield jitr
    jitr.close()


def test_an_app_is_served_by_a_generator_and_by_the_teacher_when_it_fails(served: JITR) -> None:
    (task,) = served.open_store().tasks()
    assert task.state == "active", task.reason
    release = served.open_store().active_release(task.id)
    assert release is not None and release.family == "generator" and served.blocking
    llm = JITRChatModel(llm=FakeListChatModel(responses=["the teacher's"]), jitr=served)
    asked = calls(12, seed=9)
    said = [llm.invoke([(m["role"], m["content"]) for m in c["messages"]]) for c in asked]
    assert sum(s.content == c["answer"] for s, c in zip(said, asked, strict=True)) >= 6
    assert {s.content for s in said} <= {c["answer"] for c in asked} | {"the teacher's"}
    assert not served.faults

    async def beside(prompt: list[tuple[str, str]]) -> tuple[str, int]:
        """The answer, and how often the event loop came round meanwhile."""
        ticks, done = 0, asyncio.ensure_future(llm.ainvoke(prompt))
        while not done.done():
            ticks += 1
            await asyncio.sleep(0.01)
        return str((await done).content), ticks

    students: list[Any] = [each.student for each in served._router.loaded().values()]
    object.__setattr__(students[0].answerer, "timeout_s", 0.5)
    pid = shared_worker().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    prompt = [(m["role"], m["content"]) for m in asked[0]["messages"]]
    content, ticks = asyncio.run(beside(prompt))
    assert content == "the teacher's" and ticks > 10
    assert served.faults["decide"] == 1
    began = time.monotonic()
    assert llm.invoke(prompt).content == "the teacher's"  # nobody waits for the new process
    assert time.monotonic() - began < 2
    served.flush()
    latest = served.open_store().latest(task.id, 10)
    assert [each.decision.reason for each in latest].count("fallback") == 2
    ready(students[0])
    assert shared_worker().pid != pid


def test_a_small_pretrained_model_goes_all_the_way(shared: Path, tmp_path: Path) -> None:
    base = shared / "models" / "stories260k"
    pairs = [((text,), answer) for text, answer in messages(24)]
    student = Generator.learn(str(base), pairs[:16], pairs[16:], seed=0, timeout_s=60.0)
    said = student.say(("hello my parcel is late",))
    assert student.base_model == "stories260k" and student.device == "cpu"
    assert said is None or said.text


def test_a_process_killed_while_it_answers_is_an_error_at_once(artifact: Path) -> None:
    student, text = loaded(artifact), (messages(1, seed=9)[0][0],)
    pid = shared_worker().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # it is in the middle of an answer when it dies
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    began = time.monotonic()
    with pytest.raises(ArtifactError, match="ended"):
        student.predict_one(text)
    assert time.monotonic() - began < 10
