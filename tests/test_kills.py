"""Real processes killed while a release on probation moves on or is refused, or one is rolled back by hand."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from easy import easy_calls
from test_engine import POLICY, serve, trained, url
from test_outages import killed, later
from test_probation import turned

from jitr_core import JITR, manage
from jitr_core.store import Store
from jitr_core.types import SearchReport

TRIED = dataclasses.replace(
    POLICY, shadow_calls=40, canary_share=1.0, canary_calls=40, audit_share_start=1.0, audit_share_min=1.0
)
SERVING = """
from test_kills import TRIED
jitr = JITR(url_, policy=TRIED, training="off", seed=1)
jitr.refresh()
calls = {calls}
for start in range(0, len(calls), 16):
    serve(jitr, calls[start:start + 16], "first")
    jitr.flush()
    print(start + 16, flush=True)  # these are stored
"""
BACK = """
with Store(url_) as store:
    (task,) = store.tasks()
    manage.rollback(store, task)
"""
BEFORE, SECOND = 250, "r_second"  # calls before the process that is killed; the release that it moves


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a state with a task that a release serves."""
    folder = tmp_path_factory.mktemp("served")
    trained(folder, BEFORE).close()
    return folder


@pytest.fixture
def tried(served: Path, tmp_path: Path) -> str:
    """A state with a release that serves and a second one that is a shadow."""
    state = shutil.copytree(served, tmp_path / "state")
    with Store(url(state)) as store:
        (task,) = store.tasks()
        first = store.active_release(task.id)
        path = shutil.copytree(first.path, Path(first.path).parent / SECOND)
        second = dataclasses.replace(first, id=SECOND, path=str(path))
        assert store.conclude(SearchReport(task.id, 1), 0.001, second, first.id, path=("shadow", "canary", "active"))
    return url(state)


def told(store: Store) -> list[str]:
    """What the ledger says became of the second release, oldest first."""
    (task,) = store.tasks()
    entries = store.ledger(task.id)
    return [e.details["state"] for e in entries if e.kind in ("release", "activate") and e.details["release"] == SECOND]


def standing(store: Store) -> list[str | None]:
    """The states of the two releases; the first one is the active one as long as the second one is not."""
    (task,) = store.tasks()
    found = [store.release_state(each.id) for each in store.releases(task.id)]
    assert found.index("active") == [each.id for each in store.releases(task.id)].index(
        store.active_release(task.id).id
    )
    return found


def stored(printed: str) -> int:
    """How many calls the killed process knew to be stored."""
    return int(printed.split()[-1]) if printed else 0


def seen(store: Store, tag: str) -> int:
    """How many calls of a tag are stored, each once."""
    ids = [each.call.id for each in store.observations() if each.call.id.startswith(tag)]
    assert len(ids) == len(set(ids))
    return len(ids)


PATH = ["shadow", "canary", "active"]


@pytest.mark.parametrize(
    ("moment", "when", "reached"),
    [
        ('dies(releases.Releases, "advance")', "before", 1),  # compared often enough, not moved on yet
        ('dies(releases.Releases, "_tell")', "after", 1),  # at the end of the transaction
        ('dies(releases.Releases, "advance")', "after", 2),  # just after it
        ('dies(releases.Releases, "_set_state", 2)', "after", 2),  # in the middle of it: two are active
        ('dies(releases.Releases, "_point")', "after", 2),
        ('dies(releases.Releases, "advance", 2)', "after", 3),
    ],
)
def test_a_kill_while_a_release_moves_on_leaves_it_in_one_state_and_it_goes_on(
    tried: str, moment: str, when: str, reached: int
) -> None:
    made = stored(killed(tried, moment, SERVING.format(calls="easy_calls(400, seed=3)"), when))
    with later(tried) as store:
        assert told(store) == PATH[:reached] and not store.verify()
        assert standing(store) == (["retired", "active"] if reached == 3 else ["active", PATH[reached - 1]])
        assert made <= seen(store, "first") <= made + 16, "what was stored is not lost"
    jitr = JITR(tried, policy=TRIED, training="off", seed=1)
    jitr.refresh()
    reasons: list[str] = []
    for start in range(0, 240, 16):
        reasons += serve(jitr, easy_calls(240, seed=5)[start : start + 16], "second")
        jitr.flush()
    store = jitr.open_store()
    assert told(store) == PATH, "no change is told twice, none is left out"
    assert standing(store) == ["retired", "active"] and seen(store, "second") == 240
    assert reasons.count("answered") > 120 and not store.verify() and not jitr.faults
    jitr.close()


@pytest.mark.parametrize(
    ("moment", "when", "refused"),
    [
        ('dies(releases.Releases, "withdraw")', "before", False),
        ('dies(releases.Releases, "_end_probation")', "after", False),  # refused, what it had learnt from not void
        ('dies(releases.Releases, "withdraw")', "after", True),
    ],
)
def test_a_kill_while_a_shadow_is_refused_is_made_up_for_at_the_next_start(
    tried: str, moment: str, when: str, refused: bool
) -> None:
    with Store(tried) as store:
        (task,) = store.tasks()
        assert manage.rollback(store, task) == "the teacher"  # else the first one is contradicted before
    made = stored(killed(tried, moment, SERVING.format(calls="turned(200)"), when))
    with later(tried) as store:
        assert told(store) == (["shadow", "withdrawn"] if refused else ["shadow"]) and not store.verify()
        assert store.release_state(SECOND) == told(store)[-1] and store.active_release(task.id) is None
        assert made <= seen(store, "first") <= made + 16
    jitr = JITR(tried, policy=dataclasses.replace(TRIED, shadow_calls=400), training="off", seed=1)
    jitr.refresh()
    assert set(serve(jitr, turned(32), "second")) <= {"shadow", "no_release"}
    jitr.flush()
    store = jitr.open_store()
    assert told(store) == ["shadow", "withdrawn"]
    assert len([e for e in store.ledger(task.id) if e.kind == "rollback"]) == 1 and seen(store, "second") == 32
    assert not store.verify() and not jitr.faults
    jitr.close()


@pytest.mark.parametrize(
    ("moment", "when", "back"),
    [
        ('dies(releases.Releases, "activate")', "before", False),
        ('dies(releases.Releases, "_set_state")', "after", False),  # the active one is retired, and still serves
        ('dies(releases.Releases, "_point")', "after", False),
        ('dies(releases.Releases, "activate")', "after", True),
    ],
)
def test_a_kill_of_a_rollback_by_hand_leaves_one_release_serving_the_running_app(
    tried: str, moment: str, when: str, back: bool
) -> None:
    with Store(tried) as store:
        (task,) = store.tasks()
        assert store.advance(task.id, SECOND, "shadow", "test") and store.advance(task.id, SECOND, "canary", "test")
    jitr = JITR(tried, policy=TRIED, training="off", seed=1)
    jitr.refresh()
    reasons = serve(jitr, easy_calls(40, seed=3), "before")
    killed(tried, moment, BACK, when)
    jitr.refresh()
    reasons += serve(jitr, easy_calls(40, seed=4), "after")
    jitr.flush()
    store = jitr.open_store()
    told_back = [e for e in store.ledger(task.id) if e.details.get("reason") == "rolled back by hand"]
    assert len(told_back) == back and standing(store) == (["active", "retired"] if back else ["retired", "active"])
    assert reasons.count("answered") > 50 and (seen(store, "before"), seen(store, "after")) == (40, 40)
    first = store.releases(task.id)[0].id
    assert manage.rollback(store, task) == ("the teacher" if back else f"release {first}")
    assert not store.verify() and not jitr.faults
    jitr.close()
