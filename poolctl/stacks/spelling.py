"""How the languages and libraries spell a time. None of these ever writes 0: what 0 means differs from one to the next.

A time that is too short for the unit becomes the shortest that the unit can say.
"""

FOR_EVER = 10 * 365 * 86_400.0
"""Seconds that stand for "off" where a library has no such word: ten years. Small enough for every clock and timer."""

LONGEST_JS_TIMER = 2_147_483_647
"""Milliseconds. A JavaScript timer beyond it fires at once."""


def format_seconds(time: float) -> str:
    """Seconds to the millisecond, without a superfluous fraction ("1500", "0.25")."""
    return f"{max(time, 0.001):.3f}".rstrip("0").rstrip(".")


def round_seconds(time: float) -> int:
    return max(1, round(time))


def round_milliseconds(time: float) -> int:
    return max(1, round(time * 1000))


def group_digits(number: int) -> str:
    """With an underscore between thousands, as Java, Rust and Elixir allow."""
    return f"{number:_}"


def format_go_duration(time: float) -> str:
    """An expression of Go's type time.Duration ("25 * time.Minute")."""
    length = round_milliseconds(time)
    for unit, name in ((3_600_000, "Hour"), (60_000, "Minute"), (1000, "Second")):
        if length % unit == 0:
            return f"{length // unit} * time.{name}"
    return f"{length} * time.Millisecond"


def format_rust_duration(time: float) -> str:
    length = round_milliseconds(time)
    if length % 1000 == 0:
        return f"Duration::from_secs({group_digits(length // 1000)})"
    return f"Duration::from_millis({group_digits(length)})"
