"""Figures and events in words. An unknown figure says so and is never shown as 0."""

from __future__ import annotations

from typing import Any

from ..equivalence import EXACT, said
from ..promises import ANSWERED, promised, where
from ..types import CURVE_SHARES, CandidateReport, Certificate, Outlook, SearchReport

__all__ = [
    "agreement",
    "audited_line",
    "by_rule",
    "candidates",
    "event_line",
    "kwh",
    "outlook_line",
    "quoted",
    "search_outcome",
    "share",
    "size",
    "usd",
    "warning_text",
]


def share(value: float | None) -> str:
    """A fraction in [0, 1] for reading.

    Example:
        >>> share(0.364), share(0.0004), share(None)
        ('36%', '0.04%', '–')
    """
    if value is None:
        return "–"
    return f"{value:.2%}" if 0 < value < 0.01 else f"{value:.0%}"


def agreement(value: float | None, low: float | None = None) -> str:
    """An agreement in [0, 1] with its lower bound, e.g. `0.972 (≥ 0.964)`; `–` if nothing was replaced."""
    if value is None:
        return "–"
    return f"{value:.3f}" if low is None else f"{value:.3f} (≥ {low:.3f})"


def usd(value: float | None) -> str:
    """An amount in US dollars; `unknown price` if it is None.

    Example:
        >>> usd(12.5), usd(0.00312), usd(-0.2), usd(None)
        ('$12.50', '$0.0031', '-$0.20', 'unknown price')
    """
    if value is None:
        return "unknown price"
    sign, amount = "-" if value < 0 else "", abs(value)
    if 0 < amount < 1e-4:
        return f"{sign}${amount:.6f}"
    return f"{sign}${amount:,.2f}" if amount >= 0.1 else f"{sign}${amount:.2g}"


def kwh(value: float | None) -> str:
    """An amount of energy in kWh; `unknown` if it is None."""
    return "unknown" if value is None else f"{value:.3g} kWh"


def size(value: int) -> str:
    """A number of bytes, in the unit that suits it.

    Example:
        >>> size(812), size(340_000)
        ('812 B', '340.0 kB')
    """
    return f"{value} B" if value < 1000 else f"{value / 1e3:.1f} kB" if value < 1e6 else f"{value / 1e6:.1f} MB"


def quoted(name: str, limit: int = 60) -> str:
    """A task's name in quotation marks, cut to `limit` characters."""
    return f"“{name if len(name) <= limit else name[: limit - 1] + '…'}”"


def candidates(reports: list[CandidateReport] | list[dict[str, Any]], limit: int = 3) -> str:
    """The best candidates of a search with their scores, e.g. `stacked 0.71, lexical 0.64 and 4 others`.

    Example:
        >>> candidates([{"name": "static", "score": 0.0}, {"name": "lexical", "score": 0.64}])
        'lexical 0.64 and 1 other'
    """
    scores = {r["name"]: r["score"] for r in reports if isinstance(r, dict)}
    scores |= {r.name: r.score for r in reports if isinstance(r, CandidateReport)}
    ranked = sorted(((score, name) for name, score in scores.items() if score), key=lambda pair: -pair[0])
    if not ranked:
        return "none that would certify"
    best = ", ".join(f"{name} {score:.2f}" for score, name in ranked[:limit])
    others = len(scores) - len(ranked[:limit])
    return best + (f" and {others} other{'s' if others > 1 else ''}" if others else "")


def search_outcome(report: SearchReport) -> str:
    """What came of a search, in one sentence."""
    count = len(report.candidates)
    looked = f"{count} candidate{'s' if count != 1 else ''} in {report.seconds:.1f} s"
    if report.candidates:
        looked += f": {candidates(report.candidates)}"
    if report.certificate is not None and not report.refusal:
        return f"searched {looked}; chosen {report.chosen}; {_certified(report.certificate)}"
    if not report.candidates:
        return f"refused: {report.refusal}"
    return f"searched {looked}; not promoted: {report.refusal}"


def _certified(certificate: Certificate) -> str:
    return (
        f"certified: it answers where its {where(certificate)}, "
        f"{share(certificate.coverage)} of the calls; {_low(certificate)} "
        f"({certificate.errors} of {certificate.calls} differed{by_rule(certificate.equivalence)})"
    )


def _low(certificate: Certificate) -> str:
    if certificate.promise == ANSWERED:
        return f"agreement there ≥ {certificate.agreement_low:.3f}"
    return f"promised and shown: {promised(certificate.promise, certificate.agreement_low)}"


def audited_line(found: dict[str, Any] | None) -> str:
    """What audits say of all answers of a release, see `jitr_core.estimate.Estimate`; "" where they say nothing."""
    if found is None:
        return ""
    text = (
        f"{found['agreement']:.3f} of its {found['answered']:,} answers agree with the teacher, going by "
        f"{found['audits']:,} audits; with 95% confidence, at whatever time, {found['low']:.3f} to {found['high']:.3f}"
    )
    return f"{text} ({found['failed']:,} audits failed)" if found["failed"] else text


def by_rule(rule: str) -> str:
    """What to add where agreement is not meant exactly.

    Example:
        >>> by_rule("chrf:0.6"), by_rule("exact")
        (' by chrF ≥ 0.6', '')
    """
    return "" if rule == EXACT else f" by {said(rule)}"


def outlook_line(outlook: Outlook) -> str:
    """What more calls would bring, in one sentence: an estimate, by which nothing is decided."""
    half = CURVE_SHARES.index(0.5)
    parts = [f"{each.errors[-1]:.2f}/{each.errors[half]:.2f} at {each.inputs:,}" for each in outlook.curve]
    seen = f"errors of all and of the more confident half were {', '.join(parts)} inputs"
    if outlook.calls is None:
        return f"no replacement is in sight up to {outlook.horizon:,} calls; {seen}"
    return f"a replacement is likely at about {outlook.calls:,} calls, for {share(outlook.coverage)} of them; {seen}"


def warning_text(details: dict[str, Any]) -> str:
    """A warning of drift, for a reader: what changed, and what follows.

    Args:
        details: of the ledger's entry.
    """
    text = f"warning: {details['signal']} changed over the last {details['calls']:,} calls"
    if details.get("since"):
        parts = [f"{symbol or 'unknown'} {part:.0%}" for symbol, part in details["since"].items()]
        earlier = [f"{symbol or 'unknown'} {part:.0%}" for symbol, part in details["before"].items()]
        text += f" ({', '.join(parts)}; before {', '.join(earlier)})"
    return f"{text}; its answers are compared"


def event_line(event: dict[str, Any], names: dict[str, str]) -> str:
    """An event of the engine as one line; "" for one that says nothing to a reader.

    Args:
        event: `kind`, `at_call` (0-based index of the call being processed) and what belongs to the kind.
        names: names of tasks by id.
    """
    task = str(event.get("task", ""))
    name = quoted(names.get(task, task))
    kind = event["kind"]
    if kind == "task":
        text = f"task found: {quoted(event['name'])}"
    elif kind == "merged":
        text = f"{quoted(names.get(event['gone'], event['gone']))} is the same job as {name}: merged"
    elif kind == "search":
        text = f"{name} {search_outcome(event['report'])}"
    elif kind == "rollback":
        text = f"{name} {event['reason']}"
    elif kind == "warning":
        text = f"{name} {warning_text(event)}"
    elif kind == "hold":
        text = f"{name} {'is held' if event['held'] else 'is replaced again'}: {event['reason']}"
    elif kind == "fault":
        text = f"{name} fault ({event.get('where', '')}): {event.get('error', '')}"
    else:
        return ""
    return f"call {event.get('at_call', 0):,}: {text}"
