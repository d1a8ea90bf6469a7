"""What keeps personal data out of a state: which redaction the app runs, and what is stored all the same."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..identify import join_prompt, messages_of
from ..own import imported
from ..settings import Settings
from .check import Check
from .personal import KINDS, kinds

if TYPE_CHECKING:
    from ..store import LedgerEntry, Store
    from ..types import Observation, Template

__all__ = ["privacy"]

_DAY_S = 86_400.0
_SAMPLE, _CHARS = 2_000, 5_000_000  # latest calls that are looked at, and most characters of them: some seconds
_BY_THE_APP = ("system", "developer")  # roles whose texts are written by the app's makers


def privacy(store: Store, settings: Settings, ledger: list[LedgerEntry]) -> Iterator[Check]:
    """Look at how the app's engines redact, and for personal data in the latest calls.

    Args:
        store: the state.
        settings: what environment and files say.
        ledger: the state's.
    """
    named = settings.engine.get("redact", "")
    runs = _runs(ledger)
    if named:
        try:
            imported(named, "redaction")
        except ConfigError as error:
            found = f"{error.args[0]} An app that takes its settings runs without JITR"
            yield Check("redaction", "fail", found, error.hint)
    for app, redactions in sorted(runs.items()):
        yield _redaction(app, redactions, named)
    if calls := store.latest(None, _SAMPLE):
        yield _personal(calls, {template.id: template for template in store.templates()})


def _runs(ledger: list[LedgerEntry]) -> dict[str, set[str]]:
    """How the engines of each app redacted that began in the last day, or else the last one; "" is not at all."""
    found: dict[str, set[str]] = defaultdict(set)
    entries = [entry for entry in ledger if entry.kind == "engine"]
    last = {entry.details["app"]: entry for entry in entries}
    for entry in entries:
        app = entry.details["app"]
        if entry.time > time.time() - _DAY_S or entry is last[app]:
            found[app].add(entry.details["redaction"])
    return found


def _redaction(app: str, redactions: set[str], named: str) -> Check:
    if redactions == {""} and not named:
        return Check("redaction", "ok", f"app “{app}” has none: texts are stored as they are")
    if "" in redactions:
        some = "ran without one" if len(redactions) == 1 else "ran with one and without one in the last day"
        fix = "An engine made in code takes its arguments alone: `JITR(redact=…)`; restart what runs without it."
        return Check("redaction", "warn", f"app “{app}” {some}" + (f"; settings name {named}" if named else ""), fix)
    runs = ", ".join(sorted(redactions))
    if redactions == {named}:
        return Check("redaction", "ok", f"app “{app}” runs {runs}")
    fix = 'Name it in jitr.toml, `redact = "module:function"`, and it is tried.'
    return Check("redaction", "warn", f"app “{app}” runs {runs}, which the rehearsal cannot try", fix)


def _personal(calls: list[Observation], templates: Mapping[str, Template]) -> Check:
    """Never says what it found: only how often, and when it was stored."""
    found: Counter[str] = Counter()
    last, chars, number = 0.0, 0, 0
    for seen in reversed(calls):
        if chars > _CHARS:
            break
        texts = list(_texts(seen, templates))
        held = {kind for text in texts for kind in kinds(text)}
        found.update(held)
        last = max(last, seen.call.time if held else 0.0)
        number, chars = number + 1, chars + sum(map(len, texts))
    if not found:
        return Check("personal data", "ok", f"no {', '.join(KINDS[:-1])} or {KINDS[-1]} in the latest {number:,} calls")
    counts = ", ".join(f"{found[kind]:,} with a {kind}" for kind in KINDS if found[kind])
    when = f"the last {max(time.time() - last, 0) / 60:,.0f} minutes ago"
    fix = "Hide it by `redact`, or mend that; `jitr purge` deletes what is stored. If you want it there, all is well."
    return Check("personal data", "warn", f"of the latest {number:,} calls {counts}; {when}", fix)


def _texts(seen: Observation, templates: Mapping[str, Template]) -> Iterator[str]:
    """What a call's prompt says but for the app's own words, and the answers to it."""
    messages, match = list(seen.call.messages), seen.decision.match
    if match is not None and match.template in templates:
        # The prompt as it was: a mail address may be half slot, half template.
        messages = messages_of(join_prompt(templates[match.template].literals, match.slots))
    yield from (text for role, text in messages if role not in _BY_THE_APP)
    yield from (text for text in (seen.decision.answer, seen.answer and seen.answer.text) if text)
