"""What may be promised: how it is written, what it certifies, who is served under it, and what audits make of it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from easy import easy_calls, write_log
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from typer.testing import CliRunner

from jitr_core import JITR, Policy, cli, manage
from jitr_core.audit import AuditMonitor, Watch
from jitr_core.certify import Refusal, allowed_errors, certify
from jitr_core.certify.agreement import LEAST
from jitr_core.equivalence import equivalent
from jitr_core.errors import ConfigError
from jitr_core.manage import promise_by
from jitr_core.promises import NEVER, fulfils, least_confidence, promise, promised, where
from jitr_core.route import LoadedRelease, Router
from jitr_core.store import Store
from jitr_core.terms import unheard
from jitr_core.types import Answer, Call, Certificate, Match, Release

COST = 'cost:{"fraud": {"*": 3}}'
ALL = ("answered", "overall", "classes", "classes:fraud", "classes:fraud,ok", COST, 'cost:{"fraud": {"ok": 0.5}}')
CALLS = st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.sampled_from("abc")), min_size=1, max_size=400)


def proof(wanted: str, threshold: float = 0.0, **thresholds: float) -> Certificate:
    return Certificate(0.95, 0.01, threshold, 0.5, 100, 1, 0.96, promise=wanted, thresholds=thresholds)


@pytest.mark.parametrize(
    "text",
    ["", "all", "classes:", "classes:a,,b", "overall:x", "cost", "cost:{}", 'cost:{"a": 3}', 'cost:{"a": {"b": -1}}',
     'cost:{"a": {"b": "x"}}', 'cost:{"a": {"b": NaN}}', 'cost:{"a": {"b": Infinity}}', 'cost:["a"]'],
)  # fmt: skip
def test_what_is_no_promise_is_refused_with_a_hint(text):
    with pytest.raises(ConfigError, match="promise|costs"):
        Policy(promise=text)


def test_costs_are_those_of_the_most_particular_rule():
    found = promise('cost:{"fraud": {"ok": 20, "*": 5}, "*": {"ok": 2}}')
    assert [found.cost(*pair) for pair in (("ok", "fraud"), ("late", "fraud"), ("ok", "late"), ("late", "ok"))] == [
        20.0,
        5.0,
        2.0,
        1.0,
    ]
    assert found.dearest == 20 and promise('cost:{"a": {"b": 0.1}}').dearest == 1


def test_names_with_commas_are_written_as_a_list():
    assert promise('classes:["a, b", "c"]').critical == ("a, b", "c")


def test_who_promised_more_serves_who_asks_for_less():
    assert [other for other in ALL if fulfils("classes", other)] == [a for a in ALL if a != COST]
    assert [other for other in ALL if fulfils("overall", other)] == ["overall"]
    assert not fulfils("answered", COST) and fulfils(COST, "answered") and fulfils(COST, "overall")
    assert fulfils("classes:fraud,ok", "classes:fraud") and not fulfils("classes:fraud", "classes:fraud,ok")
    for one, two, three in itertools.product(ALL, repeat=3):
        assert fulfils(one, one)
        assert fulfils(one, three) or not (fulfils(one, two) and fulfils(two, three))


def test_overall_is_one_exact_test_over_all_calls():
    allowed = allowed_errors(400, target=0.95, delta=0.01)
    confidence = np.linspace(1, 0.5, 400)
    correct = np.arange(400) % 10 != 0  # a tenth is wrong, evenly
    found = certify(confidence, correct, target=0.95, delta=0.01, promise="overall")
    assert isinstance(found, Certificate) and found.promise == "overall"
    assert found.errors == allowed and found.calls == 10 * allowed
    assert not correct[10 * allowed] and confidence[10 * allowed] < found.threshold
    assert found.agreement_low == pytest.approx(0.95, abs=0.003) and found.agreement_low >= 0.95
    few = certify(np.ones(58), np.ones(58, bool), target=0.95, delta=0.05, promise="overall")
    assert isinstance(few, Refusal) and few.more_labels == 1


def test_overall_is_refused_where_the_most_confident_answers_alone_are_too_often_wrong():
    tied = certify(np.ones(200), np.arange(200) > 50, target=0.95, delta=0.05, promise="overall")
    assert isinstance(tied, Refusal) and "very highest confidence" in tied.reason


@given(CALLS, st.floats(0.001, 0.3), st.floats(0.5, 0.97))
@settings(max_examples=50, deadline=None)
def test_overall_certifies_at_least_what_answered_certifies(calls, delta, target):
    confidence, correct = np.array([c for c, _, _ in calls]), np.array([ok for _, ok, _ in calls])
    strict = certify(confidence, correct, target=target, delta=delta)
    loose = certify(confidence, correct, target=target, delta=delta, promise="overall")
    if isinstance(strict, Certificate):
        assert isinstance(loose, Certificate)
        assert loose.threshold <= strict.threshold and loose.calls >= strict.calls
    if isinstance(loose, Certificate):
        assert loose.errors <= allowed_errors(len(calls), target=target, delta=delta)


@given(CALLS, st.floats(0.001, 0.3), st.sampled_from(["classes", "classes:a", "classes:a,b,z"]))
@settings(max_examples=50, deadline=None)
def test_by_classes_no_answer_is_given_that_was_not_certified(calls, delta, wanted):
    confidence, correct = np.array([c for c, _, _ in calls]), np.array([ok for _, ok, _ in calls])
    said = [k for _, _, k in calls]
    found = certify(confidence, correct, target=0.7, delta=delta, promise=wanted, given=said)
    if isinstance(found, Refusal):
        assert found.reason
        return
    groups = np.array([promise(wanted).group(k) for k in said])
    limits = np.array([least_confidence(found, k) for k in said])
    answers = confidence >= limits
    assert found.calls == answers.sum() and found.errors == (answers & ~correct).sum()
    for name in set(groups[answers]):
        mine = answers & (groups == name)
        assert (mine & ~correct).sum() <= allowed_errors(int(mine.sum()), target=0.7, delta=delta)
    assert least_confidence(found, "z") == NEVER or wanted == "classes:a"


def test_a_bad_class_is_deferred_and_hides_behind_no_average():
    rng = np.random.default_rng(0)
    said = rng.choice(["ok", "fraud"], 2000, p=[0.9, 0.1])
    correct = rng.random(2000) < np.where(said == "ok", 0.995, 0.7)
    confidence = rng.random(2000)
    assert isinstance(certify(confidence, correct, target=0.95, delta=0.01), Certificate)
    for wanted in ("classes", "classes:fraud"):
        found = certify(confidence, correct, target=0.95, delta=0.01, promise=wanted, given=said)
        assert isinstance(found, Certificate)
        assert least_confidence(found, "fraud") == NEVER and least_confidence(found, "ok") < 1
    assert where(found) == "confidence ≥ never for fraud, 0.000 for other answers"


def test_classes_that_are_too_rare_take_no_share_of_delta():
    said = ["ok"] * 300 + [f"rare {i}" for i in range(100)]
    found = certify(
        np.ones(400), np.ones(400, bool), target=0.95, delta=0.05 * 0.99 / 0.9, promise="classes", given=said
    )
    assert isinstance(found, Certificate) and found.thresholds == {"ok": LEAST} and found.threshold == NEVER
    none = certify(np.ones(100), np.ones(100, bool), target=0.95, delta=0.05, promise="classes", given=said[300:])
    assert isinstance(none, Refusal) and "often enough" in none.reason


@pytest.mark.parametrize("wanted", ["overall", "classes", COST])
def test_a_promise_that_is_just_not_kept_is_rarely_certified(wanted):
    rng, hits, draws = np.random.default_rng(1), 0, 150
    for _ in range(draws):
        said, confidence = rng.choice(["ok", "fraud"], 1200), rng.random(1200)
        # where "ok" is said the teacher meant fraud, which costs 3
        cost = np.where(said == "ok", 3.0, 1.0) if wanted == COST else 1.0
        wrong = rng.random(1200) < 0.0502 / cost
        meant = np.where(wrong, np.where(said == "ok", "fraud", "ok"), said)
        found = certify(confidence, ~wrong, target=0.95, delta=0.05, promise=wanted, given=said, teacher=meant)
        # overall: only a release that answers everything is wrong
        hits += isinstance(found, Certificate) and (wanted != "overall" or found.coverage == 1)
    assert binom.sf(hits - 1, draws, 0.05) > 0.01


def test_costs_decide_what_is_certified_and_the_order_of_calls_does_not():
    rng = np.random.default_rng(2)
    said = np.repeat(["ok"], 3000)
    wrong = rng.random(3000) < 0.01
    meant, confidence = np.where(wrong, "fraud", "ok"), rng.random(3000)

    def attempt(costs: str, order: np.ndarray) -> Certificate | Refusal:
        return certify(
            confidence[order],
            ~wrong[order],
            target=0.95,
            delta=0.01,
            promise=costs,
            given=said[order],
            teacher=meant[order],
        )

    order = np.arange(3000)
    cheap, dear = attempt('cost:{"fraud": {"ok": 2}}', order), attempt('cost:{"fraud": {"ok": 20}}', order)
    assert isinstance(cheap, Certificate) and cheap.coverage == 1 and isinstance(dear, Refusal)
    assert "mean cost" in dear.reason and 0.95 < cheap.agreement_low < 0.98
    assert attempt('cost:{"fraud": {"ok": 2}}', order[::-1]) == cheap


def at_cost(confidence: np.ndarray, meant: np.ndarray, delta: float = 0.01) -> Certificate | Refusal:
    said = np.repeat(["ok"], len(meant))
    return certify(
        confidence, meant == said, target=0.95, delta=delta, promise=COST, given=said.tolist(), teacher=meant.tolist()
    )


def test_a_few_dear_errors_among_the_surest_are_made_up_for_by_many_good_calls() -> None:
    confidence, meant = np.linspace(1, 0.5, 2_000), np.repeat(["ok"], 2_000).astype(object)
    meant[:1_000:300] = "fraud"
    found = at_cost(confidence, meant)
    assert isinstance(found, Certificate) and found.coverage == 1 and found.errors == 4
    meant[1_500:] = "fraud"
    cut = at_cost(confidence, meant)
    assert isinstance(cut, Certificate) and 0.7 < cut.coverage <= 0.76
    assert cut.calls == (confidence >= cut.threshold).sum() and 0.95 <= cut.agreement_low < found.agreement_low


def test_costs_are_certified_between_calls_that_are_equally_sure_only() -> None:
    found = at_cost(np.repeat([0.9, 0.6, 0.0], [900, 900, 200]), np.repeat(["ok"], 2_000).astype(object))
    assert isinstance(found, Certificate) and (found.calls, found.threshold) == (1_800, LEAST)
    half = at_cost(np.repeat([0.9, 0.6], [900, 900]), np.repeat(["ok", "fraud"], [1_000, 800]).astype(object))
    assert isinstance(half, Certificate) and half.calls == 900 and 0.6 < half.threshold < 0.601


def test_too_few_calls_to_show_a_cost_are_told_so() -> None:
    few = at_cost(np.ones(80), np.repeat(["ok"], 80).astype(object))
    assert isinstance(few, Refusal) and "too few" in few.reason and few.more_labels is not None
    none = at_cost(np.ones(900), np.repeat(["fraud"], 900).astype(object))
    assert isinstance(none, Refusal) and "mean cost" in none.reason and none.calls == none.errors == 900
    assert isinstance(at_cost(np.zeros(900), np.repeat(["ok"], 900).astype(object)), Refusal)


@pytest.mark.parametrize("costs", [(0.0502,), (0.1, *[0.0447] * 9), (0.0602, 0.0402) * 4])
def test_a_cost_that_is_just_too_high_at_every_threshold_is_rarely_certified(costs: tuple[float, ...]) -> None:
    rng, hits, draws = np.random.default_rng(3), 0, 150
    for _ in range(draws):
        confidence = rng.random(1_200)
        rate = np.array(costs)[((1 - confidence) * len(costs)).astype(int)] / 3
        meant = np.where(rng.random(1_200) < rate, "fraud", "ok").astype(object)
        hits += isinstance(at_cost(confidence, meant, delta=0.05), Certificate)
    assert binom.sf(hits - 1, draws, 0.05) > 0.01


def test_answers_that_a_promise_needs_must_be_there():
    for wanted, more in (("classes", {}), (COST, {"given": ["a"]})):
        with pytest.raises(ValueError, match="answers"):
            certify([1.0], [True], target=0.9, delta=0.1, promise=wanted, **more)


class Says:
    """A student who repeats its input, sure to the given degree."""

    def __init__(self, confidence: float) -> None:
        self.confidence = confidence

    def predict_one(self, slots: tuple[str, ...]) -> tuple[str, float, bool]:
        return slots[0], self.confidence, False


@pytest.mark.parametrize("confidence", [0.3, 0.7, 1.0, float("nan")])
def test_routing_gives_an_answer_only_at_its_own_threshold(confidence):
    release = Release("r", "t", "lexical", None, "", 0, proof("classes", NEVER, ok=0.5, fraud=0.9), 0.0, ("v",))
    router = Router(lambda: 0.0)
    router.load({"t": LoadedRelease(release, Says(confidence), lambda: 0.1, frozenset({"v"}))})
    told = {name: router.decide(Match("t", "v", (name,))).kind for name in ("ok", " ok", "fraud", "else")}
    assert told == {
        "ok": "replacement" if confidence >= 0.5 else "teacher",
        " ok": "replacement" if confidence >= 0.5 else "teacher",
        "fraud": "replacement" if confidence >= 0.9 else "teacher",
        "else": "teacher",
    }


def watch(certificate: Certificate) -> Watch:
    return Watch(certificate, equivalent, target=0.95, audit_delta=0.05)


def test_the_watch_of_the_usual_promise_is_the_monitor_alone():
    rng, one = random.Random(0), watch(proof("answered"))
    other = AuditMonitor(target=0.95, audit_delta=0.05)
    for _ in range(400):
        agreed = rng.random() < 0.85
        assert one.update("a", "a" if agreed else "b") == other.update(agreed)
    assert one.verdict == "rollback" and (one.audits, one.errors) == (other.audits, other.errors)


def test_under_overall_deferred_calls_speak_for_the_release():
    rng, answered, overall = random.Random(1), watch(proof("answered")), watch(proof("overall"))
    for _ in range(3000):
        if rng.random() < 0.2:  # answers a fifth, a tenth of that wrongly: 0.02 of all calls
            given, teacher = "a", "b" if rng.random() < 0.1 else "a"
            answered.update(given, teacher)
            overall.update(given, teacher)
        else:
            overall.update(None, "a")
    assert overall.deferred and (overall.verdict, answered.verdict) == ("keep", "rollback")


def test_under_classes_a_bad_one_is_found_behind_a_good_average():
    rng = random.Random(2)
    answered, classes = watch(proof("answered")), watch(proof("classes", NEVER, ok=0.0, fraud=0.0))
    for _ in range(3000):
        given = "fraud" if rng.random() < 0.1 else "ok"
        teacher = "late" if rng.random() < (0.3 if given == "fraud" else 0.005) else given
        answered.update(given, teacher)
        classes.update(given, teacher)
    assert (answered.verdict, classes.verdict) == ("keep", "rollback")


def test_under_cost_dear_errors_count_for_more():
    rng = random.Random(3)
    answered, cost = watch(proof("answered")), watch(proof('cost:{"fraud": {"ok": 20}}'))
    for _ in range(4000):
        teacher = "fraud" if rng.random() < 0.02 else "ok"
        answered.update("ok", teacher)
        cost.update("ok", teacher)
    assert (answered.verdict, cost.verdict) == ("keep", "rollback")


POLICY = Policy(families=("lexical",), promise="overall")


def engine(folder: Path, policy: Policy, count: int = 0, noise: float = 0.0) -> JITR:
    jitr = JITR(f"sqlite:///{folder / 'jitr.db'}", policy=policy, training="inline", seed=1)
    for recorded in easy_calls(count, noise=noise):
        call = Call(recorded["id"], tuple((m["role"], m["content"]) for m in recorded["messages"]))
        decision = jitr.decide(call)
        answer = Answer(recorded["answer"])
        jitr.observe(call, decision, None if decision.kind == "replacement" else answer)
        if decision.kind == "replacement" and decision.audit:
            jitr.audit(call, decision, lambda answer=answer: answer)  # type: ignore[misc]
    jitr.flush()
    jitr.refresh()
    return jitr


def decided(jitr: JITR) -> str:
    return jitr.decide(Call("new", tuple((m["role"], m["content"]) for m in easy_calls(1)[0]["messages"]))).reason


@pytest.mark.parametrize(
    "wanted", ["classes:bilings,delivery", 'cost:{"bilings": {"*": 3}}', 'cost:{"*": {"bilings": 3}}']
)
def test_an_answer_that_is_promised_and_never_came_is_told_with_those_that_did(tmp_path, wanted):
    engine(tmp_path, dataclasses.replace(POLICY, families=("lexical",)), 60).close()
    url = ["--url", f"sqlite:///{tmp_path / 'jitr.db'}"]
    with Store(url[1]) as store:
        (task,) = store.tasks()
    result = CliRunner().invoke(cli.app, ["tasks", "promise", task.id, wanted, *url])
    assert result.exit_code == 0 and "“bilings” is none of the 2 answers" in result.output
    assert "did you mean “billing”?" in result.output and "“delivery”" in result.output
    assert "did you mean" in CliRunner().invoke(cli.app, ["tasks", "show", task.id, *url]).output
    right = CliRunner().invoke(cli.app, ["tasks", "promise", task.id, wanted.replace("bilings", "billing"), *url])
    assert right.exit_code == 0 and "Warning" not in right.output
    assert "Warning" not in CliRunner().invoke(cli.app, ["tasks", "promise", task.id, "classes", *url]).output


def test_an_answer_that_the_policy_promises_and_no_task_has_is_logged_once(tmp_path, caplog):
    jitr = engine(tmp_path, dataclasses.replace(POLICY, promise="classes:bilings", first_attempt=100), 250)
    warnings = [record.message for record in caplog.records if "never answered" in record.message]
    assert (
        len(warnings) == 1
        and "billing" in warnings[0]
        and jitr.open_store().attempts(jitr.open_store().tasks()[0].id) > 1
    )
    jitr.close()
    # Nothing was answered yet: nothing to tell.
    assert unheard("classes:fraud", {}) == "" and unheard("answered", {"ok": 3}) == ""


def test_a_release_serves_only_under_what_it_promised_or_less(tmp_path):
    engine(tmp_path, POLICY, 300).close()
    for wanted, reason in (("overall", "answered"), ("answered", "no_release"), ("classes", "no_release")):
        jitr = engine(tmp_path, dataclasses.replace(POLICY, promise=wanted))
        assert decided(jitr) == reason
        jitr.close()
    with Store(f"sqlite:///{tmp_path / 'jitr.db'}") as store:
        (task,) = store.tasks()
        assert "deferred ones counted as right" in task.reason
        promise_by(store, task, "overall")
        assert store.active_release(task.id) is not None
    jitr = engine(tmp_path, dataclasses.replace(POLICY, promise="answered"))
    assert decided(jitr) == "answered"  # the task's own promise counts
    url = ["--url", f"sqlite:///{tmp_path / 'jitr.db'}"]
    shown = CliRunner().invoke(cli.app, ["tasks", "show", task.id, *url]).output
    assert promised("overall") in " ".join(shown.split())
    result = CliRunner().invoke(cli.app, ["tasks", "promise", task.id, "classes:billing", *url])
    assert "billing and all other answers each by itself" in result.output
    jitr.refresh()
    assert decided(jitr) == "no_release"
    store = jitr.open_store()
    assert store.active_release(task.id) is None and "certified anew" in store.tasks()[0].reason
    jitr.close()


def test_a_release_serves_only_under_its_target_or_a_lower_one(tmp_path):
    engine(tmp_path, POLICY, 300).close()
    for target, reason in ((0.9, "answered"), (0.99, "no_release")):
        jitr = engine(tmp_path, dataclasses.replace(POLICY, target=target))
        assert decided(jitr) == reason
        jitr.close()


def test_no_answer_outlives_a_purge_in_the_ledger(tmp_path):
    jitr = engine(tmp_path, dataclasses.replace(POLICY, promise="classes"), 500)
    store = jitr.open_store()
    (task,) = store.tasks()
    assert "billing" in store.active_release(task.id).certificate.thresholds
    manage.purge(store, task=task)
    assert not any("billing" in json.dumps(entry.details) for entry in store.ledger())
    jitr.close()


def test_audits_under_overall_are_told_of_the_deferred_calls_the_coin_chose(tmp_path):
    policy = dataclasses.replace(POLICY, audit_share_start=1.0, target=0.9)
    jitr = engine(tmp_path, policy, 460, noise=0.15)
    store = jitr.open_store()
    (task,) = store.tasks()
    release = store.active_release(task.id)
    assert release is not None and 0 < release.certificate.coverage < 1
    answered, sample = store.audited(task.id, release.id), store.audited(task.id, release.id, deferred=True)
    assert [each for each in sample if each.replacement is not None] == answered
    assert len(sample) > len(answered) > 0
    jitr.close()


def test_a_replay_says_what_is_promised(tmp_path):
    log = write_log(tmp_path / "calls.jsonl", easy_calls(320, noise=0.02))
    out = tmp_path / "out.json"
    for wanted in ("overall", "classes"):
        result = CliRunner().invoke(
            cli.app, ["replay", str(log), "--families", "lexical", "--promise", wanted, "--json", str(out)]
        )
        assert result.exit_code == 0, result.output
        summary = json.loads(out.read_text())
        assert summary["promise"] == wanted
        assert f"Promised: {promised(wanted, 0.95)}" in " ".join(result.output.split())
        for task in summary["tasks"]:
            assert task["replacement"] is None or task["replacement"]["promise"] == wanted
    bad = CliRunner().invoke(cli.app, ["replay", str(log), "--promise", "perfection"])
    assert isinstance(bad.exception, ConfigError)
