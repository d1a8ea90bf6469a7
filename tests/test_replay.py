"""`jitr replay`, as a user runs it."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from easy import easy_calls, write_log
from typer.testing import CliRunner

from jitr_core import Policy, cli
from jitr_core.calllog import read_calls
from jitr_langchain.replay import replay


def run(*arguments: object) -> tuple[int, str]:
    """The exit code and output of the `jitr` command."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return cli.exit_code(result.exception), f"{result.output}{result.exception}"
    return result.exit_code, result.output


def replayed(log: Path, out: Path, *more: object) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary and the decisions of a lexical replay."""
    out.mkdir(exist_ok=True)
    arguments = ["replay", log, "--families", "lexical", "--json", out / "s.json", "--decisions", out / "d.jsonl"]
    code, output = run(*arguments, *more)
    assert code == 0, output
    decisions = [json.loads(line) for line in (out / "d.jsonl").read_text().splitlines()]
    return json.loads((out / "s.json").read_text()), decisions


def test_an_easy_step_is_replaced_and_agrees(easy_log: Path, tmp_path: Path) -> None:
    summary, decisions = replayed(easy_log, tmp_path / "a")
    assert summary["calls"] == 700 and summary["coverage"] > 0.3 and summary["agreement"] >= 0.95
    (task,) = summary["tasks"]
    assert task["state"] == "active" and task["replacement"]["family"] == "lexical"
    assert task["first_replaced_at"] == next(i for i, d in enumerate(decisions) if d["decision"] == "replacement")
    assert sum(d["decision"] == "replacement" for d in decisions) == summary["replaced"]
    assert summary["teacher_calls"] == 700 - summary["replaced"] + summary["audits"]
    assert summary["cost_usd"] < summary["cost_teacher_only_usd"]


def test_two_processes_decide_alike_whatever_the_order_of_their_sets(tmp_path: Path) -> None:
    log, found = write_log(tmp_path / "easy.jsonl", easy_calls(350)), []
    for hash_seed in ("1", "2"):
        out = tmp_path / f"{hash_seed}.jsonl"
        command = [sys.executable, "-m", "jitr_core.cli", "replay", log, "--families", "lexical", "--decisions", out]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [*command, "--shuffle", "--seed", "3"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found.append(out.read_text())
    assert '"replacement"' in found[0]
    assert found[0] == found[1]


def test_a_search_is_placed_at_the_call_that_was_processed(tmp_path: Path) -> None:
    log, events, done = write_log(tmp_path / "l.jsonl", easy_calls(250)), [], []

    def hear(event: dict[str, Any]) -> None:
        events.append((event["kind"], event["at_call"], len(done)))

    for _, call in replay([log], policy=Policy(families=("lexical",)), tell=hear):
        done.append(call)
    searches = [(at_call, before) for kind, at_call, before in events if kind == "search"]
    assert searches and all(at_call == before for at_call, before in searches)
    assert events[-1] == ("end", 249, 250)


def test_decisions_come_in_input_order_with_the_teachers_answers_unchanged(tmp_path: Path) -> None:
    calls = easy_calls(300, noise=0.3)
    _, decisions = replayed(write_log(tmp_path / "l.jsonl.gz", calls), tmp_path / "a", "--shuffle")
    assert [d["id"] for d in decisions] == [c["id"] for c in calls]
    for call, decision in zip(calls, decisions, strict=True):
        if decision["decision"] == "teacher":
            assert decision["answer"] == call["answer"]


def test_several_files_are_one_stream(tmp_path: Path) -> None:
    calls = easy_calls(200)
    logs = [write_log(tmp_path / "1.jsonl", calls[:120]), write_log(tmp_path / "2.jsonl.gz", calls[120:])]
    _, both = replayed(logs[0], tmp_path / "a", logs[1])
    _, one = replayed(write_log(tmp_path / "3.jsonl", calls), tmp_path / "b")
    assert both == one


def test_answers_of_replaced_calls_that_were_not_audited_never_reach_the_store(tmp_path: Path) -> None:
    calls = easy_calls(700)
    for call in calls:
        call["answer"] = f"{call['answer']} "  # kept as given
        call["messages"][1]["content"] += f" mark{call['id']}"
    _, decisions = replayed(write_log(tmp_path / "l.jsonl", calls), tmp_path / "a", "--state", tmp_path / "state")
    rows = dict(
        sqlite3.connect(tmp_path / "state" / "jitr.db").execute(
            "select json_extract(slots, '$[0]'), answer from observations where slots is not null"
        )
    )
    kept = {slot.split("mark")[1]: answer for slot, answer in rows.items()}
    hidden = {d["id"] for d in decisions if d["decision"] == "replacement" and not d["audited"]}
    assert hidden
    for identity, answer in kept.items():
        assert (answer is None) == (identity in hidden)


def test_ground_truth_is_never_read(tmp_path: Path) -> None:
    calls = easy_calls(60)
    calls[0].update(task="secret", gold="secret", template="secret")
    assert all("secret" not in repr(record) for record in read_calls([write_log(tmp_path / "l.jsonl", calls)]))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"messages": [], "answer": "a"}', "non-empty list"),
        ('{"messages": [{"content": "x"}], "answer": "a"}', "`role`"),
        ('{"messages": [{"role": "user", "content": 5}], "answer": "a"}', "`content`"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "`answer`"),
        ('{"messages": [{"role": "user", "content": "x"}], "answer": "a", "usage": 3}', "`usage`"),
    ],
)
def test_a_malformed_line_names_file_and_line_and_writes_nothing(tmp_path: Path, line: str, complaint: str) -> None:
    log = write_log(tmp_path / "bad.jsonl", easy_calls(3))
    log.write_text(log.read_text() + line + "\n")
    out = tmp_path / "out.json"
    code, output = run("replay", log, "--json", out, "--state", tmp_path / "state")
    assert code == 2
    assert "bad.jsonl, line 4" in output and complaint in output
    assert not out.exists() and not (tmp_path / "state").exists()


@pytest.mark.parametrize("depth", [150, 100_000])
def test_json_nested_too_deeply_names_file_and_line(tmp_path: Path, depth: int) -> None:
    log = write_log(tmp_path / "deep.jsonl", easy_calls(1))
    with log.open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "x"}], "answer": "a", "params": {"x": ')
        file.write("[" * depth + "]" * depth + "}}\n")
    code, output = run("replay", log)
    assert code == 2 and "deep.jsonl, line 2: nested" in output


@pytest.mark.parametrize("cut", [True, False], ids=["cut off", "corrupt"])
def test_a_damaged_gzip_file_names_file_and_line(tmp_path: Path, cut: bool) -> None:
    packed = bytearray(gzip.compress(b"".join(json.dumps(c).encode() + b"\n" for c in easy_calls(400))))
    middle = len(packed) // 2
    packed[middle:] = b"" if cut else b"\xff" * (len(packed) - middle)
    (tmp_path / "bad.jsonl.gz").write_bytes(packed)
    code, output = run("replay", tmp_path / "bad.jsonl.gz")
    assert code == 2 and "bad.jsonl.gz, line " in output and "unpacked" in output


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"\x1f\x8b broken"])
def test_an_empty_or_unreadable_log_is_bad_input(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    code, output = run("replay", tmp_path / name)
    assert code == 2 and name in output


def test_bad_usage_is_exit_code_2(easy_log: Path) -> None:
    assert run("replay", easy_log, "--target", "95")[0] == 2
    assert run("replay", easy_log, "--families", "magic")[0] == 2
    assert run("replay", "missing.jsonl")[0] == 2
    assert run("replay", easy_log, "--no-such-option")[0] == 2


def test_a_price_model_that_nobody_knows_is_bad_usage(easy_log: Path, tmp_path: Path) -> None:
    code, output = run("replay", easy_log, "--price-model", "no-such-model", "--state", tmp_path / "state")
    assert code == 2 and "no-such-model" in output and "gpt-4.1-mini" in output
    assert not (tmp_path / "state").exists()


def test_recorded_parameters_that_langchain_takes_for_itself_do_no_harm(tmp_path: Path) -> None:
    names = "metadata tags callbacks run_name run_id config input messages prompts kwargs self run_manager stop stream"
    names += " ls_structured_output_format __jitr__"
    calls = [
        {"messages": [{"role": "user", "content": "hi"}], "answer": f"{name} {value}", "params": {name: value}}
        for name in names.split()
        for value in ("x", None, {"a": 1})
    ]
    _, decisions = replayed(write_log(tmp_path / "l.jsonl", calls), tmp_path / "a")
    assert [d["answer"] for d in decisions] == [c["answer"] for c in calls]


def test_a_lone_surrogate_anywhere_is_written_and_shown(tmp_path: Path) -> None:
    calls = easy_calls(40)
    for call in calls:
        call["messages"][0]["content"] += " \ud83d"
        call["messages"][1]["content"] += " \udc00"
        call.update(answer="yes \ud800", model="m \ud800", step="s \ud800")
    log, out = write_log(tmp_path / "l.jsonl", calls), tmp_path / "d.jsonl"
    more = ["--families", "lexical", "--decisions", str(out), "--json", str(tmp_path / "s.json")]
    for command in (["replay", str(log), *more], ["identify", str(log), "--out", str(tmp_path / "i.jsonl")]):
        done = subprocess.run(
            [sys.executable, "-m", "jitr_core.cli", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert {json.loads(line)["answer"] for line in out.read_text().splitlines()} == {"yes \ud800"}
    assert len(json.loads((tmp_path / "s.json").read_text())["tasks"]) == 1


def test_odd_calls_are_replayed_like_any_other(tmp_path: Path) -> None:
    user = {"role": "user", "content": "hi"}
    calls = [
        {"messages": [{"role": "user", "content": ""}], "answer": ""},
        {"messages": [{"role": "user", "content": "x" * 1_000_000}], "answer": "long"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}]}], "answer": "blocks"},
        {"messages": [user, {"role": "tool", "content": "no id"}], "answer": "tool role"},
        {"messages": [user], "answer": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"messages": [user], "answer": "n", "params": {"n": 3, "temperature": 0, "stop": ["x"]}, "usage": {}},
        {"messages": [user], "answer": "t", "tools": [{"type": "function", "function": {"name": "f"}}], "time": "now"},
    ]
    summary, decisions = replayed(write_log(tmp_path / "odd.jsonl", calls), tmp_path / "a")
    assert summary["replaced"] == 0 and summary["cost_usd"] is None
    assert any("no student can give" in note and note.endswith(": 2.") for note in summary["notes"])
    assert [d["answer"] for d in decisions] == [c["answer"] for c in calls]
    assert [d["id"] for d in decisions] == [str(i) for i in range(len(calls))]
