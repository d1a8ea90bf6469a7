"""Several real processes and one store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jitr_core.store import Store
from jitr_core.types import Task, Template

ROOT = Path(__file__).parents[1]

PRELUDE = """
import sys, time
from jitr_core.store import Store
from jitr_core.types import Answer, Call, Decision, Match, Observation

def batch(prefix, start, size=32):
    return [Observation(Call(f"{prefix}{n}", ()), Decision("teacher", "no_release", Match("t", "T", (f"{prefix}{n}",))),
                        Answer("yes")) for n in range(start, start + size)]

def go():
    print("ready", flush=True)
    sys.stdin.readline()

url, name = sys.argv[1:]
"""


def start(url: str, name: str, body: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", PRELUDE + body, url, name], text=True, cwd=ROOT, **pipes)


def together(url: str, body: str, names: str = "ab") -> list[str]:
    """Runs `body` in one process per name, all let go at the same moment; what they printed."""
    processes = [start(url, name, body) for name in names]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), ends
    return [out.strip() for out, _ in ends]


@pytest.fixture
def empty(tmp_path):
    return f"sqlite:///{tmp_path}/jitr.db"


@pytest.fixture
def url(empty):
    with Store(empty) as store:
        store.save_task(Task("t", "default", "", "a task"))
        store.save_templates([Template("T", "t", "default", "", "", "", ("Do ", ""))])
    return empty


def test_two_processes_that_write_and_read_then_write_lose_nothing(url):
    body = """
store = Store(url)
go()
for n in range(40):
    store.add_observations(batch(name, 32 * n))
    store.save_templates([])
    with store._database.write(notify=True) as connection:  # read, then write
        seen = connection.exec_driver_sql("SELECT value FROM counters WHERE name = 'sum'").scalar()
        connection.exec_driver_sql("UPDATE counters SET value = ? WHERE name = 'sum'", (seen + 1,))
store.close()
"""
    with Store(url) as store:
        with store._database.write() as connection:
            connection.exec_driver_sql("INSERT INTO counters VALUES ('sum', 0)")
        together(url, body)
        with store._database.read() as connection:
            assert connection.exec_driver_sql("SELECT value FROM counters WHERE name = 'sum'").scalar() == 80
        assert store.version() == 2 + 80
        assert store.label_count("t") == 2 * 40 * 32
        assert [e.seq for e in store.examples("t")] == list(range(2 * 40 * 32))
        assert store.verify() == []


def test_processes_that_open_a_new_store_together_all_succeed(empty):
    together(empty, "go()\nwith Store(url) as store: store.record('opened', None, {})\n", "abcd")
    with Store(empty) as store:
        assert len(store.ledger()) == 4
        assert store.verify() == []


def test_only_one_process_wins_the_race_for_a_lease(url):
    body = """
store = Store(url)
go()
print(sum(store.acquire(f"task {n}", name, 60) for n in range(100)))
store.close()
"""
    won = [int(out) for out in together(url, body)]
    assert sum(won) == 100


def test_a_writer_killed_in_mid_stream_loses_no_committed_batch(url):
    body = """
store = Store(url)
n = 0
while True:
    store.add_observations(batch(name, n))
    n += 32
    print(n, flush=True)
"""
    process = start(url, "a", body)
    done = [int(process.stdout.readline()) for _ in range(20)][-1]
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    done = max([done, *map(int, out.splitlines()[:-1])])  # the last line may be cut off
    with Store(url) as store:
        labels = store.label_count("t")
        assert labels >= done
        assert labels % 32 == 0, "a batch is stored as a whole or not at all"
        assert store.verify() == []
        store.add_observations([])
        assert store.acquire("train", "b", 60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_store_survives_a_fork(url):
    body = """
import os
store = Store(url)
store.record("parent", None, {})
child = os.fork()
if child == 0:
    store.record("child", None, {})
    os._exit(0)
os.waitpid(child, 0)
store.record("parent", None, {})
store.close()
"""
    process = start(url, "a", body)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    with Store(url) as store:
        assert [entry.kind for entry in store.ledger()] == ["parent", "child", "parent"]
        assert store.verify() == []


def test_another_process_sees_a_change_at_once(url):
    with Store(url) as store:
        before = store.version()
        body = "from jitr_core.types import Task\nwith Store(url) as s: s.save_task(Task('u', 'a', '', 'n'))\n"
        process = start(url, "a", body)
        process.communicate(timeout=60)
        assert store.version() == before + 1
        assert store.task("u") is not None


def test_threads_share_a_store(url):
    from concurrent.futures import ThreadPoolExecutor

    with Store(url) as store:
        begin = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: (store.record("note", None, {"n": n}), store.version()), range(100)))
        assert sorted(entry.details["n"] for entry in store.ledger()) == list(range(100))
        assert time.monotonic() - begin < 30
