"""Candidates: which heads they combine, and what those look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

__all__ = ["PROBES", "CandidateRecipe", "HeadRecipe", "candidates"]


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """One ridge regression.

    Attributes:
        name: of the recipe.
        lexical: vocabularies it is linear in.
        kernels: for each view, the weight of each block in the Gaussian kernel; blocks a view lacks are left out, and
            the weight of "*" holds for all others.
        names: view whose embeddings of the inputs are compared with those of the answers themselves; nothing else
            is part of such a head, and nothing is learnt.
        tuned: True for the head of an encoder that is tuned for the task; nothing else is part of such a head.
        ridge: λ relative to the kernels' spread, > 0.
    """

    name: str
    lexical: tuple[str, ...] = ()
    kernels: dict[str, dict[str, float]] = field(default_factory=dict)
    names: str | None = None
    tuned: bool = False
    ridge: float = 0.3

    def on(self, keys: Mapping[str, str]) -> HeadRecipe:
        """The recipe with other base models: `keys` says which one instead of which."""
        used = {view: keys.get(view, view) for view in (*self.kernels, *([self.names] if self.names else []))}
        if all(view == key for view, key in used.items()):
            return self
        other = "+".join(key for view, key in sorted(used.items()) if view != key)
        kernels = {used[view]: weights for view, weights in self.kernels.items()}
        return replace(
            self, name=f"{self.name}@{other}", kernels=kernels, names=used[self.names] if self.names else None
        )


_INNER = {"*": 1 / 3, "gap": 0.0}
_HEADS = {
    head.name: head
    for head in (
        HeadRecipe("word", ("word",)),
        HeadRecipe("lexical", ("word", "char")),
        HeadRecipe("pairs", (), {"pairs": {"pairs": 1.0}}),
        HeadRecipe("static", (), {"static": {"static": 1.0}}),
        HeadRecipe("static+lexical", ("word", "char"), {"static": {"static": 1.0}}),
        HeadRecipe("static+pairs", (), {"static": {"gap": 0.5}, "pairs": {"pairs": 1.0}}),
        HeadRecipe("static names", names="static"),
        HeadRecipe("names", names="encoder"),
        HeadRecipe("final", (), {"encoder": {"final": 1.0}}),
        HeadRecipe("layers", (), {"encoder": _INNER}),
        HeadRecipe("layers+lexical", ("word", "char"), {"encoder": _INNER}),
        HeadRecipe("tuned", tuned=True),
        HeadRecipe("gap+pairs", (), {"encoder": {"gap": 0.5}, "pairs": {"pairs": 1.0}}),
    )
}


@dataclass(frozen=True, slots=True)
class CandidateRecipe:
    """What a candidate is made of.

    Attributes:
        name: unique among candidates; the base model's name is added in reports.
        family: lexical, static, encoder, stacked or lora.
        base: base model it stands or falls with, by key: "encoder" or "static" for the default ones; None for none.
        heads: what it combines.
    """

    name: str
    family: str
    base: str | None
    heads: tuple[HeadRecipe, ...]

    @property
    def tuned(self) -> bool:
        """Whether an encoder is tuned for it, which costs far more than anything else."""
        return any(head.tuned for head in self.heads)

    def needs(self, kind: str) -> bool:
        """Whether a base model of this kind is part of it."""
        return kind == self.base or any(kind in (*head.kernels, head.names) for head in self.heads)

    def without(self, missing: set[str]) -> CandidateRecipe:
        """The recipe less the heads that look at a view that is not at hand."""
        kept = tuple(h for h in self.heads if not missing & {*h.kernels, h.names})
        return replace(self, heads=kept)

    def on(self, keys: Mapping[str, str]) -> CandidateRecipe:
        """The recipe with other base models, by key, instead of "encoder" or "static"; its name stays."""
        base = keys.get(self.base, self.base) if self.base else None
        return replace(self, base=base, heads=tuple(head.on(keys) for head in self.heads))


# Name, family, base model, heads, further heads where inputs are single texts, further heads where they are pairs.
_TABLE: tuple[tuple[str, str, str | None, str, str, str], ...] = (
    ("lexical/word", "lexical", None, "word", "", ""),
    ("lexical", "lexical", None, "word, lexical", "", "pairs"),
    ("static", "static", "static", "static", "static names", "pairs, static+pairs"),
    ("stacked/static", "stacked", "static", "lexical, static, static+lexical", "static names", "pairs, static+pairs"),
    ("encoder/final", "encoder", "encoder", "final", "names", "pairs"),
    ("encoder", "encoder", "encoder", "final, layers", "names", "pairs, gap+pairs"),
    ("stacked/joint", "stacked", "encoder", "layers+lexical", "names", "pairs"),
    (
        "stacked",
        "stacked",
        "encoder",
        "lexical, static, final, layers, layers+lexical",
        "names, static names",
        "pairs, gap+pairs",
    ),
    ("lora", "lora", "encoder", "tuned", "", ""),
    ("lora/stacked", "lora", "encoder", "tuned, lexical, static", "static names", "pairs, static+pairs"),
)


PROBES = {
    "encoder": CandidateRecipe("encoder/final", "encoder", "encoder", (_HEADS["final"],)),
    "static": CandidateRecipe("static", "static", "static", (_HEADS["static"],)),
}
"""By kind of base model, the candidate by which base models are compared: one head on its final embedding."""


def candidates(families: Sequence[str], *, paired: bool) -> list[CandidateRecipe]:
    """All candidates of some families, cheapest first.

    Args:
        families: lexical, static, encoder, stacked, lora.
        paired: whether inputs have pairs of slots to compare.
    """
    found = []
    for name, family, base, heads, single, pairs in _TABLE:
        names = f"{heads}, {pairs if paired else single}".split(", ")
        if family in families:
            found.append(CandidateRecipe(name, family, base, tuple(_HEADS[n] for n in names if n)))
    return found
