"""When two answers count as the same: exactly, or by a rule the user chooses for free text.

A rule is written `exact`, `normalised`, `chrf:0.6`, `rouge-l:0.7`, `embedding:0.9`, `number:0.5`, `number:5%`, or
`own:module:function`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .amounts import Tolerance
from .errors import ConfigError, MissingExtraError
from .layout import close
from .own import imported, member, name_of

__all__ = [
    "EXACT",
    "OWN",
    "RULES",
    "Equivalence",
    "bare_words",
    "canonical",
    "equivalence",
    "equivalent",
    "honours",
    "own_rule",
    "said",
    "storable",
    "tolerance_of",
]

_log = logging.getLogger("jitr")

EXACT = "exact"
"""The rule that counts unless another is chosen, and always for labels and fields that are no numbers."""

RULES = "exact, normalised, chrf:0.6, rouge-l:0.7, embedding:0.9, number:0.5 or number:5%"
"""Examples of all rules but the user's own."""

_MEASURES = {"chrf": "chrF", "rouge-l": "ROUGE-L", "embedding": "embedding similarity"}
_NUMBER = "number"
OWN = "own:"
"""Opens the name of a user's own function."""
_REMEMBERED = 100_000  # pairs a user's own function was asked about: about 15 MB
# Numbers with their signs and points, words, and any other sign that is not just punctuation between words.
_TOKEN = re.compile(r"[-−+]?\d+(?:[.,:/]\d+)*|\w+|[^\w\s.,;:!?…\"'`´“”„‚‘’«»‹›()\[\]{}<>–—‐‑·•。、「」『』・¿¡-]")


@dataclass(frozen=True, slots=True)
class Equivalence:
    """A rule at work.

    Attributes:
        rule: as it is written in settings.
        same: whether an answer, the first argument, counts as the teacher's, the second.
        tolerance: how far numbers may differ; None: the rule is not about numbers.
    """

    rule: str
    same: Callable[[str, str], bool]
    tolerance: Tolerance | None = None


def canonical(answer: str) -> str:
    """The form in which equivalent answers are equal strings: white space stripped, JSON with sorted keys.

    Example:
        >>> canonical(' Positive. ')
        'Positive.'
        >>> canonical('{"b": 1, "a": 2.0}')
        '{"a": 2.0, "b": 1}'
    """
    text = answer.strip()
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return text


def equivalent(one: str, other: str) -> bool:
    """Whether two answers are equal after stripping, or both JSON and equal with types.

    Example:
        >>> equivalent('{"a": 1}', '{ "a":1 }'), equivalent('{"a": 1}', '{"a": 1.0}')
        (True, False)
    """
    return one.strip() == other.strip() or canonical(one) == canonical(other)


def equivalence(rule: str, embed: Callable[[str], Any] | None = None) -> Equivalence:
    """The rule of this name.

    Args:
        rule: see the module; a bound is in (0, 1], of numbers > 0: a difference, or with a sign of per cent a share.
        embed: a text's embedding, a vector of length 1 or 0; None checks the wording of the rule only.

    Raises:
        ConfigError: there is no such rule, its bound is out of range, or its function cannot be imported.
        MissingExtraError: `chrf` and `rouge-l` need the extra `text`.

    Example:
        >>> equivalence("normalised").same("It is RED!", "it is red")
        True
        >>> equivalence("normalised").same("1.5 m", "15 m")
        False
    """
    if rule.startswith(OWN):
        return Equivalence(rule, _own_function(rule))
    name, bound = _read(rule)
    if name == EXACT:
        return Equivalence(rule, equivalent)
    if tolerance := tolerance_of(rule):
        return Equivalence(rule, lambda one, other: equivalent(one, other) or close(one, other, tolerance), tolerance)
    if name == "normalised":
        return Equivalence(rule, lambda one, other: equivalent(one, other) or bare_words(one) == bare_words(other))
    likeness = {"chrf": _chrf, "rouge-l": _rouge_l}.get(name) or functools.partial(_cosine, embed)
    if name != "embedding":
        likeness("a", "a")  # says now whether the library is there
    return Equivalence(rule, lambda one, other: equivalent(one, other) or likeness(one, other) >= bound)


def tolerance_of(rule: str) -> Tolerance | None:
    """How far numbers may differ by a rule; None if it is not about numbers.

    Example:
        >>> tolerance_of("number:5%"), tolerance_of("exact")
        (Tolerance(bound=0.05, relative=True), None)
    """
    name, _, text = rule.partition(":")
    return Tolerance.of(text) if name == _NUMBER else None


def said(rule: str) -> str:
    """A rule in words.

    Example:
        >>> said("chrf:0.6"), said("own:shop.rules:alike"), said("exact"), said("number:5%")
        ('chrF ≥ 0.6', 'own function shop.rules:alike', 'exact', 'numbers within 5%')
    """
    name, _, bound = rule.partition(":")
    if name == _NUMBER:
        return f"numbers within {bound}"
    if rule.startswith(OWN):
        return f"own function {bound}"
    return f"{_MEASURES[name]} ≥ {bound}" if name in _MEASURES else name


def honours(promised: str, wanted: str) -> bool:
    """Whether a promise of agreement by one rule is one by another: by the same, or by a stricter one.

    Example:
        >>> honours("exact", "chrf:0.5"), honours("chrf:0.7", "chrf:0.5"), honours("chrf:0.5", "exact")
        (True, True, False)
        >>> honours("number:2%", "number:5%"), honours("number:2%", "number:0.5")
        (True, False)
    """
    if promised in (EXACT, wanted):
        return True
    if promised.startswith(OWN) or wanted.startswith(OWN):
        return False
    (name, bound), (other, least) = _read(promised), _read(wanted)
    return name == other and (bound <= least if name.startswith(_NUMBER) else bound >= least)


def storable(rule: str) -> str:
    """The rule, if a state may name it: never a function, as that would have data say which code is run.

    Raises:
        ConfigError: there is no such rule, or it is a function.
    """
    if rule.startswith(OWN):
        raise ConfigError("a function is named in code or settings only.", hint="Write JITR(equivalence=…).")
    return equivalence(rule).rule


def own_rule(function: Callable[[str, str], bool], *, elsewhere: bool) -> str:
    """The rule of a function of the user's.

    Args:
        function: gets a replacement's answer and the teacher's.
        elsewhere: whether another process must find it too.

    Raises:
        ConfigError: another process could not import it.
    """
    rule = OWN + name_of(function)
    if elsewhere:
        module, _, name = name_of(function).partition(":")
        found = None if module == "__main__" else member(sys.modules.get(module), name)
        if found is not function:
            raise ConfigError(
                f"the equivalence {module}:{name} cannot be imported by the process that trains.",
                hint='Define it at the top of a module of its own, or use training="inline".',
            )
    if rule not in _OWN_FUNCTIONS or _OWN_FUNCTIONS[rule].function is not function:
        _OWN_FUNCTIONS[rule] = _Own(function)
    return rule


def _read(rule: str) -> tuple[str, float]:
    """Name and bound of a rule that is not the user's own; the name of a relative tolerance ends with a %."""
    name, _, text = rule.partition(":")
    if name in (EXACT, "normalised") and not text:
        return name, 1.0
    try:
        if name == _NUMBER:
            tolerance = Tolerance.of(text)
            return name + "%" * tolerance.relative, tolerance.bound
        bound = float(text)
    except ValueError:
        bound = 0.0
    if name not in _MEASURES or not 0 < bound <= 1:
        raise ConfigError(
            f"{rule!r} is no equivalence.",
            hint=f"Write {RULES} (bounds of likeness are in (0, 1]), or own:module:function.",
        )
    return name, bound


class _Own:
    """A user's function, asked once about a pair: all past audits are compared again and again, and it may be dear."""

    def __init__(self, function: Callable[[str, str], bool]) -> None:
        self.function = function
        self._said: dict[bytes, bool] = {}

    def __call__(self, one: str, other: str) -> bool:
        both = f"{len(one)}:{one}{other}".encode("utf-8", "surrogatepass")
        pair = hashlib.blake2b(both, digest_size=16).digest()
        said = self._said.get(pair)
        if said is None:
            said = _by_own(self.function, one, other)
            # Later pairs are left out: were the oldest forgotten, a walk through all of them would find none.
            if len(self._said) < _REMEMBERED:
                self._said[pair] = said
        return said


_OWN_FUNCTIONS: dict[str, _Own] = {}


def _own_function(rule: str) -> _Own:
    if rule not in _OWN_FUNCTIONS:
        _OWN_FUNCTIONS[rule] = _Own(imported(rule.removeprefix(OWN), "equivalence"))
    return _OWN_FUNCTIONS[rule]


def _by_own(function: Callable[[str, str], bool], one: str, other: str) -> bool:
    """What the user's function says; answers it fails on count as different."""
    try:
        return bool(function(one, other))
    except Exception:
        _log.exception("the user's own equivalence failed; the answers count as different")
        return False


def bare_words(text: str) -> list[str]:
    """What the rule `normalised` compares: words and numbers, without case and punctuation.

    Example:
        >>> bare_words("It is RED, -1.5!")
        ['it', 'is', 'red', '-1.5']
    """
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def _chrf(one: str, other: str) -> float:
    """Character n-gram F-score of an answer against the teacher's, in [0, 1] (Popović 2015; SacreBLEU's)."""
    return float(_chrf_metric().sentence_score(one, [other]).score) / 100


@functools.lru_cache(maxsize=1)
def _chrf_metric() -> Any:
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise MissingExtraError("text", "The equivalence chrf") from error
    return CHRF()


def _rouge_l(one: str, other: str) -> float:
    """F-score of the longest common subsequence of words, in [0, 1] (Lin 2004)."""
    try:
        from rapidfuzz.distance import LCSseq
    except ImportError as error:
        raise MissingExtraError("text", "The equivalence rouge-l") from error
    words, others = bare_words(one), bare_words(other)
    common = LCSseq.similarity(words, others)
    return 2 * common / (len(words) + len(others)) if common else 0.0


def _cosine(embed: Callable[[str], Any] | None, one: str, other: str) -> float:
    if embed is None:
        raise ConfigError("the equivalence embedding needs a static base model.", hint='pip install "jitr[offline]"')
    return float(embed(one) @ embed(other))
