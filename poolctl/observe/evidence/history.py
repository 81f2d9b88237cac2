"""What a Prometheus kept of pools, poolers and servers, as the samples that live looking gives.

One range query of the HTTP API a kind of metric, which Thanos, Mimir and VictoriaMetrics answer, too:
https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries. Decides which metrics are asked for, which
stretch of time is the busiest, and how a count of connections becomes backends without an identity.
"""

import json
import math
import re
import urllib.error
import urllib.parse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from poolctl.errors import BadInput, CannotConnect, CannotDo
from poolctl.observe.evidence.consoles import read_exporter
from poolctl.observe.metric_names import ENDINGS, MEANINGS, Meaning
from poolctl.observe.pool_metrics import explain_failure, open_url, parse_names, read_series, strip_secrets
from poolctl.observe.prometheus import Series
from poolctl.observe.snapshot import Backend, Observation, PoolFigures, ServerFacts, ServerSample, Snapshot, Source

DAY = 86_400.0
LAST_HOUR = 3_600.0
"""Seconds before now that an inspection reads without --from."""
WEEK = 7 * DAY
"""Seconds before now in which a recommendation looks for the busiest stretch without --from."""
BUSY = 1_800.0
"""Seconds of the busiest stretch: a pool has to serve a rush, not one scrape."""
LEAST_STEP = 15.0
"""Seconds between samples: what most Prometheus scrape in."""
MOST_SAMPLES = 500
MOST_POINTS = 10_000
"""Of a series in one answer; Prometheus refuses more than 11,000."""
PATIENCE = 30.0
"""Seconds for one query: an hour of many series takes a busy Prometheus a while."""
LARGEST = 256 << 20
"""Bytes of one answer."""

_ACTIVITY = ("pg_stat_activity_count", "cnpg_backends_total")
"""Connections by state: of postgres_exporter, and of CloudNativePG."""
_SETTINGS = {
    "pg_settings_max_connections": "max_connections",
    "pg_settings_superuser_reserved_connections": "superuser_reserved_connections",
    "pg_settings_reserved_connections": "reserved_connections",
}
_CNPG_SETTING = "cnpg_pg_settings_setting"
_BOUNCER = "pgbouncer_.*"
_INSTANCE = ("instance", "pod", "host", "job")


@dataclass(frozen=True, slots=True)
class Range:
    """A stretch of time, seconds since the epoch, and the seconds between its samples."""

    since: float
    until: float
    step: float


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Where to ask, and for which series. ``match``: label matchers of PromQL, with or without braces; "" for all.

    ``names``: metric names of the user's own pools, as ``parse_names`` reads them.
    """

    url: str
    match: str = ""
    names: Sequence[str] = ()


def plan_range(since: float | None, until: float | None, step: float | None, default: float, now: float) -> Range:
    """Return the stretch to read. A bound below a day is a time of day (UTC) of the day before ``now``'s end.

    ``default``: seconds before the end without ``since``. ``step`` None: as fine as ``MOST_SAMPLES`` allow. Raises
    BadInput if nothing lies between the two, and for a step that gives more samples than a Prometheus returns.
    """
    end = now if until is None else _find_moment(until, now)
    begin = end - default if since is None else _find_moment(since, end)
    if begin >= end:
        raise BadInput("--from and --to: nothing lies between the two", hint="times of day are in UTC")
    chosen = max(LEAST_STEP, math.ceil((end - begin) / MOST_SAMPLES)) if step is None else step
    if chosen <= 0 or (end - begin) / chosen > MOST_POINTS:
        raise BadInput(f"--step {chosen:g}s gives more than {MOST_POINTS} samples", hint="give a longer one")
    return Range(begin, end, chosen)


def _find_moment(bound: float, end: float) -> float:
    """Return the instant of ``bound``; a time of day is the last such one up to ``end``."""
    if bound >= DAY:
        return bound
    at = end - end % DAY + bound
    return at if at <= end else at - DAY


def read_history(query: HistoryQuery, stretch: Range) -> Observation:
    """Return the observation that a Prometheus kept of ``stretch``.

    Raises CannotConnect if it does not answer, CannotDo for an answer that is none, BadInput if it has no figures of
    any pool, pooler or server in that time.
    """
    names = parse_names(query.names)
    own = {f"{name}{end}" for name in (*MEANINGS, *names) for end in ("", "_total")}
    own |= {f".*{ending}" for ending in ENDINGS}
    wanted = sorted(own | {*_ACTIVITY, *_SETTINGS, _CNPG_SETTING, _BOUNCER})
    moments = _ask(query, "|".join(wanted), stretch)
    target = strip_secrets(query.url)
    counter = _Numbers()
    snapshots = [
        Snapshot(
            at,
            server=_read_server(series, at, counter),
            bouncers=_read_bouncers(series, target),
            pools=tuple(_read_pools(series, target, names)),
        )
        for at, series in sorted(moments.items())
    ]
    if not any(snapshot.server or snapshot.bouncers or snapshot.pools for snapshot in snapshots):
        raise BadInput(
            f"--prometheus {target} has no figures of a pool, a pooler or a server in that time",
            hint="check --from, --to and --match; for names of your own: --pool-stats-map in_use=NAME,...",
        )
    last = moments[max(moments)]
    return Observation(
        tuple(snapshots), _read_facts(last, target), (Source("prometheus", target),), interval=stretch.step
    )


def find_busiest(query: HistoryQuery, stretch: Range) -> Range:
    """Return the ``BUSY`` seconds of ``stretch`` in which the pools had most connections in use, finely sampled.

    All of a stretch that is no longer than that. Raises as ``read_history`` does.
    """
    if stretch.until - stretch.since <= BUSY:
        return stretch
    names = parse_names(query.names)
    gauges = [name for name, each in (MEANINGS | dict(names)).items() if each.field in ("", "in_use", "open", "idle")]
    gauges += [f".*{ending}" for ending in ENDINGS]
    coarse = replace(stretch, step=max(60.0, math.ceil((stretch.until - stretch.since) / MOST_POINTS)))
    moments = _ask(query, "|".join(sorted(gauges)), coarse)
    busy = sorted(
        (at, sum(pool.in_use or 0 for pool in _read_pools(series, "", names))) for at, series in moments.items()
    )
    if not busy:
        return replace(stretch, since=stretch.until - BUSY)
    count = max(1, round(BUSY / coarse.step))
    sums = [sum(value for _, value in busy[at : at + count]) for at in range(max(1, len(busy) - count + 1))]
    begin = busy[sums.index(max(sums))][0]
    return Range(begin, min(begin + BUSY, stretch.until), LEAST_STEP)


def _ask(query: HistoryQuery, names: str, stretch: Range) -> dict[float, list[Series]]:
    """Return the series of every metric that one of ``names`` (alternatives of a regular expression) matches, by the
    instant."""
    matchers = query.match.strip().removeprefix("{").removesuffix("}").strip().strip(",")
    selector = f'{{__name__=~"{names}"{"," + matchers if matchers else ""}}}'
    asked = {"query": selector, "start": stretch.since, "end": stretch.until, "step": stretch.step}
    document = _post(f"{query.url.rstrip('/')}/api/v1/query_range", asked, strip_secrets(query.url))
    moments: dict[float, list[Series]] = defaultdict(list)
    try:
        for series in document["data"]["result"]:
            labels = {str(key).replace(".", "_"): str(value) for key, value in series["metric"].items()}
            name = labels.pop("__name__", "")
            for at, text in series["values"]:
                value = float(text)
                # A series that ended is NaN in its last sample.
                if math.isfinite(value):
                    moments[float(at)].append(Series(name.replace(".", "_"), labels, value))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CannotDo(f"{strip_secrets(query.url)} answered, but not as a Prometheus does") from None
    return moments


def _post(url: str, form: Mapping[str, object], target: str) -> Any:
    if re.match(r"https?://", url) is None:
        raise BadInput(f"--prometheus {target}: not a URL", hint="--prometheus http://prometheus:9090")
    try:
        with open_url(url, PATIENCE, urllib.parse.urlencode(form).encode()) as response:
            content = response.read(LARGEST + 1)
    except urllib.error.HTTPError as error:
        with error:
            reason = _read_error(error.read(10_000))
        raise CannotDo(
            f"{target} refused the query: {reason or f'HTTP {error.code}'}", hint="check the URL and --match"
        ) from None
    except (OSError, ValueError) as error:
        raise CannotConnect(f"{target}: {explain_failure(error)}", hint="check the address of --prometheus") from None
    if len(content) > LARGEST:
        raise CannotDo(f"{target} answered with more than {LARGEST >> 20} MiB", hint="narrow it: --match, --from, --to")
    try:
        return json.loads(content)
    except ValueError:
        raise CannotDo(f"{target} answered, but not as a Prometheus does", hint="check the URL") from None


def _read_error(content: bytes) -> str:
    try:
        document = json.loads(content)
    except ValueError:
        return ""
    return str(document.get("error", ""))[:200] if isinstance(document, dict) else ""


def _read_pools(series: Iterable[Series], target: str, names: Mapping[str, Meaning]) -> Iterator[PoolFigures]:
    """Yield the pools of every instance. The instance is part of the source: each pool of a fleet is its own."""
    for pool in read_series(series, target, names):
        where = next((f"{key}={pool.labels[key]}" for key in _INSTANCE if key in pool.labels), "")
        yield replace(pool, source=f"{target} {where}".strip())


class _Numbers:
    """Process ids below zero for backends that are only counted: the n-th of one kind has the same one at each
    instant, so that growth is right."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[tuple[str, str], ...], int], int] = {}

    def __call__(self, labels: Mapping[str, str], number: int) -> int:
        key = (tuple(sorted(labels.items())), number)
        return self._known.setdefault(key, -len(self._known) - 1)


def _read_server(series: Iterable[Series], at: float, numbers: _Numbers) -> ServerSample | None:
    counted = [one for one in series if one.name in _ACTIVITY]
    if not counted:
        return None
    backends: list[Backend] = []
    for one in counted:
        labels = one.labels
        state = labels.get("state") or None
        if state is None or state == "unknown":
            continue
        backends += [
            Backend(
                pid=numbers(labels, number),
                user=labels.get("usename"),
                database=labels.get("datname"),
                application=labels.get("application_name", ""),
                backend_type="client backend",
                state=state,
            )
            for number in range(min(round(one.value), 20_000))
        ]
    return ServerSample(at=at, started_at=0.0, backends=tuple(backends))


def _read_bouncers(series: Sequence[Series], target: str) -> tuple[Any, ...]:
    by_instance: dict[str, list[Series]] = defaultdict(list)
    for one in series:
        if one.name.startswith("pgbouncer_"):
            by_instance[next((one.labels[key] for key in _INSTANCE if key in one.labels), target)].append(one)
    found = (read_exporter(each, name) for name, each in by_instance.items())
    return tuple(bouncer for bouncer in found if bouncer is not None)


def _read_facts(series: Iterable[Series], target: str) -> ServerFacts | None:
    known: dict[str, int] = {}
    for one in series:
        name = one.labels.get("name", "") if one.name == _CNPG_SETTING else _SETTINGS.get(one.name, "")
        if name in _SETTINGS.values():
            known[name] = round(one.value)
    if "max_connections" not in known:
        return None
    return ServerFacts(
        target=target,
        version="",
        version_number=0,
        role="",
        database="",
        max_connections=known["max_connections"],
        superuser_reserved=known.get("superuser_reserved_connections", 3),
        reserved=known.get("reserved_connections", 0),
        can_see_all=True,
    )
