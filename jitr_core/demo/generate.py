"""Writes the demo's call log: three steps of a web shop's help desk, and one-off questions between them.

Everything in it is synthetic. Two steps have a short list of answers and can be learnt; one writes sentences and cannot
be replaced. In both of the first, a share `AMBIGUOUS` of the inputs speaks about two things at once: the teacher's
answer is a coin flip between the two. And a share `NOISE` of the answers is a slip, one of the other labels, each
equally likely: a teacher slips where it is hard, so an ambiguous input is `SLIPS_IF_AMBIGUOUS` times as likely to be
slipped on. The log is the same on every machine: `python -m jitr_core.demo.generate OUT.jsonl.gz` writes the one that
ships.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .grammar import Grammar, expand, load_grammar, pick, scramble

__all__ = ["NOISE", "SEED", "demo_calls", "write_demo_log"]

SEED = 7
NOISE = 0.03
"""Share, in [0, 1], of the answers of a step with labels that are slips."""
SLIPS_IF_AMBIGUOUS = 20
AMBIGUOUS = 0.07
"""Share, in [0, 1], of their inputs that speak about two things."""
MESSAGES = 1600
REVIEWS = 1400
REPLIES = 260
QUESTIONS = 360
MODEL = "gpt-4.1"

QUEUES = {"delivery": 27, "returns": 20, "payment": 16, "account": 12, "product": 13, "warranty": 12}
"""The help desk's queues, each with its share of the messages in hundredths."""

TRIAGE_PROMPT = """You sort the messages that customers send to Fernhill, an online shop for home and garden. \
Choose the queue that has to deal with the message:
delivery - where a parcel is, when and where it will be delivered
returns - sending something back, exchanges, cancelled orders
payment - charges, invoices, vouchers, means of payment
account - logging in, personal data, newsletter, loyalty points
product - questions about a product before or after buying it
warranty - broken or faulty products, repairs, spare parts
Reply with the name of the queue and nothing else."""

REVIEW_PROMPT = """A customer of Fernhill, an online shop for home and garden, wrote the review below. Decide whether \
it may be published on the page of the product. It may not if it speaks about the delivery or our service, insults \
anybody, advertises something, or gives personal data away. Praise and criticism of the product are both welcome. \
Answer yes or no.

Product: {product}
Review: {review}

Publish:"""

REPLY_PROMPT = """You write for the help desk of Fernhill, an online shop for home and garden. Answer the customer in \
one friendly sentence. Promise nothing but that we look into it."""


@dataclass(frozen=True, slots=True)
class _Written:
    """A text with the labels it may get: one, or two if it is ambiguous."""

    text: str
    labels: tuple[str, ...]
    product: str = ""


def demo_calls(seed: int = SEED) -> list[dict[str, Any]]:
    """The calls of the demo log, in stream order, as JSON-ready dicts.

    Besides what an app would record they hold the ground truth, for scoring only: `task` (None for a one-off call) and,
    where the input is not ambiguous, `gold`, the answer without slips.
    """
    rng = random.Random(seed)
    events = ["message"] * MESSAGES + ["review"] * REVIEWS + ["question"] * QUESTIONS
    _shuffle(rng, events)
    replied = set(_sample(rng, MESSAGES, REPLIES))
    messages, reviews, questions = _messages(rng), _reviews(rng), _questions(rng)
    grammar = load_grammar("common", "messages")
    calls: list[dict[str, Any]] = []
    seen = 0
    for event in events:
        if event == "message":
            message, name = next(messages)
            calls.append(_triage_call(message))
            if seen in replied:
                calls.append(_reply_call(rng, grammar, message, name))
            seen += 1
        else:
            calls.append(_review_call(next(reviews)) if event == "review" else _question_call(*next(questions)))
    for task, labels in (("triage", tuple(QUEUES)), ("review", ("yes", "no")), ("reply", ()), (None, ())):
        _answer(rng, [call for call in calls if call["task"] == task], labels)
    return calls


def write_demo_log(path: Path, seed: int = SEED) -> None:
    """Writes the log to `path`, gzip without a time stamp, so that the same calls give the same bytes."""
    lines = "".join(json.dumps(call, ensure_ascii=False) + "\n" for call in demo_calls(seed))
    path.write_bytes(gzip.compress(lines.encode(), compresslevel=9, mtime=0))


# --- the four kinds of call


def _triage_call(message: _Written) -> dict[str, Any]:
    return _call("triage", message.labels, ("system", TRIAGE_PROMPT), ("user", f"Message:\n{message.text}"))


def _review_call(review: _Written) -> dict[str, Any]:
    prompt = REVIEW_PROMPT.format(product=review.product, review=review.text)
    return _call("review", review.labels, ("user", prompt))


def _reply_call(rng: random.Random, grammar: Grammar, message: _Written, name: str) -> dict[str, Any]:
    product = next((word for word in grammar["product"] if word in message.text), "order")
    answer = pick(rng, grammar[f"reply_{message.labels[0]}"]).replace("{name}", name)
    answer = expand(rng, grammar, answer.replace("{topic}", f"your {product}"))
    prompt = f"Customer: {name}\nMessage: {message.text}\n\nAnswer:"
    return _call("reply", (answer,), ("system", REPLY_PROMPT), ("user", prompt))


def _question_call(question: str, answer: str) -> dict[str, Any]:
    return _call(None, (answer,), ("user", question))


def _call(task: str | None, labels: tuple[str, ...], *messages: tuple[str, str]) -> dict[str, Any]:
    """A call whose `answer` is still the tuple of the answers it may get; `_answer` draws one."""
    texts = [{"role": role, "content": text} for role, text in messages]
    return {"messages": texts, "answer": labels, "model": MODEL, "task": task}


def _answer(rng: random.Random, calls: list[dict[str, Any]], labels: tuple[str, ...]) -> None:
    """Draws the teacher's answers of one step: a coin flip where two are possible, slips where it has `labels`."""
    tickets = [at for at, call in enumerate(calls) for _ in range(SLIPS_IF_AMBIGUOUS if len(call["answer"]) > 1 else 1)]
    _shuffle(rng, tickets)
    slips = set(list(dict.fromkeys(tickets))[: round(NOISE * len(calls))]) if labels else set()
    for at, call in enumerate(calls):
        possible = call["answer"]
        call["answer"] = answer = pick(rng, possible)
        if at in slips:
            wrong = [label for label in labels if label not in possible]
            call["answer"] = pick(rng, wrong or [label for label in labels if label != answer])
        if labels and len(possible) == 1:
            call["gold"] = answer


# --- their texts


def _messages(rng: random.Random) -> Iterator[tuple[_Written, str]]:
    """What customers write, without end, each with the customer's name; now and then somebody sends the same twice."""
    common = load_grammar("common", "messages")
    queues = [queue for queue, share in QUEUES.items() for _ in range(share)]
    sent: list[tuple[_Written, str]] = []
    while True:
        if sent and rng.random() < 0.015:
            yield pick(rng, sent[-40:])
            continue
        name = pick(rng, common["name"])
        grammar = {**common, "name": [name]}
        topics = [pick(rng, queues)]
        if rng.random() < AMBIGUOUS:
            topics.append(pick(rng, [queue for queue in queues if queue != topics[0]]))
        labels = tuple(topics)
        if rng.random() < (0.5 if len(labels) == 1 else 0.7):
            topics += topics  # says more about the same
        sentences = [_sentence(rng, grammar, f"queue_{topics[0]}")]
        for topic in topics[1:]:
            joiner = expand(rng, grammar, "{joiner} ") if rng.random() < 0.6 else ""
            sentences.append(joiner + _sentence(rng, grammar, f"queue_{topic}", raw=bool(joiner)))
        if rng.random() < 0.25:
            sentences.insert(0, expand(rng, grammar, "{context}"))
        if rng.random() < 0.15:
            sentences.append(expand(rng, grammar, "{feeling}"))
        text = _dress(rng, grammar, " ".join(sentences))
        sent.append((_Written(text, labels), name))
        yield sent[-1]


def _dress(rng: random.Random, grammar: Grammar, text: str) -> str:
    """The text with a greeting and a closing, or without, written carefully or carelessly."""
    if rng.random() < 0.5:
        text = f"{expand(rng, grammar, '{greeting}')} {text}"
    if rng.random() < 0.4:
        text = f"{text} {expand(rng, grammar, '{closing}')}"
    return _careless(rng, text)


def _careless(rng: random.Random, text: str) -> str:
    if rng.random() < 0.2:
        text = text.lower()
    if rng.random() < 0.06:
        text = re.sub(r"[.,?!:]", "", text)
    return scramble(rng, text, share=0.09) if rng.random() < 0.2 else text


def _sentence(rng: random.Random, grammar: Grammar, symbol: str, *, raw: bool = False) -> str:
    text = expand(rng, grammar, "{" + symbol + "}")
    return text if raw else text[0].upper() + text[1:]


def _reviews(rng: random.Random) -> Iterator[_Written]:
    """Product reviews, without end. One that also speaks about the delivery is ambiguous; anything worse settles it."""
    grammar = load_grammar("common", "reviews")
    faults = ["delivery"] * 55 + ["insult"] * 15 + ["advert"] * 15 + ["private"] * 15
    while True:
        about_product = [_sentence(rng, grammar, "review_yes") for _ in range(1 + (rng.random() < 0.5))]
        draw, fault = rng.random(), pick(rng, faults)
        labels: tuple[str, ...] = ("yes",)
        sentences = about_product
        if draw < AMBIGUOUS:
            joiner = pick(rng, ("", "{but} "))
            also = expand(rng, grammar, joiner) + _sentence(rng, grammar, "review_no_delivery", raw=bool(joiner))
            labels, sentences = ("yes", "no"), [about_product[0], also]
            if rng.random() < 0.5:
                sentences.reverse()
        elif draw < 0.42:
            own = [_sentence(rng, grammar, f"review_no_{fault}") for _ in range(1 + (rng.random() < 0.3))]
            kept = about_product[:1] if fault != "delivery" and rng.random() < 0.5 else []
            labels, sentences = ("no",), kept + own
        if rng.random() < 0.4:
            sentences = [expand(rng, grammar, "{opener}"), *sentences]
        if rng.random() < 0.4:
            sentences = [*sentences, expand(rng, grammar, "{ending}")]
        product = expand(rng, grammar, "{product}, {colour}" if rng.random() < 0.5 else "{product}")
        yield _Written(_careless(rng, " ".join(sentences)), labels, product[0].upper() + product[1:])


def _questions(rng: random.Random) -> Iterator[tuple[str, str]]:
    """One-off questions with their answers; none comes in more than five wordings, those without a slot come once."""
    grammar = load_grammar("common", "questions")
    lines = [line for line in grammar["question"] for _ in range(5 if "{" in line.split(" => ")[0] else 1)]
    _shuffle(rng, lines)
    for line in lines:
        question, answer = line.split(" => ")
        used: dict[str, list[str]] = defaultdict(list)

        def ask(found: re.Match[str], used: dict[str, list[str]] = used) -> str:
            used[found[1]].append(expand(rng, grammar, found[0]))
            return used[found[1]][-1]

        def tell(found: re.Match[str], used: dict[str, list[str]] = used) -> str:
            values = used[found[1]]
            return (values.pop(0) if len(values) > 1 else values[0]) if values else expand(rng, grammar, found[0])

        question = re.sub(r"\{(\w+)\}", ask, question)
        yield _careless(rng, question), re.sub(r"\{(\w+)\}", tell, answer)


# --- draws that are the same on every Python version


def _shuffle(rng: random.Random, items: list[Any]) -> None:
    for at in range(len(items) - 1, 0, -1):
        other = int(rng.random() * (at + 1))
        items[at], items[other] = items[other], items[at]


def _sample(rng: random.Random, size: int, count: int) -> list[int]:
    """`count` different numbers below `size`."""
    numbers = list(range(size))
    _shuffle(rng, numbers)
    return numbers[:count]


if __name__ == "__main__":
    write_demo_log(Path(sys.argv[1]), *map(int, sys.argv[2:]))
