"""The report of one run: the verdict, numbers that visibly add up, a chart, why and what next, how to repeat it.

Decides which numbers a person gets from a run, in which words and order. A run is live or from the model; both read
alike.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from poolctl.diagnose.finding import Finding, worst_first
from poolctl.report.blocks import (
    Amount,
    Block,
    ChartBlock,
    Fact,
    Facts,
    Item,
    Labeled,
    Listing,
    Note,
    Points,
    Repeat,
    Report,
    Section,
    Table,
    Verdict,
)
from poolctl.report.charts import Layer, LimitLine, Mark, Panel, TimeChart, scale_panel
from poolctl.report.findings import (
    SENTENCE_LIMIT,
    collect_sql,
    describe_evidence,
    label_steps,
    list_holders,
    name_explanation,
    name_finding,
    plan_steps,
    summary_of,
    verdict_of,
    word_of,
)
from poolctl.safe_text import neutralize
from poolctl.scenario.histogram import Times
from poolctl.scenario.run import Machine, ObservedError, ObservedServer, RequestCounts, Run, Summary, TimelinePoint
from poolctl.scenario.scenario import Distribution, Load, Scenario, Service
from poolctl.units import format_count, format_duration, percent, plural

BUSY_SHARE = 0.75
"""Of the machine's cores: a server that uses more leaves the load, which runs beside it, too little."""

ENDLESS = ("endless-load", "endless-queue")
"""Findings that say why a run was cut off."""

MOST_ERRORS = 12
REASON_MARGIN = 6
"""Columns of "Why" and "Next" with the space after them."""


def build_simulation_report(run: Run, findings: Sequence[Finding], *, repeat: str = "") -> Report:
    """Return the report of a run. ``repeat``: the command that does the same run again, "" to leave the line out."""
    return (
        judge_run(run, findings),
        *(Note(caution, "caution") for caution in warn_about_run(run)),
        Note(describe_run(run)),
        list_run_facts(run),
        list_errors(run.summary.errors),
        *_chart_or_note(run),
        explain_run(findings, run.notes, name_explanation(findings)),
        Section("", collect_sql(findings), is_detail=True),
        Repeat(neutralize(repeat, None)),
    )


def judge_run(run: Run, findings: Sequence[Finding]) -> Verdict:
    """Return the verdict on a run; without a diagnosis it only counts.

    An incomplete run is first of all incomplete, unless the verdict itself says why it cannot end.
    """
    counts = f"{format_count(run.summary.acquired)} of {format_count(run.summary.offered)} acquires were served"
    verdict = verdict_of(findings, f"{counts}; no diagnosis was made")
    if not run.failure:
        return verdict
    failure = neutralize(run.failure, SENTENCE_LIMIT)
    if verdict.code in ENDLESS:
        return replace(verdict, sentence=f"{verdict.sentence}; {failure}")
    if verdict.code in ("", "healthy"):
        code, found = "", summary_of(worst_first(findings)[0]) if findings else verdict.sentence
    else:
        code, found = verdict.code, f"{verdict.word} of what was measured: {verdict.sentence}"
    return Verdict("INCOMPLETE", verdict.severity, code, f"{failure}. {found}")


def list_run_facts(run: Run) -> Facts:
    """Return the run's numbers, a row for each kind."""
    summary = run.summary
    facts = [
        *_list_acquires(summary),
        *_list_times(summary),
        *_list_connections(summary, sum_limits(run.scenario)),
        *(_list_server(summary.server, run.scenario.load.query) if summary.server else ()),
        *_list_generator(run),
        *_list_machines(run.machines),
        *_list_services(run),
    ]
    return Facts(tuple(facts))


def explain_run(findings: Sequence[Finding], notes: Iterable[str] = (), *more: Labeled) -> Points:
    """Return what the verdict stands on, what else was found, what to do about it, and what else there is to know."""
    ranked = worst_first(findings)
    groups = []
    for number, finding in enumerate(ranked):
        kind = f"{name_finding(finding)}: "
        if number:
            kind = f"{word_of(finding)} {kind}{summary_of(finding)}; "
        reason = Item((kind + describe_evidence(finding)).rstrip(":; "))
        held = [Item(f"held by {holder.text}", holder.query) for holder in list_holders(finding)]
        groups.append(Labeled("Also" if number else "Why", (reason, *held)))
    groups.append(label_steps(list_steps(ranked), "Next"))
    groups.append(Labeled("Note", tuple(Item(neutralize(note, SENTENCE_LIMIT)) for note in notes)))
    return Points((*groups, *more), REASON_MARGIN)


def list_steps(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Return what to do, worst finding first, each thing once; nothing for a run in which nothing is wrong.

    The catalog's advice for a healthy system is for users who see errors; a simulation has no users.
    """
    wrong = [finding for finding in worst_first(findings) if finding.code != "healthy"]
    return tuple(dict.fromkeys(step for finding in wrong for step in plan_steps(finding)))


def warn_about_run(run: Run) -> tuple[str, ...]:
    """Return what a reader has to know before believing the numbers."""
    cautions = []
    if run.interrupted:
        planned = run.scenario.load.duration
        whole = f" of {format_duration(planned)}" if planned is not None else ""
        after = run.timeline[-1].at if run.timeline else run.summary.duration
        cautions.append(f"INTERRUPTED after {format_duration(after)}{whole}: partial results shown")
    slow = max((machine for machine in run.machines if machine.is_limit), key=lambda machine: machine.lag, default=None)
    if slow is not None:
        cautions.append(
            f"GENERATOR-BOUND: worker {neutralize(slow.name, 60)} was the limit: requests began "
            f"{format_duration(slow.lag)} late there at the 99th percentile, and an instance's process used "
            f"{percent(slow.cpu)} of a core. Waits and throughput say little about the pool; use more machines, or "
            "fewer instances on each"
        )
    elif run.generator and run.generator.bound_by:
        reasons = " and ".join(run.generator.bound_by)
        server = run.summary.server
        if server and server.cpu and server.cores and server.cpu >= BUSY_SHARE * server.cores:
            cautions.append(
                f"GENERATOR-BOUND: {reasons}, because the server kept this machine's processors busy. Waits are a "
                "little longer than the pool makes them"
            )
        else:
            cautions.append(
                f"GENERATOR-BOUND: {reasons}. The load itself was the limit, so waits and throughput say little about "
                "the pool; use fewer workers an instance, more instances, or a lower rate"
            )
    return tuple(cautions)


def describe_run(run: Run) -> str:
    """Return what was run, in one line."""
    scenario = run.scenario
    kernel = f" ({run.kernel} kernel)" if run.kernel else ""
    head = f"{neutralize(scenario.name, 80)}: {run.engine} run{kernel}"
    pooler = f" through {scenario.database.via}" if scenario.database.via != "none" else ""
    if not scenario.services:
        return ", ".join([head, *_describe_part(scenario.all_services[0], pooler), f"seed {run.seed}"])
    parts = [f"{neutralize(part.name, 40)}: {', '.join(_describe_part(part, pooler))}" for part in scenario.services]
    return f"{head}, {plural(len(parts), 'service')}; {'; '.join(parts)}; seed {run.seed}"


def list_errors(errors: Sequence[ObservedError]) -> Table:
    """Return the kinds of error, the earliest first, at most ``MOST_ERRORS`` of them."""
    shown = sorted(errors, key=lambda error: error.first_at)[:MOST_ERRORS]
    rows = tuple(
        (
            format_count(error.count),
            neutralize(error.kind.origin, 20),
            format_duration(error.first_at),
            neutralize(error.kind.sqlstate or "-", 10),
            neutralize(error.kind.message or error.kind.name),
        )
        for error in shown
    )
    records = tuple(
        (f"{count} x from {origin}{'' if sqlstate == '-' else f' {sqlstate}'}, first at {first_at}", message)
        for count, origin, first_at, sqlstate, message in rows
    )
    rest = len(errors) - len(rows)
    more = f"... and {rest} more kinds of error: see --json" if rest > 0 else ""
    header = ("errors", "from", "first at", "sqlstate", "message")
    return Table("", header, rows, more, listing=Listing("errors", records))


def sum_limits(scenario: Scenario) -> int:
    """Return the most connections that the pools of all services may open together; 0: unlimited."""
    limits = [part.pool.max_open * part.load.instances for part in scenario.all_services]
    return sum(limits) if all(limits) else 0


def chart_run(run: Run) -> TimeChart | None:
    """Return the chart of one run; None if the run is too short to draw one."""
    points = run.timeline
    if len(points) < 2:
        return None
    instances = sum(part.load.instances for part in run.scenario.all_services)
    pool = chart_pool("pool" if instances == 1 else "pools", run, points)
    panels = [replace(pool, rows=5)]
    server = _chart_server(run, points)
    if server:
        panels.append(server)
    if any(point.waiting for point in points):
        panels.append(scale_panel("waiting", [_make_layer("waiting", "waiting", [point.waiting for point in points])]))
    title = f"{neutralize(run.scenario.name, 80)}: connections over time"
    at = tuple(point.at for point in points)
    return TimeChart(title, at, tuple(panels), min(0.0, at[0]), at[-1], _mark_events(run, at[-1]))


def chart_pool(title: str, run: Run, points: Sequence[TimelinePoint | None]) -> Panel:
    layers = [
        _make_layer("open", "open", [point.open if point else None for point in points]),
        _make_layer("in use", "in_use", [point.in_use if point else None for point in points]),
    ]
    most, parts = sum_limits(run.scenario), run.scenario.all_services
    terms = [f"{part.load.instances} x {part.pool.max_open}" for part in parts]
    sum_of = f"{' + '.join(terms)} = " if len(parts) > 1 or parts[0].load.instances > 1 else ""
    return scale_panel(title, layers, LimitLine(f"max_open {sum_of}{format_count(most)}", most) if most else None)


def _chart_or_note(run: Run) -> tuple[Block, ...]:
    chart = chart_run(run)
    if chart is None:
        return (Section("", (Note("(too short a run for a chart)"),)),)
    return (ChartBlock(chart),)


def _chart_server(run: Run, points: Sequence[TimelinePoint]) -> Panel | None:
    if all(point.server_connections is None for point in points):
        return None
    server = run.summary.server
    usable = server.usable if server and server.usable else None
    layer = _make_layer("server connections", "server", [point.server_connections for point in points])
    return scale_panel("server", [layer], LimitLine(f"usable {format_count(usable)}", usable) if usable else None)


def _make_layer(name: str, role: str, values: Sequence[float | None]) -> Layer:
    return Layer(name, role, tuple(values))


def _mark_events(run: Run, end: float) -> tuple[Mark, ...]:
    marks = [Mark(event.at, event.do) for event in run.scenario.events]
    for name, at in (("exhausted", run.summary.exhausted_at), ("recovered", run.summary.recovered_at)):
        if at is not None:
            marks.append(Mark(at, f"{name} {format_duration(at)}"))
    return tuple(sorted((mark for mark in marks if 0 <= mark.at <= end), key=lambda mark: mark.at))


def _describe_part(part: Service, pooler: str) -> list[str]:
    pool, load = part.pool, part.load
    sizes = [f"max_open {pool.max_open or 'unlimited'}", f"max_idle {pool.max_idle}"]
    if pool.acquire_timeout is not None:
        sizes.append(f"acquire_timeout {format_duration(pool.acquire_timeout)}")
    parts = [
        pool.kind + ("" if pool.kind == "none" else f" ({', '.join(sizes)})") + pooler,
        f"{plural(load.instances, 'instance')} with {_describe_demand(load)}",
        f"hold {_describe_distribution(load.hold)}" if load.query == "sleep" else f"query {neutralize(load.query, 60)}",
    ]
    if part.leak.every:
        parts.append(f"every {_format_ordinal(part.leak.every)}request leaks ({part.leak.shape})")
    return parts


def _list_acquires(summary: Summary) -> Iterable[Fact]:
    ends = ("timed_out", "refused", "failed", "unfinished")
    others = [(name.replace("_", " "), getattr(summary, name)) for name in ends]
    yield _add_up("offered", summary.offered, [("acquired", summary.acquired), *((n, v) for n, v in others if v)])
    if summary.requests.offered not in (0, summary.offered):
        yield _list_requests(summary.requests)
    still_in_use = summary.acquired - summary.released - summary.leaked
    parts = [("released", summary.released), ("leaked", summary.leaked)]
    yield _add_up("acquired", summary.acquired, parts + ([("still in use", still_in_use)] if still_in_use else []))
    yield Fact(
        "rate",
        (
            Amount("offered", f"{format_count(summary.offered_rate)}/s"),
            Amount("released", f"{format_count(summary.throughput)}/s"),
        ),
        f"over {format_duration(summary.duration)}",
    )


def _list_requests(requests: RequestCounts) -> Fact:
    unfinished = requests.offered - requests.completed - requests.failed
    parts = [("completed", requests.completed), ("failed", requests.failed), ("unfinished", unfinished)]
    return _add_up("requests", requests.offered, [part for part in parts if part[1]])


def _list_times(summary: Summary) -> Iterable[Fact]:
    wait = summary.wait_time
    ends = {
        "timeouts": summary.timed_out,
        "refusals": summary.refused,
        "failures": summary.failed,
        "waits cut off by the end": wait.censored,
    }
    included = _enumerate(["opening", *(name for name, count in ends.items() if count)])
    yield Fact("wait", _list_percentiles(wait), f"{included} included" if wait.count else "nothing was acquired")
    if summary.queued_count:
        mean = format_duration(summary.queued_time / summary.queued_count)
        # As in Go's WaitDuration, a wait that goes on is not in this time.
        least = "at least " if wait.censored else ""
        items = [Amount("acquires", format_count(summary.queued_count))]
        if summary.queued_time or not wait.censored:
            items.append(Amount("mean", least + mean))
        yield Fact("queued", tuple(items), "only acquires that had to queue")
    if summary.use_time.count:
        yield Fact("use", _list_percentiles(summary.use_time), "acquire to release")
    if summary.connect_time.count:
        yield Fact(
            "connect", _list_percentiles(summary.connect_time), f"{format_count(summary.connect_time.count)} opens"
        )


def _list_connections(summary: Summary, limit: int) -> Iterable[Fact]:
    counts = summary.connections
    parts = [("in use", counts.in_use), ("idle", counts.idle), ("closed", counts.closed.total)]
    yield _add_up("opened", counts.opened, [part for part in parts if part[1]] or parts[:1])
    if counts.closed.total:
        yield _add_up(
            "closed", counts.closed.total, [(name, value) for name, value in asdict(counts.closed).items() if value]
        )
    if counts.open_failures:
        yield Fact("not opened", (Amount("", format_count(counts.open_failures)),), "attempts that failed")
    bound = f" of {format_count(limit)}" if limit else ""
    items = (
        Amount("open", f"{format_count(counts.peak_open)}{bound}"),
        Amount("in use", format_count(counts.peak_in_use)),
        Amount("average open", format_count(counts.average_open)),
        Amount("average in use", format_count(counts.average_in_use)),
    )
    yield Fact("peak", items, "" if limit else "max_open is unlimited")


def _list_server(server: ObservedServer, query: str) -> Iterable[Fact]:
    items = []
    if server.peak_connections is not None:
        bound = f" of {format_count(server.usable)} usable" if server.usable is not None else ""
        items.append(Amount("peak", f"{format_count(server.peak_connections)}{bound}"))
    if server.refused is not None:
        items.append(Amount("refused", format_count(server.refused)))
    if server.cpu is not None:
        cores = f" of {format_count(server.cores)}" if server.cores else ""
        items.append(Amount("CPU", f"{format_count(round(server.cpu, 2))}{cores} cores"))
    elif server.version is None and query == "sleep":
        items.append(Amount("CPU", "none, since the queries sleep"))
    about = [f"PostgreSQL {neutralize(server.version, 40)}"] if server.version else []
    about += [f"max_connections {format_count(server.max_connections)}"] if server.max_connections else []
    if items or about:
        yield Fact("server", tuple(items), ", ".join(about))
    if server.states:
        common = sorted(server.states.items(), key=lambda state: (-state[1], state[0]))
        yield Fact("backends", tuple(Amount(neutralize(name, 40), format_count(n)) for name, n in common[:8]))
    for table in server.scanned[:3]:
        items = [Amount("rows", format_count(table.rows)), Amount("scans", format_count(table.scans))]
        items.append(Amount("rows read", format_count(table.rows_read)))
        yield Fact("read whole", (Amount("", neutralize(table.name, 60)), *items))
    # All that a sleeping load does on the server is to sleep: which statement took the time is no news.
    for statement in server.statements[:3] if query != "sleep" else ():
        mean = statement.total_time / statement.calls if statement.calls else 0.0
        called = f"{plural(statement.calls, 'call')}, mean {format_duration(mean)}"
        text = Amount("", neutralize(statement.query, 120))
        yield Fact("statement", (Amount("", percent(statement.share)), Amount("", called), text))


def _list_generator(run: Run) -> Iterable[Fact]:
    generator = run.generator
    if generator is None:
        return
    items = [
        Amount("lag p99", format_duration(generator.lag.p99)),
        Amount("CPU", f"{percent(generator.cpu)} of a core"),
    ]
    if generator.ideal_wait is not None and generator.measured_wait is not None:
        items.append(Amount("mean wait", format_duration(generator.measured_wait)))
        items.append(Amount("ideal queue", format_duration(generator.ideal_wait)))
    yield Fact("generator", tuple(items))


def _list_machines(machines: Sequence[Machine]) -> Iterable[Fact]:
    for machine in machines:
        items = (
            Amount("", plural(machine.instances, "instance")),
            Amount("offered", format_count(machine.offered)),
            Amount("served", format_count(machine.acquired)),
            Amount("lag p99", format_duration(machine.lag)),
            Amount("CPU", f"{percent(machine.cpu)} of a core"),
        )
        state = ("lost" if machine.loss else "", "the limit" if machine.is_limit else "")
        yield Fact(neutralize(machine.name, 30), items, ", ".join(filter(None, state)))


def _list_services(run: Run) -> Iterable[Fact]:
    for part, (name, summary) in zip(run.scenario.services, run.services, strict=False):
        most = part.pool.max_open * part.load.instances
        bound = f" of {format_count(most)}" if most else ""
        lost = [(end.replace("_", " "), getattr(summary, end)) for end in ("timed_out", "refused", "failed")]
        items = [
            Amount("acquired", f"{format_count(summary.acquired)} of {format_count(summary.offered)}"),
            Amount("wait p99", format_duration(summary.wait_time.p99)),
            Amount("peak in use", f"{format_count(summary.connections.peak_in_use)}{bound}"),
            *(Amount(end, format_count(count)) for end, count in lost if count),
        ]
        yield Fact(neutralize(name, 20), tuple(items), "this service")


def _add_up(label: str, total: int, parts: Iterable[tuple[str, int]]) -> Fact:
    items = [Amount("", format_count(total))]
    for name, value in parts:
        items.append(Amount(name, format_count(value), "=" if len(items) == 1 else "+"))
    return Fact(label, tuple(items))


def _list_percentiles(times: Times) -> tuple[Amount, ...]:
    if not times.count:
        return ()
    values = (("p50", times.p50), ("p95", times.p95), ("p99", times.p99), ("max", times.max))
    open_ended = {"p50": times.p50_at_least, "p95": times.p95_at_least, "p99": times.p99_at_least}
    open_ended["max"] = times.censored > 0
    return tuple(
        Amount(name, f"{'at least ' if open_ended.get(name) else ''}{format_duration(value)}") for name, value in values
    )


def _describe_demand(load: Load) -> str:
    parts = [f"{format_count(load.rate)} arrivals/s"] if load.rate is not None else []
    parts += [plural(load.workers, "worker")] if load.workers is not None else []
    bursts = sum(burst.workers for burst in load.bursts)
    parts += [f"{plural(bursts, 'worker')} in bursts"] if bursts else []
    return " and ".join(parts)


def _describe_distribution(distribution: Distribution) -> str:
    mean = format_duration(distribution.mean)
    return mean if distribution.kind == "constant" else f"{distribution.kind} {mean}"


def _enumerate(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _format_ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return "" if number == 1 else f"{format_count(number)}{ending} "
