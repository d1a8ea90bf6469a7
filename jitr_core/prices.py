"""What models cost: list prices by the names that models have in logs. Works offline."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["Price", "Prices"]

_MODEL_NAME = re.compile(r"[\w.:/@+-]+")


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs.

    Attributes:
        input_usd: US dollars per million input tokens, ≥ 0.
        output_usd: US dollars per million output tokens, ≥ 0.
        source: where the price is from.
    """

    input_usd: float
    output_usd: float
    source: str = "given by the user"

    def usd(self, input_tokens: float, output_tokens: float) -> float:
        """US dollars for so many tokens."""
        return (self.input_usd * input_tokens + self.output_usd * output_tokens) / 1e6

    def __str__(self) -> str:
        return f"${self.input_usd:g} in, ${self.output_usd:g} out per million tokens ({self.source})"


@dataclass(slots=True)
class Prices:
    """Looks prices up by the names that models have in logs, once per name.

    Args:
        model: bill every call as if it were made to this model, whatever its name.
        own: bill every call at this price.
    """

    model: str | None = None
    own: Price | None = None
    _known: dict[str, Price | None] = field(default_factory=dict)

    def of(self, model: str) -> Price | None:
        """Price of a model; None if it is unknown."""
        return self.own or self.listed(model)

    def listed(self, model: str) -> Price | None:
        """List price of a model, even where the user pays another; None if the model is unknown."""
        name = self.model or model
        if name not in self._known:
            self._known[name] = _look_up(name)
        return self._known[name]

    def used(self) -> dict[str, Price | None]:
        """The prices asked for so far, by name."""
        return dict.fromkeys(self._known, self.own) if self.own else dict(self._known)


def _look_up(model: str) -> Price | None:
    # Free text is no model's name, though a price list that matches beginnings might take it for one.
    if not _MODEL_NAME.fullmatch(model):
        return None
    from importlib.metadata import version

    from genai_prices import Usage, calc_price

    provider, _, rest = model.partition("/")
    # Priced by a thousand tokens: some models cost more per token beyond a hundred thousand.
    usage = Usage(input_tokens=1000, output_tokens=1000)
    for name, of in ((model, None), *([(rest, provider)] if rest else [])):
        try:
            found = calc_price(usage, name, provider_id=of)
        except (LookupError, ValueError):
            continue
        if found.total_price > 0:
            source = f"{found.provider.id} {found.model.id}, genai-prices {version('genai-prices')}"
            return Price(float(found.input_price) * 1000, float(found.output_price) * 1000, source)
    return None
