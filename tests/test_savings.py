from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitr_core.prices import Price, Prices
from jitr_core.savings import (
    EPOCH_2025,
    Bill,
    EnergyRate,
    Rates,
    Savings,
    Traffic,
    bill,
    break_even_calls,
    estimate_tokens,
    rates_text,
    settle,
    total,
)

amounts = st.floats(0, 1e6, allow_nan=False)
calls = st.integers(0, 10_000)


def test_a_known_model_has_its_list_price_and_is_looked_up_once(monkeypatch):
    prices = Prices()
    found = prices.of("gpt-4.1")
    assert (found.input_usd, found.output_usd) == (2.0, 8.0)
    assert "genai-prices" in found.source
    monkeypatch.setattr("jitr_core.prices._look_up", lambda name: pytest.fail("looked up again"))
    assert prices.of("gpt-4.1") is found


def test_a_provider_in_front_of_the_name_is_understood():
    assert Prices().of("openai/gpt-4.1").input_usd == 2.0


@pytest.mark.parametrize("model", ["gold", "", "gpt-4 (OCaTS gpt-label)", "my finetune", "openai/none", "gpt-4\n"])
def test_the_price_of_an_unknown_model_is_unknown_and_never_zero(model):
    prices = Prices()
    assert prices.of(model) is None
    result = bill([Traffic("gpt-4.1", 1, 100, 10), Traffic(model, 1, 100, 10)], prices)
    assert (result.usd, result.kwh) == (None, None)
    assert result.calls == 2


def test_a_price_model_stands_for_every_model():
    prices = Prices(model="gpt-4.1")
    assert prices.of("gold") == prices.of("") == Prices().of("gpt-4.1")


def test_a_price_of_ones_own_beats_the_list_but_says_nothing_about_energy():
    mine = Price(1.0, 2.0)
    prices = Prices(own=mine)
    assert prices.of("gpt-4.1") is prices.of("gold") is mine
    assert bill([Traffic("gold", 1, 1e6, 1e6)], prices) == Bill(1, 2e6, 0, 3.0, None)
    assert bill([Traffic("gold", 1, 1e6, 1e6)], Prices("gpt-4.1", mine)).kwh is not None


def test_energy_follows_the_published_estimate():
    assert EPOCH_2025.kwh(0, 500) == pytest.approx(0.3e-3)
    assert EPOCH_2025.kwh(10_000, 500) == pytest.approx(2.5e-3)
    assert EPOCH_2025.low < 1 < EPOCH_2025.high
    assert Rates(watts_per_core=10).compute_kwh(3600) == pytest.approx(0.01)
    assert Rates(compute_usd_per_hour=2.0).compute_usd(1800) == pytest.approx(1.0)


def test_tokens_come_from_the_provider_and_are_estimated_only_where_it_is_silent():
    known = Traffic.measured("m", 1, 7, 3)
    assert (known.input_tokens, known.output_tokens, known.estimated_tokens) == (7, 3, 0)
    guessed = Traffic.measured("m", 2, 7, None, input_chars=9, output_chars=4)
    assert (guessed.input_tokens, guessed.output_tokens, guessed.estimated_tokens) == (10, 1, 4)
    assert estimate_tokens(0) == 0


def test_a_bill_of_savings_by_hand():
    prices, rates = Prices(own=Price(1.0, 10.0)), Rates(compute_usd_per_hour=3.6)
    everything = bill([Traffic("m", 1000, 1e6, 1e5)], prices, rates)
    asked = bill([Traffic("m", 400, 4e5, 4e4)], prices, rates)
    got = settle(
        everything,
        asked,
        replaced=650,
        audits=50,
        training_cpu_s=300,
        inference_cpu_s=100,
        calls_served=800,
        rates=rates,
    )
    assert got.cost_teacher_only_usd == pytest.approx(2.0)
    assert got.cost_usd == pytest.approx(0.8 + 0.4)
    assert got.saved_usd == pytest.approx(0.8)
    assert (got.calls, got.replaced, got.teacher_calls, got.audits) == (1000, 650, 400, 50)
    # 0.3 of training against 1.1 gained on 800 calls
    assert got.break_even_calls == math.ceil(0.3 / 1.1 * 800)
    assert (got.kwh, got.saved_kwh) == (None, None)
    assert got.compute_kwh == pytest.approx(400 * 10 / 3.6e6)


def test_rejected_attempts_are_billed_even_if_nothing_was_ever_replaced():
    same = bill([Traffic("gpt-4.1", 10, 1000, 10)], Prices())
    got = settle(same, same, training_cpu_s=600)
    assert got.saved_usd == pytest.approx(-Rates().compute_usd(600))
    assert got.saved_kwh < 0
    assert got.break_even_calls is None


def test_break_even_is_known_only_where_something_is_gained():
    assert break_even_calls(1.0, gained_usd=0.0, calls=10) is None
    assert break_even_calls(1.0, gained_usd=1.0, calls=0) is None
    assert break_even_calls(0.0, gained_usd=1.0, calls=10) == 0
    unknown = settle(Bill(usd=None), Bill(usd=None), calls_served=5)
    assert (unknown.break_even_calls, unknown.saved_usd) == (None, None)


@given(st.lists(st.builds(Savings, calls, calls, calls, calls, amounts, amounts, amounts, amounts), max_size=5))
def test_a_total_is_the_sum_of_its_parts_and_unknown_if_one_of_them_is(parts):
    whole = total(parts)
    assert whole.calls == sum(part.calls for part in parts)
    assert whole.cost_usd == pytest.approx(sum(part.cost_usd for part in parts))
    assert whole.saved_usd == pytest.approx(sum(part.saved_usd for part in parts), abs=1e-6)
    unknown = total([*parts, Savings(cost_usd=None, kwh=None)])
    assert (unknown.cost_usd, unknown.saved_usd, unknown.saved_kwh) == (None, None, None)
    assert unknown.cost_teacher_only_usd == pytest.approx(whole.cost_teacher_only_usd)


@given(calls, amounts, amounts)
def test_asking_the_teacher_everything_and_training_nothing_saves_nothing(number, tokens_in, tokens_out):
    same = bill([Traffic("gpt-4.1", number, tokens_in, tokens_out)], Prices(own=Price(1, 1)))
    assert settle(same, same).saved_usd == 0


def test_the_rates_used_are_named_with_their_sources():
    prices = Prices()
    prices.of("gpt-4.1"), prices.of("gold"), prices.of("")
    line = rates_text(prices, Rates(), estimated_share=0.375)
    for part in (
        "gpt-4.1: $2 in, $8 out per million tokens (openai gpt-4.1, genai-prices",
        "gold: price unknown",
        "unnamed model: price unknown",
        "38% of the tokens estimated",
        "$0.05 an hour and 10 W",
        "Epoch AI, Feb 2025",
    ):
        assert part in line
    assert "estimated (" not in rates_text(prices, Rates(energy=EnergyRate(1, 1, 1, 1, "own")))
    own = Prices(own=Price(1, 2))
    bill([Traffic("gold", 1, 1, 1)], own)
    assert "gold: $1 in, $2 out per million tokens (given by the user)" in rates_text(own, Rates())


def test_the_share_of_estimated_tokens_is_a_fraction():
    assert Savings().estimated_share == 0.0
    assert Savings(tokens=10, estimated_tokens=5).estimated_share == 0.5


def test_importing_savings_loads_no_price_list():
    code = "import sys, jitr_core.savings; print('genai_prices' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "False"
