"""The records that flow through JITR, from a call to a decision. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Slots = tuple[str, ...]
"""The varying parts of one call's prompt, in order: the **input** a student sees."""

GIVEN = "@"
"""Opens the name of a step that the framework gave: a graph's node or the name of a run. All calls of a declared step
are one task; those of a given one are in one place of the app, and their templates say which do the same job."""

Reason = Literal["no_task", "no_release", "deferral", "ood", "fallback", "shadow", "canary", "audit_hold", "answered"]
"""Why a call was decided as it was; the values of `reason` in `jitr replay --decisions`."""

TaskState = Literal["observing", "shadow", "canary", "active", "paused", "refused"]


@dataclass(frozen=True, slots=True)
class Form:
    """The form in which a request wants its answer.

    Attributes:
        kind: `text`; `json`, its whole text is JSON; `tool`, a call of one tool, whose arguments are the answer;
            `other`, which no student can give.
        tool: name of that tool; "" otherwise.
        schema: what the JSON must be like: a JSON schema, or a Pydantic class; None: any JSON, of a tool any object.
    """

    kind: Literal["text", "json", "tool", "other"]
    tool: str = ""
    schema: Any = None


@dataclass(slots=True)
class Call:
    """One LLM request, as far as it is known before the answer.

    Attributes:
        id: unique id of the call.
        messages: (role, text) pairs in order.
        app: the application, so that several can share one state.
        tenant: a customer of the application; tasks never span tenants.
        step: name of the step, declared by the user, or given by the framework (see `GIVEN`); "" if unknown.
        contract: hash of tools, tool_choice, response_format, functions and stop; "" if none is set.
        model: the teacher's model name; "" if unknown.
        time: when the call was made, in seconds since the epoch.
        replaceable: False where a student cannot honour the request (n > 1, logprobs, tools …).
        observe_only: True: the teacher answers whatever a replacement would say, which is only compared.
        storable: False: nothing of the call is stored, learnt from or audited; it may be answered.
        form: the form of its answer; None for plain text. It is not stored: the contract tells forms apart.
    """

    id: str
    messages: tuple[tuple[str, str], ...]
    app: str = "default"
    tenant: str = ""
    step: str = ""
    contract: str = ""
    model: str = ""
    time: float = 0.0
    replaceable: bool = True
    observe_only: bool = False
    storable: bool = True
    form: Form | None = None


@dataclass(slots=True)
class Answer:
    """What a model answered, with what it cost as far as the provider told.

    Attributes:
        text: the answer as the app got it, white space included; of a call of a tool, its arguments as JSON.
        model: name of the model that answered; "" if unknown.
        input_tokens: tokens billed for the prompt; None if the provider did not say.
        output_tokens: tokens billed for the answer; None if the provider did not say.
        latency_s: wall time in seconds; None if unknown.
    """

    text: str
    model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A call recognised as an instance of a task's template."""

    task: str
    template: str
    slots: Slots


@dataclass(frozen=True, slots=True)
class Template:
    """The constant text of a recurring prompt: literals and slots alternate, starting and ending with a literal.

    The prompt is `literals[0] + slots[0] + literals[1] + … + literals[-1]`, an edge literal may be "". The prompt of
    several messages is their texts, each introduced by its role (see `jitr_core.identify.prompt_text`).

    Attributes:
        id: hash of everything below, so that two processes name the same template alike.
        task: id of the task it belongs to; templates of one task may differ in wording.
        app, tenant, step, contract: as in `Call`; a call matches only where all four are equal.
        literals: the constant parts; one more than there are slots.
    """

    id: str
    task: str
    app: str
    tenant: str
    step: str
    contract: str
    literals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """A recurring job of the app: the unit of replacement.

    Attributes:
        id: unique id; when tasks merge the older one survives.
        app, tenant: whose task it is.
        name: what to call it in reports: the step, or a few words of the template.
        state: see `TaskState`.
        reason: why it is in that state; "" if it goes without saying.
        decided: the user named, merged, split, declared or ignored it, pinned its replacement or said what counts for
            its answers; the miner leaves it as it is.
        ignored: the user wants nothing done about it; it is paused as long.
        regroupings: how often templates were moved to it or away from it.
        input_type, task_type: what the teacher says it is, "" as long as it was not asked.
    """

    id: str
    app: str
    tenant: str
    name: str
    state: TaskState = "observing"
    reason: str = ""
    decided: bool = False
    ignored: bool = False
    regroupings: int = 0
    input_type: str = ""
    task_type: str = ""


@dataclass(frozen=True, slots=True)
class Declaration:
    """A task the user knew before its first call: all calls of a step, or all that fit a template.

    Attributes:
        task: id of the task.
        app, tenant: whose calls.
        step: only calls of this step; "" if it may be any.
        literals: the template's constant parts as in `Template`; () takes every call of the step.
    """

    task: str
    app: str
    tenant: str
    step: str = ""
    literals: tuple[str, ...] = ()


@dataclass(slots=True)
class Decision:
    """Who answers a call, and why.

    Attributes:
        kind: "teacher" or "replacement".
        reason: see `Reason`.
        match: the task and input, None if the call belongs to no known task.
        release: id of the release that was asked, None if there was none.
        answer: the replacement's answer; with a teacher's decision what it would have said, None if it said nothing.
        confidence: the student's confidence in [0, 1]; None if no student was asked.
        audit: the random coin of this call: True for a share `audit_share` of the calls of a task with a release,
            whatever the input. An answered call with `audit` also goes to the teacher, afterwards.
        audit_share: the probability with which `audit` was drawn, in [0, 1]; 1 while there is no release.
    """

    kind: Literal["teacher", "replacement"]
    reason: Reason
    match: Match | None = None
    release: str | None = None
    answer: str | None = None
    confidence: float | None = None
    audit: bool = True
    audit_share: float = 1.0

    @property
    def task(self) -> str | None:
        """Id of the task, None if the call belongs to none."""
        return self.match.task if self.match else None


@dataclass(frozen=True, slots=True)
class Observation:
    """The stored record of one call.

    Attributes:
        call: the request; `messages` is empty once `match` rebuilds them.
        decision: who answered.
        answer: the **teacher's** answer; None where the teacher was not asked.
        pending: whether the teacher is still to be asked about an answered call: its audit has not come back.
    """

    call: Call
    decision: Decision
    answer: Answer | None
    pending: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled call of a task: what a student learns from or is measured on.

    Attributes:
        slots: the input.
        answer: the teacher's answer, as given.
        group: hash of the normalised input; examples of one group never part (see `jitr_core.collect`).
        sampled: True if the label was collected by that coin (always, where no release answers); False if it is
            there only because a replacement deferred.
        seq: position in the task's stream, counted from 0.
        template: id of the call's template.
    """

    slots: Slots
    answer: str
    group: str
    seq: int
    sampled: bool = True
    template: str = ""


@dataclass(slots=True)
class CandidateReport:
    """How one candidate fared in a search.

    Attributes:
        name: `family` or `family:base_model`.
        family: lexical, static, encoder, stacked or generator.
        base_model: name of the pretrained model, None for lexical.
        score: estimated coverage at the certificate, in [0, 1]; None if it was not evaluated to the end.
        agreement: cross-fitted agreement with the teacher without any threshold, in [0, 1].
        seconds: time spent on it.
        note: why it lost or was dropped; "" for the winner.
        cost_s: estimated core-seconds an answer takes, counted from tokens; None if it was not evaluated to the end.
    """

    name: str
    family: str
    base_model: str | None
    score: float | None = None
    agreement: float | None = None
    seconds: float = 0.0
    note: str = ""
    cost_s: float | None = None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """How the chosen candidate fared on a part of the inputs: a point of its learning curve.

    Attributes:
        inputs: how many different inputs it learnt from.
        errors: share of answers, in [0, 1], that differed from the teacher's, among the most confident shares
            `CURVE_SHARES` of the inputs.
    """

    inputs: int
    errors: tuple[float, ...]


CURVE_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the inputs, most confident first, at which a learning curve is kept."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the learning curve says of later searches. An estimate for readers: nothing is decided by it.

    Attributes:
        curve: what it was extrapolated from, smallest first.
        calls: calls of the task at which a search will likely release a replacement; None if none is in sight.
        coverage: share of the calls, in [0, 1], that it would answer; None likewise.
        horizon: calls up to which was looked.
    """

    curve: tuple[CurvePoint, ...]
    calls: int | None
    coverage: float | None
    horizon: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """The proof a release rests on: with probability ≥ 1 − delta, it keeps its promise.

    Attributes:
        target: promised agreement with the teacher, in (0, 1); of answered calls unless `promise` says otherwise.
        delta: error probability this attempt spent, in (0, 1).
        threshold: the student answers where its confidence is ≥ this.
        coverage: share of the calibration calls that it would answer, in [0, 1].
        calls: number of calibration calls that it would answer.
        errors: how many of those the student answered otherwise than the teacher.
        agreement_low: lower confidence bound, at level 1 − delta, of the agreement that is promised, ≤ 1: under
            `overall` that on all calls, under `classes` the least of any class, under `cost` 1 − expected cost.
        equivalence: rule by which answers counted as the teacher's, see `jitr_core.equivalence`.
        promise: what is promised, see `jitr_core.promises`.
        thresholds: answers (canonical) with a threshold of their own in place of `threshold`; one above 1 is never
            reached.
    """

    target: float
    delta: float
    threshold: float
    coverage: float
    calls: int
    errors: int
    agreement_low: float
    equivalence: str = "exact"
    promise: str = "answered"
    thresholds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class SearchReport:
    """One search for a task's replacement, and what came of it.

    Attributes:
        task: the task's id.
        at_label: number of labels the search had.
        candidates: every candidate looked at.
        chosen: name of the winner, None if there was none to choose.
        certificate: None if none was reached.
        refusal: why nothing was promoted; "" if it was.
        failed: whether it broke off by an error, and so says nothing of the task.
        seconds: time spent in all; 0 if nothing was searched.
        outlook: what more calls would bring; None where nothing was searched.
    """

    task: str
    at_label: int
    candidates: list[CandidateReport] = field(default_factory=list)
    chosen: str | None = None
    certificate: Certificate | None = None
    refusal: str = ""
    failed: bool = False
    seconds: float = 0.0
    outlook: Outlook | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """A packaged, certified replacement of one task.

    Attributes:
        id: unique id.
        task: the task it answers.
        family: see `CandidateReport.family`.
        base_model: name of the pretrained model, None for lexical.
        path: folder of its artifact.
        size_bytes: bytes on disk, shared base models not counted.
        certificate: what was proven before it was promoted.
        created: seconds since the epoch.
        templates: ids of the templates whose calls it was certified on; it answers no others.
    """

    id: str
    task: str
    family: str
    base_model: str | None
    path: str
    size_bytes: int
    certificate: Certificate
    created: float
    templates: tuple[str, ...] = ()
