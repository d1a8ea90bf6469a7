"""The outlook: what a learning curve says of later searches, in the units of the attempts that will be made."""

from __future__ import annotations

import numpy as np
from easy import easy_calls
from test_cli import run
from test_engine import POLICY, serve, url

from jitr_core import JITR, Policy
from jitr_core.certify import next_attempt
from jitr_core.outlook import look_ahead
from jitr_core.store import Store
from jitr_core.types import CURVE_SHARES, CurvePoint

POLICIES = Policy()


def point(inputs: int, rate: float, shape: float = 2.0) -> CurvePoint:
    """A student of this error rate, whose confidence is worth something."""
    return CurvePoint(inputs, tuple(rate * share**shape for share in CURVE_SHARES))


def test_a_student_that_learns_will_be_released_at_one_of_the_coming_attempts() -> None:
    curve = [point(100, 0.4, 1.0), point(200, 0.3, 1.0), point(400, 0.22, 1.0)]
    seen = look_ahead(curve, calls=400, attempts=2, policy=POLICIES)
    assert seen.calls in [next_attempt(k, POLICIES).calls for k in range(2, 12)]
    assert seen.coverage is not None and 0 < seen.coverage <= 1 and seen.curve == tuple(curve)


def test_better_students_are_released_sooner_and_answer_more() -> None:
    found = [look_ahead([point(400, rate, 1.0)], calls=400, attempts=2, policy=POLICIES) for rate in (0.02, 0.1, 0.25)]
    calls = [each.calls or 10**9 for each in found]
    assert calls == sorted(calls) and calls[0] < calls[-1]
    assert (found[0].coverage or 0) > 0.8


def test_a_student_that_does_not_learn_and_is_not_sure_of_anything_has_no_outlook() -> None:
    flat = [CurvePoint(n, (0.5,) * len(CURVE_SHARES)) for n in (250, 500, 1000)]
    seen = look_ahead(flat, calls=1000, attempts=3, policy=POLICIES)
    assert (seen.calls, seen.coverage) == (None, None) and seen.horizon == 20_000


def test_the_outlook_is_the_same_every_time() -> None:
    curve = [point(100, 0.3), point(200, 0.25)]
    assert look_ahead(curve, calls=200, attempts=1, policy=POLICIES) == look_ahead(
        curve, calls=200, attempts=1, policy=POLICIES
    )


def test_the_task_tells_whether_waiting_is_worth_it(tmp_path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="inline", seed=1)
    serve(jitr, easy_calls(250, noise=0.25))
    jitr.close()
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        (report,) = store.searches(task.id)
    assert report.outlook is not None and len(report.outlook.curve) >= 2
    assert np.all(np.diff([each.inputs for each in report.outlook.curve]) > 0)
    code, output = run("tasks", "show", task.id, "--url", url(tmp_path))
    assert code == 0 and "outlook" in output
    assert "no replacement is in sight" in output or "a replacement is likely at about" in output
