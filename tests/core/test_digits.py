"""Numbers as the page and the terminal show them: few digits, and no statement that the number is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_lib.core.digits import MINUS, percent, sensible, signed, with_unit

NUMBERS = st.floats(1e-9, 1e9) | st.floats(-1e9, -1e-9)


def number(text: str) -> float:
    return float(text.replace(",", "").replace(MINUS, "-"))


@given(NUMBERS, st.integers(2, 4))
def test_the_text_is_the_number_to_its_digits(value: float, digits: int) -> None:
    # Half a unit of the last digit; doubles add 1e-16 of the number.
    assert number(sensible(value, digits)) == pytest.approx(value, rel=0.5 * 10 ** (1 - digits) + 1e-12)
    assert number(signed(value)) == number(sensible(value))


# Tables hold ten digits.
@given(st.floats(0, 1.2).map(lambda value: float(f"{value:.10g}")))
def test_a_score_or_p_value_reads_as_one_or_below_a_twentieth_only_if_it_is(value: float) -> None:
    shown = number(with_unit(value, ""))
    for mark in (0.05, 1.0):
        assert (shown < mark, shown > mark) == (value < mark, value > mark)
        assert (number(with_unit(-value, "")) > -mark) == (value < mark)


@given(st.floats(-3, 3).map(lambda value: float(f"{value:.10g}")))
def test_a_change_reads_as_the_whole_only_if_it_is(share: float) -> None:
    shown = number(percent(share).removesuffix(" %").removeprefix("+"))
    # 100 * share is rounded to a double itself.
    assert (abs(shown) < 100, abs(shown) > 100) == (abs(100 * share) < 100, abs(100 * share) > 100)


def test_numbers_as_people_read_them() -> None:
    assert [with_unit(value, "") for value in (0.9967, 0.0496, 0.0504, 0.04999, 1.0)] == [
        *("0.997", "0.0496", "0.0504", "0.04999", "1.00")
    ]
    assert [percent(share) for share in (-0.996, -1.0, 0.5, -0.43)] == [
        "−99.6 %",
        "−100 %",
        "+50 %",
        "−43 %",
    ]
    assert [with_unit(value, "mV") for value in (0.9967, -12.3, 12345.6, 3e-7)] == [
        *("1.0", "−12", "12,346", "3.0e−07")
    ]
