"""What logs say over time, as blocks of a report: a chart, the figures of each kind of event, and how it began.

Decides which events are worth a line. The verdict on them is left to the diagnosis.
"""

from collections.abc import Iterator

from poolctl.diagnose.live.fetch import list_causes_before
from poolctl.observe.snapshot import LogFacts, Observation
from poolctl.report.blocks import Block, ChartBlock, Item, Labeled, Points, Section
from poolctl.report.charts import Layer, LimitLine, Mark, Panel, TimeChart
from poolctl.report.findings import NAME_LIMIT, SENTENCE_LIMIT
from poolctl.safe_text import neutralize
from poolctl.units import format_count, format_duration, format_instant, plural

MOST_STATEMENTS = 3
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
