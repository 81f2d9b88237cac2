"""Reads the wall clocks that poolers write their times with: in a local zone that has a short name or none."""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

_OFFSET_STEP = 900
"""Every time zone is a multiple of a quarter of an hour away from UTC."""


def instant(text: str | None, offsets: Mapping[str, float]) -> float | None:
    """Seconds since the epoch of a wall clock's text: "2026-11-25 01:25:16", with or without a zone behind it.

    ``offsets``: seconds east of UTC by the zone's name ("" for none). None where the zone is not known.
    """
    parts = _clock(text)
    if parts is None:
        return None
    wall, zone = parts
    offset = offsets.get(zone, _numeric_offset(zone))
    return None if offset is None else wall - offset


def learned_offset(text: str | None, at: float | None) -> dict[str, float]:
    """What a text that was written at the instant ``at`` says of the offset of its zone; nothing without either.

    A zone's name ("IST") does not say which one it is, and some poolers write none: but each shows when poolctl's
    own connection was made.
    """
    parts = _clock(text)
    if parts is None or at is None:
        return {}
    wall, zone = parts
    return {zone: round((wall - at) / _OFFSET_STEP) * float(_OFFSET_STEP)}


def local_offsets() -> dict[str, float]:
    """Of this machine's own zone, by its names in winter and summer."""
    return {
        time.tzname[0]: -float(time.timezone),
        time.tzname[1]: -float(time.altzone),
        "UTC": 0.0,
        "GMT": 0.0,
    }


def _clock(text: str | None) -> tuple[float, str] | None:
    """The instant as if the clock ran on UTC, and the zone's name."""
    if not text:
        return None
    try:
        wall = datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    zone = text[19:].strip()
    return wall, zone if re.fullmatch(r"[A-Za-z]+|[+-]\d{2,4}", zone) else ""


def _numeric_offset(zone: str) -> float | None:
    match = re.fullmatch(r"([+-])(\d\d)(\d\d)?", zone)
    if match is None:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0)).total_seconds()
    return -offset if match[1] == "-" else offset
