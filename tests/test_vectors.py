"""The index of unplaced calls: Chroma and the one in memory do the same, and what is dropped is gone from the disk."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from wording import WordModel, stream

from jitr_core import Policy, manage
from jitr_core.base_models import BaseModels
from jitr_core.engine import JITR
from jitr_core.store import Store
from jitr_core.types import Answer, Call, Decision, Match
from jitr_core.vectors import ChromaIndex, MemoryIndex, open_index

needs_chroma = pytest.mark.skipif(importlib.util.find_spec("chromadb") is None, reason="chromadb is not installed")

Item = tuple[str, str, np.ndarray, str, str]


def items(count: int, frame: str = "f") -> list[Item]:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((count, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [(f"{frame}{i}", frame, vectors[i], f"text-{frame}-{i}", "yes") for i in range(count)]


@pytest.fixture(params=["memory", pytest.param("chroma", marks=needs_chroma)])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryIndex | ChromaIndex:
    return MemoryIndex() if request.param == "memory" else ChromaIndex(tmp_path / "vectors")


def test_the_nearest_calls_of_a_frame_come_nearest_first(index):
    mine, theirs = items(300), items(50, "g")
    index.add(mine)
    index.add(theirs)
    found = index.nearest("f", mine[7][2], 200)
    likeness = [float(vector @ mine[7][2]) for _, vector, _, _ in found]
    assert len(found) == 200 and found[0][0] == "f7" and found[0][2:] == ("text-f-7", "yes")
    assert likeness == sorted(likeness, reverse=True)
    best = sorted((float(item[2] @ mine[7][2]) for item in mine), reverse=True)[:200]
    assert np.allclose(likeness, best, atol=1e-3)


def test_what_is_dropped_or_not_kept_is_not_found(index):
    mine = items(20)
    index.add(mine)
    index.drop(["f1", "unknown"])
    index.keep({"f2", "f3", "never seen"})
    assert {name for name, *_ in index.nearest("f", mine[0][2], 50)} == {"f2", "f3"}
    index.add(mine[:1])
    assert {name for name, *_ in index.nearest("f", mine[0][2], 50)} == {"f0", "f2", "f3"}


def test_an_odd_text_is_kept(index):
    index.add([("o", "f", items(1)[0][2], "\ud800 \x00", "ja")])
    assert [name for name, *_ in index.nearest("f", items(1)[0][2], 5)] == ["o"]


def test_an_index_is_bounded(tmp_path):
    index = MemoryIndex(limit=10)
    index.add(items(30))
    assert [name for name, *_ in index.nearest("f", items(1)[0][2], 50)].sort() == [
        f"f{i}" for i in range(20, 30)
    ].sort()
    assert len(index.nearest("f", items(1)[0][2], 50)) == 10


@needs_chroma
def test_chroma_finds_again_what_an_earlier_process_kept(tmp_path):
    first = ChromaIndex(tmp_path / "v")
    first.add(items(5))
    first.close()
    assert len(ChromaIndex(tmp_path / "v").nearest("f", items(1)[0][2], 9)) == 5


@needs_chroma
def test_what_is_not_kept_leaves_no_trace_on_the_disk(tmp_path):
    index = ChromaIndex(tmp_path / "v")
    index.add(items(20))
    index.keep({"f2"})
    content = b"".join(path.read_bytes() for path in (tmp_path / "v").rglob("*") if path.is_file())
    assert b"text-f-2" in content and b"text-f-3" not in content
    index.close()


@needs_chroma
def test_no_memory_of_the_process_is_written_beyond_the_calls(tmp_path):
    index = ChromaIndex(tmp_path / "v")
    index.add(items(20))
    (file,) = (tmp_path / "v").rglob("data_level0.bin")
    assert not any(file.read_bytes()), "none of so few calls is in there yet"
    many = [(f"m{i}", "m", vector, f"text-m-{i}", "no") for i, (_, _, vector, _, _) in enumerate(items(1_100))]
    index.add(many)
    index.close()
    found = ChromaIndex(tmp_path / "v").nearest("m", many[7][2], 3)
    assert found[0][0] == "m7" and any(file.read_bytes()), "what is in there is left as it is"


def test_without_chroma_the_index_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert isinstance(open_index(tmp_path / "v"), MemoryIndex)


@needs_chroma
def test_a_damaged_folder_is_done_without(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "0").write_text("no folder")
    assert isinstance(open_index(tmp_path / "v"), MemoryIndex)
    assert not (tmp_path / "v").exists()


# ---- in a process that observes ---------------------------------------------------------------------------------


def engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> JITR:
    monkeypatch.setattr(BaseModels, "get", lambda self, kind: WordModel() if kind == "static" else None)
    return JITR(f"sqlite:///{folder}/jitr.db", policy=Policy(free_wording=True), training="off", seed=1)


def watch(jitr: JITR, calls: list[Call], answers: list[str]) -> list[Match | None]:
    decided: list[Decision] = []
    for call, answer in zip(calls, answers, strict=True):
        decided.append(jitr.decide(call))
        jitr.observe(call, decided[-1], Answer(answer))
    jitr.flush()
    assert not jitr.faults
    return [decision.match for decision in decided]


ASKED = Call("later", (("user", "which area does it cover? match goal says new year coach first"),))


def fresh(call: Call) -> Call:
    return Call(call.id + "'", call.messages)


def test_a_restart_goes_on_alike_and_another_process_takes_over(tmp_path, monkeypatch):
    calls, answers, _ = stream({"topic": 220}, 3, test=True, others=150)
    first = engine(tmp_path, monkeypatch)
    watch(first, calls, answers)
    store = first.open_store()
    (task,) = [store.task(t.task) for t in store.templates() if t.id in store.patterns()]
    other = engine(tmp_path, monkeypatch)
    other.refresh()
    known = first.decide(fresh(ASKED)).match
    assert (
        task is not None and known is not None and known.task == task.id and known == other.decide(fresh(ASKED)).match
    )
    assert store.replaceable_count(task.id) > 100
    for jitr in (first, other):
        jitr.close()
    again = engine(tmp_path, monkeypatch)
    again.refresh()
    assert again.decide(fresh(ASKED)).match == known
    again.close()


def test_calls_of_short_lived_processes_add_up(tmp_path, monkeypatch):
    calls, answers, _ = stream({"topic": 220}, 3, test=True, others=150)
    for start in range(0, len(calls), 60):
        jitr = engine(tmp_path, monkeypatch)
        watch(jitr, calls[start : start + 60], answers[start : start + 60])
        jitr.close()
    with Store(f"sqlite:///{tmp_path}/jitr.db") as store:
        assert len(store.patterns()) >= 1 and store.verify() == []


def test_a_purge_forgets_texts_vectors_and_patterns(tmp_path, monkeypatch):
    calls, answers, _ = stream({"topic": 220, "good": 100, "bad": 100}, 3, test=True, others=150)
    jitr = engine(tmp_path, monkeypatch)
    watch(jitr, calls, answers)
    store = jitr.open_store()
    assert store.patterns()
    manage.purge(store)
    jitr.refresh()
    assert store.patterns() == {} and jitr.decide(fresh(ASKED)).match is None
    jitr.close()
    words = [b"staff", b"lovely", b"treaty"]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or not any(word in path.read_bytes() for word in words), path


def test_a_purge_without_a_process_deletes_the_index(tmp_path, monkeypatch):
    calls, answers, _ = stream({"good": 100, "bad": 100}, 3, test=True, others=50)
    jitr = engine(tmp_path, monkeypatch)
    watch(jitr, calls, answers)
    jitr.close()
    with Store(f"sqlite:///{tmp_path}/jitr.db") as store:
        manage.purge(store)
    assert not (tmp_path / "vectors").exists()
