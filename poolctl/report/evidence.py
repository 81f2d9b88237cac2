"""What logs and histories say over time, as blocks of a report: a chart, the figures, how it began, what changed.

Decides which events are worth a line. The verdict on them is left to the diagnosis.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from poolctl.diagnose.live.fetch import list_causes_before
from poolctl.diagnose.live.waits import LEAST_RISE, measure_rise
from poolctl.observe.snapshot import LogFacts, Observation, PoolFigures, Snapshot
from poolctl.report.blocks import Block, ChartBlock, Item, Labeled, Points, Section
from poolctl.report.charts import Layer, LimitLine, Mark, Panel, TimeChart
from poolctl.report.findings import NAME_LIMIT, SENTENCE_LIMIT
from poolctl.safe_text import neutralize
from poolctl.units import format_count, format_duration, format_instant, plural

MOST_STATEMENTS = 3
MOST_POOLS = 8
LEAST_HISTORY = 3
"""Samples from which a history is worth a section."""
MARGIN = 12
"""Columns of "Connections", the longest label."""


def build_log_section(observation: Observation) -> Section:
    """Return what the logs among the evidence say; an empty section without any."""
    log = observation.log
    if log is None or not log.lines:
        return Section("", ())
    groups = tuple(Labeled(label, tuple(map(Item, texts))) for label, texts in _describe(log) if texts)
    chart = chart_log(observation)
    blocks: tuple[Block, ...] = (Points(groups, MARGIN), *((ChartBlock(chart),) if chart is not None else ()))
    return Section("What the logs say", blocks)


def chart_log(observation: Observation) -> TimeChart | None:
    """Return sessions open at least, and refusals, lock waits and time-outs over time; None without a line to draw."""
    log = observation.log
    if log is None or len(log.moments) < 2 or log.first_at is None:
        return None
    panels = []
    if any(moment.open_at_least is not None for moment in log.moments):
        values = tuple(moment.open_at_least for moment in log.moments)
        usable = observation.server.usable if observation.server is not None else None
        limit = LimitLine(f"usable {format_count(usable)}", usable) if usable else None
        peak = max((value for value in values if value is not None), default=0)
        panels.append(
            Panel("sessions", (Layer("open at least", "open", values),), max(peak, usable or 1), limit, rows=5)
        )
    for title, counts in (
        ("refused", [moment.refused for moment in log.moments]),
        ("lock waits", [moment.lock_waits for moment in log.moments]),
        ("timed out", [moment.timed_out for moment in log.moments]),
    ):
        if any(counts):
            panels.append(Panel(title, (Layer(title, "waiting", tuple(map(float, counts))),), float(max(counts))))
    if not panels:
        return None
    start = log.moments[0].at
    at = tuple(moment.at - start for moment in log.moments)
    marks = tuple(Mark(restart - start, "restart") for restart in log.restarts[:5])
    return TimeChart(f"logs, each {format_duration(log.interval)}", at, tuple(panels), 0.0, at[-1], marks)


def _describe(log: LogFacts) -> Iterator[tuple[str, list[str]]]:
    span = ""
    if log.first_at is not None and log.last_at is not None:
        length = format_duration(log.last_at - log.first_at)
        span = f" from {format_instant(log.first_at)} to {format_instant(log.last_at)} ({length})"
    yield "Read", [f"{plural(log.lines, 'line')}{span}"]
    if log.trouble_at is not None:
        causes = list(list_causes_before(log))
        yield "Began", [f"{format_instant(log.trouble_at)}: the first refusal, lock wait or time-out"]
        yield "Before it", [neutralize(cause, SENTENCE_LIMIT) for cause in causes]
    yield "Connections", list(_describe_connections(log))
    refusals = [f"{format_count(each.count)} times {neutralize(each.text, NAME_LIMIT)}" for each in log.refusals[:5]]
    yield "Refused", refusals
    yield "Waited", list(_describe_waits(log))
    slow = [
        f"{format_count(each.count)} times, {format_duration(each.time)} in all, longest "
        f"{format_duration(each.longest)}: {neutralize(each.text, SENTENCE_LIMIT)}"
        for each in log.statements[:MOST_STATEMENTS]
    ]
    yield "Statements", slow
    yield "Restarts", [f"the server started at {format_instant(at)}" for at in log.restarts[:5]]


def _describe_connections(log: LogFacts) -> Iterator[str]:
    peaks = [(each.open_at_least, each.at) for each in log.moments if each.open_at_least is not None]
    if peaks:
        most, at = max(peaks, key=lambda peak: (peak[0], -peak[1]))
        opened, closed = (sum(getattr(each, name) for each in log.moments) for name in ("opened", "closed"))
        yield (
            f"at least {format_count(most)} open at once, at {format_instant(at)}; {format_count(opened)} opened, "
            f"{format_count(closed)} closed (sessions whose login was not logged are missing)"
        )
    for each in log.applications[:5]:
        mean = f", {format_duration(each.session_time)} long on average" if each.session_time is not None else ""
        name = neutralize(each.name, NAME_LIMIT) or "no name"
        yield f"{name}: {plural(each.sessions, 'session')}{mean}"
    if log.connect_time is not None:
        yield f"{format_duration(log.connect_time)} to open one, mean of {format_count(log.connect_count)}"
    if log.lost_clients:
        yield f"{plural(log.lost_clients, 'client')} went away without a word"


def _describe_waits(log: LogFacts) -> Iterator[str]:
    for each in log.lock_waits[:3]:
        holders = ", ".join(map(str, each.holders)) or "an unknown process"
        yield (
            f"{plural(each.count, 'wait')} for a lock of {holders}, the longest {format_duration(each.wait_time)}: "
            f"{neutralize(each.text, SENTENCE_LIMIT)}"
        )
    for text, count in log.timeouts.items():
        yield f"{format_count(count)} times {neutralize(text, SENTENCE_LIMIT)}"
    if log.queue_timeouts:
        yield f"{format_count(log.queue_timeouts)} times query_wait_timeout of PgBouncer"
    if log.deadlocks:
        yield f"{plural(log.deadlocks, 'deadlock')}"


def build_history_section(observation: Observation) -> Section:
    """Return what the history of a Prometheus says of pools over time; an empty section without one."""
    snapshots = [snapshot for snapshot in observation.snapshots if snapshot.pools]
    if len(snapshots) < LEAST_HISTORY or not any(source.kind == "prometheus" for source in observation.sources):
        return Section("", ())
    histories: dict[tuple[str, str, str], list[tuple[float, PoolFigures]]] = {}
    for snapshot in snapshots:
        for pool in snapshot.pools:
            histories.setdefault((pool.source, pool.library, pool.name), []).append((snapshot.at, pool))
    lines = sorted(
        (
            (_rank_history(history), neutralize(_describe_history(key, history), None))
            for key, history in histories.items()
        ),
        reverse=True,
    )
    start, end = snapshots[0].at, snapshots[-1].at
    groups = [
        Labeled("Pools", tuple(Item(text) for _, text in lines[:MOST_POOLS])),
        Labeled("Changed", tuple(map(Item, _list_changes(histories, start, end, observation.interval)))),
    ]
    return Section("What the history says", (Points(tuple(groups), MARGIN), ChartBlock(_chart_pools(snapshots))))


def _rank_history(history: Sequence[tuple[float, PoolFigures]]) -> float:
    last = history[-1][1]
    return (last.waiting or 0) + (last.in_use or 0) / max(1, last.max_open or last.open or 1)


def _describe_history(key: tuple[str, str, str], history: Sequence[tuple[float, PoolFigures]]) -> str:
    """Describe one pool: where it began and is now, since when it is full, and since when clients wait."""
    where = key[0].rpartition(" ")[2] if " " in key[0] else ""
    counts = [(at, pool.in_use or 0) for at, pool in history]
    last = history[-1][1]
    of = f" of {format_count(last.max_open)}" if last.max_open else ""
    text = f"{key[2]}{f' ({where})' if where else ''}: in use {counts[0][1]} -> {counts[-1][1]}{of}, "
    text += f"most {format_count(max(count for _, count in counts))}"
    full = _find_since(history, lambda pool: 0 < (pool.max_open or 0) <= (pool.in_use or 0))
    waits = _find_since(history, lambda pool: bool(pool.waiting))
    if full is not None:
        text += f"; full since {format_instant(full)}"
    if waits is not None:
        text += f"; clients wait since {format_instant(waits)}, {format_count(last.waiting or 0)} now"
    return text


def _find_since(history: Sequence[tuple[float, PoolFigures]], holds: Callable[[PoolFigures], bool]) -> float | None:
    """Return since when something holds without a break until the end; None if it does not hold at the end."""
    since = None
    for at, pool in reversed(history):
        if not holds(pool):
            break
        since = at
    return since


def _list_changes(
    histories: Mapping[tuple[str, str, str], Sequence[tuple[float, PoolFigures]]],
    start: float,
    end: float,
    interval: float,
) -> Iterator[str]:
    """Yield which pools appeared and went, whose limit changed, and which of many rise while the others do not."""
    came = [(history[0][0], key) for key, history in histories.items() if history[0][0] > start + interval]
    went = [(history[-1][0], key) for key, history in histories.items() if history[-1][0] < end - interval]
    for verb, found in (("appeared", came), ("ended", went)):
        if found:
            first, last = min(at for at, _ in found), max(at for at, _ in found)
            when = format_instant(first) if first == last else f"{format_instant(first)} to {format_instant(last)}"
            names = ", ".join(neutralize(key[0].rpartition(" ")[2], NAME_LIMIT) for _, key in found[:3])
            yield f"{plural(len(found), 'pool')} {verb}, {when}: {names}"
    for key, history in histories.items():
        sizes = [(at, pool.max_open) for at, pool in history if pool.max_open is not None]
        for (_, before), (at, after) in pairwise(sizes):
            if before != after:
                name = neutralize(key[2], NAME_LIMIT)
                yield f"the limit of {name} went from {before} to {after} at {format_instant(at)}"
    rising = [key for key, history in histories.items() if measure_rise(pool for _, pool in history) >= LEAST_RISE]
    if rising and len(histories) > 1:
        names = ", ".join(neutralize(key[0].rpartition(" ")[2], NAME_LIMIT) for key in rising[:5])
        yield f"{len(rising)} of {len(histories)} pools rise, the others do not: {names}"


def _chart_pools(snapshots: Sequence[Snapshot]) -> TimeChart:
    start = snapshots[0].at

    def add_up(read: Callable[[PoolFigures], int | None]) -> tuple[float, ...]:
        return tuple(float(sum(read(pool) or 0 for pool in snapshot.pools)) for snapshot in snapshots)

    most = max(add_up(lambda pool: pool.max_open))
    layers = (
        Layer("open", "open", add_up(lambda pool: pool.open)),
        Layer("in use", "in_use", add_up(lambda pool: pool.in_use)),
    )
    peak = max(value for layer in layers for value in layer.values if value is not None)
    limit = LimitLine(f"limit {format_count(most)}", most) if most else None
    panels = [Panel("all pools", layers, max(peak, most, 1.0), limit, rows=5)]
    waiting = add_up(lambda pool: pool.waiting)
    if any(waiting):
        panels.append(Panel("waiting", (Layer("waiting", "waiting", waiting),), max(waiting)))
    at = tuple(snapshot.at - start for snapshot in snapshots)
    return TimeChart("pools in the history", at, tuple(panels), 0.0, at[-1])
