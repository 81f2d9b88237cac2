from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolctl.units import format_count, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30m", 1800.0),
        ("1h30m", 5400.0),
        ("1.5 s", 1.5),
        (".5s", 0.5),
        ("10 us", 1e-5),
        ("10µs", 1e-5),
        ("2min", 120.0),
        ("2D", 172800.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        (7, 7.0),
        (0.25, 0.25),
    ],
)
def test_a_duration_is_a_number_of_seconds_or_numbers_with_units(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-15)


@pytest.mark.parametrize(
    "value",
    ["", "  ", "off", "5 parsecs", "ms", "-5s", "1h30", "30 1h", "1e3s", "1..5s", "5s!", True, None, [1], {"mean": 1}],
)
def test_what_is_no_duration_is_refused_with_an_example(value: Any) -> None:
    with pytest.raises(ValueError, match=r"a duration is a number with a unit.*250ms"):
        parse_duration(value)


@pytest.mark.parametrize("value", ["9" * 400 + "s", 10**400, 1e300, "1000000001", "12000d"])
def test_a_duration_has_an_upper_bound(value: str | float) -> None:
    assert parse_duration(10**9) == 1e9
    with pytest.raises(ValueError, match=r"a duration is at most 1,000,000,000 s"):
        parse_duration(value)


@pytest.mark.parametrize("value", [-1, -0.001, float("inf"), float("nan")])
def test_negative_and_infinite_durations_are_refused(value: str | float) -> None:
    with pytest.raises(ValueError, match="cannot be negative or infinite"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "off"),
        (0, "0 s"),
        (12.4, "12.4 s"),
        (0.00083, "830 µs"),
        (0.9996e-3, "1 ms"),
        (0.0123456, "12.3 ms"),
        (0.9996, "1 s"),
        (1800, "30 min"),
        (179.9, "180 s"),
        (5400, "90 min"),
        (4 * 3600, "4 h"),
        (10 * 86400, "10 d"),
        (-0.5, "-500 ms"),
    ],
)
def test_a_duration_is_shown_with_three_digits_and_one_unit(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@settings(deadline=None)
@given(st.floats(1e-6, 900 * 86400))
def test_a_shown_duration_reads_back_within_half_a_percent(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.006)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1674, "1,674"),
        (9.07, "9.07"),
        (9.999, "10"),
        (12.345, "12.3"),
        (99.96, "100"),
        (0.05, "0.05"),
        (0.00417, "0.00417"),
        (1234567.8, "1,234,568"),
        (-3.14159, "-3.14"),
    ],
)
def test_a_count_is_shown_with_thousands_separated_and_no_more_digits_than_it_deserves(value: float, text: str) -> None:
    assert format_count(value) == text
