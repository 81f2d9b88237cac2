"""Limits that refuse clients or soon will, and the arithmetic and the events that led there.

Decides which limit is hit. A full server is never the root by itself: what filled the slots is reported before it.
"""

import re
from collections import Counter
from collections.abc import Iterator

from poolctl.diagnose import sql
from poolctl.diagnose.catalog import FIND_CAUSE, RELIEVE_SLOTS, TREAT_CAUSE, build_finding
from poolctl.diagnose.finding import Confidence, Finding, Limit, Severity
from poolctl.diagnose.live.context import RuleContext, name_application
from poolctl.diagnose.live.facts import SLOT_REFUSALS
from poolctl.diagnose.live.floor import WHOLE_DAY
from poolctl.diagnose.live.headroom import LEAST_GROWTH, WORD_SHARE, count_growth, is_near
from poolctl.diagnose.live.tracks import STOOD_STILL, UNUSED, Stretch, Track
from poolctl.observe.snapshot import Backend, Refusal
from poolctl.units import format_count, format_duration, percent, plural, quote

_MEANS = {
    "server-slots": "all max_connections slots are taken, the superusers' too",
    "reserved-slots": "only reserved_connections and the superusers' slots are left",
    "superuser-slots": "only the slots reserved for superusers are left",
}
SOON = 60.0
"""Seconds: one more minute like this one ends in refusals."""
HALF_USED = 0.5
"""Share of a limit in use from which its growth counts: a fleet that starts up also grows."""


def find_slots_exhausted(context: RuleContext) -> Iterator[Finding]:
    """Report that an ordinary role finds no slot on the server.

    Threshold: no slot free, or a connection of poolctl refused because of that. Certain: the refusal names its routine,
    or the counts are complete. Likely: process titles or a partial view only. Undetermined: a pooler relayed the text.
    """
    facts = context.facts
    limit = next((each for each in context.limits if each.scope == "server"), None)
    refusal = facts.refusal if facts.refusal is not None and facts.refusal.by in SLOT_REFUSALS else None
    if refusal is None and (limit is None or limit.free > 0):
        return
    # A pooler relays the code with the text; without a code it is what poolctl counted itself before it disconnected.
    relayed = refusal is not None and refusal.routine is None and refusal.sqlstate is not None
    roomy = facts.server is not None and bool(facts.server_samples) and len(facts.tracks) < 0.9 * facts.server.usable
    confidence: Confidence = "certain"
    if relayed:
        confidence = "undetermined" if roomy or not facts.server_samples else "likely"
    elif refusal is None and facts.has_only_titles:
        confidence = "likely"
    used, usable = len(facts.tracks), facts.server.usable if facts.server else None
    means = _MEANS[refusal.by] if refusal is not None else "an ordinary role finds no slot"
    counted = (
        f"{used} of {usable} usable slots taken"
        if usable
        else f"{plural(used, 'backend')} observed"
        if used
        else "no slot left"
    )
    said = f" ({quote(refusal.text, 70)})" if refusal is not None and refusal.text else ""
    still = "; none of the backends did anything while they were observed" if is_standstill(context) else ""
    yield build_finding(
        "slots-exhausted",
        severity="critical",
        confidence=confidence,
        summary=f"The server has no slot left for a client: {counted}; {means}{said}{still}",
        evidence={
            "used": used,
            "usable": usable,
            "max_connections": facts.server.max_connections if facts.server else None,
            "refusal": refusal.text if refusal is not None else None,
            "routine": refusal.routine if refusal is not None else None,
            "largest": dict(_find_largest(context)),
            "applications": _describe_applications(context) or None,
            "threshold": "no slot free for an ordinary role, or a refusal because of that",
        },
        holders=context.find_holders(facts.tracks),
        remedy=f"{TREAT_CAUSE if context.reported else FIND_CAUSE} {RELIEVE_SLOTS}",
        decide_by="whether the server itself refuses (connect to it without the pooler)"
        if confidence == "undetermined"
        else None,
    )


def _find_largest(context: RuleContext) -> list[tuple[str, int]]:
    return [(name_application(each), each.count) for each in context.facts.applications[:3] if each.count]


WEEK = 7 * 86_400.0
"""Seconds to the limit, at the earliest, from which a slow rise is a warning: time enough to find what rises."""


def find_slots_low(context: RuleContext) -> Iterator[Finding]:
    """Report the nearest limit of the server, a role or a database that is about to be reached.

    Threshold: less than a tenth free; or, once half is used, so much growth in the window that a minute of it takes the
    rest; or the least in use rises over half an hour or longer, so that it takes the rest within a week. Of the server
    also below 15 % free, or when the rise takes longer: then as advice. Certain: counts complete and two samples.
    Likely: a partial view, or a rise over most of a day. Undetermined: one sample has no slope, and a shorter rise may
    be that of a morning.
    """
    for limit in context.limits:
        if limit.scope not in ("server", "role", "database") or limit.free <= 0 or limit.limit <= 0:
            continue
        grows = limit.exhausted_in is not None and limit.exhausted_in <= SOON
        is_short = is_near(limit) or (grows and limit.used >= HALF_USED * limit.limit)
        rises = limit.exhausted_between is not None
        is_soon = limit.exhausted_between is not None and limit.exhausted_between[0] <= WEEK
        is_worth_a_word = limit.scope == "server" and limit.used >= WORD_SHARE * limit.limit
        if not (is_short or rises or is_worth_a_word):
            continue
        yield _build_slots_low(context, limit, "warning" if is_short or is_soon else "info", by_rise=not is_short)
        return


def _build_slots_low(context: RuleContext, limit: Limit, severity: Severity, *, by_rise: bool) -> Finding:
    facts = context.facts
    trend = facts.trend if limit.exhausted_between is not None else None
    samples = len(facts.samples)
    confidence: Confidence = "undetermined" if samples < 2 else "certain" if facts.is_full_view else "likely"
    decide_by = "a second sample, which shows the growth" if confidence == "undetermined" else None
    left = ""
    if trend is not None and limit.exhausted_between is not None:
        early, late = map(format_duration, limit.exhausted_between)
        left = (
            f"; the least in use has risen for {format_duration(trend.time)}, by {format_count(trend.slope * 3600)} "
            f"an hour: it is reached in {early} to {late}"
        )
        if by_rise:
            confidence = "likely" if trend.time >= WHOLE_DAY else "undetermined"
            decide_by = None if confidence == "likely" else "a whole day (--watch --keep), with its quietest hour"
    elif limit.exhausted_in is not None:
        left = f"; at this rate it is reached in {format_duration(limit.exhausted_in)}"
    growing = [(count_growth(facts, each.tracks), each) for each in facts.applications if each.count]
    most, fastest = max(growing, key=lambda pair: pair[0], default=(0, None))
    who = f", mostly {name_application(fastest)} (+{most})" if fastest is not None and most >= LEAST_GROWTH else ""
    return build_finding(
        "slots-low",
        severity=severity,
        confidence=confidence,
        summary=f"{limit.name}: {format_count(limit.used)} of {format_count(limit.limit)} used, "
        f"{plural(limit.free, 'slot')} left{left}{who}",
        evidence={
            "limit": limit.name,
            "used": limit.used,
            "of": limit.limit,
            "free": limit.free,
            "exhausted_in": limit.exhausted_in,
            "exhausted_between": list(limit.exhausted_between) if limit.exhausted_between else None,
            "floor": trend.floor if trend else None,
            "rises_per_hour": trend.slope * 3600 if trend else None,
            "grown_in_window": most,
            "window": facts.window,
            "largest": dict(_find_largest(context)),
            "threshold": "less than a tenth free, or a minute of this growth takes the rest; advice from "
            f"{percent(WORD_SHARE)} used",
        },
        evidence_sql=sql.SLOTS if limit.scope == "server" else sql.ROLE_LIMITS,
        holders=context.find_holders(facts.tracks),
        decide_by=decide_by,
    )


def find_role_limit(context: RuleContext) -> Iterator[Finding]:
    """Report a role or database that is at its own CONNECTION LIMIT while the server has slots.

    Threshold: nothing left of it, and a slot free on the server. Certain: the counts, or the server's refusal.
    """
    refusal = context.facts.refusal
    refused = refusal is not None and refusal.by in ("role-limit", "database-limit")
    hit = [each for each in context.limits if each.scope in ("role", "database") and each.free <= 0]
    if context.is_full and not refused:
        return
    if refused and not hit and refusal is not None:
        text = f": {quote(refusal.text, 90)}" if refusal.text else ""
        yield _build_role_limit(context, f"The server refuses a role or database at its own limit{text}", None)
    for limit in hit:
        says = (
            f" and is refused ({quote(refusal.text, 60)})" if refused and refusal is not None and refusal.text else ""
        )
        yield _build_role_limit(
            context, f"{limit.name}: {limit.used} of {limit.limit} used{says}; the server has slots", limit
        )


def _build_role_limit(context: RuleContext, summary: str, limit: Limit | None) -> Finding:
    facts = context.facts
    refused = facts.refusal is not None and facts.refusal.by in ("role-limit", "database-limit")
    name = limit.name.rpartition(" ")[2] if limit else ""
    scope = limit.scope if limit else ""
    own = [t for t in facts.tracks if limit and (t.last.user if scope == "role" else t.last.database) == name]
    if limit is None and facts.refusal is not None:
        own = [t for t in facts.tracks if _is_named(t, facts.refusal)]
    return build_finding(
        "role-limit",
        severity="critical" if refused else "warning",
        confidence="certain",
        summary=summary,
        evidence={
            "limit": limit.name if limit else None,
            "used": limit.used if limit else None,
            "of": limit.limit if limit else None,
            "refusal": facts.refusal.text if refused and facts.refusal else None,
            "server_slots_free": next((each.free for each in context.limits if each.scope == "server"), None),
            "threshold": "nothing left of a CONNECTION LIMIT while the server has slots",
        },
        holders=context.find_holders(own),
    )


def _is_named(track: Track, refusal: Refusal) -> bool:
    """Return True if the refusal quotes the backend's role or database, in any language's quotation marks."""
    name = track.last.user if refusal.by == "role-limit" else track.last.database
    return name is not None and re.search(rf"[^\w\s]{re.escape(name)}[^\w\s]", refusal.text) is not None


def find_fleet_over_budget(context: RuleContext) -> Iterator[Finding]:
    """Report that the instances together may open more than the server can give.

    Threshold: the sum of ceilings above the usable slots, also when quiet now. Certain: the ceilings are configured
    (the pools' figures; Pgpool-II's num_init_children x max_pool). Likely: PgBouncer's pool sizes for the pairs
    observed; or clients are refused while two instances or more share the slots and none of them is stuck.
    """
    facts = context.facts
    # Of a server that refused every connection, the limits only know how many backends were observed from outside.
    usable = next((limit.limit for limit in context.limits if limit.scope == "server"), 0)
    if usable <= 0:
        return
    configured = [series.max_open for series in facts.pools]
    if configured and all(configured) and sum(configured) > usable and not facts.queues:
        each = f"{plural(len(configured), 'pool')} with max_open {', '.join(map(str, sorted(set(configured))))}"
        yield _build_fleet(context, each, sum(configured), usable, len(configured), "certain")
        return
    for pgpool in facts.pgpools:
        children, most = pgpool.num_init_children or len(pgpool.children), pgpool.max_pool or 1
        if children * most > usable:
            what = f"Pgpool-II's {children} children x {most} (max_pool)"
            yield _build_fleet(context, what, children * most, usable, 1, "certain")
            return
    sizes = [queue.size for queue in facts.queues]
    if sizes and sum(sizes) > usable:
        yield _build_fleet(
            context, f"PgBouncer's {plural(len(sizes), 'pool')}", sum(sizes), usable, len(sizes), "likely"
        )
        return
    if context.is_full or (facts.refusal is not None and facts.refusal.by in SLOT_REFUSALS):
        yield from _find_full_fleet(context, usable)


MOST_OF_ONE = 0.8
"""Share of the backends that one process or address holds, from which the rest is no fleet beside it: it may be a
relay, or one instance with a fault of its own."""


def _find_full_fleet(context: RuleContext, usable: int) -> Iterator[Finding]:
    """Report several clients that fill the server together, where nothing that is stuck explains it better."""
    facts = context.facts
    instances = count_instances(context)
    free = [track for track in context.keep_unexplained(facts.tracks) if not track.waits_for_lock]
    most = max(instances.values(), default=0)
    if len(instances) < 2 or len(free) < 0.8 * len(facts.tracks) or most > MOST_OF_ONE * instances.total():
        return
    # An address may be that of a relay, so that only processes and named applications are counted as instances.
    are_known = all(isinstance(client, int) or application for application, client in instances)
    what = f"{plural(len(instances), 'instance')} with up to {plural(most, 'backend')} each"
    if not are_known:
        what = f"Clients at {plural(len(instances), 'address')} with up to {plural(most, 'backend')} each"
    sure: Confidence = "likely" if are_known and not is_standstill(context) else "undetermined"
    yield _build_fleet(context, what, max(len(facts.tracks), usable), usable, len(instances), sure)


def count_instances(context: RuleContext) -> Counter[tuple[str | None, str | int | None]]:
    """Count the backends of each instance: by process where it is visible, else by address; tools are none."""
    tools = {track.pid for each in context.facts.applications if each.is_tool for track in each.tracks}
    counts: Counter[tuple[str | None, str | int | None]] = Counter()
    for track in context.facts.tracks:
        if track.pid in tools or track.last.state == "starting":
            continue
        client = context.clients.find_client(track)
        counts[client.application, client.process.pid if client.process else client.address] += 1
    return counts


def is_standstill(context: RuleContext) -> bool:
    """Return True if no backend did anything in the window, as far as the samples show."""
    tracks = context.facts.tracks
    return len(context.facts.samples) > 1 and bool(tracks) and not any(t.has_moved or t.is_new for t in tracks)


def _describe_applications(context: RuleContext) -> dict[str, str]:
    """Describe the largest applications by their backends and their clients, for a sentence and the evidence."""
    clients: dict[str, Counter[str | int | None]] = {}
    for (application, client), count in count_instances(context).items():
        clients.setdefault(application or "no application_name", Counter())[client] += count
    largest = sorted(clients.items(), key=lambda item: -item[1].total())[:5]
    return {name: f"{plural(each.total(), 'backend')} of {_write_clients(each)}" for name, each in largest}


def _write_clients(clients: Counter[str | int | None]) -> str:
    processes = sum(isinstance(client, int) for client in clients)
    addresses = len(clients) - processes - (None in clients)
    parts = [plural(processes, "process") if processes else "", plural(addresses, "address") if addresses else ""]
    return " and ".join(filter(None, parts)) or "unknown clients"


def _build_fleet(
    context: RuleContext, what: str, ceiling: int, usable: int, instances: int, confidence: Confidence
) -> Finding:
    refused = context.is_full or context.facts.is_refusing
    headroom = max(3, round(0.03 * usable))
    each = max(0, (usable - headroom) // max(1, instances))
    outcome = "and it has no slot left" if refused else "quiet so far"
    applications = _describe_applications(context)
    now = f"; now {'; '.join(f'{name}: {many}' for name, many in list(applications.items())[:3])}"
    still = ", and none of them did anything while it was observed" if refused and is_standstill(context) else ""
    return build_finding(
        "fleet-over-budget",
        severity="critical" if refused else "warning",
        confidence=confidence,
        summary=f"{what} may open {format_count(ceiling)} connections, the server has {format_count(usable)} to give; "
        f"{outcome}{now if applications else ''}{still}",
        evidence={
            "ceiling": ceiling,
            "applications": applications or None,
            "usable": usable,
            "instances": instances,
            "used": len(context.facts.tracks),
            "headroom": headroom,
            "max_open_that_fits": each,
            "threshold": "sum of ceilings > usable slots",
        },
        remedy=f"Bound each instance at {plural(each, 'connection')}, ({usable} - {headroom}) / {instances}, with room "
        "for the instances that a deploy adds; if that is too little, put PgBouncer in transaction mode in front.",
        holders=context.find_holders(track for program in context.facts.programs for track in program.tracks),
        frees=max(0, ceiling - usable),
        decide_by="whether each address is one instance or a relay for several, and which of the backends are used: "
        "the clients' own figures (--pool-stats)"
        if confidence == "undetermined"
        else None,
    )


LEAST_STARTING = 3
"""Backends that have not finished logging in; one or two are just connecting."""


def find_handshake_pile_up(context: RuleContext) -> Iterator[Finding]:
    """Report connections that were opened and never finish logging in; they take slots.

    Threshold: three that have been logging in for more than a second, or in two samples; or a server refuses while its
    visible backends are three short of its slots. Certain: the server (18) or its process titles show them. Likely: by
    subtraction. They last up to authentication_timeout (60 s).
    """
    facts = context.facts
    starting = _find_starting(context)
    refused = facts.refusal is not None and facts.refusal.by in SLOT_REFUSALS
    usable = facts.server.usable if facts.server else 0
    missing = usable - len(facts.tracks) if refused and facts.server_samples and facts.is_full_view else 0
    if len(starting) < LEAST_STARTING and missing < LEAST_STARTING:
        return
    count = len(starting) if len(starting) >= LEAST_STARTING else missing
    observed = len(starting) >= LEAST_STARTING
    yield build_finding(
        "handshake-pile-up",
        severity="critical" if refused or context.is_full else "warning",
        confidence="certain" if observed else "likely",
        summary=f"{count} connections hold slots without having logged "
        f"in{'' if observed else ': refused although fewer backends are observed than there are slots'}",
        evidence={
            "starting": len(starting),
            "oldest_age": max((age for _, age in starting), default=None),
            "missing": missing,
            "threshold": f"{LEAST_STARTING} that have been logging in for more than a second",
        },
        holders=context.find_holders(track for track, _ in starting if track.pid in facts.by_pid),
        frees=count if observed else 0,
    )


def _find_starting(context: RuleContext) -> list[tuple[Track, float]]:
    """Find the backends that have been logging in for more than a second, with their age in seconds."""
    found = []
    for track in context.facts.tracks:
        if track.last.state != "starting":
            continue
        age = track.session_age
        age = age if age is not None else track.age
        if age > 1.0 or track.row_count >= 2:
            found.append((track, age))
    if found:
        return found
    # Up to PostgreSQL 17 only the operating system knows of them.
    host, known = context.facts.host, context.facts.by_pid
    titles = [title for title in host.titles if _logs_in(title.state)] if host is not None else []
    if not titles:
        return []
    before = {
        t.pid for s in context.facts.observation.snapshots[:-1] if s.host for t in s.host.titles if _logs_in(t.state)
    }
    return [(_build_track(title.pid), 0.0) for title in titles if title.pid not in known and title.pid in before]


def _logs_in(state: str) -> bool:
    return state.startswith(("authentication", "startup"))


def _build_track(pid: int) -> Track:
    row = Backend(pid, None, None)
    return Track((Stretch(0, 0, row),), ((0, 0),), (), UNUSED, STOOD_STILL, row, (0.0,), 0)
