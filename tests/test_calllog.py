"""Call logs as other tools write them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from jitr_core.calllog import read_calls
from jitr_core.errors import CallLogError

LINE = json.dumps({"messages": [{"role": "user", "content": "Grüß Gott"}], "answer": "yes"}, ensure_ascii=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", ["calls.jsonl", "calls.jsonl.gz"])
def test_a_log_is_read_with_and_without_a_byte_order_mark(tmp_path: Path, name: str, encoding: str) -> None:
    data = f"{LINE}\n\n{LINE}\n".encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    calls = list(read_calls([tmp_path / name]))
    assert [call.messages[0]["content"] for call in calls] == ["Grüß Gott"] * 2


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text(f"{LINE}\n{{\n", encoding="utf-8")
    with pytest.raises(CallLogError, match=r"calls\.jsonl.*2"):
        list(read_calls([tmp_path / "calls.jsonl"]))
