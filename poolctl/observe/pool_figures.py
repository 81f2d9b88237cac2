"""What an application's pool says of itself, whatever library wrote it, as ``PoolFigures``.

Reads Prometheus text and JSON by the names of ``pool_names``, JSON with the names of ``PoolFigures`` itself, and the
text of SQLAlchemy's ``pool.status()``. Where the text comes from is left to ``pool_stats``.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from poolctl.observe.metric_names import JSON_KEYS, MEANINGS
from poolctl.observe.prometheus import Series, parse
from poolctl.observe.snapshot import PoolFigures

_STATES = {"idle": "idle", "used": "in_use"}
_STATE_LABELS = ("state", "db_client_connection_state")
_NAME_LABELS = ("db_client_connection_pool_name", "pool_name", "pool", "db_name", "name")
_APPLICATION_LABELS = ("application_name", "application")
_NO_IDENTITY = {*_STATE_LABELS, "le", "quantile", "type", "status", "outcome", "error_type"}
_DATABASES = ("", "postgresql", "postgres", "other_sql")
_LOOP_LAG = "nodejs_eventloop_lag_seconds"

_NUMBERS = {
    one.name: "count" if one.name in ("max_open", "open", "in_use", "idle", "waiting") else "number"
    for one in fields(PoolFigures)
    if one.type in (int | None, float | None)
}
_STATUS = re.compile(
    r"Pool size: (?P<size>\d+)\s+Connections in pool: (?P<idle>\d+)\s+"
    r"Current Overflow: -?\d+\s+Current Checked out connections: (?P<in_use>\d+)"
)
_DEEPEST = 4


@dataclass
class _Pool:
    library: str
    name: str
    labels: Mapping[str, str]
    numbers: dict[str, float] = field(default_factory=dict)
    application: str | None = None

    def add(self, meaning_field: str, value: float) -> None:
        self.numbers[meaning_field] = self.numbers.get(meaning_field, 0.0) + value


@dataclass(frozen=True, slots=True)
class Read:
    """Pools, and what was wrong with the text: "" when nothing was."""

    pools: tuple[PoolFigures, ...]
    complaint: str = ""


def read_pools(text: str, source: str) -> Read:
    """The pools in ``text``, whichever of the formats it is; never raises. ``source`` is where it came from."""
    document = None
    if text.lstrip()[:1] in ("{", "["):
        # A line of Prometheus text may begin with a brace, too.
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(text)
    if document is not None:
        return _verdict(list(_from_json(document)), source, "no pool in this JSON")
    statuses = list(_STATUS.finditer(text))
    if statuses:
        return _verdict([_from_status(text, one) for one in statuses], source, "")
    exposition = parse(text, _is_of_a_pool)
    pools = list(_from_series(exposition.series))
    lag = [series.value for series in exposition.series if series.name == _LOOP_LAG and math.isfinite(series.value)]
    for pool in pools:
        if lag:
            pool.numbers["loop_lag"] = max(lag)
    if not exposition.unreadable:
        return _verdict(pools, source, "no figures of a pool among its metrics")
    first, more = exposition.unreadable[0], len(exposition.unreadable) - 1
    complaint = f"line {first} is no Prometheus text" + (f", nor are {more} more" if more else "")
    return Read(_verdict(pools, source, "").pools, complaint)


def _verdict(pools: Iterable[_Pool], source: str, complaint: str) -> Read:
    figures = tuple(_figures(pool, source) for pool in pools)
    return Read(figures, "" if figures else complaint)


def _is_of_a_pool(name: str) -> bool:
    return name.removesuffix("_total") in MEANINGS or name == _LOOP_LAG


def _from_series(series: Iterable[Series]) -> Iterator[_Pool]:
    pools: dict[tuple[str, frozenset[tuple[str, str]]], _Pool] = {}
    for one in series:
        meaning = MEANINGS.get(one.name.removesuffix("_total"))
        system = one.labels.get("db_system", one.labels.get("db_system_name", ""))
        if meaning is None or not math.isfinite(one.value) or system not in _DATABASES:
            continue
        what = meaning.field or next(
            (_STATES.get(one.labels[key], "") for key in _STATE_LABELS if key in one.labels), ""
        )
        if not what:
            continue
        labels = {key: value for key, value in one.labels.items() if key not in _NO_IDENTITY}
        identity = (meaning.library, frozenset(labels.items()))
        if identity not in pools:
            pools[identity] = _new_pool(meaning.library, labels)
        pools[identity].add(what, one.value * meaning.scale)
    yield from pools.values()


def _new_pool(library: str, labels: Mapping[str, str]) -> _Pool:
    named_by = next((key for key in _NAME_LABELS if key in labels), None)
    return _Pool(
        library,
        labels[named_by] if named_by else "default",
        {key: value for key, value in labels.items() if key != named_by},
        application=next((labels[key] for key in _APPLICATION_LABELS if labels.get(key)), None),
    )


def _from_json(document: Any, name: str = "default", depth: int = 0) -> Iterator[_Pool]:
    """A pool, a list of pools, or pools by their names, however they are nested."""
    if depth > _DEEPEST:
        return
    if isinstance(document, list):
        for one in document:
            yield from _from_json(one, name, depth + 1)
    elif isinstance(document, dict):
        pool = _pool_of(document, name)
        if pool is not None:
            yield pool
            return
        for key, value in document.items():
            yield from _from_json(value, str(key), depth + 1)


def _pool_of(document: Mapping[str, Any], name: str) -> _Pool | None:
    numbers = {key: number for key, value in document.items() if (number := _finite(value)) is not None}
    libraries = {JSON_KEYS[key].library for key in numbers if key in JSON_KEYS}
    own = {key: numbers[key] for key in _NUMBERS if key in numbers}
    if not libraries and not own.keys() & {"open", "in_use", "idle", "waiting", "max_open"}:
        return None
    library = document.get("library")
    given = {key: document.get(key) for key in ("name", "application", "labels")}
    labels = given["labels"] if isinstance(given["labels"], dict) else {}
    pool = _Pool(
        library if isinstance(library, str) else next(iter(sorted(libraries)), "unknown"),
        given["name"] if isinstance(given["name"], str) else name,
        {str(key): str(value) for key, value in labels.items()},
        application=given["application"] if isinstance(given["application"], str) else None,
    )
    for key, value in numbers.items():
        if (meaning := JSON_KEYS.get(key)) is not None:
            pool.add(meaning.field, value * meaning.scale)
    pool.numbers.update(own)
    if "requests_num" in numbers:
        # It counts what was asked for; those that failed are counted beside it, from the first one on.
        pool.numbers["acquired_total"] -= pool.numbers.setdefault("timed_out_total", 0.0)
    return pool


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    with contextlib.suppress(OverflowError):
        number = float(value)
        return number if math.isfinite(number) else None
    return None


def _from_status(text: str, status: "re.Match[str]") -> _Pool:
    # A name may stand before it in the same line: "orders: Pool size: 5 ...".
    before = text[text.rfind("\n", 0, status.start()) + 1 : status.start()].strip().rstrip(":").strip()
    pool = _Pool("sqlalchemy", before or "default", {})
    # The size is without the overflow, which the text does not give.
    pool.numbers = {"idle": float(status["idle"]), "in_use": float(status["in_use"])}
    return pool


def _figures(pool: _Pool, source: str) -> PoolFigures:
    numbers = dict(pool.numbers)
    known = numbers.keys() & {"open", "in_use", "idle"}
    if known == {"in_use", "idle"}:
        numbers["open"] = numbers["in_use"] + numbers["idle"]
    elif known == {"open", "idle"}:
        numbers["in_use"] = numbers["open"] - numbers["idle"]
    elif known == {"open", "in_use"}:
        numbers["idle"] = numbers["open"] - numbers["in_use"]
    values = {
        name: max(0, round(numbers[name])) if kind == "count" else float(numbers[name])
        for name, kind in _NUMBERS.items()
        if math.isfinite(numbers.get(name, math.nan))
    }
    return PoolFigures(
        source=source,
        name=pool.name,
        library=pool.library,
        labels=dict(pool.labels),
        application=pool.application,
        waiting_may_lie=pool.library == "psycopg_pool" and "waiting" in numbers,
        **values,  # type: ignore[arg-type] # by name: counts are int, the rest float
    )
