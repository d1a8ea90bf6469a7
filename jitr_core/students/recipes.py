"""Candidates: which heads they combine, and what those look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["CandidateRecipe", "HeadRecipe", "candidates"]


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """One ridge regression.

    Attributes:
        name: of the recipe.
        lexical: vocabularies it is linear in.
        kernels: for each view, the weight of each block in the Gaussian kernel; blocks a view lacks are left out, and
            the weight of "*" holds for all others.
        ridge: λ relative to the kernels' spread, > 0.
    """

    name: str
    lexical: tuple[str, ...] = ()
    kernels: dict[str, dict[str, float]] = field(default_factory=dict)
    ridge: float = 0.3


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
        HeadRecipe("final", (), {"encoder": {"final": 1.0}}),
        HeadRecipe("layers", (), {"encoder": _INNER}),
        HeadRecipe("layers+lexical", ("word", "char"), {"encoder": _INNER}),
        HeadRecipe("gap+pairs", (), {"encoder": {"gap": 0.5}, "pairs": {"pairs": 1.0}}),
    )
}


@dataclass(frozen=True, slots=True)
class CandidateRecipe:
    """What a candidate is made of.

    Attributes:
        name: unique among candidates; the base model's name is added in reports.
        family: lexical, static, encoder or stacked.
        base: kind of base model it needs: "encoder", "static" or None.
        heads: what it combines.
    """

    name: str
    family: str
    base: str | None
    heads: tuple[HeadRecipe, ...]


def candidates(families: Sequence[str], *, paired: bool) -> list[CandidateRecipe]:
    """All candidates of some families, cheapest first.

    Args:
        families: lexical, static, encoder, stacked.
        paired: whether inputs have pairs of slots to compare.
    """
    table: list[tuple[str, str, str | None, tuple[str, ...], tuple[str, ...]]] = [
        # name, family, base model, heads, further heads for pairs
        ("lexical/word", "lexical", None, ("word",), ()),
        ("lexical", "lexical", None, ("word", "lexical"), ("pairs",)),
        ("static", "static", "static", ("static",), ("pairs", "static+pairs")),
        ("stacked/static", "stacked", "static", ("lexical", "static", "static+lexical"), ("pairs", "static+pairs")),
        ("encoder/final", "encoder", "encoder", ("final",), ("pairs",)),
        ("encoder", "encoder", "encoder", ("final", "layers"), ("pairs", "gap+pairs")),
        ("stacked/joint", "stacked", "encoder", ("layers+lexical",), ("pairs",)),
        ("stacked", "stacked", "encoder", ("lexical", "final", "layers", "layers+lexical"), ("pairs", "gap+pairs")),
    ]
    return [
        CandidateRecipe(name, family, base, tuple(_HEADS[h] for h in heads + (pair_heads if paired else ())))
        for name, family, base, heads, pair_heads in table
        if family in families
    ]
