"""Bad input through the whole loop: a clear reason, no promotion, and the teacher serves on."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from easy import FILLER, easy_calls, write_log
from test_engine import serve, url
from typer.testing import CliRunner

from jitr_core import JITR, Policy, cli
from jitr_core.jobs import policy_to_json

LEXICAL = policy_to_json(Policy(families=("lexical",)))


def calls_of(answers, words=6, **more):
    """A call of one step for each answer; the inputs say nothing of it."""
    rng = random.Random(0)
    for i, answer in enumerate(answers):
        text = " ".join(rng.choices(FILLER, k=words)) + f" no{i}"
        prompt = f"Read the message and sort it.\n\nMessage: {text}"
        yield {"messages": [{"role": "user", "content": prompt}], "answer": answer, "step": "sort", **more}


def replayed(folder, calls, *options, families="lexical"):
    """Summary and decisions of a replay; where the teacher was asked, the app got what it said."""
    calls = list(calls)
    log, out, lines = write_log(folder / "log.jsonl", calls), folder / "out.json", folder / "decisions.jsonl"
    command = ["replay", str(log), "--families", families, "--json", str(out), "--decisions", str(lines)]
    result = CliRunner().invoke(cli.app, [*command, *options])
    assert result.exit_code == 0, result.output
    decisions = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(decisions) == len(calls)
    assert all(d["answer"] == c["answer"] for d, c in zip(decisions, calls, strict=True) if d["decision"] == "teacher")
    return json.loads(out.read_text()), decisions


def refused(folder, calls, reason, **options):
    """That the one task was not replaced, and why."""
    summary, _ = replayed(folder, calls, **options)
    (task,) = summary["tasks"]
    assert summary["replaced"] == 0 and task["state"] == "refused" and task["replacement"] is None
    assert reason in task["reason"], task["reason"]


def attempted(folder, calls):
    """What an attempt says that is demanded by hand, long before it is due."""
    state = folder / "state"
    replayed(folder, calls, "--state", str(state))
    result = CliRunner().invoke(
        cli.app, ["train", "sort", "--url", f"sqlite:///{state / 'jitr.db'}", "--policy", LEXICAL]
    )
    assert result.exit_code == 0, result.output
    shown = CliRunner().invoke(cli.app, ["tasks", "--url", f"sqlite:///{state / 'jitr.db'}", "--json"])
    (task,) = json.loads(shown.output)
    return task, " ".join(result.output.split())


def test_two_classes_with_three_examples_each(tmp_path):
    summary, _ = replayed(tmp_path, calls_of(["a", "b"] * 3))
    assert summary["replaced"] == 0 and summary["tasks"] == []  # so few are no task yet
    task, said = attempted(tmp_path, calls_of(["a", "b"] * 3 + ["stray"]))
    assert task["state"] == "refused" and "too few" in task["reason"] and "too few" in said


def test_one_class_only_takes_as_many_calls_to_certify_as_any_other_task(tmp_path):
    task, said = attempted(tmp_path, calls_of(["spam"] * 40))
    assert task["state"] == "refused" and "labelled calls are too few: even without an error" in task["reason"]
    summary, decisions = replayed(tmp_path, calls_of(["spam"] * 300))
    assert summary["agreement"] == 1.0 and {d["decision"] for d in decisions[:200]} == {"teacher"}
    assert summary["tasks"][0]["searches"][0]["chosen"] == "lexical/constant"


def test_a_label_never_seen_in_training_is_the_teachers(tmp_path):
    calls = easy_calls(700)
    new = range(300, 700, 3)
    for i in new:
        calls[i]["messages"][1]["content"] = f"Message: my contract should end, cancel the subscription plan {i}"
        calls[i]["answer"] = "cancellation"
    summary, decisions = replayed(tmp_path, calls)
    assert summary["replaced"] > 100 and summary["agreement"] == 1.0
    learnt = next(s["at_call"] for s in summary["tasks"][0]["searches"] if s["at_call"] > 300)
    assert {decisions[i]["decision"] for i in new if i <= learnt} == {"teacher"}
    assert decisions[300]["reason"] in ("ood", "deferral") and decisions[300]["answer"] == "cancellation"


def test_answers_that_are_almost_all_different(tmp_path):
    different = calls_of(f"ticket {i}" if i % 20 else "spam" for i in range(320))
    refused(tmp_path, different, "answers are free text: 289 different answers in 304 calls; no candidate gives them")


def test_ten_thousand_classes(tmp_path):
    """Each comes twice, so they are labels; nobody trains a student of so many."""
    answers = [f"class {i}" for i in range(10_000)] * 2
    random.Random(0).shuffle(answers)
    calls = [{**call, "id": str(i)} for i, call in enumerate(calls_of(answers))]
    jitr = JITR(url(tmp_path), policy=Policy(families=("lexical",)), training="off", seed=0)
    for start in range(0, len(calls), 5_000):  # no faster than they are stored
        serve(jitr, calls[start : start + 5_000])
        jitr.flush()
    jitr.close()
    result = CliRunner().invoke(cli.app, ["train", "sort", "--url", url(tmp_path), "--policy", LEXICAL])
    assert result.exit_code == 0, result.output
    task = json.loads(CliRunner().invoke(cli.app, ["tasks", "show", "sort", "--url", url(tmp_path), "--json"]).output)
    assert (task["calls"], task["labels"], task["state"], task["replacement"]) == (20_000, 20_000, "refused", None)
    assert "too many labels: 10000 in 20000 calls, at most 300 allowed" in task["reason"]
    (search,) = task["searches"]
    assert [each["name"] for each in search["candidates"]] == ["lexical/copied", "lexical/nearest"]


def test_more_classes_than_a_student_may_have(tmp_path):
    refused(
        tmp_path, calls_of(f"class {i % 320}" for i in range(700)), "too many labels: 320 in 688 calls, at most 300"
    )


def test_answers_that_do_not_follow_from_the_inputs(tmp_path):
    rng = random.Random(0)
    refused(tmp_path, calls_of(rng.choice("ab") for _ in range(240)), "answers the student is surest of")


def test_an_unreadable_base_model(tmp_path, monkeypatch):
    # Nothing can be prepared anew; what was prepared has rotted.
    monkeypatch.setenv("JITR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("jitr_core.base_models.store._run_prepare", lambda folder, *options, tell: "no torch here")
    bad = tmp_path / "bad"
    _table(bad)
    from jitr_core.base_models.catalog import prepared_folder
    from jitr_core.base_models.prepare import add

    key = add(tmp_path / "cache", str(bad))
    (prepared_folder(tmp_path / "cache") / key / "model.safetensors").write_bytes(b"rubbish")
    refused(tmp_path, easy_calls(240), "none of the families can be tried here", families="static")
    summary, _ = replayed(tmp_path, easy_calls(240), families="lexical,static")
    notes = {c["name"]: c["note"] for c in summary["tasks"][0]["searches"][0]["candidates"]}
    assert "was changed" in notes[f"base model {key}"] and summary["replaced"] > 0  # by what needs none


def test_inputs_longer_than_the_base_model_can_read(tmp_path, monkeypatch):
    """The encoder reads 18 tokens; inputs have 400 words, and one has a million."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("onnx")
    from jitr_core.base_models.prepare import prepare

    source = tmp_path / "short"
    source.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "parcel", "refund", *FILLER, *"abcdefghijklmnopqrstuvwxyz"]
    (source / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(source)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=20, **sizes)
    transformers.BertModel(config).save_pretrained(source)
    prepare(tmp_path / "cache", str(source))
    monkeypatch.setenv("JITR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("jitr_core.base_models.store._run_prepare", lambda folder, *options, tell: "no torch here")
    rng = random.Random(0)
    calls = list(calls_of([rng.choice(("parcel", "refund")) for _ in range(280)], words=400))
    for i, call in enumerate(calls):
        start, message = call["messages"][0]["content"].split("Message: ")
        call["messages"][0]["content"] = f"{start}Message: {call['answer']} {message}" + " again" * 10**6 * (i == 279)
    summary, decisions = replayed(tmp_path, calls, families="encoder")
    (task,) = summary["tasks"]
    assert task["searches"][0]["chosen"].startswith("encoder") and task["state"] == "active"
    assert summary["replaced"] > 40 and summary["agreement"] == 1.0
    assert decisions[-1]["decision"] == "teacher" and decisions[-1]["reason"] in ("ood", "deferral")


# A process that may not write, or not take more memory: what the system itself does to it.

_TRAIN = """
import sys
from jitr_core.cli import main
import jitr_core.cli.options, jitr_core.manage, jitr_core.pipeline, jitr_core.report.tasks, jitr_core.search
import jitr_core.store, resource, scipy.linalg, scipy.optimize, scipy.sparse, scipy.special
{limit}
sys.argv = ["jitr", *sys.argv[1:]]
main()
"""


def limited(state: Path, limit: str):
    """What `jitr train` makes of it, and what the state says afterwards."""
    pytest.importorskip("resource")
    url = f"sqlite:///{state / 'jitr.db'}"
    command = [sys.executable, "-c", _TRAIN.format(limit=limit), "train", "--url", url, "--policy", LEXICAL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (task,) = json.loads(CliRunner().invoke(cli.app, ["tasks", "--url", url, "--json"]).output)
    assert not [path for path in (state / "artifacts").rglob("*") if path.is_file()]
    return task


@pytest.fixture
def due(tmp_path):
    """A state whose task is due: many classes make a large student."""
    from jitr_core import JITR, Answer, Call

    rng = random.Random(0)
    jitr = JITR(f"sqlite:///{tmp_path / 'state' / 'jitr.db'}", training="off")
    for i in range(1_200):
        label = rng.randrange(40)
        text = f"Message: about topic{label} " + " ".join(rng.choices(FILLER, k=5)) + f" {rng.randrange(10**9)}"
        call = Call(str(i), (("user", text),), step="sort")
        jitr.observe(call, jitr.decide(call), Answer(f"queue {label}"))
    jitr.close()
    return tmp_path / "state"


def test_no_room_for_the_artifact(due):
    size = sum(file.stat().st_size for file in due.glob("jitr.db*"))
    task = limited(due, f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 400_000}, {size + 400_000}))")
    assert task["state"] == "refused" and "a file would get larger" in task["reason"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_out_of_memory(due):
    held = "int(next(l for l in open('/proc/self/status') if l.startswith('VmData')).split()[1]) * 1024"
    task = limited(due, f"resource.setrlimit(resource.RLIMIT_DATA, ({held} + 15_000_000,) * 2)")
    assert task["state"] == "refused" and "out of memory" in task["reason"]


_APP = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from jitr_core import JITR, Policy
from jitr_langchain import JITRChatModel
jitr = JITR("sqlite:///state/jitr.db", policy=Policy(families=("lexical",)), training="inline")
llm = JITRChatModel(llm=GenericFakeChatModel(messages=(AIMessage("yes") for _ in range(400))), jitr=jitr)
said = [llm.invoke(f"Is this message urgent? {'please call me back ' * 40}{i}").content for i in range(400)]
jitr.close()
print(said.count("yes"), sum(jitr.faults.values()))
"""


def test_no_room_for_the_state(tmp_path):
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", _APP], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answered, faults = map(int, done.stdout.split())
    assert answered == 400 and faults > 0 and "cannot be written" in done.stderr


def _table(folder):
    """A Model2Vec folder."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["?", *FILLER])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    vectors = np.random.default_rng(0).standard_normal((len(FILLER) + 1, 8)).astype(np.float32)
    save_file({"embeddings": vectors}, folder / "model.safetensors")
