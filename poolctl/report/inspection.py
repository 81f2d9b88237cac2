"""The report of an inspection: the verdict, who, what to do and why; the limits, who is connected, how it was observed.

Decides the order, which is that of the questions at 3 a.m., and how much of it fits. A relief plan and what came of
it stand within it.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from poolctl.api.results import SOURCE_NAMES, InspectResult, ReliefResult
from poolctl.diagnose.finding import Concurrency, Finding, Group, Limit, worst_first
from poolctl.diagnose.live.relief import ReliefPlan, ReliefStep, Spared
from poolctl.observe.snapshot import Observation, ServerSample, Snapshot, Source
from poolctl.report.blocks import (
    Amount,
    Bars,
    Block,
    ChartBlock,
    Code,
    Fact,
    Facts,
    Item,
    Labeled,
    Listing,
    Note,
    Points,
    Report,
    Section,
    Table,
    Verdict,
)
from poolctl.report.charts import Layer, LimitLine, Panel, TimeChart
from poolctl.report.evidence import build_history_section, build_log_section
from poolctl.report.findings import (
    NAME_LIMIT,
    SENTENCE_LIMIT,
    TARGET_LIMIT,
    build_finding_block,
    collect_sql,
    name_explanation,
    name_with_slots,
    summary_of,
    verdict_of,
)
from poolctl.safe_text import neutralize
from poolctl.units import format_count, format_duration, format_instant, plural

LONG = 10.0
"""Seconds of sampling from which on a chart says more than the numbers."""

MOST_LIMITS = 12
MOST_GROUPS = 15
MOST_STEPS = 40
MOST_SPARED = 6
RELIEF_MARGIN = 9
"""Columns of "Allowed" with the space after it."""

NEEDS_ROLE = "to a superuser, a member of pg_signal_backend, and the backends' own role"
NOT_ALLOWED = "the role may not end other roles' backends: GRANT pg_signal_backend to it, or use another role"

_STATES = {
    "active": "active",
    "idle": "idle",
    "idle in transaction": "in tx",
    "idle in transaction (aborted)": "aborted",
    "fastpath function call": "fastpath",
    "starting": "starting",
    "disabled": "disabled",
}
"""What stands above the column of each state."""

_LEGEND = "frozen: in the same state since the first sample; moved: state or transaction changed meanwhile"

_OUTCOMES = {
    "canceled": "goes on without its statement",
    "signalled": "got the signal and goes on all the same",
    "recovered": "works again and was left alone",
    "gone": "had ended by itself",
    "another": "is another backend by now, and was left alone",
    "refused": "could not be ended",
}


def build_inspection_report(inspection: InspectResult) -> Report:
    """Return the report of an inspection."""
    findings = worst_first(inspection.diagnosis.findings)
    pressing = [finding for finding in findings[1:] if finding.severity != "info"]
    rest = [finding for finding in findings[1:] if finding.severity == "info"]
    holders = findings[0].holders if findings else ()
    chart = chart_observation(inspection.observation)
    is_long = inspection.observation.window >= LONG
    return (
        *build_verdict(inspection),
        *(build_finding_block(finding, is_first=True) for finding in findings[:1]),
        *(build_finding_block(finding, name_with_slots(finding), named_before=holders) for finding in pressing),
        *_plan_relief(inspection),
        list_limits(inspection.diagnosis.limits),
        *list_connections(inspection),
        build_log_section(inspection.observation),
        build_history_section(inspection.observation),
        *([ChartBlock(chart) if is_long else Section("", (ChartBlock(chart),), is_detail=True)] if chart else []),
        *(build_finding_block(finding, name_with_slots(finding), named_before=holders) for finding in rest),
        Points((*_list_sources(inspection), name_explanation(findings))),
        Section("", collect_sql([*findings[:1], *pressing])),
        Section("", collect_sql(rest), is_detail=True),
    )


def judge_inspection(inspection: InspectResult) -> Verdict:
    """Return the worst finding's verdict, or none where a server could not be observed or may be unhealthy."""
    findings = inspection.diagnosis.findings
    verdict = verdict_of(findings, "nothing was observed that a diagnosis could stand on")
    if verdict.code != "healthy":
        return verdict
    # A server that did not answer is not in order: its state is unknown.
    observation = inspection.observation
    is_blind = any(source.kind == "postgres" for source in observation.sources) and not observation.samples
    is_open = is_blind or worst_first(findings)[0].confidence == "undetermined"
    return Verdict("NO VERDICT", verdict.severity, "", verdict.sentence) if is_open else verdict


def build_verdict(inspection: InspectResult) -> tuple[Block, ...]:
    """Return how bad it is, in one sentence, and what to know before believing it."""
    findings = worst_first(inspection.diagnosis.findings)
    return (
        judge_inspection(inspection),
        *(Note(name_with_slots(finding)) for finding in findings[:1]),
        *(Note(caution, "caution") for caution in _warn(inspection)),
    )


def list_connections(inspection: InspectResult) -> tuple[Block, ...]:
    """Return who is connected, and how many work at once."""
    diagnosis = inspection.diagnosis
    has_turnover = diagnosis.groups and len(inspection.observation.snapshots) > 1
    return (
        Section("", (list_groups(diagnosis.groups), Note(_LEGEND if has_turnover else "", "aside"))),
        Facts((_count_concurrency(diagnosis.concurrency),) if diagnosis.concurrency else ()),
    )


def build_relief_result(result: ReliefResult) -> tuple[Block, ...]:
    """Return what carrying out a relief plan came to."""
    first, *others = describe_relief(result)
    return (Section("", (Note(first), *(Note(line, "caution") for line in others))),)


def list_limits(limits: Sequence[Limit]) -> Table:
    """Return the limits, nearest first, as given."""
    shown = limits[:MOST_LIMITS]
    is_timed = any(limit.exhausted_in is not None for limit in shown)
    header = ("used", "limit", "free", *(["full in"] if is_timed else []), "what")
    rows, records = [], []
    for limit in shown:
        row = [format_count(limit.used), format_count(limit.limit), format_count(limit.free)]
        row += [_format_time_left(limit)] if is_timed else []
        rows.append((*row, _name_limit(limit)))
        cells = zip(header, row, strict=False)
        # A limit of which nothing is used, or nothing is free, says so.
        words = [f"{name} {cell}" for name, cell in cells if name in ("used", "free") or cell not in ("0", "-")]
        records.append((_name_limit(limit), ", ".join(words)))
    more = _count_rest(len(limits) - len(shown), "limit")
    bars = Bars(3, tuple(map(_measure_share, shown)))
    return Table("Limits, nearest first", header, tuple(rows), more, listing=Listing("", tuple(records)), bars=bars)


def list_groups(groups: Sequence[Group]) -> Table:
    """Return who is connected, the largest group first. A state of no backend has no column."""
    ranked = sorted(groups, key=lambda group: -group.count)
    shown = ranked[:MOST_GROUPS]
    rest = ranked[MOST_GROUPS:]
    more = _count_rest(len(rest), "group", f" with {format_count(sum(group.count for group in rest))} connections")
    narrower = Table("", *_lay_out_groups(shown, is_short=True))
    return Table("Who is connected", *_lay_out_groups(shown), more, narrower=(narrower,))


def chart_observation(observation: Observation) -> TimeChart | None:
    """Return connections over time against the limit, and waiting clients; None if there is no line to draw."""
    snapshots = observation.snapshots
    if len(snapshots) < 2 or all(snapshot.server is None for snapshot in snapshots) or observation.window <= 0:
        return None
    start = observation.first.at
    panels = [_chart_connections(observation)]
    waiting = tuple(count_waiting(snapshot) for snapshot in snapshots)
    if any(waiting):
        panels.append(Panel("waiting", (Layer("waiting", "waiting", waiting),), max(waiting)))
    at = tuple(snapshot.at - start for snapshot in snapshots)
    return TimeChart("connections while sampling", at, tuple(panels), 0.0, at[-1])


def count_waiting(snapshot: Snapshot) -> int:
    """Return the clients that wait for a connection, as far as poolers and pool figures say."""
    poolers = sum(pool.clients_waiting for bouncer in snapshot.bouncers for pool in bouncer.pools)
    poolers += sum(pgpool.waiting or 0 for pgpool in snapshot.pgpools)
    return poolers + sum(pool.waiting or 0 for pool in snapshot.pools)


def format_clock(at: float) -> str:
    """Return the time of day of an instant, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


def describe_relief(result: ReliefResult) -> tuple[str, ...]:
    """Return what came of a relief plan: a sentence about all backends, and one about each that was not ended."""
    ended = sum(ending.outcome == "ended" for ending in result.endings)
    canceled = sum(ending.outcome == "canceled" for ending in result.endings)
    of = plural(len(result.endings), "backend")
    lines = [f"{format_count(ended)} of {of} ended" if ended or not canceled else f"0 of {of} ended"]
    if canceled:
        lines[0] += f", {plural(canceled, 'statement')} canceled"
    if result.freed is not None and result.used_before is not None and result.used_after is not None:
        free = f"{plural(result.freed, 'slot')} came free" if result.freed > 0 else "others took the slots at once"
        used = f"{format_count(result.used_before)} used before, {format_count(result.used_after)} now"
        lines[0] += f"; {free} ({used})"
    for ending in result.endings:
        if ending.outcome not in ("ended", "canceled"):
            reason = f": {neutralize(ending.reason, SENTENCE_LIMIT)}" if ending.reason else ""
            lines.append(f"{ending.pid} {_OUTCOMES[ending.outcome]}{reason}")
    return tuple(lines)


def _warn(inspection: InspectResult) -> Iterator[str]:
    observation = inspection.observation
    if inspection.interrupted:
        planned = f" of {format_duration(inspection.planned)}" if inspection.planned is not None else ""
        yield f"INTERRUPTED after {format_duration(observation.window)}{planned}: the report covers that time"
    elif len(observation.snapshots) == 1 and not observation.is_from_files:
        yield "ONE SAMPLE: a backend that moves and one that is stuck look the same in it; use a longer --for"
    elif observation.is_from_files and len(observation.samples) == 1:
        yield "ONE SAMPLE of the server: a backend that moves and one that is stuck look the same in it; paste two"
    yield from map(_describe_doubt, _list_doubts(inspection))
    no_answer = (None, "unreachable", "no-local-port")
    is_refused = any((each.refusal and each.refusal.by) not in no_answer for each in observation.snapshots)
    for source in observation.sources:
        # Without the host less is known, and nothing is wrong: the last lines say so.
        if not source.ok and source.kind != "host":
            failed = "refuses every client" if is_refused and source.kind == "postgres" else "did not answer"
            yield f"{_name_source(source)} {failed}: {_show_reason(source)}"


def _list_doubts(inspection: InspectResult) -> list[Finding]:
    """Return what may be wrong although the verdict is that nothing is."""
    findings = worst_first(inspection.diagnosis.findings)
    if not findings or findings[0].code != "healthy":
        return []
    return [finding for finding in findings[1:] if finding.confidence == "undetermined"]


def _describe_doubt(finding: Finding) -> str:
    decide = f"; to decide: {neutralize(finding.decide_by, SENTENCE_LIMIT)}" if finding.decide_by else ""
    return f"UNDETERMINED: {summary_of(finding)}{decide}"


def _name_limit(limit: Limit) -> str:
    """Return what an operator would change, whose it is, and whether it binds first."""
    # Names of roles' and databases' limits say already whose they are.
    scope = "" if limit.scope in ("role", "database") else f"{limit.scope} "
    name = f"{scope}{neutralize(limit.name, NAME_LIMIT)}"
    note = f" ({neutralize(limit.note, SENTENCE_LIMIT)})" if limit.note else ""
    return f"{'binds first: ' if limit.binds else ''}{name}{note}"


def _format_time_left(limit: Limit) -> str:
    if limit.exhausted_between is None:
        return _format_age(limit.exhausted_in)
    return " to ".join(map(format_duration, limit.exhausted_between))


def _measure_share(limit: Limit) -> float:
    """Return the share of 1 that is used; 1 only if nothing is free."""
    if limit.free <= 0 or limit.limit <= 0:
        return 1.0
    return min(limit.used / limit.limit, 0.999)


def _lay_out_groups(
    groups: Sequence[Group], *, is_short: bool = False
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the header and the rows. ``is_short``: only what matters most."""

    def column(name: str, read: Callable[[Group], str]) -> tuple[str, list[str]]:
        return name, [read(group) for group in groups]

    states = sorted({state for group in groups for state in group.states}, key=_rank_state)
    columns = [column("conns", lambda group: format_count(group.count))]
    for state in states:
        name = _STATES.get(state, neutralize(state, 20))
        columns.append((name, [format_count(group.states.get(state, 0)) for group in groups]))
    columns.append(column("frozen", lambda group: format_count(group.frozen)))
    columns.append(column("moved", lambda group: format_count(group.turnover)))
    if not is_short and any(group.opened for group in groups):
        columns.append(column("opened", lambda group: format_count(group.opened)))
    ages = [
        column("oldest tx", lambda group: _format_age(group.oldest_transaction)),
        column("oldest idle", lambda group: _format_age(group.oldest_idle)),
    ]
    known = [age for age in ages if any(value != "-" for value in age[1])]
    columns += known[: 1 if is_short else 2]
    columns.append(column("who", _name_group))
    rows = tuple(tuple(values[at] for _, values in columns) for at in range(len(groups)))
    return tuple(name for name, _ in columns), rows


def _name_group(group: Group) -> str:
    where = f"{_show_name(group.user)}@{_show_name(group.database)}"
    return ", ".join([_show_name(group.application), where, *([_show_name(group.client)] if group.client else [])])


def _show_name(name: str | None) -> str:
    return "?" if name is None else neutralize(name, NAME_LIMIT) or "-"


def _rank_state(state: str) -> tuple[int, str]:
    known = list(_STATES)
    return (known.index(state) if state in known else len(known), state)


def _format_age(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def _count_rest(count: int, noun: str, detail: str = "") -> str:
    return f"... and {count} more {noun}{'' if count == 1 else 's'}{detail}: see --json" if count > 0 else ""


def _count_concurrency(concurrency: Concurrency) -> Fact:
    values = (("mean", concurrency.mean), ("p95", concurrency.p95), ("p99", concurrency.p99), ("max", concurrency.max))
    items = tuple(Amount(name, format_count(round(value, 2))) for name, value in values)
    return Fact("at work at once", items, f"by {neutralize(concurrency.method, 60)}")


def _chart_connections(observation: Observation) -> Panel:
    samples = [snapshot.server for snapshot in observation.snapshots]
    layers = (
        Layer("connections", "open", tuple(None if sample is None else len(sample.clients) for sample in samples)),
        Layer("active or in a transaction", "in_use", tuple(None if s is None else _count_busy(s) for s in samples)),
    )
    usable = observation.server.usable if observation.server else None
    peak = max((value for layer in layers for value in layer.values if value is not None), default=0)
    # The limit is always drawn, however far: how near it is, is the question.
    limit = LimitLine(f"usable {format_count(usable)}", usable) if usable else None
    return Panel("server", layers, max(peak, usable or 1), limit, rows=5)


def _count_busy(sample: ServerSample) -> int:
    """Return the client backends that work or hold a transaction."""
    return sum(backend.is_active or backend.in_transaction for backend in sample.clients)


def _list_sources(inspection: InspectResult) -> tuple[Labeled, ...]:
    """Return how it was observed: when, from which sources, and what could not be."""
    observation = inspection.observation
    when, sources = [], []
    if observation.snapshots:
        since = f" in {format_duration(observation.window)}" if observation.window else ""
        # Evidence without an instant, such as SHOW POOLS, is of an unknown time.
        at = f"from {format_instant(observation.first.at)}" if observation.first.at else "at an unknown time"
        gone = f"; {plural(inspection.forgotten, 'older one')} forgotten" if inspection.forgotten else ""
        when.append(f"{plural(len(observation.snapshots), 'sample')}{since}, {at}{gone}")
    if inspection.replayed:
        sources.append(f"the recording {neutralize(inspection.replayed, TARGET_LIMIT)}")
    for source in observation.sources:
        if source.ok:
            detail = f" ({_show_reason(source)})" if source.reason else ""
            sources.append(f"{_name_source(source)}{_describe_version(inspection, source)}{detail}")
    failed = [f"{_name_source(source)}: {_show_reason(source)}" for source in observation.sources if not source.ok]
    unknown = [neutralize(sentence, SENTENCE_LIMIT) for sentence in inspection.diagnosis.unseen]
    lines = (("When", when), ("From", sources), ("Failed", failed), ("Unknown", unknown))
    return tuple(Labeled(label, tuple(map(Item, texts))) for label, texts in lines)


def _name_source(source: Source) -> str:
    target = neutralize(source.target, TARGET_LIMIT)
    return SOURCE_NAMES[source.kind] if source.kind == "host" or not target else f"{SOURCE_NAMES[source.kind]} {target}"


def _describe_version(inspection: InspectResult, source: Source) -> str:
    server = inspection.observation.server
    if source.kind != "postgres" or server is None:
        return ""
    sees = "who sees every session" if server.can_see_all else "who sees only its own sessions in full"
    through = ", through a pooler" if server.is_behind_pooler else ""
    return f", version {neutralize(server.version, 40)}, as {neutralize(server.role, NAME_LIMIT)}, {sees}{through}"


def _show_reason(source: Source) -> str:
    return neutralize(source.reason, SENTENCE_LIMIT) or "no reason was given"


def _plan_relief(inspection: InspectResult) -> Iterator[Block]:
    """Yield whom to end, in which order, why, what it frees, whom not; the SQL; and what came of it."""
    plan, result = inspection.relief, inspection.relieved
    if plan is None:
        return
    notes = Points(tuple(_list_relief_notes(plan, inspection.observation.is_from_files)), RELIEF_MARGIN)
    yield Section(_state_relief(plan, result), (_list_relief_steps(plan), notes))
    if plan.steps:
        statements = "\n".join(neutralize(step.sql, None) for step in plan.steps)
        yield Code("To paste into psql; each acts only while its backend is still the same:", statements, "sql")
    if result is not None:
        yield from build_relief_result(result)


def _state_relief(plan: ReliefPlan, result: ReliefResult | None) -> str:
    if not plan.steps:
        return f"Relief: no backend should be ended{f': {plan.why_none}' if plan.why_none else ''}"
    so_far = "" if result is not None else "; none has been ended"
    cancels = sum(step.action == "cancel" for step in plan.steps)
    ends = len(plan.steps) - cancels
    what = [f"{plural(cancels, 'statement')} to cancel"] if cancels else []
    what += [f"{plural(ends, 'backend')} to end"] if ends else []
    return f"Relief: {' and '.join(what)}, in this order, which frees {plural(plan.frees, 'slot')}{so_far}"


def _list_relief_steps(plan: ReliefPlan) -> Table:
    shown = plan.steps[:MOST_STEPS]
    rows = tuple(
        (
            str(number),
            _ACTIONS[step.action],
            str(step.pid),
            format_count(step.frees),
            _name_step(step),
            neutralize(step.why, SENTENCE_LIMIT),
        )
        for number, step in enumerate(shown, 1)
    )
    records = tuple(
        (f"{number}. {action} {pid}: {who}", f"frees {frees}; {why}") for number, action, pid, frees, who, why in rows
    )
    rest = len(plan.steps) - len(shown)
    more = f"... and {format_count(rest)} more: see the SQL, or --json" if rest else ""
    return Table("", ("", "do", "pid", "frees", "who", "why"), rows, more, listing=Listing("", records))


_ACTIONS = {"cancel": "cancel", "terminate": "end"}


def _list_losses(plan: ReliefPlan) -> Iterator[str]:
    """Yield what each choice loses, once for the steps that lose the same, with the second choice."""
    losses: dict[str, list[ReliefStep]] = {}
    for step in plan.steps:
        if step.loses:
            losses.setdefault(step.loses, []).append(step)
    for loses, steps in losses.items():
        pids = ", ".join(str(step.pid) for step in steps[:3]) + (", ..." if len(steps) > 3 else "")
        yield f"{pids}: {neutralize(loses, SENTENCE_LIMIT)}"
    for step in plan.steps:
        if (other := step.alternative) is not None:
            who = f"{other.pid} ({neutralize(other.application, NAME_LIMIT) or '-'})"
            loses = neutralize(other.loses, SENTENCE_LIMIT)
            frees = plural(other.frees, "slot")
            yield f"or, in place of {step.pid}, {_ACTIONS[other.action]} {who}, which frees {frees} and loses {loses}"


def _name_step(step: ReliefStep) -> str:
    names = [step.application or "-", step.user or "?", *([step.client] if step.client else [])]
    return ", ".join(neutralize(name, NAME_LIMIT) for name in names)


def _list_relief_notes(plan: ReliefPlan, is_from_files: bool) -> Iterator[Labeled]:
    if plan.steps and not plan.may_signal:
        yield Labeled("Allowed", (Item(NEEDS_ROLE if is_from_files else NOT_ALLOWED),))
    yield Labeled("Loses", tuple(map(Item, _list_losses(plan))))
    # A reader looks for the names of applications; the server's own processes have none.
    ordered = sorted(plan.spared, key=lambda spared: not spared.application)
    spared = [_describe_spared(each) for each in ordered[:MOST_SPARED]]
    rest = ordered[MOST_SPARED:]
    if rest:
        pids = sum(len(each.pids) for each in rest)
        spared.append(f"... and {plural(pids, 'more backend')}: see --json")
    yield Labeled("Spared", tuple(map(Item, spared)))
    yield Labeled("Decide", tuple(Item(neutralize(sentence, SENTENCE_LIMIT)) for sentence in plan.undecided))


def _describe_spared(spared: Spared) -> str:
    of = neutralize(spared.application, NAME_LIMIT) or "-"
    user = f", user {neutralize(spared.user, NAME_LIMIT)}" if spared.user else ""
    return f"{plural(len(spared.pids), 'backend')} of {of}{user}: {neutralize(spared.reason, SENTENCE_LIMIT)}"
