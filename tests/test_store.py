from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jitr_core.errors import ConfigError, StoreError
from jitr_core.identify import content_hash
from jitr_core.store import Given, Store, TemplateUse
from jitr_core.types import (
    Answer,
    Call,
    CandidateReport,
    Certificate,
    Decision,
    Example,
    Match,
    Observation,
    Release,
    SearchReport,
    Task,
    Template,
)

CERTIFICATE = Certificate(0.95, 0.0125, 0.8, 0.7, 140, 2, 0.951)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    with Store(f"sqlite:///{tmp_path}/state/jitr.db", clock=clock) as opened:
        yield opened


def expired(store, days, clock):
    """What is deleted by two looks half a day apart, the second of them now."""
    clock.now -= 43_200
    assert store.expire(days) == 0, "the first look deletes nothing"
    clock.now += 43_200
    return store.expire(days)


def texts(store):
    return [each.decision.match.slots for each in store.observations()]


def task(name="t", tenant=""):
    return Task(name, "shop", tenant, f"name of {name}")


def template(name="T", of="t"):
    return Template(name, of, "shop", "", "triage", "", ("Classify: ", "\nAnswer:"))


def release(name="r1", of="t", path="/nowhere", created=0.0):
    return Release(name, of, "encoder", "minilm", path, 1234, CERTIFICATE, created)


def placed(call, text="an input", answer="yes", *, of="t", at=0.0, tenant="", tokens=(10, 2)):
    match = Match(of, "T" if of == "t" else f"T of {of}", (text,))
    reply = None if answer is None else Answer(answer, "gpt-4.1", *tokens, 0.5)
    request = Call(call, (), "shop", tenant, "triage", "", "gpt-4.1", at)
    return Observation(request, Decision("teacher", "no_release", match), reply)


def unplaced(call, text="hello", at=0.0):
    request = Call(call, (("system", "be kind"), ("user", text)), "shop", "", "triage", "c", "gpt-4.1", at)
    return Observation(request, Decision("teacher", "no_task"), Answer("hi", "gpt-4.1"))


def served(
    call, text="an input", own="yes", teacher=None, *, audit=False, share=0.1, reason="answered", of="t", confidence=0.9
):
    kind = "replacement" if reason == "answered" else "teacher"
    own = own if kind == "replacement" else None
    decision = Decision(kind, reason, Match(of, "T", (text,)), "r1", own, confidence, audit, share)
    reply = None if teacher is None else Answer(teacher, "gpt-4.1", 10, 2)
    return Observation(Call(call, (), "shop", "", "triage", "", "gpt-4.1"), decision, reply)


def with_task(store, *, releases=("r1",), active="r1"):
    store.save_task(task())
    store.save_templates([template()])
    for name in releases:
        store.add_release(release(name))
    if active:
        store.activate("t", active, "certified")


# --- calls ---


def test_an_observation_comes_back_as_it_went_in(store):
    each = [placed("1"), unplaced("2"), served("3", audit=True, teacher="no"), served("4")]
    assert store.add_observations(each) == 4
    assert list(store.observations()) == each
    assert list(store.observations("t")) == [each[0], each[2], each[3]]


def test_a_call_is_stored_once_however_often_it_is_sent(store):
    assert store.add_observations([placed("1"), placed("1", answer="other"), placed("2")]) == 2
    assert store.add_observations([placed("2"), placed("3")]) == 1
    assert store.add_observations([]) == 0
    assert [e.answer for e in store.examples("t")] == ["yes"] * 3


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(alphabet=st.characters(categories=None), max_size=20), min_size=1, max_size=4))
def test_any_text_is_stored_and_only_what_utf8_cannot_hold_is_changed(tmp_path, texts):
    with Store(f"sqlite:///{tmp_path}/{abs(hash(tuple(texts)))}.db") as store:
        answer = "".join(texts)
        match = Match("t", "T", tuple(texts))
        seen = Observation(Call("1", ()), Decision("teacher", "no_release", match), Answer(answer))
        store.add_observations(
            [seen, Observation(Call("2", (("user", answer),)), Decision("teacher", "no_task"), None)]
        )
        (example,) = store.examples("t")
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        assert example.slots == tuple(clean)
        assert example.answer == "".join(clean)
        assert example.group == content_hash(clean)
        assert store.unplaced(5)[0].messages[0][1] == "".join(clean)
        store.save_task(Task("t", answer, answer, answer, "paused", answer))
        store.save_templates([Template("T", "t", answer, answer, answer, "", tuple(texts))])
        assert store.tasks()[0].name == "".join(clean)
        assert store.templates()[0].literals == tuple(clean)


def test_the_prompt_is_kept_only_until_the_call_is_placed(store):
    store.add_observations([unplaced("1", "first"), unplaced("2", "second")])
    assert [call.messages[1][1] for call in store.unplaced(10)] == ["first", "second"]
    assert [call.id for call in store.unplaced(1)] == ["2"]
    assert store.unplaced(10, tenant="other") == []
    assert store.unplaced(10, app="shop")[0] == unplaced("1", "first").call

    moved = store.assign([("1", Match("t", "T", ("first",))), ("unknown", Match("t", "T", ("x",)))])
    assert moved == 1
    assert [call.id for call in store.unplaced(10)] == ["2"]
    assert store.examples("t") == [Example(("first",), "hi", content_hash(("first",)), 0, template="T")]
    assert store.assign([("1", Match("u", "T", ("first",)))]) == 0, "a placed call stays where it is"
    assert store.assign([]) == 0


def test_examples_are_labelled_calls_with_their_position_in_the_stream(store):
    store.add_observations([placed("1", "a"), placed("2", "b", None), placed("3", "c"), placed("x", of="u")])
    store.add_observations([unplaced("0")])
    store.assign([("0", Match("t", "T", ("d",)))])
    assert [(e.slots, e.seq) for e in store.examples("t")] == [(("a",), 0), (("c",), 2), (("d",), 3)]
    assert [e.seq for e in store.examples("t", limit=2)] == [2, 3]
    assert store.label_count("t") == 3


def test_a_label_is_sampled_where_the_coin_or_the_lack_of_a_release_collected_it(store):
    store.add_observations(
        [
            placed("1"),
            served("2", audit=True, teacher="no", share=0.1),
            served("3"),
            served("4", reason="deferral", teacher="no", audit=False, share=0.1),
            served("5", reason="ood", teacher="no", audit=True, share=0.05),
            served("6", reason="shadow", teacher="no", audit=True, share=1.0),
            served("7", reason="deferral", teacher="no", audit=False, share=0.1, confidence=None),
        ]
    )
    got = [(e.seq, e.sampled) for e in store.examples("t")]
    assert got == [
        (0, True),
        (1, True),
        (3, False),
        (4, True),
        (5, True),
        (6, True),
    ]


def test_the_store_tells_since_when_templates_are_called_and_which_release_answered_them_first(store):
    def asked(call, of, release, **how):
        each = served(call, teacher="no", **how)
        return replace(each, decision=replace(each.decision, match=Match("t", of, ("x",)), release=release))

    store.add_observations(
        [placed("1"), asked("2", "T", "r1"), asked("3", "U", "r1", reason="deferral", confidence=None)]
    )
    store.add_observations([asked("4", "U", "r2", reason="ood"), asked("5", "T", "r2"), asked("6", "U", "r1")])
    assert store.template_use("t") == {"T": TemplateUse(1, "r1", 2), "U": TemplateUse(3, "r2", 4)}
    assert store.template_use("t", after=3) == {"T": TemplateUse(5, "r2", 5), "U": TemplateUse(4, "r2", 4)}
    assert store.template_counts("t") == {"T": 3, "U": 3} and store.template_counts("t", after=4) == {"T": 1, "U": 1}


def test_counts_tell_what_became_of_the_calls(store):
    store.add_observations(
        [
            placed("1", at=5.0),
            served("2", audit=True, teacher="no"),
            served("3"),
            served("4", reason="ood", teacher="a"),
        ]
    )
    counts = store.counts("t")
    assert (counts.calls, counts.labels, counts.answered, counts.audits, counts.deferred) == (4, 3, 2, 1, 1)
    assert counts.last_time == 5.0
    assert store.counts("t", release="r1").calls == 3
    assert store.counts("nothing").calls == 0
    (audited,) = store.audited("t", "r1")
    assert (audited.call, audited.replacement, audited.teacher, audited.audit_share) == ("2", "yes", "no", 0.1)


def test_of_answers_given_the_audits_that_failed_are_told(store):
    assert store.given("t", "r1") == Given(0, 1.0, ())
    store.add_observations([served("1"), served("2", audit=True, teacher="no"), served("3", audit=True)])
    store.add_observations([served("4", reason="deferral", teacher="a"), placed("5")])
    assert store.given("t", "r1") == Given(3, 0.1, (0.1,))


def test_an_answered_call_is_there_before_its_audit_which_moves_it_to_the_end(store, clock):
    with_task(store)
    pending = [replace(served(name, audit=True), pending=True) for name in "123"]
    store.add_observations([*pending, served("4")])
    assert (store.counts("t").answered, store.counts("t").audits) == (4, 0)
    assert store.given("t", "r1").failed == (0.1, 0.1, 0.1) and store.answers("t").answered == 1
    assert [row.asked for row in store.usage("t")] == [False]
    assert store.conclude_audits([("2", Answer("no", "gpt-5", 10, 2)), ("3", None), ("other", Answer("no"))]) == 2
    assert [each.call.id for each in store.observations("t")] == ["1", "4", "2", "3"]
    assert store.conclude_audits([("2", Answer("yes")), ("4", Answer("yes"))]) == 0, "it was done, or was none"
    told = store.answers("t")
    assert (told.answered, told.spent, told.releases) == (3, pytest.approx(0.3), {"r1": 3})
    assert [(each.call, each.teacher) for each in store.audited("t", "r1")] == [("2", "no")]
    assert store.label_count("t") == store.counts("t").labels == 1 and store.replaceable_count("t") == 3
    assert [(h.row, h.teacher, h.model) for h in store.handled("t", "r1", 4, 9)] == [
        (5, "no", "gpt-5"),
        (6, None, "gpt-4.1"),
    ]


def test_an_audit_of_a_call_whose_texts_are_gone_is_billed_and_teaches_nothing(store, clock):
    with_task(store)
    store.add_observations([replace(served("1", audit=True), pending=True)])
    clock.now += 90 * 86_400
    store.expire(30)  # twice, a day apart: a clock may leap
    clock.now += 86_400
    assert store.expire(30) == 1
    assert store.conclude_audits([("1", Answer("no", "gpt-4.1", 10, 2))]) == 1
    assert (store.counts("t").audits, store.counts("t").labels) == (1, 0)
    assert not store.examples("t") and not store.audited("t") and "no" not in str(list(store.observations()))
    store.add_observations([replace(served("2", audit=True), pending=True)])
    store.purge(task="t")
    assert store.conclude_audits([("2", Answer("no"))]) == 0 and not list(store.observations())


def test_usage_sums_tokens_where_known_and_characters_where_not(store):
    with_task(store)
    store.add_observations([placed("1"), placed("2", tokens=(None, None)), served("3", "four"), unplaced("4")])
    asked, replaced, other = store.usage()
    constant = len("Classify: \nAnswer:")
    assert (asked.calls, asked.input_tokens, asked.output_tokens) == (2, 10, 2)
    assert (asked.input_chars, asked.output_chars) == (constant + len("an input"), len("yes"))
    assert (replaced.asked, replaced.answered, replaced.input_chars) == (False, 1, constant + 4)
    assert (other.task, other.input_chars) == (None, len("be kind") + len("hello"))
    assert [row.task for row in store.usage("t")] == ["t", "t"]


def test_counts_stay_right_whatever_happens_to_the_calls(store, tmp_path, clock):
    with_task(store)
    store.save_task(task("u"))
    with Store(f"sqlite:///{store.path}", clock=clock) as other:

        def agree(calls, labels):
            counts = store.counts("t")
            assert (counts.calls, counts.labels) == (calls, labels)
            assert (store.replaceable_count("t"), store.label_count("t")) == (calls, labels)

        agree(0, 0)
        other.add_observations([placed("1", at=clock.now), placed("2", answer=None), unplaced("3", at=clock.now)])
        agree(2, 1)
        store.add_observations([placed("4", of="u", at=clock.now), placed("5", at=clock.now)])
        agree(3, 2)
        other.assign([("3", Match("t", "T", ("x",)))])
        agree(4, 3)
        other.merge_tasks("u", "t")
        agree(5, 4)
        other.add_observations([placed("6", at=-1e9)])
        agree(6, 5)
        expired(other, 1, clock)
        agree(6, 4)
        other.purge(before=0.0)
        agree(5, 4)
        store.add_observations([placed("7")])
        agree(6, 5)


# --- tasks, templates, releases ---


def test_tasks_and_templates_are_saved_renamed_and_listed(store):
    with_task(store, releases=(), active=None)
    store.save_task(Task("u", "other", "", "second"))
    store.rename("t", "triage")
    assert store.ledger("t")[-1].kind == "rename"
    store.set_state("t", "paused", "by hand")
    assert store.tasks("shop") == [Task("t", "shop", "", "triage", "paused", "by hand", decided=True)]
    assert [each.id for each in store.tasks()] == ["t", "u"]
    assert store.task("nobody") is None
    store.save_templates([replace(template(), task="u")])
    assert store.templates() == [template()], "only a merge or a split moves a template"
    assert store.ledger("t")[-1].details == {"state": "paused", "reason": "by hand", "figures": None}


@pytest.mark.parametrize("change", ["set_state", "rename"])
def test_an_unknown_task_cannot_be_changed(store, change):
    with pytest.raises(StoreError, match="no task 'x'"):
        getattr(store, change)("x", "paused")


def test_what_belongs_to_a_merged_task_goes_to_the_survivor(store):
    with_task(store)
    store.save_task(task("u"))
    store.save_task(task("v"))
    store.add_observations([placed("1")])
    store.merge_tasks("t", "u")
    store.merge_tasks("t", "u")
    store.merge_tasks("u", "v")
    assert [each.id for each in store.tasks()] == ["v"]
    assert store.task("t").id == "v"
    assert [each.task for each in store.templates()] == ["v"]
    # Another process has not heard of the merge yet.
    store.add_observations([placed("2"), unplaced("3")])
    store.assign([("3", Match("u", "T", ("x",)))])
    store.save_templates([template("T2", of="t")])
    assert store.label_count("v") == 3
    assert {each.task for each in store.templates()} == {"v"}
    assert store.active_release("v").id == "r1", "it answers the templates it was certified on, wherever they are"
    with pytest.raises(StoreError, match="cannot be merged"):
        store.merge_tasks("v", "nobody")


def test_the_active_pointer_moves_forward_and_back_with_state_and_ledger(store):
    with_task(store, releases=("r1", "r2"), active=None)
    assert store.active_release("t") is None
    store.activate("t", "r1", "certified")
    assert store.active_release("t") == release("r1")
    assert (store.task("t").state, store.release_state("r2")) == ("active", "new")
    store.activate("t", "r2", "better")
    assert (store.release_state("r1"), store.release_state("r2")) == ("retired", "active")
    store.activate("t", "r1", "rolled back")
    assert store.active_release("t").id == "r1"
    store.activate("t", None, "audits failed", state="paused")
    assert store.active_release("t") is None
    assert store.task("t") == Task("t", "shop", "", "name of t", "paused", "audits failed")
    assert [entry.details["release"] for entry in store.ledger("t")] == ["r1", "r2", "r1", None]
    assert store.last_entry("activate", "t").details["release"] is None
    assert store.last_entry("activate") == store.ledger()[-1]
    assert store.last_entry("rollback", "t") is None
    assert [each.id for each in store.releases("t")] == ["r1", "r2"]
    assert store.release_state("r9") is None


def test_a_refused_activation_changes_nothing(store):
    with_task(store)
    store.save_task(task("u"))
    store.add_release(release("foreign", of="u"))
    before = (store.version(), store.ledger())
    for name in ("foreign", "unknown"):
        with pytest.raises(StoreError, match="has no release"):
            store.activate("t", name, "mistake")
    with pytest.raises(StoreError):
        store.add_release(release("r1"))
    assert (store.version(), store.ledger()) == before
    assert store.active_release("t").id == "r1"


def test_searches_are_counted_with_the_error_probability_they_spent(store):
    candidates = [CandidateReport("lexical", "lexical", None, 0.5, 0.9, 1.5), CandidateReport("static", "static", "m")]
    won = SearchReport("t", 200, candidates, "lexical", CERTIFICATE, "", 2.0)
    lost = SearchReport("t", 300, refusal="too few labels")
    store.add_search(won)
    store.add_search(lost, delta_spent=0.005)
    assert store.searches("t") == [won, lost]
    assert store.attempts("t") == 2
    assert store.delta_spent("t") == pytest.approx(0.0175)
    assert (store.attempts("u"), store.delta_spent("u")) == (0, 0.0)


def test_numbers_of_numpy_are_numbers(store):
    import numpy as np

    certificate = Certificate(0.95, 0.01, np.float64(0.8), 0.7, np.int64(140), np.int64(2), 0.951)
    store.add_search(SearchReport("t", 1, certificate=certificate))
    assert store.searches("t")[0].certificate.calls == 140
    decision = Decision(
        "replacement", "answered", Match("t", "T", ("a",)), "r1", "yes", np.float32(0.5), np.bool_(True)
    )
    store.add_observations([Observation(Call("1", ()), decision, None)])
    assert next(store.observations()).decision.confidence == 0.5
    with pytest.raises(TypeError, match="cannot be stored"):
        store.record("odd", None, {"value": object()})


def test_the_version_grows_with_what_others_must_notice_and_only_then(store):
    def grows(change):
        before = store.version()
        change()
        return store.version() > before

    assert grows(lambda: store.save_task(task()))
    assert grows(lambda: store.save_templates([template()]))
    assert grows(lambda: store.add_release(release()))
    assert grows(lambda: store.activate("t", "r1", ""))
    assert grows(lambda: store.set_state("t", "paused"))
    assert grows(lambda: store.rename("t", "new"))
    assert grows(lambda: store.purge(task="t"))
    assert not grows(lambda: store.add_observations([placed("1")]))
    assert not grows(lambda: store.acquire("a", "b", 1))
    assert not grows(lambda: store.save_templates([]))


# --- leases, retention, purge, verification ---


def test_a_lease_is_held_renewed_lost_and_freed(store, clock):
    assert store.acquire("train", "a", 10)
    assert store.acquire("train", "a", 10), "one's own lease is prolonged"
    assert not store.acquire("train", "b", 10)
    clock.now += 9
    assert store.renew("train", "a", 10)
    clock.now += 9
    assert not store.acquire("train", "b", 10)
    clock.now += 1
    assert store.acquire("train", "b", 10), "an expired lease can be taken over"
    assert not store.renew("train", "a", 10)
    store.free("train", "a")
    assert not store.acquire("train", "c", 10), "only its owner can free a lease"
    store.free("train", "b")
    assert store.acquire("train", "c", 10)


def test_expired_texts_are_gone_from_the_file_while_the_figures_stay(store, clock):
    secret = "the secret of this customer"
    old, new = clock.now - 40 * 86_400, clock.now
    store.add_observations([placed("1", secret, secret, at=old), placed("2", at=new)])
    calls, usage = store.counts("t").calls, store.usage()
    assert expired(store, 30, clock) == 1
    assert store.expire(30) == 0
    assert [e.seq for e in store.examples("t")] == [1]
    assert store.label_count("t") == store.counts("t").labels == 1
    assert (store.counts("t").calls, store.usage()) == (calls, usage)
    assert next(store.observations()).decision.match.slots == ()
    assert secret.encode() not in b"".join(file.read_bytes() for file in store.path.parent.iterdir())


@pytest.mark.parametrize("looks", [1, 10])
def test_a_clock_that_leaps_for_some_hours_deletes_nothing(store, clock, looks):
    store.add_observations([placed(str(i), at=clock.now - i * 86_400) for i in range(20)])
    store.expire(30)
    for leap in (365 * 86_400, -365 * 86_400):
        clock.now += 86_400 + leap
        for _ in range(looks):
            assert store.expire(30) == 0
            clock.now += 3_600
        clock.now -= leap
        assert store.expire(30) == 0
    assert () not in texts(store)


@pytest.mark.parametrize("every_s", [3_600, 20 * 86_400])
def test_texts_are_deleted_about_a_day_late_or_at_the_next_run_after_that(store, clock, every_s):
    store.add_observations([placed("1", at=clock.now)])
    ended = clock.now + 30 * 86_400
    while store.expire(30) == 0:
        clock.now += every_s
        clock.now -= 60  # small corrections of the clock are no leaps
        assert clock.now < ended + 27 * 3_600 + 2 * every_s
    assert clock.now >= ended and texts(store) == [()]


def test_calls_from_the_future_go_with_those_that_came_after_them(store, clock):
    ahead = clock.now + 3_650 * 86_400
    store.add_observations([placed("1", at=ahead), placed("2", at=clock.now), placed("3", at=ahead)])
    clock.now += 31 * 86_400
    assert expired(store, 30, clock) == 2
    assert texts(store)[:2] == [(), ()] and texts(store)[2]


def test_a_purged_task_leaves_nothing_but_a_line_in_the_ledger(store):
    with_task(store)
    store.save_task(task("u"))
    store.merge_tasks("u", "t")
    store.add_release(release("r0", of="u", path="/older"))
    store.add_search(SearchReport("t", 200))
    store.add_observations([placed("1", "my secret"), unplaced("2")])
    purged = store.purge(task="t")
    assert (purged.observations, purged.tasks, purged.templates, purged.searches) == (1, 2, 1, 1)
    assert set(purged.paths) == {"/nowhere", "/older"}
    assert (store.tasks(), store.templates(), store.releases("t")) == ([], [], [])
    assert store.verify() == []
    assert len(store.unplaced(5)) == 1
    assert store.ledger("t")[-1].kind == "purge"
    assert b"my secret" not in b"".join(file.read_bytes() for file in store.path.parent.iterdir())


def test_purging_by_tenant_or_time_spares_the_rest(store):
    store.save_task(task("t", tenant="acme"))
    store.save_task(task("u"))
    store.add_observations([placed("1", tenant="acme"), placed("2", of="u", at=5.0), placed("3", of="u", at=9.0)])
    assert store.purge(tenant="acme").tasks == 1
    assert [each.id for each in store.tasks()] == ["u"]
    purged = store.purge(before=9.0)
    assert (purged.observations, purged.tasks) == (1, 0)
    assert [o.call.id for o in store.observations()] == ["3"]
    with pytest.raises(ConfigError, match="needs a task"):
        store.purge()


def test_a_healthy_store_has_no_problems(store, tmp_path):
    with_task(store, releases=(), active=None)
    store.add_release(release("r1", path=str(tmp_path)))
    store.activate("t", "r1", "")
    store.add_observations([placed("1"), served("2"), unplaced("3")])
    assert store.verify() == []


def test_contradictions_are_found(store):
    with_task(store, releases=("r1",))
    store.add_observations([placed("1", of="lost")])
    store.save_templates([template("T2", of="nowhere")])
    store.save_task(Task("u", "shop", "", "u", "active"))
    problems = "\n".join(store.verify())
    for expected in (
        "Task lost is missing, but 1 calls",
        "Task nowhere is missing, but 1 templates",
        "Task u is active without a release",
        "artifact of active release r1 is missing",
    ):
        assert expected in problems
    with store._database.write() as connection:
        connection.exec_driver_sql("UPDATE tasks SET active_release = 'gone' WHERE id = 't'")
        connection.exec_driver_sql("DELETE FROM counters")
    problems = "\n".join(store.verify())
    assert "Release gone is missing, but it is active" in problems
    assert "version counter" in problems


def test_what_no_student_can_honour_is_no_label(store):
    with_task(store)
    request = Call("1", (("user", "hello"),), "shop", "", "triage", "c", replaceable=False)
    store.add_observations(
        [Observation(request, Decision("teacher", "no_release", Match("t", "T", ("x",))), Answer("a"))]
    )
    assert store.examples("t") == [] and store.counts("t").calls == 1


def test_what_fell_back_is_no_fair_sample(store):
    with_task(store)
    store.add_observations([served("1", teacher="no", reason="fallback"), placed("2")])
    assert [e.sampled for e in store.examples("t")] == [False, True]


def concluded(store, task="t", expected="r1", release="r9"):
    report = SearchReport(task, 10)
    certificate = Certificate(0.95, 0.01, 0.9, 0.5, 100, 1, 0.96)
    found = Release(release, task, "lexical", None, "/nowhere", 1, certificate, 1.0, ("T",))
    return store.conclude(report, 0.01, found, expected), report


def test_an_attempt_is_concluded_as_a_whole(store):
    with_task(store)
    promoted, _ = concluded(store)
    assert promoted and store.active_release("t").templates == ("T",)
    assert store.attempts("t") == 1 and store.delta_spent("t") == 0.01


def test_a_pause_outlasts_an_attempt_and_a_rollback(store):
    with_task(store)
    store.set_state("t", "paused")
    promoted, report = concluded(store)
    assert not promoted and "paused" in report.refusal
    assert store.task("t").state == "paused" and store.attempts("t") == 1
    store.set_state("t", "observing")
    assert concluded(store, release="r8")[0] and store.release_state("r1") == "retired"
    store.set_state("t", "paused")
    store.activate("t", None, "by hand")
    assert store.task("t").state == "paused"


def test_a_release_is_not_promoted_on_what_was_contradicted_meanwhile(store):
    with_task(store)
    assert concluded(store)[0]
    assert store.withdraw("t", "r9", "audits") and not store.withdraw("t", "r9", "again")
    assert store.release_state("r9") == "withdrawn" and store.last_entry("rollback", "t") is not None
    promoted, report = concluded(store, expected="r9", release="r10")
    assert not promoted and "meanwhile" in report.refusal and store.active_release("t") is None
