"""Features, solvers and combination: the arithmetic below students."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitr_core.identify import normalise as identify_normalise
from jitr_core.students.combine import cross_combine, fit_combination
from jitr_core.students.lexical import Vocabulary
from jitr_core.students.pairs import pair_features, pair_width
from jitr_core.students.ridge import kernel_ridge, landmark_ridge, sparse_ridge
from jitr_core.students.text import MAX_CHARS, bag, normalise, word_hashes
from jitr_core.students.views import Landmarks, arrange

TEXTS = st.text(alphabet="ab1_é日 .,-\n", max_size=25)


@given(TEXTS, TEXTS)
def test_words_have_equal_hashes_exactly_if_they_are_equal(a, b):
    words = [re.findall(r"\w+|[^\w\s]", normalise(t)) for t in (a, b)]
    hashes = [word_hashes(normalise(t)).tolist() for t in (a, b)]
    assert [len(h) for h in hashes] == [len(w) for w in words]
    assert (hashes[0] == hashes[1]) == (words[0] == words[1])


@given(TEXTS)
def test_character_features_are_the_n_grams_within_words(text):
    text = normalise(text)
    padded = f" {text} " if text else ""
    grams = [padded[i : i + n] for n in range(2, 6) for i in range(len(padded) - n + 1)]
    expected = Counter(g for g in grams if " " not in g[1:-1])
    found = bag((text,), "char")
    assert sorted(found.counts.tolist()) == sorted(expected.values())


def test_a_word_means_something_else_in_another_slot():
    assert not set(bag(("a", ""), "word").hashes.tolist()) & set(bag(("", "a"), "word").hashes.tolist())


@given(st.text(max_size=30))
def test_inputs_of_one_group_look_the_same_to_a_student(text):
    if "\ud800" <= max(text, default="") <= "\udfff":
        return
    assert normalise(text) == identify_normalise(text)


def test_a_huge_text_is_cut_and_a_broken_one_is_mended():
    assert len(normalise("x" * 1_000_000)) == MAX_CHARS
    assert normalise("\ud800a") == "?a"


def test_unknown_words_and_an_empty_vocabulary_weigh_nothing():
    vocabulary = Vocabulary.fit([bag(("red car",), "word")], "word")
    nothing = Vocabulary.fit([], "word")
    for each in (vocabulary, nothing):
        known = each.known(bag(("blue",), "word"))
        assert (len(known.place), len(each.weights(known)), known.share) == (0, 0, 0.0)
        assert each.known(bag(("",), "word")).share is None
    known = vocabulary.known(bag(("red red car",), "word"))
    weight = vocabulary.weights(known)
    assert float(weight @ weight) == pytest.approx(1)
    assert known.share == pytest.approx(3 / 4)  # all but the pair "red red"


def test_inputs_with_too_few_or_too_many_slots_are_arranged():
    assert arrange(("a",), 2) == ("a", "")
    assert arrange(("a", "b", "c"), 2) == ("a", "b c")
    assert arrange((), 0) == ()


def test_pair_features_see_a_shared_model_number():
    texts = [("sony tv kdl40", "sony kdl40 television"), ("sony tv kdl40", "sony radio icf9")]
    bags = {kind: [bag(t, kind) for t in texts] for kind in ("word", "char")}
    words, chars = (Vocabulary.fit(bags[kind], kind) for kind in ("word", "char"))
    same, other = (pair_features(t, words, chars) for t in texts)
    assert same.shape == (pair_width(2),)
    # All but the last, the likeness of the lengths, speak for the pair that matches.
    assert (same >= other)[:-1].all() and same[:-1].sum() > other[:-1].sum() + 3
    assert pair_width(5) == 0


def problem(seed: int, n: int = 60, d: int = 8, c: int = 3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    y = np.eye(c, dtype=np.float32)[rng.integers(c, size=n)]
    return x, y, rng.integers(5, size=n)


def refitted(x, y, folds, ridge):
    """Ridge regression with a constant, trained anew without each fold."""
    x = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    out = np.zeros(y.shape)
    for fold in np.unique(folds):
        a, b = x[folds != fold], y[folds != fold]
        out[folds == fold] = x[folds == fold] @ np.linalg.solve(a.T @ a + ridge * np.eye(x.shape[1]), a.T @ b)
    return out


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_all_solvers_equal_training_without_each_fold(seed):
    from scipy.sparse import csr_matrix

    x, y, folds = problem(seed)
    expected = refitted(x, y, folds, 0.5)
    kernel = x @ x.T
    assert np.allclose(kernel_ridge(kernel, y, folds, 0.5)[0], expected, atol=2e-3)
    assert np.allclose(sparse_ridge(csr_matrix(x), y, folds, 0.5)[0], expected, atol=3e-2)
    # As many landmarks as the features have dimensions span them all.
    some = np.arange(12)
    assert np.allclose(
        landmark_ridge(kernel[:, some], kernel[np.ix_(some, some)], y, folds, 0.5)[0], expected, atol=2e-2
    )


def test_dual_coefficients_give_the_scores_of_the_model_of_all_inputs():
    x, y, _ = problem(0)
    kernel = x @ x.T
    apart = np.arange(len(x)) + 100  # every input a fold of its own
    _, dual = kernel_ridge(kernel, y, apart, 0.5)
    design = np.column_stack([x, np.ones(len(x))])
    weights = np.linalg.solve(design.T @ design + 0.5 * np.eye(design.shape[1]), design.T @ y)
    assert np.allclose((kernel + 1) @ dual, design @ weights, atol=2e-3)


def test_one_input_has_the_same_kernel_alone_and_among_many():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 10)).astype(np.float32)
    marks = Landmarks.fit(vectors, [("a", 6), ("b", 4)], np.arange(20))
    many = marks.kernel(vectors, {"a": 0.5, "b": 0.5})
    one = np.concatenate([marks.kernel(v[None], {"a": 0.5, "b": 0.5}, {}) for v in vectors])
    assert many.shape == (30, 20)
    assert np.allclose(many, one, atol=1e-5)
    assert np.allclose(np.diag(many), 1, atol=1e-4)


def scored(n: int, seed: int = 0, c: int = 4):
    """Scores of a telling and of a blind head, with the right classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(c, size=n)
    telling = rng.normal(0, 0.4, (n, c)) + 0.6 * np.eye(c)[labels]
    return np.stack([telling, rng.normal(0, 0.4, (n, c))]).astype(np.float32), labels, rng.integers(5, size=n)


def test_the_stack_trusts_the_head_that_tells_more():
    scores, labels, folds = scored(600)
    weights = fit_combination(scores, labels, folds).weights
    assert weights[0] > 5 * weights[1] >= 0


def test_cross_fitted_confidence_is_the_probability_of_agreement():
    scores, labels, folds = scored(4000)
    chosen, confidence, logp = cross_combine(scores, labels, folds)
    right = chosen == labels
    assert confidence.min() >= 0 and confidence.max() <= 1 and (logp <= 0).all()
    for low, high in ((0, 0.5), (0.5, 0.8), (0.8, 1.01)):
        some = (confidence >= low) & (confidence < high)
        assert abs(right[some].mean() - confidence[some].mean()) < 0.05


def test_labels_without_signal_give_no_confidence():
    scores, labels, folds = scored(2000)
    shuffled = np.random.default_rng(1).permutation(labels)
    _, confidence, _ = cross_combine(scores, shuffled, folds)
    assert confidence.max() < 0.45


def test_answers_no_class_stands_for_count_as_disagreement():
    scores, labels, folds = scored(800)
    known = cross_combine(scores, labels, folds)[1].mean()
    labels[::3] = -1
    _, confidence, logp = cross_combine(scores, labels, folds)
    assert confidence.mean() < known - 0.1
    assert (logp[::3] < -10).all()
