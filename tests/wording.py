"""Synthetic streams of freely worded prompts: a few jobs asked in many words, with one-off requests between them."""

from __future__ import annotations

import hashlib
import random
from functools import cache

import numpy as np

from jitr_core.types import Call

WORDINGS = {
    "good": (
        ["is this review any good", "did they like it", "was the guest pleased", "is that praise", "happy customer"],
        ["does it sound favourable", "was it enjoyed", "is the writer content", "a glowing notice", "are they fans"],
    ),
    "bad": (
        ["is this review any bad", "did they hate it", "was the guest cross", "is that blame", "sad customer"],
        ["does it sound hostile", "was it loathed", "is the writer fed up", "a scathing notice", "are they foes"],
    ),
    "spam": (
        ["is this spam", "junk or not", "does the message look like a scam", "should i block it", "is it advertising"],
        ["is that an ad", "would a filter drop it", "is somebody selling me things", "a con", "bulk mail or real"],
    ),
    "topic": (
        ["which section is it for", "what is the story about", "where would it run", "topic please", "file it for me"],
        ["what desk is it for", "name the heading", "which area does it cover", "pick a category", "kind of news"],
    ),
}
"""For each job wordings to develop with and others to test with."""

OPENINGS = ["", "", "hi, ", "ok so ", "please tell me, ", "quickly, ", "now, ", "one more, ", "well, ", "hm, "]
ENDINGS = ["", "?", "? thanks", "? pls", "??", " - yes", " please", " now?", "!", " for me?"]
FRAMES = ["{q}\n{t}", '{q} "{t}"', "{t}\n\n{q}", '"{t}" - {q}', "{q}: {t}", "{t}. {q}"]

SIDES = {
    "review": {"yes": "lovely warm superb fresh friendly tasty calm", "no": "cold rude dirty broken loud stale slow"},
    "message": {"yes": "prize winner cash click loan free voucher", "no": "mum dinner bus homework see tonight tired"},
    "headline": {
        "sport": "match goal coach league striker medal race",
        "money": "shares bank profit market bonds merger rates",
        "world": "treaty minister border election troops summit embassy",
    },
}
FILLER = {
    "review": "room hotel staff breakfast view bed stay city night pool door table price lobby lift",
    "message": "you me the today call phone it at will home time number week send now",
    "headline": "after says new year over first report two plan says talks record week early top",
}
TEXTS = {"good": "review", "bad": "review", "spam": "message", "topic": "headline"}
CHATTER = (
    "river lantern copper violet harbour stone meadow clock silver orchard tunnel feather island candle garden".split()
)


class WordModel:
    """A model whose vectors are sums of one random direction a word: nothing pretrained, the same everywhere."""

    hash = "words"

    def embed(self, text: str) -> np.ndarray:
        total = np.zeros(64, np.float32)
        for word in text.casefold().replace('"', " ").replace("?", " ").replace(",", " ").split():
            total += direction(word.strip(".:!-"))
        return total / np.float32(max(float(np.linalg.norm(total)), 1e-9))


@cache
def direction(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")
    return np.random.default_rng(seed).standard_normal(64).astype(np.float32)


def ask(rng: random.Random, question: str, text: str) -> str:
    asked = f"{rng.choice(OPENINGS)}{question}{rng.choice(ENDINGS)}"
    return rng.choice(FRAMES).format(q=asked.capitalize() if rng.random() < 0.3 else asked, t=text)


def content(rng: random.Random, kind: str, side: str) -> str:
    said = rng.choices(SIDES[kind][side].split(), k=3) + rng.choices(FILLER[kind].split(), k=6)
    rng.shuffle(said)
    return " ".join(said)


def one_off(rng: random.Random, number: int) -> tuple[str, str]:
    """A request of its own that looks like the jobs: a question, sometimes about such a text, sometimes a yes or no."""
    thing = " ".join(rng.choices(CHATTER, k=4))
    if rng.random() < 0.3:
        kind = rng.choice(sorted(SIDES))
        return ask(
            rng, f"what would {thing} say of it", content(rng, kind, rng.choice(sorted(SIDES[kind])))
        ), "it varies"
    if rng.random() < 0.1:
        return f"Is a {thing} ever {rng.choice(CHATTER)}?", rng.choice(["yes", "no"])
    return f"Tell me of the {thing} number {number}.", f"There was a {thing}, {number} of them."


def stream(
    counts: dict[str, int], seed: int = 0, *, test: bool = False, others: int = 200
) -> tuple[list[Call], list[str], list[str | None]]:
    """Calls, answers, and the job of each (None for a one-off)."""
    rng = random.Random(seed)
    rows: list[tuple[str, str, str | None]] = []
    for job, count in counts.items():
        for _ in range(count):
            kind = TEXTS[job]
            side = rng.choice(sorted(SIDES[kind]))
            answer = side if job != "bad" else {"yes": "no", "no": "yes"}[side]
            rows.append((ask(rng, rng.choice(WORDINGS[job][test]), content(rng, kind, side)), answer, job))
    rows += [(*one_off(rng, number), None) for number in range(others)]
    rng.shuffle(rows)
    calls = [Call(f"w{seed}-{i}", (("user", prompt),)) for i, (prompt, _, _) in enumerate(rows)]
    return calls, [answer for _, answer, _ in rows], [job for *_, job in rows]
