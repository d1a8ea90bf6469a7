"""Labels from before a rollback: they teach where they still hold, and never certify."""

from __future__ import annotations

from pathlib import Path

from easy import easy_calls
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import POLICY, serve, trained, url

from jitr_core import JITR
from jitr_core.collect import build_dataset
from jitr_core.present import Present, teaches
from jitr_core.store import Store
from jitr_core.types import Example

FLIPPED = {"billing": "delivery", "delivery": "billing"}


def examples(count: int, seed: int, flip: bool = False) -> list[Example]:
    found = []
    for i, call in enumerate(easy_calls(count, seed=seed)):
        text = call["messages"][1]["content"]
        answer = FLIPPED[call["answer"]] if flip else call["answer"]
        found.append(Example((text,), answer, f"{seed}-{i}", seq=i))
    return found


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1_000), st.booleans())
def test_what_holds_still_teaches_and_what_is_contradicted_does_not(seed: int, flip: bool) -> None:
    past, now = examples(300, seed, flip), examples(40, seed + 1)
    assert teaches(past, now) == (not flip)


def test_labels_that_can_be_told_nothing_of_do_not_teach() -> None:
    own = [Example((f"text {i}",), f"answer {i}", f"g{i}", seq=i) for i in range(30)]
    assert not teaches(own[:20], own[20:])
    assert not teaches(examples(20, 0), [Example(("one",), "same", "g", seq=0)])


def rolled_back(folder: Path, flip: bool) -> tuple[JITR, Store]:
    """A step that was replaced, rolled back, and goes on."""
    trained(folder).close()
    jitr = JITR(url(folder), policy=POLICY, training="off", seed=1)
    store = jitr.open_store()
    (task,) = store.tasks()
    store.withdraw(task.id, store.active_release(task.id).id, "it differs too often")
    jitr.refresh()
    for tag, later in (("later", easy_calls(40, seed=9)), ("again", easy_calls(10))):  # of which the latter were asked
        serve(jitr, [dict(c, answer=FLIPPED[c["answer"]] if flip else c["answer"]) for c in later], tag)
    jitr.flush()
    return jitr, store


def test_after_a_rollback_earlier_labels_are_learnt_but_do_not_certify(tmp_path: Path) -> None:
    jitr, store = rolled_back(tmp_path, flip=False)
    (task,) = store.tasks()
    present = Present(store, POLICY)
    start = present.start(task.id)
    now, templates = present.examples(task.id, start)
    assert start.contradicted and len(now) == 50 and all(each.sampled for each in now)
    both = present.with_past(task.id, start, now)
    dataset = build_dataset(both, POLICY.max_examples, templates)
    assert len(both) > 150 and dataset.sampled.sum() == 50 and dataset.sampled[-50:].all()
    assert len({each.group for each in both}) == len(both), "what was asked again counts as it is answered now"
    jitr.close()


def test_what_the_teacher_answers_otherwise_now_is_not_learnt(tmp_path: Path) -> None:
    jitr, store = rolled_back(tmp_path, flip=True)
    (task,) = store.tasks()
    present = Present(store, POLICY)
    now, _ = present.examples(task.id, present.start(task.id))
    assert present.with_past(task.id, present.start(task.id), now) == now and len(now) == 50
    jitr.close()
