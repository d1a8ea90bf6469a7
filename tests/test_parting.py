"""A template that proves to serve two jobs becomes two tasks in a running app: labels, releases and delta with it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from easy import FILLER, QUEUES
from test_engine import POLICY, serve, url

from jitr_core import JITR, Answer, Call, manage
from jitr_core.errors import StoreError
from jitr_core.identify import join_prompt, prompt_text
from jitr_core.store import Store
from jitr_core.types import Certificate, Decision, Match, Observation, Release, SearchReport, Task, Template

JOBS = {"queue": sorted(QUEUES), "mood": ["calm", "angry"]}
MOODS = {"calm": ("fine", "thanks", "lovely"), "angry": ("awful", "never", "terrible")}


def two_jobs(count: int, seed: int = 0, only: str = "") -> list[dict]:
    """Calls with one instruction, in which a field says what to do."""
    rng = random.Random(seed)
    calls = []
    for i in range(count):
        job = only or rng.choice(sorted(JOBS))
        answer = rng.choice(JOBS[job])
        telling = rng.choice((QUEUES if job == "queue" else MOODS)[answer])
        words = rng.choices(FILLER, k=rng.randint(5, 12)) + [telling, f"no{rng.randint(0, 9999)}"]
        rng.shuffle(words)
        wanted = rng.choice(("queue", "team")) if job == "queue" else job
        content = f"Analyse the message of a customer, answer in one word.\nWanted: {wanted}\nText: {' '.join(words)}"
        calls.append({"id": f"{job}{seed}-{i}", "messages": [{"role": "user", "content": content}], "answer": answer})
    return calls


def jobs_of(store: Store) -> dict[str, set[str]]:
    """Which jobs the stored calls of each task do that the teacher answered."""
    found: dict[str, set[str]] = {}
    for each in [each for each in store.observations() if each.decision.kind == "teacher"]:
        found.setdefault(str(each.decision.task), set()).add("mood" if "mood" in each.call.id else "queue")
    return found


def rebuilt(store: Store) -> dict[str, str]:
    """The prompts of all stored calls, as their templates rebuild them."""
    literals = {template.id: template.literals for template in store.templates()}
    matches = {each.call.id: each.decision.match for each in store.observations()}
    return {call: join_prompt(literals[match.template], match.slots) for call, match in matches.items() if match}


def test_two_jobs_become_two_tasks_with_all_their_calls_at_once_and_after_a_restart(tmp_path: Path) -> None:
    log = two_jobs(120)
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    serve(jitr, log)
    jitr.flush()
    store = jitr.open_store()
    assert sorted(map(sorted, jobs_of(store).values())) == [["mood"], ["queue"]]
    assert [store.attempts(task.id) for task in store.tasks()] == [0, 0] and not store.verify() and not jitr.faults
    prompts = {call["id"]: prompt_text([("user", call["messages"][0]["content"])]) for call in log}
    assert rebuilt(store) == prompts
    known = {task.id for task in store.tasks()}
    jitr.close()
    again = JITR(url(tmp_path), policy=POLICY, training="off")
    again.refresh()
    for job in JOBS:
        (call,) = two_jobs(1, seed=9, only=job)
        match = again.decide(Call("x", (("user", call["messages"][0]["content"]),))).match
        assert match is not None and match.task in known and jobs_of(again.open_store())[match.task] == {job}
    again.close()


def test_calls_of_the_other_job_get_no_answer_from_what_was_certified_on_both(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="inline", seed=1)
    for start in range(0, 300, 50):
        serve(jitr, two_jobs(50, seed=start, only="queue"))
        jitr.flush()
    store = jitr.open_store()
    (old,) = store.tasks()
    assert store.active_release(old.id) is not None
    for seed in range(20, 28):  # now the other job comes as well: audits object, then the template is parted
        serve(jitr, two_jobs(60, seed=seed), "later")
        jitr.flush()
    (new,) = [task for task in store.tasks() if task.id != old.id]
    assert 1 <= store.attempts(new.id) <= store.attempts(old.id), "no call gets a fresh delta"
    assert sorted(map(sorted, jobs_of(store).values())) == [["mood"], ["queue"]]
    assert "answered" not in serve(jitr, two_jobs(30, seed=3, only="mood"), "then")
    assert "answered" in serve(jitr, two_jobs(30, seed=4, only="queue"), "then")
    assert not [problem for problem in store.verify() if "artifact" not in problem] and not jitr.faults
    jitr.close()


def template(name: str, task: str) -> Template:
    return Template(name, task, "default", "", "", "", (f"{name} ", ""))


def stored(store: Store, jobs: str, release: str | None = None) -> None:
    """Calls of template "t", each with a job's letter for its input."""
    reason = "no_release" if release is None else "deferral"
    for number, job in enumerate(jobs):
        call = Call(f"{release}{number}{job}", (("user", f"t {job}"),))
        decision = Decision("teacher", reason, Match("old", "t", (job,)), release, audit_share=0.1 if release else 1.0)
        store.add_observations([Observation(call, decision, Answer(job))])


@pytest.mark.parametrize(
    ("before", "after", "certified", "goes_on"),
    [
        ("aaaa", "abab", "t", True),
        ("aaba", "aaaa", "t", False),
        ("aaba", "abab", "other", True),
        ("aaaa", "", "t", True),
    ],
)
def test_a_release_goes_on_if_no_call_that_goes_was_there_before_it(
    tmp_path: Path, before: str, after: str, certified: str, goes_on: bool
) -> None:
    with Store(url(tmp_path)) as store:
        store.save_task(Task("old", "default", "", "old"))
        store.save_templates([template("t", "old"), template("other", "old")])
        stored(store, before)
        certificate = Certificate(0.95, 0.0125, 0.8, 0.7, 140, 2, 0.951)
        release = Release("r", "old", "lexical", None, "/nowhere", 1, certificate, 1.0, (certified,))
        assert store.conclude(SearchReport("old", 4), 0.01, release)
        stored(store, after, "r")
        moved = {"b": Match("new", "m", ("",))}
        new = Task("new", "default", "", "new")
        assert store.part_template("t", [template("m", "new")], new, lambda t, slots: moved.get(slots[0]))
        assert store.counts("new").calls == (before + after).count("b")
        assert store.counts("old").calls == (before + after).count("a")
        assert (store.active_release("old") is not None) is goes_on
        assert store.release_state("r") == ("active" if goes_on else "withdrawn")
        assert store.attempts("new") == store.attempts("old") == 1 and store.active_release("new") is None
        assert [problem for problem in store.verify() if "artifact" not in problem] == []


def test_the_users_decisions_stand(tmp_path: Path, monkeypatch) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    serve(jitr, two_jobs(12))
    jitr.flush()
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        manage.rename(store, task, "mine")
    # This process's miner has not heard of it.
    monkeypatch.setattr(jitr._identifier, "decide", lambda decisions: None)
    serve(jitr, two_jobs(120, seed=2))
    jitr.flush()
    store = jitr.open_store()
    assert [task.name for task in store.tasks()] == ["mine"] and store.counts(task.id).calls == 132
    assert len(store.templates()) == 1 and not store.verify() and not jitr.faults
    jitr.close()


def test_a_parting_that_cannot_be_stored_is_not_in_force(tmp_path: Path, monkeypatch) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    store = jitr.open_store()

    def broken(*arguments: object) -> bool:
        raise StoreError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "part_template", broken)
        serve(jitr, two_jobs(60))
        jitr.flush()
    assert len(store.tasks()) == 1 and store.counts(store.tasks()[0].id).calls == 60 and jitr.faults
    serve(jitr, two_jobs(60, seed=2))
    jitr.flush()
    assert sorted(map(sorted, jobs_of(store).values())) == [["mood"], ["queue"]] and not store.verify()
    jitr.close()


@pytest.mark.parametrize("merged", [False, True])
def test_another_process_that_parts_the_same_template_finds_it_done(tmp_path: Path, merged: bool) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    serve(jitr, two_jobs(120))
    jitr.flush()
    store = jitr.open_store()
    old, new = store.tasks()
    parted = next(entry for entry in store.ledger(old.id) if entry.kind == "part").details["template"]
    if merged:
        store.merge_tasks(new.id, old.id)
    created = [template for template in store.templates() if template.id != parted]
    assert store.part_template(parted, created, new, lambda template, slots: None) is not merged
    assert not store.verify() and len(store.tasks()) == 2 - merged
    jitr.close()
