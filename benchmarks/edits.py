"""What happens when a deploy edits the prompt of a task that is served?

Streams through a whole engine (`JITR`: identification, routing, store, audits, searches): a task is found, learnt and
released on one wording, then all calls come in an edited one. Inputs and answers are those of real labelled logs (read
from `JITR_SHARED`) and of a small made-up log; the prompts around them are ours, in four layouts. To some edits the
teacher answers as before, to others (another set of answers, another format) it does not. Half of the streams repeat
inputs from before the edit, as apps with recurring questions do; the others never do.

Counted from the edit on, for each kind of edit: calls until it is known as a template of its own; answers that the
old release still gave until then (until the stream's end where it never was), how many of them were audited and how
many the teacher would not have given; calls until a release answers the edited prompt, and how often that one agrees.

Then streams without an edit are identified, real inputs in random orders and inputs that come in formulas, in
conversations and in bursts, each by a new process every 10,000 calls: is a template seen as edited?

    python benchmarks/edits.py [--seeds 1] [--calls 600] [--logs …] [--clean 20000] [--seed 0] [--json OUT]

Exit code 1 if a release answered a call of a wording that was known and that it was not certified on.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jitr_core import JITR, Answer, Call, Policy
from jitr_core.identify import Identifier, prompt_text
from jitr_core.identify.template import make_template

LOGS = ("smsspam", "subj", "trec", "agnews", "made-up")
BEFORE = 3_000  # calls in which a release must have come
STABLE = 150  # calls that are served before the edit
SERVED = 150  # calls of the new wording after it is served again, to judge the release
MESSAGE = "Message: "
Messages = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt template.

    Attributes:
        layout: where the input stands.
        instruction: the sentences of the instruction.
        between: what parts them.
        mark, after: constant text right before and after the input.
        variable: gives what varies beside the input, by the number of the call; put before `mark`.
    """

    layout: str
    instruction: tuple[str, ...]
    between: str = " "
    blank: str = "\n\n"
    mark: str = MESSAGE
    after: str = ""
    variable: Callable[[int], str] = lambda number: ""

    def messages(self, text: str, number: int) -> Messages:
        """The messages of a call."""
        said = self.between.join(self.instruction)
        shown = f"{self.variable(number)}{self.mark}{text}{self.after}"
        if self.layout == "system message":
            return ("system", said), ("user", shown)
        parts = (shown, said) if self.layout == "input first" else (said, shown)
        return (("user", self.blank.join(parts)),)


LAYOUTS = ("system message", "input last", "input inside", "input first")


def base(layout: str, labels: Sequence[str]) -> Prompt:
    """The wording before the edit."""
    said = ("You sort messages for a company.", f"Answer with one of: {', '.join(labels)}.", "Say nothing else.")
    mark = "" if layout in ("system message", "input first") else MESSAGE
    return Prompt(layout, said, mark=mark, after="\nAnswer:" if layout == "input inside" else "")


def _same(answer: str, number: int) -> str:
    return answer


@dataclass(frozen=True)
class Edit:
    """An edit, and what the teacher answers from then on: to its old answer and the number of the call."""

    change: Callable[[Prompt], Prompt]
    answers: Callable[[str, int], str] = _same


def _instruct(at: int, text: str, *, insert: bool = False) -> Callable[[Prompt], Prompt]:
    def change(p: Prompt) -> Prompt:
        said = p.instruction
        return replace(p, instruction=(*said[:at], text, *said[at + (not insert) :]))

    return change


def _example(p: Prompt) -> Prompt:
    shown = f"{p.mark or MESSAGE}See you there at eight!\nAnswer: {p.instruction[1].rstrip('.').split()[-1]}"
    if p.layout in ("system message", "input first"):
        return replace(p, instruction=(*p.instruction, f"For example:\n{shown}"))
    return replace(p, mark=f"{shown}\n\n{p.mark}")


EDITS = {
    "white space": Edit(lambda p: replace(p, between="\n", blank="\n")),
    "case and punctuation": Edit(_instruct(2, "SAY NOTHING ELSE!")),
    "one word of the instruction": Edit(_instruct(0, "You classify messages for a company.")),
    "instruction reworded": Edit(
        lambda p: replace(p, instruction=("Read the text a customer sent us.", f"Which fits best? {p.instruction[1]}"))
    ),
    "sentence added first": Edit(_instruct(0, "You are careful and never guess.", insert=True)),
    "sentence added to the instruction": Edit(_instruct(2, "Think about who wrote it.", insert=True)),
    "words before the input": Edit(lambda p: replace(p, mark=f"{p.mark}A customer wrote us the following: ")),
    "sentence after the input": Edit(lambda p: replace(p, after=f"\nThink about who wrote it.{p.after}")),
    "example added": Edit(_example),
    "variable in a sentence": Edit(
        lambda p: replace(p, variable=lambda i: f"This is message number {i} of today.\n")
    ),
    "variable at the input": Edit(lambda p: replace(p, mark=f"{p.mark}", variable=lambda i: f"[ticket {i * 37}] ")),
    "answer added": Edit(
        lambda p: replace(p, instruction=(p.instruction[0], p.instruction[1][:-1] + ", unclear.", p.instruction[2])),
        lambda answer, i: "unclear" if i % 5 == 0 else answer,
    ),
    "other answers": Edit(
        lambda p: replace(p, instruction=(p.instruction[0], "Answer with the code of its queue.", p.instruction[2])),
        lambda answer, i: f"Q{sum(map(ord, answer)) % 97}",
    ),
    "other format": Edit(
        _instruct(2, 'Answer as JSON: {"answer": …}.'), lambda answer, i: json.dumps({"answer": answer})
    ),
    "other format, asked after the input": Edit(
        lambda p: replace(p, after=f"{p.after}\nAnswer in capital letters."), lambda answer, i: answer.upper()
    ),
    "other answers, asked before the input": Edit(
        lambda p: replace(p, mark=f"{p.mark}(if you are not sure, say unclear) "),
        lambda answer, i: "unclear" if i % 5 == 0 else answer,
    ),
}  # fmt: skip


@dataclass
class Outcome:
    """What became of a stream, in calls since the edit."""

    log: str
    layout: str
    edit: str
    recurring: bool
    old: int = 0
    audited: int = 0
    wrong: int = 0
    barred: int = 0
    known: int | None = None
    joined: bool = False
    served: int | None = None
    again: int = 0
    agreed: int = 0
    withdrawn: bool = False


def load(name: str, shared: Path) -> list[tuple[str, str]]:
    """(input, answer) of a log; empty where it is missing."""
    if name == "made-up":
        return list(made_up(4_000))
    path = shared / "data" / "labelled" / f"{name}.jsonl.gz"
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(row["text"].strip(), str(row["label"])) for row in rows]


def made_up(count: int) -> Iterator[tuple[str, str]]:
    """Messages of customers whose queue follows from a word."""
    rng = random.Random(0)
    filler = (
        "please today again my the it still thanks hello really urgent yesterday friend morning phone works".split()
    )
    queues = {"billing": ("invoice", "refund", "charge"), "delivery": ("parcel", "courier"), "other": ("job", "press")}
    for _ in range(count):
        queue = rng.choice(sorted(queues))
        words = [*rng.choices(filler, k=rng.randint(5, 14)), rng.choice(queues[queue]), f"no{rng.randint(0, 9999)}"]
        rng.shuffle(words)
        yield " ".join(words), queue


@dataclass
class App:
    """An app with an engine: makes calls and notes what came of them."""

    state: Path
    seed: int
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.jitr = JITR(
            f"sqlite:///{self.state / 'jitr.db'}",
            policy=Policy(families=("lexical",)),
            training="inline",
            seed=self.seed,
            listener=self.events.append,
        )

    def call(self, number: int, messages: Messages, answer: str) -> Any:
        """One call; its decision."""
        call = Call(f"c{number}", messages, model="teacher")
        decision = self.jitr.decide(call)
        self.jitr.observe(call, decision, None if decision.kind == "replacement" else Answer(answer, "teacher"))
        if decision.kind == "replacement" and decision.audit:
            self.jitr.audit(call, decision, lambda: Answer(answer, "teacher"))
        return decision

    def release(self) -> Any:
        """The release in service, None if there is none."""
        store = self.jitr.open_store()
        found = [store.active_release(task.id) for task in store.tasks()]
        return next((each for each in found if each is not None), None)


def prepare(state: Path, rows: list[tuple[str, str]], prompt: Prompt, seed: int) -> int | None:
    """Serve a task on its first wording; the calls it took, None where nothing was certified."""
    app = App(state, seed)
    try:
        last = BEFORE
        for i, (text, answer) in enumerate(rows[: BEFORE + STABLE + 1]):
            if i > last:
                return i if app.release() is not None else None
            app.call(i, prompt.messages(text, i), answer)
            if i % 25 == 24:
                app.jitr.flush()
                if last == BEFORE and app.release() is not None:
                    last = i + STABLE
        return None
    finally:
        app.jitr.close()


def stream(
    state: Path,
    rows: list[tuple[str, str]],
    start: int,
    prompt: Prompt,
    edit: Edit,
    out: Outcome,
    calls: int,
    seed: int,
) -> None:
    """Serve the edited prompt."""
    app = App(state, seed)
    app.jitr.refresh()
    release, store, rng = app.release(), app.jitr.open_store(), random.Random(seed)
    known = {template.id for template in store.templates()}
    first_task = release.task
    edited = edit.change(prompt)
    try:
        for i in range(calls + SERVED):
            repeats = out.recurring and rng.random() < 0.7
            text, old = rows[rng.randrange(start) if repeats else start + i]
            answer = edit.answers(old, rng.randrange(10**6))
            decision = app.call(start + i, edited.messages(text, i), answer)
            match = decision.match
            new = match is not None and match.template not in known
            if new and out.known is None:
                out.known = i
            if decision.kind == "replacement":
                if decision.release == release.id:
                    out.old += 1
                    out.audited += decision.audit
                    out.wrong += decision.answer != answer
                    out.barred += new
                else:
                    out.served = i if out.served is None else out.served
                    out.again += 1
                    out.agreed += decision.answer == answer
            if out.served is None and i >= calls or out.served is not None and i >= out.served + SERVED:
                break
        app.jitr.flush()
        out.withdrawn = any(event["kind"] == "rollback" for event in app.events)
        templates = {template.id: template.task for template in store.templates() if template.id not in known}
        out.joined = first_task in templates.values()
    finally:
        app.jitr.close()


def run(options: argparse.Namespace, shared: Path, work: Path) -> Iterator[Outcome]:
    """All streams."""
    for name in options.logs:
        rows = load(name, shared)
        labels = sorted({answer for _, answer in rows})
        for seed in range(options.seeds if rows else 0):
            rows = [rows[i] for i in np.random.default_rng([options.seed, seed]).permutation(len(rows))]
            for place, layout in enumerate(options.layouts):
                prompt, ready = base(layout, labels), work / "ready"
                ready.mkdir()
                start = prepare(ready, rows, prompt, seed)
                for number, kind in enumerate(options.edits if start is not None else ()):
                    state = Path(shutil.copytree(ready, work / "stream"))
                    out = Outcome(name, layout, kind, recurring=bool((seed + place + number) % 2))
                    stream(state, rows, start, prompt, EDITS[kind], out, options.calls, seed)
                    shutil.rmtree(state)
                    print(out, file=sys.stderr, flush=True)
                    yield out
                if start is None:
                    print(f"{name}, {layout}, seed {seed}: nothing certified", file=sys.stderr, flush=True)
                shutil.rmtree(ready)


def formulas(rows: list[tuple[str, str]], rng: random.Random, share: float) -> Iterator[str]:
    """Inputs of which a share begins and another share ends with one of a few formulas."""
    begins = "Dear Sir or Madam,\n", "Hello, I have a question about ", "I would like to know "
    ends = "\nSent from my telephone", "\nKind regards from all of us", " Thank you for your help!"
    while True:
        begin = rng.choice(begins) if rng.random() < share else ""
        yield begin + rng.choice(rows)[0] + (rng.choice(ends) if rng.random() < share else "")


def conversations(rows: list[tuple[str, str]], rng: random.Random) -> Iterator[str]:
    """Conversations, each input the turns so far."""
    while True:
        said = ""
        for _ in range(rng.randint(1, 12)):
            said += f"User: {rng.choice(rows)[0]}\n"
            yield said
            said += f"Assistant: {rng.choice(rows)[0]}\n"


def bursts(rows: list[tuple[str, str]], rng: random.Random) -> Iterator[str]:
    """Texts of which several questions each are asked, one after another."""
    while True:
        text = " ".join(rng.choice(rows)[0] for _ in range(5))
        for _ in range(rng.randint(1, 20)):
            yield f"{text}\n{rng.choice(rows)[0]}"


def clean(count: int, logs: Sequence[str], shared: Path, seed: int) -> Iterator[tuple[str, int, int]]:
    """(kind of stream, calls, templates seen as edited) of streams in which no prompt is."""
    literals = prompt_text([("system", "You sort messages for a company."), ("user", "")]), ""
    for name in logs:
        rows, rng = load(name, shared), random.Random(seed)
        kinds = {
            "as they are": (rng.choice(rows)[0] for _ in itertools.count()),
            "formulas in 0.2": formulas(rows, rng, 0.2),
            "formulas in 0.8": formulas(rows, rng, 0.8),
            "conversations": conversations(rows, rng),
            "bursts": bursts(rows, rng),
        }
        for kind, inputs in kinds.items() if rows else ():
            parted = 0
            for number, text in enumerate(itertools.islice(inputs, count)):
                if number % 10_000 == 0:
                    template = make_template(("", "", "", ""), literals)
                    identifier = Identifier([template])
                match = identifier.match(
                    Call("c", (("system", "You sort messages for a company."), ("user", text)), app="")
                )
                parted += len(identifier.note_call(match).created) if match is not None else 0
            yield f"{name}, {kind}", count, parted


def _line(*cells: Any) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


def _two(values: Sequence[float]) -> str:
    return "{:,.0f}, {:,.0f}".format(*np.quantile(values, (0.5, 0.95), method="higher")) if values else "–"


def table(found: Sequence[Outcome], kinds: Sequence[str]) -> None:
    """Prints the figures by kind of edit, and of all."""
    _line(
        "edit",
        "streams",
        "known",
        "after calls",
        "old answers",
        "audited",
        "wrong",
        "served again",
        "after calls",
        "agreement",
    )
    _line(*["---"] * 10)
    for kind in (*kinds, "all"):
        mine = [each for each in found if kind in (each.edit, "all")]
        again = sum(each.again for each in mine)
        _line(
            kind,
            len(mine),
            sum(each.known is not None for each in mine),
            _two([each.known + 1 for each in mine if each.known is not None]),
            *(_two([getattr(each, field) for each in mine]) for field in ("old", "audited", "wrong")),
            sum(each.served is not None for each in mine),
            _two([each.served + 1 for each in mine if each.served is not None]),
            f"{sum(each.agreed for each in mine) / again:.3f}" if again else "–",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="orders of each log")
    parser.add_argument("--calls", type=int, default=600, help="calls after the edit until a stream is given up")
    parser.add_argument("--logs", nargs="*", default=LOGS)
    parser.add_argument("--layouts", nargs="*", default=LAYOUTS, choices=LAYOUTS)
    parser.add_argument("--edits", nargs="*", default=list(EDITS), choices=EDITS)
    parser.add_argument("--clean", type=int, default=20_000, help="calls of each stream without an edit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    began = time.perf_counter()
    shared = Path(os.environ.get("JITR_SHARED", Path(__file__).parents[2] / "shared"))
    with tempfile.TemporaryDirectory() as folder:
        found = list(run(options, shared, Path(folder)))
    table(found, options.edits)
    barred = sum(each.barred for each in found)
    print(f"{len(found)} streams in {time.perf_counter() - began:.0f} s; answers to a wording not certified: {barred}")
    if options.json:
        options.json.write_text(json.dumps([vars(each) for each in found], indent=1))
    if options.clean:
        total: Counter[str] = Counter()
        for kind, calls, parted in clean(options.clean, options.logs, shared, options.seed):
            total.update(calls=calls, parted=parted)
            if parted:
                print(f"no edit, {kind}: {parted} in {calls:,} calls", flush=True)
        print(f"no edit: {total['parted']} templates seen as edited in {total['calls']:,} calls")
    return int(barred > 0)


if __name__ == "__main__":
    sys.exit(main())
