"""How languages and libraries write a time. None of these functions writes 0: each library gives 0 another meaning.

A time that is too short for the unit becomes the shortest that the unit can express.
"""

FOR_EVER = 10 * 365 * 86_400.0
"""Seconds that mean "off" where a library has no such word: ten years. Short enough for every clock and timer."""

LONGEST_JS_TIMER = 2_147_483_647
"""Milliseconds. A longer JavaScript timer fires at once."""


def format_seconds(time: float) -> str:
    """Format seconds to the millisecond, without unneeded zeros ("1500", "0.25")."""
    return f"{max(time, 0.001):.3f}".rstrip("0").rstrip(".")


def round_seconds(time: float) -> int:
    """Return whole seconds, 1 or more."""
    return max(1, round(time))


def round_milliseconds(time: float) -> int:
    """Return whole milliseconds, 1 or more."""
    return max(1, round(time * 1000))


def group_digits(number: int) -> str:
    """Format a number with an underscore between thousands, as Java, Rust and Elixir allow."""
    return f"{number:_}"


def format_go_duration(time: float) -> str:
    """Format an expression of the Go type time.Duration ("25 * time.Minute")."""
    length = round_milliseconds(time)
    for unit, name in ((3_600_000, "Hour"), (60_000, "Minute"), (1000, "Second")):
        if length % unit == 0:
            return f"{length // unit} * time.{name}"
    return f"{length} * time.Millisecond"


def format_rust_duration(time: float) -> str:
    """Format an expression of the Rust type Duration."""
    length = round_milliseconds(time)
    if length % 1000 == 0:
        return f"Duration::from_secs({group_digits(length // 1000)})"
    return f"Duration::from_millis({group_digits(length)})"
