"""Encoders of earlier replacements: offered to the same user's later tasks alone, and gone with their own task."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_students_lora import QUICK, WORDS, dataset, pairs
from tiny_bases import write_encoder
from typer.testing import CliRunner

from jitr_core import JITR, Answer, Call, cli, manage
from jitr_core.base_models import BaseModels, HashingModel
from jitr_core.base_models.embeddings import EmbeddingCache
from jitr_core.config import Policy
from jitr_core.earlier import known_share, listed, with_earlier, withdraw_orphans
from jitr_core.export import export
from jitr_core.promote import package
from jitr_core.report.models import model_facts
from jitr_core.route import Router
from jitr_core.search import search
from jitr_core.store import Store
from jitr_core.students import load_student, own_bytes
from jitr_core.students.lora import run_job
from jitr_core.students.tuned import TunedEncoder
from jitr_core.students.tuning import Plan, Tuner

pytest.importorskip("peft")
POLICY = Policy(families=("encoder",), first_attempt=80)


class Blind(HashingModel):
    """A base model to which every text is a word of its own; what it is tuned from lies in a folder."""

    def __init__(self, source: Path) -> None:
        super().__init__("tiny")
        self.source = str(source)

    def embed(self, text):
        return super().embed(text.replace(" ", "_"))


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Tuning is always worth it, in this process, and quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tuner, "_run", lambda self, *job: run_job(*job, lambda share: self._tell("tuning", share)))
        patch.setattr("jitr_core.search.trials.plan", lambda *_: Plan(1_000, 1, 1.0))
        patch.setattr("jitr_core.search.trials.Settings", lambda epochs: replace(QUICK, epochs=3))
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    tiny = write_encoder(tmp_path_factory.mktemp("tiny"), [*WORDS, "good", "bad"])
    return BaseModels(tmp_path_factory.mktemp("cache"), encoder=Blind(tiny))


def url(folder):
    return f"sqlite:///{folder / 'jitr.db'}"


def observe(folder, prompt, made, step, **place):
    jitr = JITR(url(folder), policy=POLICY, training="off", seed=1, **place)
    for i, ((text,), answer) in enumerate(made):
        call = Call(f"{step}{i}", (("user", f"{prompt} {text}"),), step=step)
        jitr.observe(call, jitr.decide(call), Answer(answer, "m"))
    jitr.close()


def train(store, folder, models, families, progress=None):
    """An attempt for the latest task, and what came of it."""
    cold_path = manage.pipeline(store, replace(POLICY, families=families), url(folder), base_models=models)
    cold_path.progress = progress
    ((task, report),) = manage.train(cold_path, store.tasks()[-1])
    return task, report


@pytest.fixture(scope="module")
def tuned_once(models, tmp_path_factory):
    """A state with one replacement, whose encoder was tuned."""
    folder = tmp_path_factory.mktemp("state")
    observe(folder, "Is this good or bad?", pairs(200), "mood")
    with Store(url(folder)) as store:
        _, report = train(store, folder, models, ("lora",))
    assert report.chosen.startswith("lora") and not report.refusal
    return folder


@pytest.fixture
def state(tuned_once, tmp_path):
    return Path(shutil.copytree(tuned_once, tmp_path / "state"))


def later(state, models, made=None):
    """Train a later task, whose texts are others unless they are given."""
    observe(state, "What is the tone of this:", made or pairs(200, seed=5), "tone")
    store = Store(url(state))
    return store, *train(store, state, models, ("encoder",))


def artifacts(state):
    return {path.name for path in (state / "artifacts").glob("*/*")}


def test_a_later_task_takes_the_encoder_and_holds_all_it_needs(state, models, tmp_path):
    store, task, report = later(state, models)
    ((first, tuned),) = listed(store)
    assert report.chosen.endswith(f"tiny tuned for “{first.name}”") and not report.refusal
    release = store.active_release(task.id)
    student, own = load_student(release.path, BaseModels(tmp_path / "no cache")), load_student(tuned.path, models)
    answers, _ = student.predict([x for x, _ in pairs(40, seed=6)])
    assert np.mean([a == b for a, (_, b) in zip(answers, pairs(40, seed=6), strict=True)]) > 0.9
    (encoder,) = student.models.values()
    assert encoder._session is own.tuned._session, "one network in memory for both"
    assert own_bytes(release.path) < release.size_bytes - len(encoder._network.network)
    texts = [text for (text,), _ in pairs(200, seed=5)]
    assert not EmbeddingCache(models.folder / "embeddings.sqlite3").get(encoder.hash, texts), "others look there"
    (row,) = [row for row in model_facts(models, store) if row["key"] == f"earlier-{tuned.id}"]
    assert row["tuned_for"] == first.name and [each["task"] for each in row["chosen"]] == [task.name]
    card = (export(store, task, tmp_path / "out", models) / "README.md").read_text()
    assert "| base models | tiny, licence" in card and f"tiny tuned for “{first.name}”" in card
    store.close()


def test_what_rests_on_a_task_goes_when_that_is_purged(state, models):
    store, task, _ = later(state, models)
    ((first, tuned),) = listed(store)
    resting = store.active_release(task.id)
    assert artifacts(state) == {tuned.id, resting.id}
    assert [each.id for each in manage.lost_with(store, first)] == [task.id] and not manage.lost_with(store, task)
    told = (
        CliRunner()
        .invoke(cli.app, ["purge", "--task", first.id, "--url", f"sqlite:///{store.path}"], input="n\n")
        .output
    )
    assert f"Replacements of “{task.name}” rest on" in told and artifacts(state) == {tuned.id, resting.id}
    told = (
        CliRunner().invoke(cli.app, ["purge", "--task", first.id, "--url", f"sqlite:///{store.path}", "--yes"]).output
    )
    assert f"Withdrawn, too: replacements of “{task.name}”" in told
    assert not artifacts(state) and store.active_release(task.id) is None
    assert store.release_state(resting.id) == "withdrawn" and "purged" in store.task(task.id).reason
    assert store.label_count(task.id) == 200, "its own calls are still there"
    store.close()


def test_a_task_that_is_purged_while_another_learns_from_it_leaves_nothing(state, models):
    observe(state, "What is the tone of this:", pairs(200, seed=5), "tone")
    with Store(url(state)) as store:
        ((first, _),) = listed(store)

        def purge(what, share):
            if store.task(first.id) is not None and "encoder on" in what:
                manage.purge(store, task=first)

        task, _ = train(store, state, models, ("encoder",), purge)
        assert store.task(first.id) is None, "it was purged meanwhile"
        assert not artifacts(state) and store.active_release(task.id) is None


def test_texts_that_it_learnt_from_are_no_measure_of_it(state, models):
    store, task, report = later(state, models, pairs(200))
    (note,) = [each.note for each in report.candidates if "tuned for" in each.name]
    assert "may have learnt from 200 of the 200 inputs" in note
    assert "tuned for" not in report.chosen
    store.close()


def test_one_that_is_damaged_costs_a_later_search_only_that(state, models):
    (file,) = (state / "artifacts").glob("*/*/arrays.safetensors")
    with file.open("ab") as damaged:
        damaged.write(b"x")
    store, _, report = later(state, models)
    (note,) = [each.note for each in report.candidates if "tuned for" in each.name]
    assert "was changed" in note and report.chosen.endswith(":tiny") and not report.failed
    store.close()


def offered(store, models, task, inputs=None):
    """Whether the search for a task is offered an earlier encoder, and why not."""
    inputs = inputs or [each.slots for each in store.examples(task.id)]
    found = with_earlier(models, store, task, inputs, POLICY)
    return any(key.startswith("earlier") for key in found.keys("encoder")), " ".join(found.refused.values())


def other_task(state):
    """A state, the task that is replaced there, and a later one with other texts."""
    observe(state, "What is the tone of this:", pairs(200, seed=5), "tone")
    store = Store(url(state))
    ((first, _),) = listed(store)
    return store, first, next(each for each in store.tasks() if each.id != first.id)


def test_a_single_text_that_it_learnt_from_is_too_many(state, models, monkeypatch):
    monkeypatch.setattr("jitr_core.earlier._PAGE", 7)
    store, _, task = other_task(state)
    others = [text for text, _ in pairs(500, seed=7)]
    assert offered(store, models, task, others) == (True, "")
    taken, why = offered(store, models, task, [*others, pairs(200)[123][0]])
    assert not taken and "learnt from 1 of the 501 inputs" in why
    store.close()


def test_texts_that_are_forgotten_are_no_measure_of_it_either(state, models):
    store, first, task = other_task(state)
    observe(state, "Is this good or bad?", pairs(20, seed=8), "unkept")
    assert offered(store, models, task) == (True, "")
    store.record("purge", None, {"tenant": "another", "before": 4e9, "observations": 9, "tasks": 0})
    store.record("purge", task.id, {"tenant": None, "before": 4e9, "observations": 9, "tasks": 0})
    assert manage.purge(store, task=first, before=1.0) == 0
    assert offered(store, models, task) == (True, ""), "none of its own calls were deleted"
    assert manage.purge(store, task=first, before=4e9)
    assert store.active_release(first.id) is not None
    taken, why = offered(store, models, task)
    assert not taken and "deleted, so nobody can tell" in why
    store.close()


@pytest.mark.parametrize("whose", ["its own", "its tenant's", "everybody's"])
def test_whoever_is_purged_it_is_known_of_its_task(whose, state, models):
    store, first, task = other_task(state)
    of = {"its own": {"task": first}, "its tenant's": {"tenant": ""}, "everybody's": {}}[whose]
    inputs = [each.slots for each in store.examples(task.id)]
    manage.purge(store, before=4e9, **of)
    assert not offered(store, models, task, inputs)[0]
    store.close()


def test_a_purge_long_before_it_learnt_deleted_nothing_that_it_learnt_from(state, models):
    store, first, task = other_task(state)
    store._database.clock = lambda: 1e6
    store.record("purge", first.id, {"tenant": None, "before": 4e9, "observations": 9, "tasks": 0})
    assert offered(store, models, task) == (True, "")
    store.close()


def test_texts_that_expired_are_no_measure_of_it_either(state, models):
    store, _, task = other_task(state)
    inputs, now = [each.slots for each in store.examples(task.id)], time.time()
    for days in (10, 11):  # a clock that leaps deletes nothing
        store._database.clock = lambda days=days: now + days * 86_400.0
        store.expire(5)
    taken, why = offered(store, models, task, inputs)
    assert not taken and "deleted" in why
    store.close()


def test_calls_that_were_never_to_be_kept_are_none_that_it_learnt_from(state, models):
    jitr = JITR(url(state), policy=POLICY, training="off", seed=1)
    for i in range(20):
        call = Call(f"secret{i}", (("user", f"Is this good or bad? w{i} good"),), step="mood", storable=False)
        jitr.observe(call, jitr.decide(call), Answer("yes", "m"))
    jitr.close()
    store, _, task = other_task(state)
    assert offered(store, models, task) == (True, "")
    store.close()


def test_a_search_looks_through_so_many_calls_and_no_more(state, models, monkeypatch):
    store, _, task = other_task(state)
    monkeypatch.setattr("jitr_core.earlier._MOST_COMPARED", 199)
    taken, why = offered(store, models, task)
    assert not taken and "too many calls" in why
    store.close()


@pytest.mark.parametrize("app", ["the next", "a running"])
def test_a_purge_that_was_killed_is_completed_by_an_app(app, state, models, monkeypatch):
    store, task, _ = later(state, models)
    ((first, _),) = listed(store)
    resting, loaded, load = store.active_release(task.id), [], Router.load
    monkeypatch.setattr(Router, "load", lambda self, served: (loaded.append(set(served)), load(self, served)))
    jitr = JITR(url(state), policy=POLICY, training="off", seed=1)
    if app == "a running":
        jitr.refresh()
        assert task.id in loaded[-1]
    store.purge(task=first.id)  # and what `manage.purge` does then, it did not do any more
    assert store.active_release(task.id) is not None
    if app == "a running":
        jitr._background._expire_at = 0.0  # an hour later
        jitr.refresh()
        assert task.id not in loaded[-1]
    else:
        jitr.close()
        loaded.clear()
        jitr = JITR(url(state), policy=POLICY, training="off", seed=1)
        jitr.refresh()
        assert loaded and not any(task.id in served for served in loaded), "not for a moment"
    assert store.active_release(task.id) is None and store.release_state(resting.id) == "withdrawn"
    assert not Path(resting.path).exists() and not jitr.faults
    jitr.close()
    store.close()


def test_a_purge_just_before_a_replacement_is_put_into_service_leaves_none_without_files(state, models, monkeypatch):
    observe(state, "What is the tone of this:", pairs(200, seed=5), "tone")
    with Store(url(state)) as store:
        ((first, _),) = listed(store)

        def purged(*given, **named):
            made = package(*given, **named)
            manage.purge(store, task=first)
            return made

        monkeypatch.setattr("jitr_core.pipeline.package", purged)
        task, report = train(store, state, models, ("encoder",))
        assert "tuned for" in report.chosen and not report.refusal
        assert store.active_release(task.id) is None and "purged" in store.task(task.id).reason
        assert not artifacts(state) and not store.verify()


def test_what_a_killed_attempt_left_of_a_purged_task_is_deleted(state, models):
    store, task, _ = later(state, models)
    ((first, _),) = listed(store)
    left = Path(store.active_release(task.id).path)
    shutil.copytree(left, left.with_name("r_left"))
    store.acquire(f"train:{task.id}", "an attempt", 180.0)
    manage.purge(store, task=first)
    assert artifacts(state) == {"r_left"}, "an attempt may be at it"
    store.free(f"train:{task.id}", "an attempt")
    assert withdraw_orphans(store, state / "artifacts") == ["r_left"] and not artifacts(state)
    assert store.acquire(f"train:{task.id}", "another attempt", 180.0)
    store.close()


def test_a_damaged_description_keeps_nobody_from_looking_for_orphans(state, models):
    store, task, _ = later(state, models)
    ((first, _),) = listed(store)
    for i, text in enumerate(("[]", '{"models": 1}', '{"models": {"a": 1}}', '{"models": {"a": {"own": 1}}}', "{")):
        folder = state / "artifacts" / task.id / f"r_damaged{i}"
        folder.mkdir()
        (folder / "student.json").write_text(text)
    store.purge(task=first.id)
    resting = store.active_release(task.id)
    assert withdraw_orphans(store, state / "artifacts") == [resting.id]
    store.close()


@pytest.mark.parametrize("place", [{"app": "other"}, {"tenant": "other"}])
def test_nobody_elses_task_is_offered_it(place, state, models):
    observe(state, "What is the tone of this:", pairs(20, seed=5), "tone", **place)
    with Store(url(state)) as store:
        task = next(each for each in store.tasks() if "mood" not in each.name)
        assert (task.app, task.tenant) != ("default", "")
        assert with_earlier(models, store, task, [("w1",)], POLICY).keys("encoder") == ["encoder"]


def test_the_encoder_of_a_task_that_was_divided_is_offered_no_more(state):
    with Store(url(state)) as store:
        ((task, _),) = listed(store)
        store.record("part", task.id, {"new": "t_other", "template": "x", "withdrawn": []})
        assert not list(listed(store))


def test_a_later_task_is_tuned_from_the_base_model_itself(state, models, monkeypatch):
    with Store(url(state)) as store:
        ((task, _),) = listed(store)
        some = pairs(80, seed=5)
        both = with_earlier(models, store, replace(task, id="t_later"), [x for x, _ in some], POLICY)
    sources, run = [], Tuner._run
    monkeypatch.setattr(Tuner, "_run", lambda self, job, to: (sources.append(job["source"]), run(self, job, to)))
    found = search(dataset(some), policy=Policy(families=("encoder", "lora")), base_models=both)
    (lora,) = [each for each in found.candidates if each.name.startswith("lora:")]
    assert lora.base_model == "tiny" and set(sources) == {models.get("encoder").source}
    assert any("tuned for" in each.name and each.score is not None for each in found.candidates)


def test_an_encoder_that_an_earlier_version_wrote_has_its_last_layer_only(state, models):
    with Store(url(state)) as store:
        ((_, release),) = listed(store)
    tuned = load_student(release.path, models).tuned
    settings, arrays = tuned.state()
    old = TunedEncoder({key: value for key, value in settings.items() if key != "blocks"}, arrays)
    assert old.blocks == (("final", 32),) and tuned.blocks == (("final", 32), ("layer1", 32))
    assert np.array_equal(old.scores(("w1 good",)), tuned.scores(("w1 good",)))


TEXT = st.lists(st.sampled_from("a b c d e f g h i j k l".split()), min_size=1, max_size=12).map(" ".join)


@given(st.lists(TEXT.map(lambda text: (text,)), min_size=1, max_size=8), st.lists(TEXT, max_size=8))
def test_what_was_learnt_is_known_however_it_is_written_and_other_words_never_are(inputs, others):
    learnt = [*inputs, *((text,) for text in others)]
    assert known_share(inputs, learnt) == 1.0
    assert known_share([(f" {text.upper()}\n",) for (text,) in inputs], learnt) == 1.0
    assert known_share([(text.replace(" ", " x "), "y z") for (text,) in inputs if " " in text], learnt) == 0.0
    assert known_share([("v w x y z " + text,) for (text,) in inputs], []) == 0.0


def test_a_part_of_a_text_is_known_and_a_common_phrase_is_not():
    ticket = "my parcel has not come and nobody answers the phone what shall i do now please"
    assert known_share([(ticket,)], [("subject", f"{ticket} regards from a customer")]) == 1.0
    assert known_share([("en", "de", ticket)], [("en", "de", "what do you think of this")]) == 0.0
    assert known_share([("en", "de", ticket)], [(ticket,)]) == 1.0
    assert known_share([(f"{ticket} thank you for your help",)], [("thank you for your help",)]) == 0.0
