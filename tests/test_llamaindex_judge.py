"""A LlamaIndex LLM judges free texts, and JITR leaves these calls alone."""

from __future__ import annotations

from llama_index_instrumentation import get_dispatcher
from llamaindex_fakes import FakeEngine, Teacher

from jitr_llamaindex import JITRLLM, JITREventHandler, judged_by


def test_an_llm_judges_unseen(tmp_path):
    teacher = Teacher(says={"Tuesday": "different", "Monday": "Same."})
    seen, deciding = FakeEngine(), FakeEngine("same")
    handler = JITREventHandler(jitr=seen)
    root = get_dispatcher()
    root.add_event_handler(handler)
    try:
        judge = judged_by(JITRLLM(llm=teacher, jitr=deciding), cache=tmp_path / "verdicts.db")
        bare = judged_by(teacher, cache=tmp_path / "verdicts.db")
        assert judge("on Monday", "Monday") and not judge("on Tuesday", "Monday") and judge.asked == 2
        assert bare("on Monday", "Monday") and bare.asked == 0  # the same model: what it said is kept
        assert not bare("Tuesday", "on Monday") and bare.asked == 1
    finally:
        root.event_handlers.remove(handler)
    assert len(teacher.asked) == 3 and not seen.decided and not deciding.decided and not deciding.observed


def test_an_llm_that_fails_counts_as_different():
    judge = judged_by(Teacher(fail=True))
    assert not judge("on Monday", "Monday") and judge.failed == 1
