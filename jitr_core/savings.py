"""What the teacher costs, what JITR costs, and what is left: money, energy and the point of break-even.

Pure functions over numbers, for the live report and for replays alike. A price or an energy that is not known is None,
never 0, and so is every sum it is part of. Everything is billed: audits, deferrals, searches, rejected attempts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import ConfigError
from .prices import Price, Prices

__all__ = [
    "EPOCH_2025",
    "Bill",
    "EnergyRate",
    "Price",
    "Prices",
    "Rates",
    "Savings",
    "Traffic",
    "bill",
    "break_even_calls",
    "checked_prices",
    "estimate_tokens",
    "rates_text",
    "settle",
    "total",
]

CHARS_PER_TOKEN = 4.0
"""Characters of English text per token, the rule of thumb that model providers give; other languages and code have
fewer."""

_SECONDS_PER_HOUR = 3600.0
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class EnergyRate:
    """An estimate of the energy a hosted LLM uses, data centre included.

    Attributes:
        input_wh: watt-hours per input token.
        output_wh: watt-hours per output token.
        low: factor down to the optimistic end of the range.
        high: factor up to the pessimistic end of the range.
        source: where the estimate is from.
    """

    input_wh: float
    output_wh: float
    low: float
    high: float
    source: str

    def kwh(self, input_tokens: float, output_tokens: float) -> float:
        """Energy in kWh for so many tokens."""
        return (self.input_wh * input_tokens + self.output_wh * output_tokens) / 1000.0


EPOCH_2025 = EnergyRate(
    input_wh=(2.5 - 0.3) / 10_000,
    output_wh=0.3 / 500,
    low=0.06 / 0.3,
    high=1.3 / 0.3,
    source="Epoch AI, Feb 2025, estimate for GPT-4o",
)
"""Epoch AI, "How much energy does ChatGPT use?" (February 2025): about 0.3 Wh for a GPT-4o query with 500 output tokens
and 2.5 Wh with 10,000 input tokens on top. The range is the one of their spreadsheet: 0.06 Wh for a small model such as
GPT-4o mini, 1.3 Wh for a larger model on worse used hardware. Longer inputs need more than in proportion."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What JITR's own work is billed at.

    Attributes:
        compute_usd_per_hour: US dollars per hour of one CPU core; the default is the on-demand price of a general
            purpose cloud core, rounded up.
        watts_per_core: power of one busy CPU core with its share of the machine; servers draw 5 to 15 W.
        energy: the teacher's energy.
    """

    compute_usd_per_hour: float = 0.05
    watts_per_core: float = 10.0
    energy: EnergyRate = EPOCH_2025

    def compute_usd(self, cpu_s: float) -> float:
        """US dollars for so many seconds of one core."""
        return cpu_s / _SECONDS_PER_HOUR * self.compute_usd_per_hour

    def compute_kwh(self, cpu_s: float) -> float:
        """Energy in kWh for so many seconds of one core."""
        return cpu_s * self.watts_per_core / _JOULES_PER_KWH


@dataclass(frozen=True, slots=True)
class Traffic:
    """Calls to one model, with the tokens they used or would have used.

    Attributes:
        model: name of the model; "" if unknown.
        calls: number of calls.
        input_tokens: tokens of all prompts, billed and estimated.
        output_tokens: tokens of all answers, billed and estimated.
        estimated_tokens: how many of both are estimated.
    """

    model: str
    calls: int
    input_tokens: float
    output_tokens: float
    estimated_tokens: float = 0.0

    @classmethod
    def measured(
        cls,
        model: str,
        calls: int,
        input_tokens: int | None,
        output_tokens: int | None,
        input_chars: int = 0,
        output_chars: int = 0,
    ) -> Traffic:
        """Traffic whose tokens are known in part.

        Args:
            model: name of the model.
            calls: number of calls.
            input_tokens: billed tokens of the prompts where the provider told, None if it never did.
            output_tokens: the same for the answers.
            input_chars: characters of the prompts for which it did not.
            output_chars: characters of the answers for which it did not.

        Example:
            >>> Traffic.measured("gpt-4.1", 2, 100, None, output_chars=40)
            Traffic(model='gpt-4.1', calls=2, input_tokens=100, output_tokens=10, estimated_tokens=10)
        """
        more_in, more_out = estimate_tokens(input_chars), estimate_tokens(output_chars)
        return cls(model, calls, (input_tokens or 0) + more_in, (output_tokens or 0) + more_out, more_in + more_out)


@dataclass(frozen=True, slots=True)
class Bill:
    """What calls to teachers cost.

    Attributes:
        calls: number of calls.
        tokens: input and output tokens.
        estimated_tokens: how many of them are estimated from characters.
        usd: cost in US dollars, None if a price is unknown.
        kwh: energy in kWh (an estimate), None if a model is unknown.
    """

    calls: int = 0
    tokens: float = 0.0
    estimated_tokens: float = 0.0
    usd: float | None = 0.0
    kwh: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Savings:
    """What was spent, against what the teacher alone would have cost; of one task or of all.

    Attributes:
        calls: calls of the app.
        replaced: calls the replacement answered.
        teacher_calls: calls made to the teacher, audits included.
        audits: answered calls that the teacher was asked about as well.
        cost_teacher_only_usd: cost had the teacher answered every call, in US dollars; None if unknown.
        cost_usd: cost of the teacher's calls and of all own computing, in US dollars; None if unknown.
        kwh_teacher_only: energy had the teacher answered every call, in kWh; None if unknown.
        kwh: energy of the teacher's calls and of all own computing, in kWh; None if unknown.
        fixed_usd: the part of `cost_usd` spent on searches and training, in US dollars.
        compute_usd: the part of `cost_usd` spent on own computing, inference included, in US dollars.
        compute_kwh: the same as energy, in kWh.
        break_even_calls: calls, counted from the first replaced one, after which searches and training are paid for
            at the rate seen so far; None if they never are, or if a price is unknown.
        tokens: tokens of all calls, had the teacher answered each.
        estimated_tokens: how many of them are estimated from characters.
    """

    calls: int = 0
    replaced: int = 0
    teacher_calls: int = 0
    audits: int = 0
    cost_teacher_only_usd: float | None = 0.0
    cost_usd: float | None = 0.0
    kwh_teacher_only: float | None = 0.0
    kwh: float | None = 0.0
    fixed_usd: float = 0.0
    compute_usd: float = 0.0
    compute_kwh: float = 0.0
    break_even_calls: int | None = None
    tokens: float = 0.0
    estimated_tokens: float = 0.0

    @property
    def saved_usd(self) -> float | None:
        """Money saved in US dollars, negative where JITR cost more than it saved; None if unknown."""
        return _difference(self.cost_teacher_only_usd, self.cost_usd)

    @property
    def saved_kwh(self) -> float | None:
        """Energy saved in kWh; None if unknown."""
        return _difference(self.kwh_teacher_only, self.kwh)

    @property
    def estimated_share(self) -> float:
        """Share of the tokens that are estimated, in [0, 1]."""
        return self.estimated_tokens / self.tokens if self.tokens else 0.0


def estimate_tokens(chars: int) -> int:
    """Tokens of a text, estimated from its characters (`CHARS_PER_TOKEN`).

    Example:
        >>> estimate_tokens(10)
        3
    """
    return math.ceil(chars / CHARS_PER_TOKEN)


def checked_prices(model: str | None) -> Prices:
    """Prices that bill every call as `model`'s; each as its own with None.

    Raises:
        ConfigError: no price list knows the model.
    """
    prices = Prices(model=model)
    if model is not None and prices.listed("") is None:
        raise ConfigError(
            f"no price is known for a model {model!r}.", hint="Give its provider's name for it, such as gpt-4.1-mini."
        )
    return prices


def bill(traffic: Iterable[Traffic], prices: Prices, rates: Rates | None = None) -> Bill:
    """Adds up what calls to teachers cost, or would have cost.

    Args:
        traffic: the calls.
        prices: looks the models up.
        rates: whose energy rate to use.
    """
    energy = (rates or Rates()).energy
    calls, tokens, estimated = 0, 0.0, 0.0
    usd: float | None = 0.0
    kwh: float | None = 0.0
    for part in traffic:
        if not part.calls:
            continue
        calls += part.calls
        tokens += part.input_tokens + part.output_tokens
        estimated += part.estimated_tokens
        # The energy estimate is for large hosted models: a name that no price list knows may be anything.
        listed, price = prices.listed(part.model), prices.of(part.model)
        usd = _sum(usd, price.usd(part.input_tokens, part.output_tokens) if price else None)
        kwh = _sum(kwh, energy.kwh(part.input_tokens, part.output_tokens) if listed else None)
    return Bill(calls, tokens, estimated, usd, kwh)


def settle(
    everything: Bill,
    asked: Bill,
    *,
    replaced: int = 0,
    audits: int = 0,
    training_cpu_s: float = 0.0,
    inference_cpu_s: float = 0.0,
    calls_served: int = 0,
    rates: Rates | None = None,
) -> Savings:
    """Sets what was spent against what the teacher alone would have cost.

    Args:
        everything: the bill had the teacher answered every call.
        asked: the bill of the calls it was asked, audits included.
        replaced: calls the replacement answered.
        audits: answered calls that the teacher was asked about as well.
        training_cpu_s: CPU seconds of all searches and training, successful or not.
        inference_cpu_s: CPU seconds of asking students, deferred calls included.
        calls_served: calls since the first replaced one, it included.
        rates: what own computing is billed at.
    """
    rates = rates or Rates()
    fixed_usd = rates.compute_usd(training_cpu_s)
    compute_usd = rates.compute_usd(training_cpu_s + inference_cpu_s)
    compute_kwh = rates.compute_kwh(training_cpu_s + inference_cpu_s)
    cost_usd = _sum(asked.usd, compute_usd)
    saved = _difference(everything.usd, cost_usd)
    return Savings(
        calls=everything.calls,
        replaced=replaced,
        teacher_calls=asked.calls,
        audits=audits,
        cost_teacher_only_usd=everything.usd,
        cost_usd=cost_usd,
        kwh_teacher_only=everything.kwh,
        kwh=_sum(asked.kwh, compute_kwh),
        fixed_usd=fixed_usd,
        compute_usd=compute_usd,
        compute_kwh=compute_kwh,
        break_even_calls=None if saved is None else break_even_calls(fixed_usd, saved + fixed_usd, calls_served),
        tokens=everything.tokens,
        estimated_tokens=everything.estimated_tokens,
    )


def break_even_calls(fixed_usd: float, gained_usd: float, calls: int) -> int | None:
    """Calls after which a replacement has paid for itself, at the rate seen so far: ⌈fixed / (gained / calls)⌉.

    Args:
        fixed_usd: what searches and training cost, in US dollars.
        gained_usd: teacher cost avoided less audits and inference while it served, in US dollars.
        calls: calls of the task in that time.

    Returns:
        None if it never pays.

    Example:
        >>> break_even_calls(0.5, gained_usd=2.0, calls=1000)
        250
    """
    if gained_usd <= 0 or calls <= 0:
        return None
    return math.ceil(fixed_usd / gained_usd * calls)


def total(parts: Iterable[Savings]) -> Savings:
    """The sum over tasks, with calls that belong to none; None wherever a part is unknown.

    The break-even of a sum has no meaning of its own and is None.
    """
    result = Savings()
    for part in parts:
        result = Savings(
            calls=result.calls + part.calls,
            replaced=result.replaced + part.replaced,
            teacher_calls=result.teacher_calls + part.teacher_calls,
            audits=result.audits + part.audits,
            cost_teacher_only_usd=_sum(result.cost_teacher_only_usd, part.cost_teacher_only_usd),
            cost_usd=_sum(result.cost_usd, part.cost_usd),
            kwh_teacher_only=_sum(result.kwh_teacher_only, part.kwh_teacher_only),
            kwh=_sum(result.kwh, part.kwh),
            fixed_usd=result.fixed_usd + part.fixed_usd,
            compute_usd=result.compute_usd + part.compute_usd,
            compute_kwh=result.compute_kwh + part.compute_kwh,
            tokens=result.tokens + part.tokens,
            estimated_tokens=result.estimated_tokens + part.estimated_tokens,
        )
    return result


def rates_text(prices: Prices, rates: Rates, estimated_share: float = 0.0) -> str:
    """One line that names the prices and rates used, and where they are from.

    Args:
        prices: after it was asked for the prices in question.
        rates: what own computing was billed at.
        estimated_share: share of the tokens that are estimated, in [0, 1].
    """
    parts = []
    for name, price in sorted(prices.used().items()):
        parts.append(f"{name or 'unnamed model'}: {price or 'price unknown'}")
    if estimated_share:
        parts.append(f"{estimated_share:.0%} of the tokens estimated ({CHARS_PER_TOKEN:g} characters each)")
    energy = rates.energy
    parts.append(f"own computing ${rates.compute_usd_per_hour:g} an hour and {rates.watts_per_core:g} W per busy core")
    parts.append(
        f"teacher's energy {energy.input_wh * 1e3:.3g} Wh in, {energy.output_wh * 1e3:.3g} Wh out per 1,000 tokens "
        f"({energy.source}; could be {energy.low:.1g} to {energy.high:.2g} times that)"
    )
    return "Rates: " + "; ".join(parts) + "."


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
