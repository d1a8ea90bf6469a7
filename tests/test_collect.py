"""The data set a search works on."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitr_core.collect import build_dataset, fair_sample, fold_of, labelled_alike, strata
from jitr_core.errors import TrainingError
from jitr_core.store import TemplateUse
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


def test_an_input_that_is_answered_now_this_way_now_that_is_not_settled():
    answers = {
        "once": "x",
        "alike": "x" * 4,
        "a slip": "x" * 9 + "y",
        "even": "xy",
        "mixed": "x" * 4 + "y" * 3 + "z",
        "often": "x" * 80 + "y" * 20,
    }
    calls = [(text, answer) for text, all_of in answers.items() for answer in all_of]
    data = build_dataset([example(text, answer, i) for i, (text, answer) in enumerate(calls)], 200)
    settled = dict(zip(answers, data.settled(0.95).tolist(), strict=True))
    assert settled == {"once": True, "alike": True, "a slip": True, "even": False, "mixed": False, "often": False}
    assert data.settled(0.7)[data.groups.index("often")]


def test_answers_that_differ_in_outer_white_space_do_not_contradict_each_other():
    data = build_dataset([example("a", answer, i) for i, answer in enumerate(["x", "x ", "\nx"])], 10)
    assert data.settled(0.95).all()


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


def test_a_wording_with_few_labels_among_many_calls_waits_and_the_others_are_certified() -> None:
    groups = strata({"a": "r", "b": ""}, {"a": 195, "b": 5})
    rows = [Example((), "", "", i, template="a" if i < 2300 else "b") for i in range(2305)]
    sample, templates = fair_sample(rows, groups, enough=700)
    assert templates == {"a"} and sum(e.sampled for e in sample) == 2300
    groups = strata({"a": "r", "b": ""}, {"a": 500, "b": 500})
    rows = [Example((), "", "", i, template="a" if i < 2300 else "b") for i in range(3300)]
    sample, templates = fair_sample(rows, groups, enough=700)
    assert templates == {"a", "b"} and sum(e.sampled for e in sample) == 2000


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 60), st.sampled_from(["", "r1", "r2"])), min_size=1, max_size=6
    ),
    st.integers(0, 3),
)
def test_a_fair_sample_has_the_strata_in_the_shares_of_their_calls(made, seed):
    served = {f"t{i}": release for i, (_, _, release) in enumerate(made)}
    calls = {f"t{i}": count for i, (_, count, _) in enumerate(made)}
    rows = [
        Example((str(i),), "x", "", 0, template=f"t{i}") for i, (labels, _, _) in enumerate(made) for _ in range(labels)
    ]
    rows = [replace(row, seq=seq, sampled=seq % 5 > 0) for seq, row in enumerate(rows)]
    groups = strata(served, calls)
    sample, templates = fair_sample(rows, groups, enough=50, seed=seed)
    assert sorted(t for group in groups for t in group.templates) == sorted(served)
    assert [replace(row, sampled=False) for row in rows] == [replace(row, sampled=False) for row in sample]
    assert all(was.sampled for was, row in zip(rows, sample, strict=True) if row.sampled)
    taken = [row.template for row in sample if row.sampled]
    assert set(taken) <= templates
    spoken = sum(calls[t] for t in templates)
    for group in groups:
        assert group.templates <= templates or not group.templates & templates
        if group.templates <= templates:
            share = sum(t in group.templates for t in taken)
            assert abs(share - len(taken) * group.calls / spoken) <= len(groups)
    fair = [row for row in rows if row.sampled and row.template in templates]
    if len([g for g in groups if g.calls]) == 1:
        assert len(taken) == len(fair), "calls that were always labelled alike are a fair sample as they are"


def test_templates_are_labelled_alike_that_one_release_found_in_use_and_those_that_came_under_it():
    use = {
        "a": TemplateUse(1, "r1", 200),
        "b": TemplateUse(50, "r1", 260),  # called before the release, though not answered at once
        "w": TemplateUse(400, "r1", 400),  # a wider version that came later: never labelled in full
        "c": TemplateUse(90, "r2", 500),
        "d": TemplateUse(3, None),
    }
    alike = labelled_alike(use)
    assert alike["a"] == alike["b"] and len({alike[t] for t in "awcd"}) == 4
