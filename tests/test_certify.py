"""Certificates, attempts and the choice of calibration calls."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from jitr_core.certify import (
    Refusal,
    agreement_low,
    allowed_errors,
    better,
    certify,
    next_attempt,
)
from jitr_core.config import Policy
from jitr_core.types import Certificate


def _stream(rng: np.random.Generator, n: int, best: float, worst: float) -> tuple[np.ndarray, np.ndarray]:
    """Confidences uniform on [0, 1); agreement at confidence c is worst + (best − worst) · √c."""
    confidence = rng.random(n)
    return confidence, rng.random(n) < worst + (best - worst) * np.sqrt(confidence)


def _true_agreement(threshold: float, best: float, worst: float) -> float:
    c = np.linspace(min(threshold, 1 - 1e-9), 1, 4001)
    return float((worst + (best - worst) * np.sqrt(c)).mean())


@given(st.integers(1, 3000), st.floats(0.5, 0.99), st.floats(0.001, 0.2))
@settings(max_examples=60, deadline=None)
def test_allowed_errors_is_the_largest_number_that_the_exact_test_lets_pass(calls, target, delta):
    most = allowed_errors(calls, target=target, delta=delta)
    assert most == -1 or binom.cdf(most, calls, 1 - target) <= delta * (1 + 1e-9)
    assert binom.cdf(most + 1, calls, 1 - target) > delta * (1 - 1e-9)


@given(st.integers(1, 500), st.data())
@settings(max_examples=40, deadline=None)
def test_a_passing_test_and_a_lower_bound_at_the_target_are_the_same_thing(calls, data):
    errors = data.draw(st.integers(0, calls))
    low = agreement_low(calls, errors, 0.05)
    assert 0 <= low <= 1 - errors / calls
    assert (low >= 0.9) == (errors <= allowed_errors(calls, target=0.9, delta=0.05)) or abs(low - 0.9) < 1e-9


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=300), st.floats(0.001, 0.3))
@settings(max_examples=60, deadline=None)
def test_a_certificate_tells_the_truth_about_the_calls_above_its_threshold(calls, delta):
    confidence = np.array([c for c, _ in calls])
    correct = np.array([ok for _, ok in calls], dtype=bool)
    result = certify(confidence, correct, target=0.7, delta=delta)
    if isinstance(result, Certificate):
        above = confidence >= result.threshold
        assert result.calls == above.sum()
        assert result.errors == (above & ~correct).sum()
        assert result.coverage == pytest.approx(above.mean())
        assert result.agreement_low >= 0.7 - 1e-9
    else:
        assert result.reason


@given(st.integers(0, 2**32), st.integers(100, 900), st.floats(0.5, 1.0), st.floats(0.01, 0.3))
@settings(max_examples=60, deadline=None)
def test_more_errors_never_certify_more_calls(seed, calls, worst, spoilt):
    rng = np.random.default_rng(seed)
    confidence, correct = _stream(rng, calls, 1.0, worst)
    worse = correct & (rng.random(calls) >= spoilt)
    many, fewer = (certify(confidence, right, target=0.9, delta=0.05) for right in (correct, worse))
    if isinstance(fewer, Certificate):
        assert isinstance(many, Certificate) and many.coverage >= fewer.coverage


def test_one_unlucky_call_among_the_surest_is_made_up_for_by_many_good_ones():
    correct = np.ones(2000, dtype=bool)
    correct[:200:20] = False  # ten of the surest 200: no test of these alone would pass
    found = certify(np.linspace(1, 0.1, 2000), correct, target=0.95, delta=0.005)
    assert isinstance(found, Certificate) and found.coverage == 1


@pytest.mark.parametrize("calls", [80, 300, 1500])
def test_errors_at_just_the_promised_rate_pass_somewhere_as_often_as_delta_says(calls):
    rng = np.random.default_rng(calls)
    delta, draws = 0.1, 1500
    passed = sum(
        isinstance(certify(np.linspace(1, 0.1, calls), rng.random(calls) < 0.9, target=0.9, delta=delta), Certificate)
        for _ in range(draws)
    )
    assert binom.sf(passed - 1, draws, delta) > 0.001
    assert passed > 0.3 * delta * draws  # nor much more seldom


def test_the_order_of_the_calls_does_not_matter():
    rng = np.random.default_rng(1)
    confidence, correct = _stream(rng, 900, 1.0, 0.8)
    turn = rng.permutation(900)
    assert certify(confidence, correct, target=0.9, delta=0.02) == certify(
        confidence[turn], correct[turn], target=0.9, delta=0.02
    )


def test_an_always_right_student_is_released_for_every_call_of_an_easy_task():
    result = certify(np.linspace(0.5, 1, 200), np.ones(200, dtype=bool), target=0.95, delta=0.004)
    assert isinstance(result, Certificate)
    assert (result.coverage, result.errors) == (1.0, 0) and 0 < result.threshold < 1e-6


def test_no_threshold_lets_through_what_is_no_answer():
    sure = np.r_[np.full(400, 0.9), np.zeros(20)]
    found = certify(sure, sure >= 0, target=0.95, delta=0.05)
    assert isinstance(found, Certificate)
    assert found.threshold > 0 and found.calls == 400 and found.coverage == 400 / 420


def test_equal_confidences_are_never_split():
    confidence = np.repeat([0.9, 0.5], 300)
    correct = np.repeat([True, False], 300)
    result = certify(confidence, correct, target=0.95, delta=0.05)
    assert isinstance(result, Certificate)
    assert (result.calls, result.errors) == (300, 0)
    assert 0.5 < result.threshold <= 0.9


def test_too_few_calls_are_refused_with_the_number_that_is_needed():
    result = certify(np.ones(40), np.ones(40, dtype=bool), target=0.95, delta=0.05)
    assert isinstance(result, Refusal)
    assert (result.more_labels, result.calls) == (19, 40)
    assert "59 are needed" in result.reason


def test_a_refusal_says_how_far_off_it_is():
    rng = np.random.default_rng(2)
    confidence, correct = _stream(rng, 800, 0.95, 0.6)
    result = certify(confidence, correct, target=0.95, delta=0.01)
    assert isinstance(result, Refusal)
    assert result.errors > result.allowed
    share = f"{result.calls / 800:.0%} of 800 calls"
    assert f"{result.errors} of the {result.calls} answers the student is surest of ({share})" in result.reason
    assert f"to be sure of 0.95 in calls to come, at most {result.allowed} may" in result.reason


def test_a_refusal_for_too_few_sure_calls_asks_for_more_of_them():
    confidence = np.where(np.arange(200) < 5, 0.9, 0.0)
    result = certify(confidence, np.ones(200, bool), target=0.95, delta=0.004)
    assert isinstance(result, Refusal) and (result.calls, result.allowed) == (5, -1)
    assert "0 of the 5 answers" in result.reason and "there must be more of them" in result.reason


def test_a_refusal_says_where_not_one_error_is_allowed():
    result = certify(np.ones(110), np.arange(110) > 0, target=0.95, delta=0.004)
    assert isinstance(result, Refusal) and result.allowed == 0
    assert "1 of the 110 answers" in result.reason and " differs " in result.reason and "none may" in result.reason


def test_a_refused_student_close_to_the_target_is_told_how_many_labels_might_do():
    correct = np.ones(300, dtype=bool)
    correct[::33] = False
    result = certify(np.ones(300), correct, target=0.95, delta=0.01)
    assert isinstance(result, Refusal)
    assert result.more_labels is not None and 50 <= result.more_labels <= 2000
    assert "more labels might do" in result.reason


@pytest.mark.parametrize(
    ("confidence", "correct", "delta"), [([0.1], [], 0.1), ([float("nan")], [True], 0.1), ([0.1], [True], 0.0)]
)
def test_unusable_arguments_are_refused(confidence, correct, delta):
    with pytest.raises(ValueError, match="confidence|delta"):
        certify(confidence, correct, target=0.9, delta=delta)


def test_wrong_releases_are_as_rare_as_promised_where_a_threshold_in_hindsight_is_wrong_half_the_time():
    rng = np.random.default_rng(3)
    draws, delta, target, best, worst = 600, 0.05, 0.95, 0.985, 0.7
    wrong = hindsight_wrong = released = 0
    for _ in range(draws):
        confidence, correct = _stream(rng, 500, best, worst)
        result = certify(confidence, correct, target=target, delta=delta)
        if isinstance(result, Certificate):
            released += 1
            wrong += _true_agreement(result.threshold, best, worst) < target
        order = np.argsort(-confidence)
        kept = np.nonzero(np.cumsum(correct[order]) >= target * np.arange(1, 501))[0]
        if len(kept):
            hindsight_wrong += _true_agreement(confidence[order][kept[-1]], best, worst) < target
    assert released > 20
    assert binom.sf(wrong - 1, draws, delta) > 0.01, f"{wrong} of {draws} releases break the promise"
    assert hindsight_wrong / draws > 0.3


def test_a_life_of_attempts_on_a_student_just_below_the_target_stays_within_delta():
    rng = np.random.default_rng(4)
    policy, lives = Policy(), 250
    plan = [next_attempt(i, policy) for i in range(8)]
    broken = 0
    for _ in range(lives):
        correct = rng.random(plan[-1].calls) < 0.9499
        confidence = rng.random((len(plan), plan[-1].calls))  # every attempt has a student of its own
        broken += any(
            isinstance(certify(c[: a.calls], correct[: a.calls], target=0.95, delta=a.delta), Certificate)
            for a, c in zip(plan, confidence, strict=True)
        )
    assert binom.sf(broken - 1, lives, policy.delta) > 0.01


@given(st.floats(0.5, 0.99), st.floats(0.005, 0.3), st.integers(50, 2000), st.floats(1.05, 4.0), st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_all_attempts_together_never_spend_more_than_delta(target, delta, first, growth, count):
    policy = Policy(target=target, delta=delta, first_attempt=first, attempt_growth=growth)
    plan = list(itertools.takewhile(lambda a: a.calls < 10**12, (next_attempt(i, policy) for i in range(count))))
    assert sum(a.delta for a in plan) <= delta
    assert all(one.calls < two.calls for one, two in itertools.pairwise(plan))
    assert all(a.delta > 0 for a in plan)


def test_attempts_until_a_million_calls_use_nearly_all_of_delta_and_are_few():
    policy = Policy()
    plan = list(itertools.takewhile(lambda a: a.calls <= 10**6, (next_attempt(i, policy) for i in itertools.count())))
    assert len(plan) <= 25
    assert sum(a.delta for a in plan) > 0.97 * policy.delta
    assert plan[0].calls == policy.first_attempt


def test_an_attempt_before_the_first_is_refused():
    with pytest.raises(ValueError, match="index"):
        next_attempt(-1, Policy())


def test_labels_of_deferred_calls_lean_to_the_hard_ones_and_the_coin_puts_it_right():
    rng = np.random.default_rng(5)
    confidence, correct = _stream(rng, 40_000, 1.0, 0.5)
    coin = rng.random(40_000) < 0.1
    labelled = coin | (confidence < 0.6)
    mask = coin[labelled]
    assert abs(correct[labelled][mask].mean() - correct.mean()) < 0.02
    assert correct[labelled].mean() < correct.mean() - 0.05


def test_a_candidate_must_answer_clearly_more_of_the_same_calls():
    active = np.repeat([True, False], [40, 60])
    assert better(np.repeat([True, False], [60, 40]), active)
    assert not better(active, active)
    assert not better(np.repeat([True, False], [41, 59]), active)
    assert not better(np.zeros(100, dtype=bool), active)
    assert not better([], [])
    with pytest.raises(ValueError, match="same calls"):
        better([True], active)
