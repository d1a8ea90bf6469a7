"""The data set a search works on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitr_core.collect import build_dataset, fold_of
from jitr_core.errors import TrainingError
from jitr_core.types import Example


def example(text: str, answer: str, seq: int, **rest) -> Example:
    return Example((text,), answer, group=text.lower(), seq=seq, **rest)


def test_an_input_seen_twice_is_learnt_once_but_counts_as_two_calls():
    data = build_dataset([example("A b", "x", 0), example("c", "y", 1), example("a b", "x", 2)], 100)
    assert data.inputs == [("A b",), ("c",)]
    assert data.labels == ["x", "y"]
    assert data.group.tolist() == [0, 1, 0]
    assert data.answers == ["x", "y", "x"]


def test_the_label_is_the_most_frequent_answer_and_the_latest_of_equals():
    answers = ["x", "y", "y", "x"]
    data = build_dataset([example("a", answer, i) for i, answer in enumerate(answers)], 100)
    assert data.labels == ["x"]
    assert build_dataset([example("a", answer, i) for i, answer in enumerate("xyy")], 100).labels == ["y"]


def test_the_latest_examples_are_kept_in_stream_order():
    data = build_dataset([example(str(i), "x", i) for i in (5, 3, 9, 1)], 2)
    assert data.inputs == [("5",), ("9",)]


def test_how_a_label_was_collected_is_kept():
    data = build_dataset([example("a", "x", 0, sampled=False)], 9)
    assert data.sampled.tolist() == [False]


def test_no_examples_are_an_error_with_a_hint():
    with pytest.raises(TrainingError, match="no labelled calls"):
        build_dataset([], 10)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=30), st.integers(2, 7))
def test_an_input_keeps_its_fold_as_the_data_grow(texts, k):
    few = build_dataset([example(t, "x", i) for i, t in enumerate(texts[: len(texts) // 2 + 1])], 100)
    more = build_dataset([example(t, "x", i) for i, t in enumerate(texts)], 100)
    assert np.array_equal(few.folds(k), more.folds(k)[: len(few.inputs)])
    assert all(0 <= fold_of(t, k) < k for t in texts)


def test_the_content_hash_changes_with_an_answer_and_only_with_content():
    def made(answer):
        return build_dataset([example("a", "x", 0), example("b", answer, 1)], 9).content_hash()

    assert made("x") == made("x") != made("y")
