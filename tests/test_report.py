"""What a reader sees of a replay and of the stored tasks."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from jitr_core.report import ReplayView, final_table
from jitr_core.report.tally import Tally
from jitr_core.report.tasks import show_attempt
from jitr_core.types import CandidateReport, Certificate, Decision, Match, SearchReport, Task

CERTIFICATE = Certificate(0.95, 0.01, threshold=0.81, coverage=0.67, calls=450, errors=9, agreement_low=0.957)


def a_console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=200, highlight=False, color_system=None)


def shown(renderable: Any) -> str:
    console = a_console()
    console.print(renderable)
    return console.file.getvalue()


def certified() -> SearchReport:
    candidates = [CandidateReport("lexical", "lexical", None, score=0.61), CandidateReport("static", "static", "t")]
    return SearchReport("t1", 300, candidates, chosen="lexical", certificate=CERTIFICATE, seconds=2.5)


def a_task(**changes: Any) -> dict[str, Any]:
    return {
        "task": "t1",
        "name": "You sort the messages",
        "calls": 700,
        "replaced": 300,
        "coverage": 3 / 7,
        "agreement": 0.98,
        "agreement_low": 0.96,
        "first_replaced_at": 412,
        "state": "active",
        "reason": "",
        "replacement": {"family": "lexical", "base_model": None, "threshold": 0.81, "size_bytes": 340_000},
        "searches": [],
    } | changes


def a_summary(*tasks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "target": 0.95,
        "delta": 0.05,
        "calls": 1000,
        "replaced": sum(task["replaced"] for task in tasks),
        "coverage": 0.3,
        "agreement": 0.98,
        "agreement_low": 0.96,
        "teacher_calls": 720,
        "audits": 20,
        "seconds": 61.0,
        "cost_teacher_only_usd": 1.5,
        "cost_usd": 0.9,
        "kwh_teacher_only": 0.002,
        "kwh": 0.0015,
        "tasks": list(tasks),
    } | changes


def refused() -> dict[str, Any]:
    search = {"at_call": 200, "candidates": [], "chosen": None, "seconds": 0.1, "refusal": "answers are text"}
    nothing = {"replaced": 0, "coverage": 0.0, "agreement": None, "agreement_low": None, "first_replaced_at": None}
    return a_task(name="Write a reply", state="refused", reason="answers are text", replacement=None) | nothing | {
        "calls": 200,
        "searches": [search],
    }  # fmt: skip


def test_the_final_tables_show_totals_tasks_states_and_reasons():
    text = shown(final_table(a_summary(a_task(), refused())))
    assert "1,000 calls in 61 s: 300 answered by replacements (30%), agreement with the teacher 0.980" in text
    assert "at least 0.960 with 95% confidence" in text
    assert "“You sort the messages” active 700 300 43% 0.980 (≥ 0.960) call 412 lexical, 340.0 kB" in " ".join(
        text.split()
    )
    assert "“Write a reply” refused: answers are text" in text
    assert "no task (one-off calls) 100 0" in " ".join(text.split())
    assert "calls to the teacher, 20 audits included 1,000 720 280" in " ".join(text.split())
    assert "$1.50" in text and "$0.60" in text


def test_an_unknown_price_is_never_shown_as_zero():
    text = shown(final_table(a_summary(a_task(), cost_teacher_only_usd=None, cost_usd=None, kwh=None)))
    assert text.count("unknown price") == 3
    assert "$0" not in text
    assert text.count("unknown") == 5  # energy with JITR, and so what it saves


@pytest.mark.parametrize("tasks", [(), (refused(),)], ids=["no task", "a refused one"])
def test_a_replay_without_replacements_says_so_and_what_would_help(tasks):
    text = shown(final_table(a_summary(*tasks, agreement=None, agreement_low=None, coverage=0.0)))
    assert "0 answered by replacements (0%)." in text
    assert "Nothing was replaced" in text


def test_deferred_calls_are_shown_with_confidence_and_in_one_line():
    example = {
        "input": "where is [bold]my[/bold] parcel?\n\nand my refund" * 10,
        "reason": "deferral",
        "confidence": 0.41,
    }
    text = shown(final_table(a_summary(a_task(deferred_examples=[example]))))
    line = next(line for line in text.splitlines() if "0.410" in line)
    assert "where is [bold]my[/bold] parcel? and my refund" in line
    assert "…" in text


def test_searches_are_listed_in_stream_order_with_their_candidates():
    def search(at_call, **changes):
        candidates = [
            {"name": "lexical", "score": 0.5, "seconds": 1.0},
            {"name": "static", "score": None, "seconds": 0.2},
        ]
        return {"at_call": at_call, "candidates": candidates, "chosen": "lexical", "seconds": 1.2} | changes

    late, early = a_task(searches=[search(900)]), a_task(searches=[search(300, refusal="0 of 200 calls")])
    text = shown(final_table(a_summary(late, early)))
    assert text.index("not promoted: 0 of 200 calls") < text.index("promoted lexical")
    assert "2: lexical 0.50 and 1 other" in text


def test_notes_and_the_next_step_are_shown():
    text = shown(final_table(a_summary(a_task(), notes=["Rates: $2 a million tokens."], next="Next: do this.")))
    assert "Rates: $2 a million tokens." in text
    assert text.rstrip().endswith("Next: do this.")


def replay_into(console: Console) -> str:
    tally = Tally()
    match = Match("t1", "p", ("hello",))
    with ReplayView(console) as view:
        view.event({"kind": "start", "calls": 40})
        for index in range(40):
            if index == 8:
                view.event({"kind": "task", "task": "t1", "name": "You sort", "template": None, "at_call": 7})
                view.event({"kind": "placed", "task": "t1", "calls": 8, "at_call": 7})
            if index == 20:
                view.event({"kind": "search", "task": "t1", "report": certified(), "at_call": 19})
            replaced = index >= 20
            decision = Decision("replacement" if replaced else "teacher", "answered", match, audit=False)
            tally.call(decision, "t1", "a", "a")
            view.call(tally)
        view.event({"kind": "rollback", "task": "t1", "reason": "rolled back: 3 of 9 differed", "at_call": 39})
        view.summary(a_summary(a_task()))
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_the_view_tells_what_happens_at_which_call(terminal):
    text = replay_into(a_console(terminal=terminal))
    assert "call 7: task found: “You sort”" in text
    assert "call 19: “You sort” searched 2 candidates in 2.5 s: lexical 0.61 and 1 other; chosen lexical" in text
    assert "certified: it answers where its confidence ≥ 0.810, 67% of the calls" in text
    assert "9 of 450 differed" in text
    assert "call 39: “You sort” rolled back: 3 of 9 differed" in text
    assert "1,000 calls in 61 s" in text


def test_a_search_shows_how_far_it_is_in_the_live_table_until_it_is_over():
    console = a_console(terminal=True)
    with ReplayView(console) as view:
        view.event({"kind": "start", "calls": 3})
        view.event({"kind": "searching", "what": "tuning encoders", "share": 0.4, "at_call": 1})
        view._live.refresh()
        shown_then = console.file.getvalue()
        view.event({"kind": "search", "task": "t1", "report": certified(), "at_call": 1})
        console.file.truncate(0)
        view._live.refresh()
    assert "searching: tuning encoders, 40%" in shown_then
    assert "searching:" not in console.file.getvalue()


def test_the_live_table_shows_the_state_that_the_engine_tells():
    console = a_console(terminal=True)
    shown_at = []
    tally = Tally()
    with ReplayView(console) as view:
        view.event({"kind": "start", "calls": 3})
        view.event({"kind": "task", "task": "t1", "name": "You sort", "template": None, "at_call": 0})
        view.event({"kind": "search", "task": "t1", "report": certified(), "at_call": 1})
        for state in ("shadow", "canary", "active", "observing"):
            view.event({"kind": "state", "task": "t1", "state": state, "at_call": 1})
            view._shown_at = 0.0
            tally.call(Decision("teacher", "shadow", Match("t1", "p", ("hello",))), "t1", "a", "a")
            view.call(tally)
            console.file.truncate(0)
            view._live.refresh()
            shown_at.append(
                [word for word in ("shadow", "canary", "active", "observing") if word in console.file.getvalue()]
            )
    assert shown_at == [["shadow"], ["canary"], ["active"], ["observing"]]


def test_without_a_terminal_progress_is_plain_lines():
    text = replay_into(a_console())
    assert "\x1b" not in text
    assert "24 of 40 calls replayed, 4 replaced" in text
    assert text.count("calls replayed") == 10


def test_in_a_terminal_the_table_of_tasks_is_live():
    text = replay_into(a_console(terminal=True))
    assert "40/40 calls, 20 replaced" in text
    assert "calls replayed" not in text


def test_the_live_view_ends_with_the_exception_that_ended_the_replay():
    console = a_console(terminal=True)
    with pytest.raises(KeyError), ReplayView(console) as view:
        view.event({"kind": "start", "calls": 3})
        raise KeyError("x")
    assert "\x1b[?25h" in console.file.getvalue()  # the cursor is back


def test_what_comes_late_for_a_merged_task_counts_for_the_survivor():
    tally = Tally()
    match = Match("t3", "p", ("hello",))
    tally.call(Decision("replacement", "answered", match), "t3", "a", "a")
    tally.search("t3", certified(), 0)
    tally.merged("t3", "t2")
    tally.merged("t2", "t1")
    tally.merged("t3", "t1")  # known already
    tally.call(Decision("replacement", "answered", match), "t3", "a", "b")
    tally.placed("t2", 5)
    tally.search("t3", certified(), 1)
    assert list(tally.tasks) == ["t1"]
    for task in ("t1", "t2", "t3"):
        found = tally.task(task)
        assert (found["calls"], found["replaced"], found["agreement"], found["first_replaced_at"]) == (7, 2, 0.5, 0)
        assert [search["at_call"] for search in found["searches"]] == [0, 1]
    assert list(tally.tasks) == ["t1"] and tally.total()["replaced"] == 2


def test_an_attempt_is_told_in_one_line():
    console = a_console()
    refusal = SearchReport("t1", 10, refusal="10 labels are too few")
    for report in (certified(), refusal, None):
        show_attempt(Task("t1", "app", "", "You sort"), report, console)
    lines = console.file.getvalue().splitlines()
    assert "chosen lexical" in lines[0]
    assert lines[1:] == [
        "“You sort” refused: 10 labels are too few",
        "“You sort” not searched: another process is at it, or was killed at it less than three minutes ago",
    ]
