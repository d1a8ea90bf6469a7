"""Records as rows and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row

from ..types import (
    Answer,
    Call,
    CandidateReport,
    Certificate,
    CurvePoint,
    Decision,
    Declaration,
    Example,
    Match,
    Observation,
    Outlook,
    Release,
    SearchReport,
    Slots,
    Task,
    Template,
)
from .database import Database

__all__ = [
    "answered",
    "call_of",
    "declaration_of",
    "dumps",
    "example_of",
    "observation_of",
    "observation_row",
    "placement",
    "release_of",
    "release_row",
    "report_of",
    "report_text",
    "slots_of",
    "storable",
    "task_of",
    "template_of",
    "template_row",
]

"""Reasons for which a release passed a call on, having looked at it."""


def dumps(value: Any) -> str:
    """JSON in one line, letters as they are; numbers of numpy count as numbers."""
    return storable(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain))


def _plain(value: Any) -> Any:
    if not hasattr(value, "item"):
        raise TypeError(f"{type(value).__name__} cannot be stored as JSON")
    return value.item()


def storable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, replaced by "?"."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def placement(match: Match, content_hash: Callable[[Slots], str]) -> dict[str, Any]:
    """The columns that say which task a call belongs to, and its input."""
    slots = tuple(map(storable, match.slots))
    return {
        "task": match.task,
        "template": match.template,
        "slots": dumps(slots),
        "input_hash": content_hash(slots),
        "prompt": None,
    }


_UNPLACED: dict[str, Any] = {"task": None, "template": None, "slots": None, "input_hash": None}


def observation_row(
    observation: Observation, content_hash: Callable[[Slots], str], literal_chars: Callable[[str], int]
) -> dict[str, Any]:
    """The row of one observation.

    Args:
        observation: the record.
        content_hash: hash of the normalised input.
        literal_chars: length of a template's constant text, by the template's id.
    """
    call, decision, answer = observation.call, observation.decision, observation.answer
    match = decision.match
    if match is not None:
        place = placement(match, content_hash)
        input_chars = literal_chars(match.template) + sum(map(len, match.slots))
    else:
        place = {**_UNPLACED, "prompt": dumps(call.messages)}
        input_chars = sum(len(text) for _, text in call.messages)
    replacement = None if decision.answer is None else storable(decision.answer)
    return {
        "id": storable(call.id),
        "app": storable(call.app),
        "tenant": storable(call.tenant),
        "step": storable(call.step),
        "contract": call.contract,
        "model": storable(call.model),
        "time": call.time,
        "replaceable": call.replaceable,
        **place,
        "kind": decision.kind,
        "reason": decision.reason,
        "release": decision.release,
        "confidence": None if decision.confidence is None else float(decision.confidence),
        "audit": bool(decision.audit),
        "audit_share": decision.audit_share,
        "replacement_answer": replacement,
        "input_chars": input_chars,
        "output_chars": len(replacement or ""),
        "kept": True,
        "pending": observation.pending,
        **(_UNASKED if answer is None else answered(answer, call.model, call.replaceable, kept=True)),
    }


_UNASKED: dict[str, Any] = {
    "asked": False,
    "labelled": False,
    **dict.fromkeys(("answer", "input_tokens", "output_tokens", "latency_s")),
}


def answered(answer: Answer, model: str, replaceable: bool, *, kept: bool) -> dict[str, Any]:
    """The columns that say what the teacher answered.

    Args:
        answer: the answer.
        model: name of the teacher as the call asked for it.
        replaceable: whether a student can honour the call; what none can is nothing to learn from either.
        kept: whether the texts of the call are still there.
    """
    text = storable(answer.text)
    return {
        "model": storable(answer.model or model),
        "asked": True,
        "labelled": kept and replaceable,
        "answer": text if kept else None,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "output_chars": len(text),
        "latency_s": answer.latency_s,
    }


def call_of(row: Row[Any]) -> Call:
    """The request of an observation's row; without messages where they can be rebuilt or have expired."""
    messages = tuple((role, text) for role, text in json.loads(row.prompt)) if row.prompt is not None else ()
    return Call(row.id, messages, row.app, row.tenant, row.step, row.contract, row.model, row.time, row.replaceable)


def observation_of(row: Row[Any]) -> Observation:
    """The observation of a row; its input is empty where it has expired."""
    match = None
    if row.task is not None:
        match = Match(row.task, row.template, tuple(json.loads(row.slots)) if row.slots is not None else ())
    decision = Decision(
        row.kind,
        row.reason,
        match,
        row.release,
        row.replacement_answer,
        row.confidence,
        row.audit,
        row.audit_share,
    )
    answer = None
    if row.asked:
        answer = Answer(row.answer or "", row.model, row.input_tokens, row.output_tokens, row.latency_s)
    return Observation(call_of(row), decision, answer, row.pending)


def example_of(row: Row[Any]) -> Example:
    """The example of a labelled call's row.

    A label counts as sampled where no release had a say, or where the coin of the call says so; the coin does not
    depend on the input. What a release handed over was labelled whatever the coin said, and what fell back is no
    fair sample: the input may be why. Calls of a template that the release does not answer are all labelled: there it
    gave no confidence.
    """
    unasked = row.release is None or (row.reason == "deferral" and row.confidence is None)
    return Example(
        slots=tuple(json.loads(row.slots)),
        answer=row.answer,
        group=row.input_hash,
        seq=row.seq,
        sampled=row.reason != "fallback" and (unasked or row.audit),
        template=row.template or "",
    )


def task_of(row: Row[Any]) -> Task:
    """The task of a row."""
    said = (row.decided, row.ignored, row.regroupings, row.input_type, row.task_type)
    return Task(row.id, row.app, row.tenant, row.name, row.state, row.reason, *said)


def declaration_of(row: Row[Any]) -> Declaration:
    """The declaration of a row."""
    return Declaration(row.task, row.app, row.tenant, row.step, tuple(json.loads(row.literals)))


def template_row(template: Template) -> dict[str, Any]:
    """The row of a template."""
    row = {name: storable(value) for name, value in asdict(template).items() if name != "literals"}
    return {**row, "literals": dumps(template.literals)}


def template_of(row: Row[Any]) -> Template:
    """The template of a row."""
    literals = tuple(json.loads(row.literals))
    return Template(row.id, row.task, row.app, row.tenant, row.step, row.contract, literals)


def release_row(release: Release, database: Database) -> dict[str, Any]:
    """The row of a release, without its state."""
    row = {**asdict(release), "path": database.stored_path(release.path)}
    row["certificate"], row["templates"] = dumps(row["certificate"]), dumps(row["templates"])
    return row


def release_of(row: Row[Any], database: Database) -> Release:
    """The release of a row."""
    certificate, path = Certificate(**json.loads(row.certificate)), database.found_path(row.path)
    fixed = (row.id, row.task, row.family, row.base_model, path, row.size_bytes, certificate, row.created)
    return Release(*fixed, templates=tuple(json.loads(row.templates)))


def report_text(report: SearchReport) -> str:
    """A search report as JSON."""
    return dumps(asdict(report))


def report_of(text: str) -> SearchReport:
    """A search report from JSON."""
    values = json.loads(text)
    values["candidates"] = [CandidateReport(**candidate) for candidate in values["candidates"]]
    if values["certificate"] is not None:
        values["certificate"] = Certificate(**values["certificate"])
    if values.get("outlook") is not None:
        points = [CurvePoint(each["inputs"], tuple(each["errors"])) for each in values["outlook"]["curve"]]
        values["outlook"] = Outlook(**{**values["outlook"], "curve": tuple(points)})
    return SearchReport(**values)


def slots_of(texts: Sequence[str]) -> list[Slots]:
    """Inputs from their JSON."""
    return [tuple(json.loads(text)) for text in texts]
