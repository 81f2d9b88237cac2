"""Durations and counts as people write them, and the short texts that reports show for them.

On input a duration is a number of seconds or a string with units ("250ms", "30m", "1h30m"); inside poolctl it is
always float seconds. None is a limit that is switched off, and is shown as "off". Which quantity a number is, and
whether it is large, is left to the caller.
"""

import re
from math import inf

LONGEST = 1e9
"""Seconds, some 31 years: the longest duration that is accepted. It fits into every timer of the operating system."""

MOST = 1_000_000_000
"""The largest number of anything that is counted; a larger one is a typing error."""

_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-zµ]*)")


def parse_duration(value: str | float) -> float:
    """Return the seconds in ``value``; a bare number is seconds.

    Raises ValueError (with the rule in its text) for anything else, negative and infinite values included.
    """
    if isinstance(value, bool):
        raise ValueError('a duration is a number with a unit, such as "250ms" or "30m"')
    if isinstance(value, int | float):
        if not 0 <= value < inf:
            raise ValueError("a duration cannot be negative or infinite")
        return _check_length(value)
    if not isinstance(value, str):
        raise ValueError('a duration is a number with a unit, such as "250ms" or "30m"')
    text = value.strip().lower()
    total, at = 0.0, 0
    while at < len(text):
        part = _PART.match(text, at)
        unit = part[2] if part else ""
        if part is None or (unit == "" and (at > 0 or part.end() < len(text))) or (unit and unit not in _SECONDS):
            raise ValueError('a duration is a number with a unit (us, ms, s, m, h, d), such as "250ms" or "1h30m"')
        total += float(part[1]) * (_SECONDS[unit] if unit else 1.0)
        at = part.end()
    if not text:
        raise ValueError('a duration is a number with a unit, such as "250ms" or "30m"')
    return _check_length(total)


def _check_length(seconds: float) -> float:
    # Compared before it is converted: an integer may be too large for a float.
    if seconds > LONGEST:
        raise ValueError(f"a duration is at most {LONGEST:,.0f} s")
    return float(seconds)


def format_duration(seconds: float | None) -> str:
    """Format ``seconds`` with three significant digits and one unit ("12.4 s", "830 µs", "30 min"); None is "off"."""
    if seconds is None:
        return "off"
    size = abs(seconds)
    if size == 0:
        return "0 s"
    if size < 0.9995e-3:
        return f"{_format_digits(seconds * 1e6)} µs"
    if size < 0.9995:
        return f"{_format_digits(seconds * 1e3)} ms"
    if size < 180:
        return f"{_format_digits(seconds)} s"
    if size < 3 * 3600:
        return f"{_format_digits(seconds / 60)} min"
    if size < 3 * 86400:
        return f"{_format_digits(seconds / 3600)} h"
    return f"{_format_digits(seconds / 86400)} d"


def format_instant(at: float) -> str:
    """Write an instant (seconds since the Unix epoch) in UTC: people in several time zones read the same report.

    One outside the years 1 to 9999, as of a torn line, becomes the nearest that can be written.
    """
    # Imported here: every command imports this file, and few write an instant.
    from datetime import UTC, datetime

    at = min(max(at, datetime.min.replace(tzinfo=UTC).timestamp()), datetime.max.replace(tzinfo=UTC).timestamp() - 1)
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def format_count(value: float) -> str:
    """Format an amount with commas between thousands, and three significant digits below 100 ("1,674", "9.07")."""
    if value == int(value) or abs(value) >= 100:
        return f"{round(value):,}"
    return _format_digits(value)


def _format_digits(value: float) -> str:
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    if 0.0001 <= size < 0.1:
        return f"{value:.3g}"
    text = f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float, decimals: int = 0) -> str:
    """Format a share between 0 and 1: "83 %"."""
    return f"{share * 100:.{decimals}f} %"


def plural(count: int, noun: str) -> str:
    """Join a count and its noun: "1 client", "1,204 clients", "2 processes"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{format_count(count)} {noun}{ending}"


_SINGULAR = {"are": "is", "have": "has", "do": "does"}


def agree(count: int, noun: str, verb: str) -> str:
    """Join a count, its noun and a verb in the plural: "1 client waits", "12 clients wait", "1 backend is"."""
    return f"{plural(count, noun)} {_SINGULAR.get(verb, f'{verb}s') if count == 1 else verb}"


def write_all(count: int, noun: str) -> str:
    """Begin a sentence about each of so many things: "The only connection", "All 12 connections"."""
    return f"The only {noun}" if count == 1 else f"All {plural(count, noun)}"


def quote(text: str, length: int = 50) -> str:
    """Put an error or statement in quotes on one line, cut at a word so that a summary stays short."""
    line = " ".join(text.split())
    if len(line) > length:
        line = f"{line[: length - 2].rsplit(' ', 1)[0].rstrip(' ,;:')}..."
    return f'"{line}"'
