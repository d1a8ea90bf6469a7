"""What is promised of the answers a replacement gives, in one line of text.

A promise is written `answered`, `overall`, `classes`, `classes:fraud,abuse`, or `cost:{"fraud": {"*": 20}}`; see
`docs/certificate.md`. All of them are about the task's calls as they come, and about agreement with the teacher.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .equivalence import canonical
from .errors import ConfigError
from .types import Certificate

__all__ = [
    "ANSWERED",
    "NEVER",
    "PROMISES",
    "Promise",
    "at_least",
    "certified",
    "fulfils",
    "least_confidence",
    "promise",
    "promised",
    "where",
]

ANSWERED = "answered"
"""The promise that counts unless another is chosen: of the calls it answers, at least `target` agree."""

PROMISES = """answered, overall, classes, classes:LABEL,… or cost:{"teacher's": {"given": cost}}"""
"""The ways to write a promise."""

NEVER = 2.0
"""A threshold that no confidence reaches."""

_ANY = "*"
_SHOWN = 4  # answers named in words
_SEEN = 5e-4  # threshold below which three decimals show nothing of it


@dataclass(frozen=True, slots=True)
class Promise:
    """A promise as it is understood.

    Attributes:
        kind: `answered`: of the calls it answers, at least `target` agree. `overall`: of all calls, deferred ones
            counted as right. `classes`: of the calls it gives one and the same answer to, whichever. `cost`: the
            expected cost of an answered call is at most 1 − target.
        critical: answers (canonical) that are looked at one by one, all others together; () looks at every answer.
        costs: what it costs to give one answer, the inner key, where the teacher gives another, the outer; `*` stands
            for all that are not named. 1 where nothing is said, 0 where the answers count as the same.
        dearest: the largest of these costs.
    """

    kind: Literal["answered", "overall", "classes", "cost"] = "answered"
    critical: tuple[str, ...] = ()
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    dearest: float = 1.0

    def cost(self, given: str, teacher: str) -> float:
        """What it costs to give an answer that does not count as the teacher's, ≥ 0."""
        for row in (canonical(teacher), _ANY) if self.costs else ():
            for column in (canonical(given), _ANY):
                if column in self.costs.get(row, {}):
                    return self.costs[row][column]
        return 1.0

    @property
    def named(self) -> tuple[str, ...]:
        """The answers (canonical) that it names, each once."""
        keys = [key for row, columns in self.costs.items() for key in (row, *columns) if key != _ANY]
        return tuple(dict.fromkeys((*self.critical, *keys)))

    def group(self, given: str) -> str:
        """Under `classes`: which answers this one is looked at together with, by a name of theirs."""
        answer = canonical(given)
        return answer if not self.critical or answer in self.critical else _ANY


@functools.lru_cache(maxsize=256)
def promise(text: str) -> Promise:
    """The promise that is written so.

    Raises:
        ConfigError: there is no such promise, or its costs are no numbers ≥ 0.

    Example:
        >>> promise("classes:fraud, abuse").critical
        ('fraud', 'abuse')
        >>> promise('cost:{"fraud": {"ok": 20}}').cost("ok", "fraud")
        20.0
    """
    kind, _, rest = text.partition(":")
    if text in (ANSWERED, "overall", "classes"):
        return Promise(text)  # type: ignore[arg-type]
    if kind == "classes" and rest.strip():
        named = _listed(rest)
        if named and all(named):
            return Promise("classes", tuple(dict.fromkeys(canonical(each) for each in named)))
    if kind == "cost":
        return _by_cost(text, rest)
    raise ConfigError(f"{text!r} is no promise.", hint=f"Write {PROMISES}.")


def _listed(text: str) -> list[str]:
    """Names separated by commas, or as a JSON list where a name has a comma in it."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, list):
        return [str(each) for each in found]
    return [each.strip() for each in text.split(",")]


def _by_cost(text: str, rest: str) -> Promise:
    wrong = ConfigError(
        f"{text!r} has no costs that can be read.",
        hint='Write cost:{"teacher\'s answer": {"given answer": 20}} with costs ≥ 0; "*" stands for all others.',
    )
    try:
        found = json.loads(rest)
        costs = {
            _key(row): {_key(column): float(cost) for column, cost in columns.items()} for row, columns in found.items()
        }
    except (ValueError, AttributeError, TypeError):
        raise wrong from None
    values = [cost for columns in costs.values() for cost in columns.values()]
    if not values or not all(0 <= cost < math.inf for cost in values):
        raise wrong
    return Promise("cost", (), costs, max(1.0, *values))


def _key(answer: str) -> str:
    return answer if answer == _ANY else canonical(answer)


def fulfils(promised: str, wanted: str) -> bool:
    """Whether a release that keeps one promise keeps another: the same, or a weaker one, at the same target.

    Agreement of every answer by itself is agreement on answered calls, and that is agreement overall. Costs are
    compared one by one; agreement is a promise of cost where every difference costs 1.

    Example:
        >>> fulfils("classes", "answered"), fulfils("answered", "overall"), fulfils("overall", "answered")
        (True, True, False)
        >>> fulfils('cost:{"a": {"b": 5}}', "answered"), fulfils('cost:{"a": {"b": 0.5}}', "answered")
        (True, False)
    """
    one, other = promise(promised), promise(wanted)
    if one == other:
        return True
    if other.kind == "classes":
        if one.kind != "classes" or (one.critical and not other.critical):
            return False
        return not one.critical or set(other.critical) <= set(one.critical)
    if one.kind == "overall":
        return False
    # What is left asks for agreement on answered calls at least: costs of 1 each, unless they are given.
    names = {_ANY}.union(*(side.costs for side in (one, other)))
    names |= {name for side in (one, other) for columns in side.costs.values() for name in columns}
    pairs = [(given, teacher) for given in names for teacher in names if given != teacher or given == _ANY]
    return all(one.cost(*pair) >= other.cost(*pair) for pair in pairs)


def promised(text: str, target: float | None = None) -> str:
    """A promise in words, with its target where one is given.

    Example:
        >>> promised("overall", 0.95)
        'agreement ≥ 0.95 on all calls, deferred ones counted as right'
        >>> promised("classes:fraud")
        'agreement on answered calls, fraud and all other answers each by itself'
    """
    found = promise(text)
    least = "" if target is None else f" ≥ {target:g}"
    if found.kind == "cost":
        named = "; ".join(
            f"{cost:g} for {given} instead of {teacher}"
            for teacher, columns in list(found.costs.items())[:_SHOWN]
            for given, cost in list(columns.items())[:_SHOWN]
        )
        most = "" if target is None else f" ≤ {1 - target:.3g}"
        return f"expected cost of an answered call{most} (1 for a differing answer; {named})"
    if found.kind == "overall":
        return f"agreement{least} on all calls, deferred ones counted as right"
    words = f"agreement{least} on answered calls"
    if found.kind == "answered":
        return words
    if found.critical:
        return f"{words}, {', '.join(found.critical)} and all other answers each by itself"
    return f"{words}, each answer by itself"


def certified(certificate: Certificate) -> str:
    """In words: what a release was certified on, and for, unless that is the usual promise.

    Example:
        >>> certified(Certificate(0.95, 0.01, 0.8, 0.5, 400, 9, 0.96, promise="overall"))
        'certified on 400 calls, 9 errors, for agreement ≥ 0.95 on all calls, deferred ones counted as right'
    """
    words = f"certified on {certificate.calls} calls, {certificate.errors} errors"
    if certificate.promise == ANSWERED:
        return words
    return f"{words}, for {promised(certificate.promise, certificate.target)}"


def least_confidence(certificate: Certificate, answer: str) -> float:
    """Confidence from which a release may give this answer; `NEVER` if it may not."""
    if not certificate.thresholds:
        return certificate.threshold
    return certificate.thresholds.get(canonical(answer), certificate.threshold)


def at_least(threshold: float) -> str:
    """A threshold in words; the loosest leaves out a confidence of 0 alone, as foreign inputs have it.

    Example:
        >>> at_least(0.95), at_least(5e-324)
        ('≥ 0.950', '> 0')
    """
    return f"≥ {threshold:.3f}" if threshold >= _SEEN else "> 0"


def where(certificate: Certificate) -> str:
    """In words: where a release answers.

    Example:
        >>> where(Certificate(0.95, 0.01, NEVER, 0.5, 100, 1, 0.96, thresholds={"ok": 0.5, "fraud": 0.9}))
        'confidence ≥ 0.900 for fraud, 0.500 for ok, never for other answers'
    """
    if not certificate.thresholds:
        return f"confidence {at_least(certificate.threshold)}"
    own = sorted(certificate.thresholds.items())
    shown = [f"{limit:.3f} for {answer}" if limit < NEVER else f"never for {answer}" for answer, limit in own[:_SHOWN]]
    if len(own) > _SHOWN:
        shown.append(f"one of its own for {len(own) - _SHOWN} more answers")
    rest = "never" if certificate.threshold >= NEVER else f"{certificate.threshold:.3f}"
    return f"confidence ≥ {', '.join([*shown, f'{rest} for other answers'])}"
