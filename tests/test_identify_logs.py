"""Identification of real call logs; skipped where the shared data is absent."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from jitr_core.identify import Identifier, identify_stream, join_prompt, prompt_text
from jitr_core.types import Call

LOGS = Path(os.environ.get("JITR_SHARED") or Path(__file__).parents[1] / ".." / "shared") / "data" / "calls"

pytestmark = pytest.mark.skipif(not LOGS.is_dir(), reason="the shared call logs are absent")


def load(name: str, most: int = 4000) -> tuple[list[Call], list[str], list[str | None]]:
    calls, answers, tasks = [], [], []
    with gzip.open(LOGS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line, _ in zip(lines, range(most), strict=False):
            record = json.loads(line)
            calls.append(Call(record["id"], tuple((m["role"], m["content"]) for m in record["messages"])))
            answers.append(record["answer"])
            tasks.append(record["task"])
    return calls, answers, tasks


@pytest.mark.parametrize("name", ["banking77-gpt4", "imdb-gpt35", "phrasebank-gpt4", "rt-polarity-gpt35"])
def test_a_log_of_one_task_is_one_task_and_its_input_leaves_the_instruction_out(name: str) -> None:
    calls, answers, _ = load(name, 1000)
    identifier = Identifier()
    assert len({a.final_task for a in identify_stream(calls, identifier, answers=answers)} - {None}) == 1
    for call in calls:
        match = identifier.match(call)
        assert match is not None and len(match.slots) == 1
        template = identifier.template(match.template)
        assert template is not None and join_prompt(template.literals, match.slots) == prompt_text(call.messages)
        assert (
            call.messages[-1][1].replace("Review: ", "").endswith(match.slots[0])
            or "Sentiment:" in call.messages[-1][1]
        )
        assert "positive or negative" not in match.slots[0][:40]


def test_every_task_of_an_app_is_found_none_merged_and_no_one_off_caught() -> None:
    calls, answers, truth = load("mixed-app", 8000)
    final = [a.final_task for a in identify_stream(calls, Identifier(), answers=answers)]
    found: dict[str | None, Counter[str | None]] = {}
    for task, predicted in zip(truth, final, strict=True):
        found.setdefault(predicted, Counter())[task] += 1
    assert all(len(tasks) == 1 for tasks in found.values())
    assert len(set(truth) - {None}) == len({next(iter(tasks)) for tasks in found.values()} - {None})


def test_four_wordings_of_one_question_become_one_task() -> None:
    calls, answers, _ = load("entity-match-abt-buy-gpt4omini")
    identifier = Identifier()
    assert len({a.final_task for a in identify_stream(calls, identifier, answers=answers)} - {None}) == 1
    assert {len(match.slots) for call in calls if (match := identifier.match(call))} == {2}
