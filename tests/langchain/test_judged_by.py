"""A LangChain model judges free texts, and JITR leaves these calls alone."""

from __future__ import annotations

import pytest
from langchain_core.language_models import FakeListLLM
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda
from langchain_fakes import FakeEngine, Recorder, Teacher

from jitr_langchain import JITRCallbackHandler, JITRChatModel, judged_by


@pytest.mark.parametrize("kind", [FakeListChatModel, FakeListLLM])
def test_models_of_both_kinds_judge(kind, tmp_path):
    judge = judged_by(kind(responses=["Same.", "different"]), cache=tmp_path / "verdicts.db", most=2)
    assert judge("on Monday", "Monday") and not judge("on Tuesday", "Monday") and not judge("on Friday", "Monday")
    assert (judge.asked, judge.same, judge.failed, judge.spent) == (2, 1, 0, 1)


def test_nobody_hears_of_the_judges_calls_and_no_replacement_answers_them(engine):
    teacher, recorder = Teacher(callbacks=[JITRCallbackHandler(engine)]), Recorder()
    wrapped = JITRChatModel(llm=teacher, jitr=FakeEngine("same"))
    judges = [judged_by(teacher), judged_by(wrapped), judged_by(teacher.bind(stop=["x"]))]
    config = {"callbacks": [recorder, JITRCallbackHandler(engine)], "configurable": {"jitr": "observe"}}
    step = RunnableLambda(lambda text: [judge(text, "Monday") for judge in judges])
    assert step.invoke("on Monday", config) == [False] * 3  # the teacher's echo is no verdict
    assert len(teacher.asked) == 3 and [judge.failed for judge in judges] == [1, 1, 1]
    assert not engine.decided and not wrapped.jitr.decided and not wrapped.jitr.observed
    assert recorder.events and not [name for name, _ in recorder.events if "model" in name]
    assert judges[0].name == judges[1].name == judges[2].name == "teacher-1"


def test_a_model_that_fails_counts_as_different():
    judge = judged_by(Teacher(fail=True))
    assert not judge("on Monday", "Monday") and judge.failed == 1
