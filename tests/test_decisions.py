"""What the user decides about tasks holds: in a running app, against the miner, after a restart, and for delta."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from easy import easy_calls
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import POLICY, serve, trained, url
from test_replay import run

from jitr_core import JITR, Answer, Call, ConfigError, Policy, manage
from jitr_core.certify import next_attempt
from jitr_core.identify import Decisions, Identifier, join_prompt, pattern, prompt_text
from jitr_core.store import Store
from jitr_core.types import Certificate, Declaration, Release, SearchReport, Task, Template

OTHER = "Decide who should read this note from a client: the billing team or the delivery team. One word."


def worded(calls: list[dict], system: str, tag: str = "o") -> list[dict]:
    """The calls with another system message."""
    return [
        dict(c, id=f"{tag}{c['id']}", messages=[{"role": "system", "content": system}, c["messages"][1]]) for c in calls
    ]


@pytest.fixture
def two(tmp_path: Path) -> str:
    """A state with two tasks that sort the same messages in other words, the second of which is younger."""
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    serve(jitr, easy_calls(40))
    serve(jitr, worded(easy_calls(24, seed=5), OTHER))
    jitr.close()
    return url(tmp_path)


def test_merged_tasks_are_one_at_once_and_after_a_restart_and_the_older_id_survives(two: str) -> None:
    jitr = JITR(two, policy=POLICY, training="off")
    jitr.refresh()
    with Store(two) as store:
        older, younger = store.tasks()
        assert manage.merge(store, [younger, older]).id == older.id
        assert store.counts(older.id).calls == 64 and store.task(younger.id).id == older.id
    jitr.refresh()
    call = Call("x", tuple((m["role"], m["content"]) for m in worded(easy_calls(1, 9), OTHER)[0]["messages"]))
    assert jitr.decide(call).task == older.id
    jitr.close()
    again = JITR(two, policy=POLICY, training="off")
    again.refresh()
    assert again.decide(call).task == older.id
    assert [t.id for t in again.open_store().tasks()] == [older.id] and not again.open_store().verify()
    again.close()


def test_tasks_whose_prompts_begin_alike_have_names_that_tell_them_apart(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    opening = "You read what customers of a phone company write to us. Answer yes or no. Is the message"
    # The third differs from the first in the tools it offers alone: there no words tell them apart.
    for seed, (kind, contract) in enumerate((("spam", ""), ("personal", ""), ("spam", "tools"))):
        for each in easy_calls(12, seed):
            prompt = f"{opening} {kind}:\n{each['messages'][1]['content']}"
            call = Call(f"{seed}{each['id']}", (("user", prompt),), contract=contract)
            jitr.observe(call, jitr.decide(call), Answer(each["answer"]))
        jitr.flush()
    store = jitr.open_store()
    first, second, third = (task.name for task in store.tasks())
    assert first.startswith("You read what customers") and third == f"{first} (2)"
    assert second == "You read what … message personal Message"
    assert [manage.find_task(store, task.name).id for task in store.tasks()] == [task.id for task in store.tasks()]
    jitr.close()


def test_what_is_split_off_is_a_task_of_its_own_that_the_miner_never_merges_again(two: str) -> None:
    with Store(two) as store:
        older, younger = store.tasks()
        task = manage.merge(store, [older, younger])
        first, second = manage.task_templates(store, task)
        new = manage.split(store, task, [second.template.id], "notes")
        assert (store.counts(task.id).calls, store.counts(new.id).calls) == (40, 24)
    jitr = JITR(two, policy=POLICY, training="off")
    # The same inputs with the same answers: by them alone, the miner takes the two for one job.
    for i in range(4):
        serve(jitr, easy_calls(40, seed=20 + i), f"a{i}")
        serve(jitr, worded(easy_calls(40, seed=20 + i), OTHER), f"b{i}")
    jitr.flush()
    store = jitr.open_store()
    assert [store.counts(t.id).calls for t in store.tasks()] == [200, 184]
    assert not store.merge_tasks(new.id, task.id), "another process's miner may not have heard of it yet"
    assert not store.verify() and not jitr.faults
    jitr.close()


def test_a_process_that_has_not_heard_of_a_decision_does_not_undo_it(two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(two) as store:
        older, younger = store.tasks()
        manage.rename(store, younger, "notes")
    jitr = JITR(two, policy=POLICY, training="off")
    monkeypatch.setattr(jitr._identifier, "decide", lambda decisions: None)
    for i in range(4):
        serve(jitr, easy_calls(40, seed=20 + i), f"a{i}")
        serve(jitr, worded(easy_calls(40, seed=20 + i), OTHER), f"b{i}")
        jitr.flush()
    store = jitr.open_store()
    assert [store.counts(t.id).calls for t in (older, younger)] == [200, 184]
    call = Call("x", tuple((m["role"], m["content"]) for m in worded(easy_calls(1, 9), OTHER)[0]["messages"]))
    assert jitr.decide(call).task == younger.id and not store.verify() and not jitr.faults
    jitr.close()


def test_without_the_users_word_the_miner_does_merge_these_two(two: str) -> None:
    jitr = JITR(two, policy=POLICY, training="off")
    for i in range(4):
        serve(jitr, easy_calls(40, seed=20 + i), f"a{i}")
        serve(jitr, worded(easy_calls(40, seed=20 + i), OTHER), f"b{i}")
    jitr.flush()
    assert len(jitr.open_store().tasks()) == 1
    jitr.close()


def test_a_call_decided_before_a_split_is_stored_with_the_task_its_template_belongs_to_now(two: str) -> None:
    jitr = JITR(two, policy=POLICY, training="off")
    jitr.refresh()
    with Store(two) as store:
        task = manage.merge(store, store.tasks())
        jitr.refresh()
        serve(jitr, worded(easy_calls(5, seed=7), OTHER), "late")
        new = manage.split(store, task, [manage.task_templates(store, task)[1].template.id])
        jitr.flush()
        assert store.counts(new.id).calls == 29
    jitr.close()


def test_an_ignored_task_is_observed_but_neither_searched_nor_replaced(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    store = jitr.open_store()
    (task,) = store.tasks()
    manage.ignore(store, task)
    jitr.refresh()
    assert "answered" not in serve(jitr, easy_calls(400, seed=9), "later")
    jitr.flush()
    (task,) = store.tasks()
    assert task.ignored and store.attempts(task.id) == 1 and store.counts(task.id).calls == 650
    with pytest.raises(ConfigError, match="ignored"):
        manage.resume(store, task)
    manage.unignore(store, task)
    jitr.refresh()
    assert "answered" in serve(jitr, easy_calls(20, seed=8), "again")
    with pytest.raises(ConfigError, match="not ignored"):
        manage.unignore(store, store.tasks()[0])
    kinds = [entry.kind for entry in store.ledger(task.id)]
    assert "ignore" in kinds and "unignore" in kinds
    jitr.close()


def test_a_renamed_task_keeps_its_name_and_no_two_have_one(two: str) -> None:
    with Store(two) as store:
        one, other = store.tasks()
        manage.rename(store, one, "  triage ")
        assert manage.find_task(store, "triage").id == one.id
        for name in ("triage", one.id, "", "  "):
            with pytest.raises(ConfigError):
                manage.rename(store, other, name)
    jitr = JITR(two, policy=POLICY, training="off")
    serve(jitr, easy_calls(40, seed=3), "more")
    jitr.close()
    with Store(two) as store:
        assert store.tasks()[0].name == "triage"


# --- declared before the first call ---

DECLARED = [("system", "You sort messages of customers. Answer billing or delivery."), ("user", "Message: {input}")]


def test_a_declared_template_is_known_from_its_first_call_on(tmp_path: Path) -> None:
    with Store(url(tmp_path)) as store:
        task = manage.declare(store, "triage", messages=DECLARED)
        with pytest.raises(ConfigError, match="already"):
            manage.declare(store, "again", messages=DECLARED)
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    jitr.refresh()
    serve(jitr, easy_calls(2))
    jitr.refresh()
    match = jitr._identifier.match(Call("x", tuple((role, text.format(input="my van")) for role, text in DECLARED)))
    assert match is not None and (match.task, match.slots) == (task.id, ("my van",))
    assert jitr.open_store().counts(task.id).calls == 2
    jitr.close()


def test_calls_made_before_a_declaration_become_the_tasks_own(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    serve(jitr, easy_calls(5))
    jitr.flush()
    with Store(url(tmp_path)) as store:
        task = manage.declare(store, "triage", messages=DECLARED)
        assert store.counts(task.id).labels == 5
    jitr.refresh()
    serve(jitr, easy_calls(30, seed=2), "later")
    jitr.flush()
    assert [t.id for t in jitr.open_store().tasks()] == [task.id]
    assert jitr.open_store().counts(task.id).calls == 35
    jitr.close()


def test_what_is_split_off_takes_its_declaration_along(tmp_path: Path) -> None:
    with Store(url(tmp_path)) as store:
        one = manage.declare(store, "one", messages=DECLARED)
        other = manage.declare(store, "other", messages=[("user", "Which team? {input}")])
        jitr = JITR(url(tmp_path), policy=POLICY, training="off")
        jitr.refresh()
        serve(jitr, easy_calls(1))
        serve(jitr, [{"id": "x", "messages": [{"role": "user", "content": "Which team? van"}], "answer": "delivery"}])
        jitr.flush()
        task = manage.merge(store, [one, other])
        assert {d.task for d in store.declarations()} == {one.id}
        new = manage.split(store, task, [manage.task_templates(store, task)[1].template.id])
        assert [d.task for d in store.declarations()] == [one.id, new.id]
        jitr.close()


def test_a_declared_step_takes_all_its_calls_whatever_they_demand(tmp_path: Path) -> None:
    with Store(url(tmp_path)) as store:
        task = manage.declare(store, "triage", step="sort")
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    jitr.refresh()
    for i, recorded in enumerate(easy_calls(40)):
        call = Call(f"{i}", tuple((m["role"], m["content"]) for m in recorded["messages"]), step="sort")
        call.contract = "stop" if i % 2 else ""
        jitr.observe(call, jitr.decide(call), Answer(recorded["answer"]))
    jitr.flush()
    assert [t.id for t in jitr.open_store().tasks()] == [task.id]
    assert jitr.open_store().counts(task.id).calls == 40
    jitr.close()


def test_what_belongs_to_a_task_already_cannot_be_declared_anew(two: str) -> None:
    with Store(two) as store:
        with pytest.raises(ConfigError, match="belong to task"):
            manage.declare(store, "triage", messages=DECLARED)
        with pytest.raises(ConfigError, match="belong to task"):
            manage.declare(store, "wide", messages=[("system", "You sort {what}"), ("user", "{input}")])
        manage.declare(store, "elsewhere", messages=DECLARED, app="another")
        manage.declare(store, "other", messages=[("user", "Translate into German: {text}")])


@pytest.mark.parametrize("text", ["no slot", "{a}{b} touch", "{input}", "{unclosed", "closed}", "{{braces}}"])
def test_a_template_that_cannot_be_used_is_refused(text: str, tmp_path: Path) -> None:
    with Store(url(tmp_path)) as store, pytest.raises(ConfigError):
        manage.declare(store, "x", messages=[("user", text)])


@given(st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=4), st.text(max_size=9))
def test_a_declared_template_fits_what_it_was_written_for(parts: list[str], value: str) -> None:
    literals = ["Read: " + parts[0], *parts[1:]]
    written = "{x}".join(part.replace("{", "{{").replace("}", "}}").replace("\x00", "") for part in literals)
    prompt = prompt_text([("user", value.join(part.replace("\x00", "") for part in literals))])
    try:
        declared = Declaration("t", "default", "", "", pattern([("user", written)]))
    except ConfigError:
        assert "" in [part.replace("\x00", "") for part in literals[1:-1]]
        return
    placed = Decisions(declarations=(declared,)).place(("default", "", "s", "c"), prompt)
    if placed is None:  # a slot cannot hold what opens a message
        assert "\x1e" in prompt[1:] or "\x1f" in value
        return
    template, match = placed
    assert join_prompt(template.literals, match.slots) == prompt and template.contract == "c"


def test_no_call_widens_a_declared_template() -> None:
    frame = "Is the following review positive or negative?\n\nReview: {}\n\nSentiment:"
    declared = Declaration("t", "default", "", "", pattern([("user", frame.format("The {input}"))]))
    identifier = Identifier()
    identifier.decide(Decisions(declarations=(declared,)))
    assert identifier.learn(Call("1", (("user", frame.format("The end.")),))).match is not None
    assert identifier.learn(Call("2", (("user", frame.format("No way!")),))).match is None
    assert [t.literals for t in identifier.templates()] == [declared.literals]


# --- the certificate's promise ---

CERTIFICATE = Certificate(0.95, 0.0125, 0.8, 0.7, 140, 2, 0.951)


def saved(store: Store, *names: str) -> None:
    """Tasks, each with two templates named after it."""
    for name in names:
        store.save_task(Task(name, "default", "", f"name of {name}"))
        store.save_templates(
            [Template(f"{name}{i}", name, "default", "", "", "", (f"{name} {i} ", "")) for i in (1, 2)]
        )


def released(store: Store, task: str, *templates: str) -> None:
    release = Release(f"r-{task}", task, "lexical", None, "/nowhere", 1, CERTIFICATE, 1.0, templates)
    assert store.conclude(SearchReport(task, 200), 0.01, release)


@pytest.fixture
def store(tmp_path: Path):
    with Store(url(tmp_path)) as opened:
        yield opened


def named(store: Store, task: str) -> Task:
    found = store.task(task)
    assert found is not None
    return found


def test_a_release_certified_on_both_parts_of_a_split_serves_neither(store: Store) -> None:
    saved(store, "a")
    released(store, "a", "a1", "a2")
    new = manage.split(store, named(store, "a"), ["a2"])
    assert store.active_release("a") is None and store.active_release(new.id) is None
    assert store.release_state("r-a") == "withdrawn" and store.attempts(new.id) == store.attempts("a") == 1
    with pytest.raises(ConfigError, match="no active replacement"):
        manage.rollback(store, named(store, "a"))
    assert [p for p in store.verify() if "artifact" not in p] == []


@pytest.mark.parametrize("moved", ["a1", "a2"])
def test_a_release_certified_on_one_part_goes_on_with_it(store: Store, moved: str) -> None:
    saved(store, "a")
    released(store, "a", "a1")
    new = manage.split(store, named(store, "a"), [moved])
    serves, not_served = (new.id, "a") if moved == "a1" else ("a", new.id)
    assert store.active_release(serves).id == "r-a" and named(store, serves).state == "active"
    assert store.active_release(not_served) is None and named(store, not_served).state != "active"
    assert [p for p in store.verify() if "artifact" not in p] == []


def test_a_merge_keeps_the_survivors_release_or_takes_over_the_others(store: Store) -> None:
    saved(store, "a", "b", "c")
    released(store, "b", "b1")
    manage.merge(store, [named(store, "a"), named(store, "b")])
    assert store.active_release("a").id == "r-b" and named(store, "a").state == "active"
    released(store, "c", "c1")
    manage.merge(store, [named(store, "c"), named(store, "a")])
    assert store.active_release("a").id == "r-b" and store.release_state("r-c") == "retired"
    assert store.joined_templates() == {"b1", "b2", "c1", "c2"}
    assert [p for p in store.verify() if "artifact" not in p] == []


def test_a_veto_outlasts_a_merge_and_a_split(store: Store) -> None:
    saved(store, "a", "b")
    released(store, "a", "a1")
    manage.pause(store, named(store, "b"))
    manage.merge(store, [named(store, "a"), named(store, "b")])
    assert named(store, "a").state == "paused"
    new = manage.split(store, named(store, "a"), ["b1"])
    assert named(store, new.id).state == named(store, "a").state == "paused"


def test_tasks_of_two_tenants_or_an_ignored_one_are_not_merged(store: Store) -> None:
    saved(store, "a", "b")
    store.save_task(Task("c", "default", "acme", "c"))
    with pytest.raises(ConfigError, match="tenants"):
        manage.merge(store, [named(store, "a"), named(store, "c")])
    with pytest.raises(ConfigError, match="at least two"):
        manage.merge(store, [named(store, "a"), named(store, "a")])
    manage.ignore(store, named(store, "b"))
    with pytest.raises(ConfigError, match="ignored"):
        manage.merge(store, [named(store, "a"), named(store, "b")])


def test_a_part_of_the_templates_must_go_and_a_part_stay(store: Store) -> None:
    saved(store, "a")
    for templates in ([], ["a1", "a2"], ["a"], ["b1"], [""]):
        with pytest.raises(ConfigError):
            manage.split(store, named(store, "a"), templates)


def test_an_attempt_that_began_before_a_split_promotes_nothing(store: Store) -> None:
    saved(store, "a")
    before = named(store, "a")
    manage.split(store, before, ["a2"])
    release = Release("r", "a", "lexical", None, "/nowhere", 1, CERTIFICATE, 1.0, ("a1",))
    report = SearchReport("a", 200)
    assert not store.conclude(report, 0.01, release, None, before.regroupings)
    assert "split meanwhile" in report.refusal and store.active_release("a") is None


def test_after_releases_a_merge_certifies_both_wordings_by_the_labels_there_are(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    serve(jitr, worded(easy_calls(250, seed=5), OTHER))
    jitr.close()
    with Store(url(tmp_path)) as store:
        task, _ = store.tasks()
        manage.merge(store, store.tasks())
        pipeline = manage.pipeline(store, POLICY, url(tmp_path))
        assert pipeline.missing(named(store, task.id)) == POLICY.first_attempt
        active = store.active_release(task.id)
        jitr = JITR(url(tmp_path), policy=POLICY, training="off")
        jitr.refresh()
        serve(jitr, worded(easy_calls(150, seed=6), OTHER), "a")
        serve(jitr, easy_calls(50, seed=7), "b")
        jitr.close()
        report = pipeline.run(task.id)
        assert report is not None and report.certificate is not None, report
        release = store.active_release(task.id)
        assert release is not None and set(release.templates) > set(active.templates)
        # Labels from before the merge count: since it there are 200 calls, of which the release answered some.
        assert report.certificate.calls / report.certificate.coverage >= 400


def test_a_wording_that_took_over_is_served_after_a_merge_however_much_the_old_one_was(tmp_path: Path) -> None:
    jitr = trained(tmp_path, 900)
    serve(jitr, worded(easy_calls(300, seed=5), OTHER))
    jitr.close()
    with Store(url(tmp_path)) as store:
        manage.merge(store, store.tasks())
        (task,) = store.tasks()
        old = store.active_release(task.id)
        report = manage.pipeline(store, POLICY, url(tmp_path)).run(task.id, force=True)
        new = store.active_release(task.id)
        assert report is not None and not report.refusal, report
        assert old is not None and new is not None and new.id != old.id


def test_what_audits_contradicted_is_not_learnt_from_after_a_merge_either(store: Store) -> None:
    saved(store, "a", "b")
    released(store, "b", "b1")
    assert store.withdraw("b", "r-b", "audits")
    rolled_back = store.last_entry(("rollback",), "b").details["start"]
    manage.merge(store, [named(store, "a"), named(store, "b")])
    start = store.last_entry(("restart",), "a").details["start"]
    assert start["learnt"] == rolled_back["row"] <= start["row"]


def test_a_release_answers_no_merged_template_not_even_one_that_looks_like_a_wider_version(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    store = jitr.open_store()
    (task,) = store.tasks()
    (certified,) = store.templates()
    wide = (certified.literals[0].removesuffix("Message: "), "")
    wider = (wide[0].removesuffix("\x1euser\x1f"), "")

    def answerable() -> set[str]:
        jitr.refresh()
        return set(jitr._router.loaded()[task.id].templates)

    store.save_templates([replace(certified, id="own", literals=wide)])
    assert answerable() == {certified.id, "own"}, "a wider version of what it was certified on"
    store.save_task(Task("other", "default", "", "other"))
    store.save_templates([replace(certified, id="merged", task="other", literals=wider)])
    manage.merge(store, [task, named(store, "other")])
    store.save_templates([replace(certified, id="grown", literals=(wider[0][:-5], ""))])
    assert answerable() == {certified.id, "own"}
    jitr.close()


MOVES = st.lists(
    st.tuples(st.sampled_from(["merge", "split", "part", "attempt"]), st.integers(0, 9), st.integers(0, 9))
)


@settings(max_examples=40, deadline=None)
@given(MOVES)
def test_whatever_is_merged_split_and_parted_no_template_spends_delta_twice(tmp_path_factory, moves) -> None:
    """Each attempt of a task spends its share for all templates the task has; shares of one index are one."""
    with Store(url(tmp_path_factory.mktemp("delta"))) as store:
        saved(store, "a", "b", "c")
        spent: dict[str, list[int]] = {template.id: [] for template in store.templates()}
        for kind, i, j in moves:
            tasks = store.tasks()
            task, other = tasks[i % len(tasks)], tasks[j % len(tasks)]
            if kind == "merge" and task.id != other.id:
                manage.merge(store, [task, other])
            elif kind == "split" and len(manage.task_templates(store, task)) > 1:
                own = manage.task_templates(store, task)
                manage.split(store, task, [own[j % len(own)].template.id])
            elif kind == "part":
                source = manage.task_templates(store, task)[0].template
                special = replace(source, id=f"{source.id}.{len(spent)}", literals=(f"{source.literals[0]}{j} ", ""))
                new = Task(f"of {special.id}", task.app, task.tenant, "new")
                if store.part_template(source.id, [special], new, lambda template, slots: None):
                    spent[special.id] = list(spent[source.id])
            elif kind == "attempt":
                for each in manage.task_templates(store, task):
                    spent[each.template.id].append(store.attempts(task.id))
                store.conclude(SearchReport(task.id, 1), 0.01)
        for indices in spent.values():
            assert indices == sorted(set(indices)), "an index, and so its share of delta, was spent twice"
            assert sum(next_attempt(i, Policy()).delta for i in indices) <= Policy().delta


# --- the command line ---


def test_the_commands_decide_and_the_list_shows_it(two: str) -> None:
    with Store(two) as store:
        older, younger = store.tasks()
    assert run("tasks", "rename", older.id, "triage", "--url", two)[0] == 0
    assert run("tasks", "merge", "triage", younger.id, "--url", two)[0] == 0
    code, shown = run("tasks", "show", "triage", "--url", two)
    assert code == 0 and "user: Message: {input}" in shown and "→ billing" in shown
    with Store(two) as store:
        template = manage.task_templates(store, store.tasks()[0])[1].template.id
    assert run("tasks", "split", "triage", template, "--name", "notes", "--url", two)[0] == 0
    assert run("tasks", "ignore", "notes", "--url", two)[0] == 0
    code, listed = run("tasks", "--url", two)
    assert code == 0 and "ignored" in listed and "“triage”" in listed and "2 labels" in listed
    assert "replaceable as it looks: 2 different answers in 40 calls; the next search is due in 160 calls" in listed
    assert run("tasks", "unignore", "notes", "--url", two)[0] == 0
    assert run("tasks", "--url", two, "show", "notes")[0] == 2, "an option that would be lost is not taken"
    for wrong in (("merge", "triage"), ("split", "triage", "p_0"), ("rename", "triage", "notes"), ("show", "nobody")):
        assert run("tasks", *wrong, "--url", two)[0] == 2


def test_machines_get_json(two: str) -> None:
    tasks = json.loads(run("tasks", "--json", "--url", two)[1])
    assert [task["calls"] for task in tasks] == [40, 24] and len(tasks[0]["answers"]["labels"]) == 2
    assert tasks[0]["templates"][0]["text"].endswith("user: Message: {input}") and tasks[0]["replacement"] is None
    (one,) = [json.loads(run("tasks", "show", tasks[1]["task"], "--json", "--url", two)[1])]
    assert {example["answer"] for example in one.pop("examples")} == {"billing", "delivery"}
    told = [one.pop(name) for name in ("searches", "releases", "history", "alike")]
    assert told == [[], [], [], []] and one == tasks[1]


def test_a_task_whose_prompt_reads_like_another_says_how_to_merge_them_and_one_that_does_not_says_nothing(
    two: str,
) -> None:
    before = easy_calls(40)
    prompt = before[0]["messages"][0]["content"]
    jitr = JITR(two, policy=POLICY, training="off")
    # One word put in and one changed: more than the miner takes for the same job.
    serve(jitr, worded(easy_calls(24, seed=8), prompt.replace("Answer", "Please reply"), "e"))
    jitr.close()
    with Store(two) as store:
        old, other, edited = store.tasks()
    for task, twin in ((old, edited), (edited, old)):
        code, shown = run("tasks", "show", task.id, "--url", two)
        assert code == 0 and shown.count("reads alike") == 1 and f"`jitr tasks merge {twin.id} {task.id}`" in shown
    assert "reads alike" not in run("tasks", "show", other.id, "--url", two)[1]
    assert run("tasks", "ignore", edited.id, "--url", two)[0] == 0
    assert "reads alike" not in run("tasks", "show", old.id, "--url", two)[1]
    assert run("tasks", "unignore", edited.id, "--url", two)[0] == 0
    assert run("tasks", "merge", edited.id, old.id, "--url", two)[0] == 0
    assert "reads alike" not in run("tasks", "show", old.id, "--url", two)[1]


def test_a_task_is_declared_on_the_command_line_before_the_first_run(tmp_path: Path) -> None:
    state = url(tmp_path / "new")
    words = ("--system", DECLARED[0][1], "--template", DECLARED[1][1])
    assert run("tasks", "declare", "triage", *words, "--url", state)[0] == 0
    assert run("tasks", "declare", "sorting", "--step", "sort", "--url", state)[0] == 0
    code, listed = run("tasks", "--url", state)
    assert code == 0 and "no calls yet" in listed and "step sort" in listed and "{input}" in listed
    assert run("tasks", "declare", "x", "--url", state)[0] == 2
    assert run("tasks", "declare", "x", "--system", "s", "--step", "t", "--url", state)[0] == 2


def test_a_merged_task_is_still_found_by_its_id_and_purged_with_the_survivor(store: Store) -> None:
    saved(store, "a", "b", "c")
    manage.merge(store, [named(store, "b"), named(store, "c")])
    manage.merge(store, [named(store, "a"), named(store, "b")])
    assert manage.find_task(store, "c").id == "a"
    manage.purge(store, task=named(store, "a"))
    assert store.tasks() == [] and store.templates() == [] and store.verify() == []


def test_a_purged_task_takes_its_declaration_along(store: Store) -> None:
    task = manage.declare(store, "triage", step="sort")
    assert [d.task for d in store.declarations()] == [task.id]
    manage.purge(store, task=task)
    assert store.declarations() == [] and store.verify() == []
    assert replace(manage.declare(store, "triage", step="sort"), id="") == replace(task, id="")
