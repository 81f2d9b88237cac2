"""An application's figures of its own pool, fetched from a URL or a file.

Reads Prometheus text and JSON by the names of ``metric_names``, JSON with the names of ``PoolFigures`` itself, and the
text of SQLAlchemy's ``pool.status()``. One request a sample, with a limit of time and size. Credentials in a URL (a
user and password, a query) go to that host and nowhere else: not into the source's name, a redirect or an error.
"""

import base64
import contextlib
import http.client
import json
import math
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from poolctl.errors import BadInput
from poolctl.observe.metric_names import Meaning, find_json_meanings, find_meaning
from poolctl.observe.pool_texts import parse_go_number, read_pool_texts
from poolctl.observe.prometheus import Series, parse
from poolctl.observe.snapshot import PoolFigures, PoolHold, Source

_STATES = {"idle": "idle", "used": "in_use"}
_STATE_LABELS = ("state", "db_client_connection_state")
_NAME_LABELS = ("db_client_connection_pool_name", "pool_name", "pool", "db_name", "name")
_APPLICATION_LABELS = ("application_name", "application")
_NO_IDENTITY = {*_STATE_LABELS, "le", "quantile", "type", "status", "outcome", "error_type"}
_DATABASES = ("", "postgresql", "postgres", "other_sql")
_LOOP_LAG = "nodejs_eventloop_lag_seconds"
_HOLD = "poolctl_guard_hold_seconds"
"""Of a guard in the application: a series for each connection that is out, with the line that acquired it."""

_NUMBERS = {
    one.name: "count" if one.name in ("max_open", "open", "in_use", "idle", "waiting") else "number"
    for one in fields(PoolFigures)
    if one.type in (int | None, float | None)
}
_LIKELY = re.compile(r"pool|conn|acquir|busy|idle|in_?use|active|waiting|pending|checked|borrow")
_LIKELY_NAME = re.compile(r"(?=[\w:]*(?:pool|conn))[a-zA-Z_:][\w:]*(?=[ {])")
_DEEPEST = 4
NO_NAMES: Mapping[str, Meaning] = MappingProxyType({})


@dataclass
class _Pool:
    library: str
    name: str
    labels: Mapping[str, str]
    numbers: dict[str, float] = field(default_factory=dict)
    application: str | None = None
    holds: list[PoolHold] = field(default_factory=list)

    def add(self, meaning_field: str, value: float) -> None:
        self.numbers[meaning_field] = self.numbers.get(meaning_field, 0.0) + value


@dataclass(frozen=True, slots=True)
class ParsedPools:
    """The pools in a text, and what was wrong with it; "" for nothing."""

    pools: tuple[PoolFigures, ...]
    complaint: str = ""


def read_pools(text: str, source: str, names: Mapping[str, Meaning] = NO_NAMES) -> ParsedPools:
    """Read the pools in ``text`` of any format; never raise. ``source`` is where the text came from.

    ``names``: metric names or JSON keys of the user's own, which go before the known ones.
    """
    document = None
    if text.lstrip()[:1] in ("{", "["):
        # Prometheus text may begin with a brace, too: {"a.quoted.name"} 1.
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(text)
    if document is not None:
        return _conclude(list(_read_json(document, names)), source, _explain_unknown_keys(document))
    exposition = parse(text, lambda name: name in names or _is_pool_metric(name))
    pools = list(_read_series(exposition.series, names))
    if not pools and (texts := tuple(read_pool_texts(text, source))):
        return ParsedPools(texts)
    lag = [series.value for series in exposition.series if series.name == _LOOP_LAG and math.isfinite(series.value)]
    for pool in pools:
        if lag:
            pool.numbers["loop_lag"] = max(lag)
    if not exposition.unreadable:
        return _conclude(pools, source, _explain_unknown_names(text))
    first, more = exposition.unreadable[0], len(exposition.unreadable) - 1
    complaint = f"line {first} is not Prometheus text" + (f", nor are {more} more" if more else "")
    if not pools and len(exposition.unreadable) * 2 < text.count("\n") and (likely := _find_likely_names(text)):
        complaint = _explain_unknown_names(text, likely)
    return ParsedPools(_conclude(pools, source, "").pools, complaint)


def _conclude(pools: Iterable[_Pool], source: str, complaint: str) -> ParsedPools:
    figures = tuple(_complete_figures(pool, source) for pool in pools)
    # Totals alone say nothing of what is held now: taken for a pool, they would read as one that is not in use.
    gauged = tuple(pool for pool in figures if any(each is not None for each in (pool.open, pool.in_use, pool.idle)))
    if figures and not gauged:
        names = ", ".join(dict.fromkeys(f"{pool.library} {pool.name}" for pool in figures))
        return ParsedPools((), f"it has totals of {names} and no gauge of connections open, in use or idle")
    return ParsedPools(gauged, "" if gauged else complaint)


def _is_pool_metric(name: str) -> bool:
    return find_meaning(name.removesuffix("_total")) is not None or name in (_LOOP_LAG, _HOLD)


def _find_likely_names(text: str) -> list[str]:
    """Return metric names in ``text`` that look like a pool's, the likeliest first."""
    found = dict.fromkeys(match[0] for line in text.splitlines() if (match := _LIKELY_NAME.match(line)) is not None)
    return sorted(found, key=lambda name: -len(set(_LIKELY.findall(name.lower()))))


def _explain_unknown_names(text: str, likely: Sequence[str] | None = None) -> str:
    names = _find_likely_names(text) if likely is None else likely
    if not names:
        return "no figures of a pool among its metrics"
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return f"no figures of a pool that poolctl knows; these look like one: {shown} (--pool-stats-map in_use=NAME,...)"


def _explain_unknown_keys(document: Any) -> str:
    keys = [str(key) for key in document] if isinstance(document, dict) else []
    if not keys:
        return "no pool in this JSON"
    return f"no pool in this JSON; its keys are {', '.join(keys[:8])} (--pool-stats-map in_use=KEY,...)"


def parse_names(mappings: Iterable[str]) -> dict[str, Meaning]:
    """Return the user's own names from texts like ``in_use=my_pool_busy,max_open=my_pool_size``.

    Raises BadInput for a figure that does not exist, with the names of figures that do.
    """
    names = {}
    for pair in filter(None, (part.strip() for mapping in mappings for part in mapping.split(","))):
        figure, equals, name = (part.strip() for part in pair.partition("="))
        if not equals or not name or figure not in _NUMBERS:
            raise BadInput(
                f"--pool-stats-map {pair!r}: {figure or 'nothing'} is not a figure of a pool",
                hint=f"write FIGURE=NAME; the figures are {', '.join(_NUMBERS)}",
            )
        names[name.removesuffix("_total")] = Meaning("custom", figure)
    return names


def _read_series(series: Iterable[Series], names: Mapping[str, Meaning] = NO_NAMES) -> Iterator[_Pool]:
    pools: dict[tuple[str, frozenset[tuple[str, str]]], _Pool] = {}
    holds: dict[str, list[PoolHold]] = {}
    for one in series:
        if one.name == _HOLD:
            if one.labels.get("backend_pid", "").isdecimal() and math.isfinite(one.value):
                hold = PoolHold(
                    int(one.labels["backend_pid"]),
                    one.labels.get("site", ""),
                    one.value,
                    one.labels.get("outcome", ""),
                )
                holds.setdefault(one.labels.get(_NAME_LABELS[0], ""), []).append(hold)
            continue
        bare = one.name.removesuffix("_total")
        meaning = names.get(bare) or find_meaning(bare)
        system = one.labels.get("db_system", one.labels.get("db_system_name", ""))
        if meaning is None or not math.isfinite(one.value) or system not in _DATABASES:
            continue
        # Vert.x counts its threads and its HTTP connections by the same names.
        if meaning.library == "vertx" and one.labels.get("pool_type", "sql") not in ("sql", "datasource"):
            continue
        what = meaning.field or next(
            (_STATES.get(one.labels[key], "") for key in _STATE_LABELS if key in one.labels), ""
        )
        if not what:
            continue
        labels = {key: value for key, value in one.labels.items() if key not in _NO_IDENTITY}
        identity = (meaning.library, frozenset(labels.items()))
        if identity not in pools:
            pools[identity] = _make_pool(meaning.library, labels)
        pools[identity].add(what, one.value * meaning.scale)
    for pool in pools.values():
        pool.holds = holds.get(pool.name, [])
        yield pool


def read_series(series: Iterable[Series], source: str, names: Mapping[str, Meaning] = NO_NAMES) -> list[PoolFigures]:
    """Return the pools of series of one instant, as far as their gauges are among them."""
    return list(_conclude(_read_series(series, names), source, "").pools)


def _make_pool(library: str, labels: Mapping[str, str]) -> _Pool:
    named_by = next((key for key in _NAME_LABELS if key in labels), None)
    return _Pool(
        library,
        labels[named_by] if named_by else "default",
        {key: value for key, value in labels.items() if key != named_by},
        application=next((labels[key] for key in _APPLICATION_LABELS if labels.get(key)), None),
    )


def _read_json(document: Any, names: Mapping[str, Meaning], name: str = "default", depth: int = 0) -> Iterator[_Pool]:
    """Read a pool, a list of pools, or pools by their names, nested at most ``_DEEPEST`` levels."""
    if depth > _DEEPEST:
        return
    if isinstance(document, list):
        for one in document:
            yield from _read_json(one, names, name, depth + 1)
    elif isinstance(document, dict):
        pool = _read_pool(document, names, name)
        if pool is not None:
            yield pool
            return
        for key, value in document.items():
            yield from _read_json(value, names, str(key), depth + 1)


def _read_pool(document: Mapping[str, Any], names: Mapping[str, Meaning], name: str) -> _Pool | None:
    numbers = {key: number for key, value in document.items() if (number := _read_number(value)) is not None}
    meanings = find_json_meanings(numbers) | {key: names[key] for key in numbers if key in names}
    libraries = {meaning.library for meaning in meanings.values()}
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
        if (meaning := meanings.get(key)) is not None:
            # A duration as text ("7.9s") is in seconds already.
            pool.add(meaning.field, value if isinstance(document[key], str) else value * meaning.scale)
    pool.numbers.update(own)
    if "requests_num" in numbers:
        # psycopg_pool counts all requests; failed ones are counted beside it once there is one.
        pool.numbers["acquired_total"] -= pool.numbers.setdefault("timed_out_total", 0.0)
    return pool


def _read_number(value: object) -> float | None:
    """Return a finite number, or the seconds of a duration that Go writes as text; None for anything else."""
    if isinstance(value, str):
        return parse_go_number(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    with contextlib.suppress(OverflowError):
        number = float(value)
        return number if math.isfinite(number) else None
    return None


def _complete_figures(pool: _Pool, source: str) -> PoolFigures:
    numbers = dict(pool.numbers)
    if pool.library == "ecto" and "max_open" in numbers:
        # A pool of DBConnection opens all of its connections when it starts.
        numbers.setdefault("open", numbers["max_open"])
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
        holds=tuple(pool.holds),
        waiting_may_lie=pool.library == "psycopg_pool" and "waiting" in numbers,
        **values,  # type: ignore[arg-type] # by name: counts are int, the rest float
    )


FETCH_WITHIN = 1.2
"""Seconds for one request: the sampler waits a little longer."""
LARGEST = 16 << 20
"""Bytes, some 150,000 lines; a service writes a few thousand."""
_CHUNK = 1 << 16


class _CannotFetch(Exception):
    """Why there is nothing to read, in words without a secret."""


class PoolMetrics:
    """One URL or file with figures of pools; ``APPLICATION=`` before it names the application they belong to.

    ``sample`` takes at most ``patience`` seconds and never raises; ``source`` says how it went.
    """

    def __init__(self, place: str, *, patience: float = FETCH_WITHIN, names: Mapping[str, Meaning] = NO_NAMES) -> None:
        self._patience = patience
        self._names = names
        self._application, place = _split_application(place)
        self._is_url = re.match(r"https?://", place, re.IGNORECASE) is not None
        self._place = place
        self.source = Source("pool-stats", strip_secrets(place) if self._is_url else place)

    @property
    def endpoint(self) -> tuple[str, int] | None:
        """The host and port of the URL, for the host's view of the process behind it; None for a file."""
        if not self._is_url:
            return None
        with contextlib.suppress(ValueError):
            parts = urllib.parse.urlsplit(self._place)
            return parts.hostname or "", parts.port or (443 if parts.scheme.lower() == "https" else 80)
        return None

    def sample(self) -> tuple[PoolFigures, ...] | None:
        """Read the pools now, as far as they are readable; None when the place could not be read at all."""
        try:
            text, is_whole = _run_within(self._patience, self._fetch if self._is_url else self._read_place)
        except _CannotFetch as error:
            self.source = replace(self.source, ok=False, reason=str(error))
            return None
        if not is_whole:
            text = text[: text.rfind("\n") + 1]
        read = read_pools(text, self.source.target, self._names)
        cut = f"longer than {LARGEST >> 20} MiB: only the beginning was read" if not is_whole else ""
        reason = "; ".join(part for part in (cut, read.complaint) if part)
        self.source = replace(self.source, ok=not reason, reason=reason)
        if self._application is None:
            return read.pools
        return tuple(replace(pool, application=self._application) for pool in read.pools)

    def close(self) -> None:
        """Do nothing: no connection or file stays open between samples."""

    def _read_place(self) -> tuple[str, bool]:
        path = Path(self._place)
        try:
            if path.exists() and not path.is_file():
                raise _CannotFetch("it is not a file")
            with path.open("rb") as file:
                content = file.read(LARGEST + 1)
        except (OSError, ValueError) as error:
            raise _CannotFetch(getattr(error, "strerror", None) or "it cannot be read") from None
        return content[:LARGEST].decode("utf-8-sig", errors="replace"), len(content) <= LARGEST

    def _fetch(self) -> tuple[str, bool]:
        deadline = time.monotonic() + self._patience
        content = bytearray()
        try:
            with open_url(self._place, self._patience) as response:
                while len(content) <= LARGEST and time.monotonic() < deadline:
                    chunk = response.read1(_CHUNK)
                    if not chunk:
                        return bytes(content).decode("utf-8-sig", errors="replace"), True
                    content += chunk
        except urllib.error.HTTPError as error:
            error.close()
            raise _CannotFetch(f"it answered HTTP {error.code} {http.client.responses.get(error.code, '')}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _CannotFetch(explain_failure(error)) from None
        if len(content) > LARGEST:
            return bytes(content[:LARGEST]).decode("utf-8-sig", errors="replace"), False
        raise _CannotFetch(f"not read to its end within {self._patience:g} s")


def _make_opener() -> urllib.request.OpenerDirector:
    """Make an opener without the handlers for files and FTP, where a redirect could lead."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER = _make_opener()


def open_url(url: str, seconds: float, form: bytes | None = None) -> Any:
    """Open a URL, whose credentials go to its host alone; ``form`` is posted. Raises OSError and ValueError."""
    request = _make_request(url)
    request.data = form
    return _OPENER.open(request, timeout=seconds)


def _make_request(url: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(
        urllib.parse.urlunsplit(parts._replace(netloc=host, fragment="")),
        headers={"User-Agent": "poolctl", "Accept": "text/plain;version=0.0.4, */*;q=0.1"},
    )
    if parts.username is not None:
        pair = ":".join(urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
        # An "unredirected" header is not sent again to the place that a redirect names.
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    return request


def _split_application(place: str) -> tuple[str | None, str]:
    """Split "APPLICATION=PLACE" into the name, None without one, and the URL or file."""
    name, equals, rest = place.partition("=")
    if not equals or not name or not rest or re.search(r"[/:?]", name) or Path(place).exists():
        return None, place
    return name, rest


def strip_secrets(url: str) -> str:
    """Reduce a URL to what may be shown: its query and the part before the host can hold a token."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "a URL that cannot be read"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def explain_failure(error: Exception) -> str:
    """Explain why nothing could be fetched, without repeating a URL."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, OSError):
        return reason.strerror or type(reason).__name__
    # The text of other errors can repeat the URL.
    return f"no readable HTTP answer ({type(reason).__name__})"


def _run_within(seconds: float, fetch: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
    """Return what ``fetch`` returns. Raises _CannotFetch after ``seconds``.

    A name server or a network file system can block a thread for minutes; such a thread is left behind.
    """
    outcome: list[tuple[str, bool] | _CannotFetch] = []

    def run() -> None:
        try:
            outcome.append(fetch())
        except _CannotFetch as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise _CannotFetch(f"no answer within {seconds:g} s")
    if isinstance(outcome[0], _CannotFetch):
        raise outcome[0]
    return outcome[0]
