"""Figures that are given by hand: their names, units and bounds, and what contradicts.

Decides what can be given. Leaves what a figure means to ``sizing.figures``, and the wording of an option to the
command line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from poolctl.errors import BadInput
from poolctl.scenario.toml import LARGEST_FILE
from poolctl.sizing.budget import is_share, parse_surge
from poolctl.sizing.figures import Figures, given
from poolctl.sizing.sweep_table import SweepPoint, parse_sweep
from poolctl.units import MOST


@dataclass(frozen=True, slots=True)
class FigureRule:
    """``count``: a whole number. ``number``: a rate or a ratio. ``time``: seconds."""

    unit: Literal["count", "number", "time"]
    may_be_zero: bool = False


_COUNT, _COUNT_OR_ZERO = FigureRule("count"), FigureRule("count", may_be_zero=True)
_NUMBER, _NUMBER_OR_ZERO = FigureRule("number"), FigureRule("number", may_be_zero=True)
_TIME, _TIME_OR_ZERO = FigureRule("time"), FigureRule("time", may_be_zero=True)

RULES: Mapping[str, FigureRule] = {
    "arrival_rate": _NUMBER,
    "throughput": _NUMBER,
    "hold_time": _TIME,
    "hold_cv": _NUMBER_OR_ZERO,
    "arrival_cv": _NUMBER_OR_ZERO,
    "wait_target": _TIME_OR_ZERO,
    "workers": _COUNT,
    "connections_per_request": _COUNT,
    "processes": _COUNT,
    "instances": _COUNT,
    "max_instances": _COUNT,
    "terminating": _COUNT_OR_ZERO,
    "max_connections": _COUNT,
    "superuser_reserved": _COUNT_OR_ZERO,
    "reserved": _COUNT_OR_ZERO,
    "other_connections": _COUNT_OR_ZERO,
    "headroom": _COUNT_OR_ZERO,
    "role_limit": _COUNT,
    "database_limit": _COUNT,
    "pooler_limit": _COUNT,
    "capacity": _COUNT,
    "cores": _COUNT,
    "cpu_time": _TIME,
    "connect_time": _TIME,
    "current_max_open": _COUNT,
    "failover_target": _TIME,
    "request_timeout": _TIME,
    "probe_timeout": _TIME,
    "network_idle_limit": _TIME,
    "session_idle_limit": _TIME,
    "credential_lifetime": _TIME,
    "connection_age_limit": _TIME,
}
"""Each is a field of ``Figures``. ``surge``, ``burstable`` and ``sweep_file`` are read in their own ways."""


def read_figures(values: Mapping[str, Any]) -> Figures:
    """Make figures of plain values: counts, rates, and times in seconds. A value None counts as not given.

    ``surge`` is a count or a share such as "25%", ``burstable`` a truth value, and ``sweep_file`` a CSV file with the
    columns connections,throughput[,latency]. Raises BadInput for an unknown name, an impossible value, and values
    that contradict each other.
    """
    known = {name: value for name, value in values.items() if value is not None}
    for name in known.keys() - RULES.keys() - {"surge", "burstable", "sweep_file"}:
        near = get_close_matches(name, RULES, 1)
        raise BadInput(f"figures: {name!r} is not a figure", hint=f"did you mean {near[0]}?" if near else "")
    for name, rule in RULES.items():
        if name in known:
            _check_value(name, known[name], rule)
    _check_together(known)
    figures: dict[str, Any] = {name: given(float(known[name])) for name in RULES if name in known}
    return Figures(
        **figures,
        **_read_surge(known.get("surge")),
        is_burstable=bool(known.get("burstable")),
        sweep=_read_sweep(Path(known["sweep_file"])) if "sweep_file" in known else (),
    )


def has_figures(figures: Figures) -> bool:
    """Return True if any figure is given. That a processor is burstable says nothing by itself."""
    return figures != Figures(is_burstable=figures.is_burstable)


def has_load_or_capacity(figures: Figures) -> bool:
    """Return True if the figures say enough to recommend a size without a server."""
    return any((figures.arrival_rate, figures.throughput, figures.capacity, figures.sweep))


def with_overrides(measured: Figures, given: Figures) -> Figures:
    """Replace each measured figure by the given one.

    A given throughput stands for the whole load: measured windows and samples say nothing about another load.
    """
    blank = Figures()
    names = [name for name in given.__dataclass_fields__ if getattr(given, name) != getattr(blank, name)]
    changes = {name: getattr(given, name) for name in names}
    if "surge" in changes or "surge_share" in changes:
        changes = {"surge": None, "surge_share": None} | changes
    if given.throughput is not None:
        changes |= {"windows": (), "parallelism": None, "parallelism_counted": None}
    return replace(measured, **changes)


def _check_value(name: str, value: Any, rule: FigureRule) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    is_fitting = is_number and 0 <= value <= MOST and (value > 0 or rule.may_be_zero)
    if not is_fitting or (rule.unit == "count" and value != int(value)):
        what = {"count": "a whole number", "number": "a number", "time": "a number of seconds"}[rule.unit]
        least = "0 or more" if rule.may_be_zero else "above 0"
        raise BadInput(f"figures: {name} = {value!r}: must be {what}, {least} and at most {MOST:,}")


def _check_together(values: Mapping[str, Any]) -> None:
    if "arrival_rate" in values and "throughput" in values:
        raise BadInput(
            "--arrival-rate and --throughput say the same", hint="of one instance, or of the whole service: give one"
        )
    instances, most = values.get("instances"), values.get("max_instances")
    if instances is not None and most is not None and most < instances:
        raise BadInput(f"--max-instances {most} is below --instances {instances}", hint="leave it out, or raise it")
    slots = values.get("max_connections")
    kept = values.get("superuser_reserved", 0) + values.get("reserved", 0)
    if slots is not None and kept >= slots:
        raise BadInput(
            f"--superuser-reserved and --reserved, {kept} together, leave nothing of --max-connections {slots}",
            hint="SHOW max_connections, superuser_reserved_connections and reserved_connections print the real values",
        )
    workers, each = values.get("workers", 0), values.get("connections_per_request", 0)
    if workers * each > MOST:
        raise BadInput(
            f"--workers {workers} x --connections-per-request {each}: more connections than a process can hold",
            hint="give the threads of one process, and the connections that one request holds at once",
        )


def _read_surge(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    text = str(value)
    try:
        surge = parse_surge(text)
    except BadInput:
        raise BadInput(f"--surge {text}: must be a count or a percentage", hint='for example 2 or "25%"') from None
    return {"surge_share" if is_share(text) else "surge": surge}


def _read_sweep(path: Path) -> tuple[SweepPoint, ...]:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise BadInput(f"--sweep-file {path}: is larger than {LARGEST_FILE:,} bytes, too large for a sweep")
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
        raise BadInput(
            f"--sweep-file {path}: cannot be read: {reason}",
            hint="give a CSV file with the columns connections,throughput[,latency]",
        ) from None
    return parse_sweep(text, str(path))
