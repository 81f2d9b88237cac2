"""Advice and the verdict that nothing is wrong: missing safety nets, a partial view, pools larger than their work.

Decides what needs no immediate action, and how sure the verdict healthy is.
"""

from collections.abc import Iterator
from statistics import median
from typing import Any

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, name_application
from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.quiet_clients import QuietClients, find_quiet_clients
from poolctl.diagnose.live.tracks import STUCK_AFTER, Application, Sample, Track, is_monitor
from poolctl.diagnose.live.waits import Waiting
from poolctl.units import format_count, format_duration, format_instant, percent, plural, quote

TIMEOUTS = ("idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout")
MOST_MONITORS = 3


def find_no_safety_net(context: RuleContext) -> Iterator[Finding]:
    """Report a missing setting that would have kept a mistake small. Advice only.

    Threshold: an application logs in as a superuser; no slot is kept back for operators; one monitor has more than
    three connections; or every timeout is off, for the server and for the applications' roles. The last is reported
    only beside a finding that a timeout would have bounded, as it is every server's default.
    """
    facts = context.facts
    if facts.server is None:
        return
    gaps: dict[str, Any] = {}
    supers = sorted({each.user or "" for each in facts.programs if _is_superuser(context, each.user)})
    if supers:
        gaps["superuser_applications"] = supers
    if facts.server.superuser_reserved + facts.server.reserved == 0:
        gaps["slots_kept_back"] = 0
    monitors = [each for each in facts.applications if is_monitor(each.name) and each.count > MOST_MONITORS]
    if monitors:
        gaps["monitor_sessions"] = {name_application(each): each.count for each in monitors}
    if context.explained and _no_timeout(context):
        gaps["timeouts_off"] = list(TIMEOUTS)
    if not gaps:
        return
    yield build_finding(
        "no-safety-net",
        severity="info",
        confidence="certain",
        summary=f"Nothing keeps a mistake small here: {', '.join(_write_gaps(gaps))}",
        evidence=gaps
        | {"threshold": "any of: superuser applications, no reserved slot, > 3 connections of a monitor, no timeout"},
        holders=context.find_holders(t for each in facts.programs if each.user in supers for t in each.tracks),
    )


def _is_superuser(context: RuleContext, user: str | None) -> bool:
    role = context.facts.roles.get(user or "")
    return role is not None and role.is_superuser


def _no_timeout(context: RuleContext) -> bool:
    """Return True if every timeout is off, as far as the settings could be read."""
    facts = context.facts
    if not facts.server or not any(name in facts.server.settings for name in TIMEOUTS):
        return False
    users = {each.user for each in facts.programs}
    own = [role.settings for role in facts.server.roles if role.name in users]
    own += [database.settings for database in facts.server.databases]
    return not any(facts.get_setting(name) for name in TIMEOUTS) and not any(
        settings.get(name, "0") not in ("0", "") for settings in own for name in TIMEOUTS
    )


def _write_gaps(gaps: dict[str, Any]) -> Iterator[str]:
    if "superuser_applications" in gaps:
        yield f"applications log in as superuser ({', '.join(gaps['superuser_applications'][:3])})"
    if "slots_kept_back" in gaps:
        yield "no slot is kept back for operators"
    if "monitor_sessions" in gaps:
        yield "a monitor has " + ", ".join(
            f"{count} connections ({name})" for name, count in gaps["monitor_sessions"].items()
        )
    if "timeouts_off" in gaps:
        yield "every timeout is off"


ASKED_FOR = ("pgbouncer", "pgpool", "pool-stats", "evidence", "prometheus")
"""Sources that are read only if the user names them: no answer of theirs is no reason for health."""


def find_evidence_unread(context: RuleContext) -> Iterator[Finding]:
    """Report sources that the user named and that gave nothing to read: no health can be claimed without them."""
    unread = [source for source in context.facts.observation.sources if source.kind in ASKED_FOR and not source.ok]
    # A pooler that refuses or hangs has a finding of its own, which says more.
    unread = [source for source in unread if not (source.kind in ("pgbouncer", "pgpool") and context.reported)]
    if not unread:
        return
    first = unread[0]
    more = f"; nor could {plural(len(unread) - 1, 'other source')}" if len(unread) > 1 else ""
    yield build_finding(
        "evidence-unread",
        severity="warning",
        confidence="certain",
        summary=f"{_SOURCE_NAMES[first.kind]} {quote(first.target, 80)} could not be read: {first.reason}{more}",
        evidence={
            "unread": len(unread),
            "sources": [f"{source.target}: {source.reason}" for source in unread[:10]],
            "threshold": "any source that was named and gave nothing",
        },
    )


_SOURCE_NAMES = {
    "pgbouncer": "PgBouncer",
    "pgpool": "Pgpool-II",
    "pool-stats": "Pool figures",
    "evidence": "Evidence",
    "prometheus": "Prometheus",
}


def find_partial_view(context: RuleContext) -> Iterator[Finding]:
    """Report that not everything could be observed, which makes every other finding less sure.

    Threshold: one backend whose state only its own role may see; or process titles in place of rows.
    """
    facts = context.facts
    hidden = facts.hidden
    missing = _count_missing(context)
    if not hidden and not missing and not (facts.has_only_titles and facts.tracks):
        return
    observed = len(facts.tracks)
    summary = f"The state of {hidden} of {plural(observed, 'backend')} is hidden from this role and was inferred"
    if facts.has_only_titles:
        summary = f"The server refused, so {plural(observed, 'backend')} are known by their process titles only"
    elif not hidden:
        summary = f"{plural(missing, 'backend')} of the server's databases could not be observed"
    yield build_finding(
        "partial-view",
        severity="info",
        confidence="certain",
        summary=summary,
        evidence={
            "hidden": hidden,
            "seen": observed,
            "missing": missing,
            "role": facts.server.role if facts.server else None,
            "threshold": "any hidden backend",
        },
    )


def _count_missing(context: RuleContext) -> int:
    """Count the backends that the databases report and no row shows.

    numbackends also counts walsenders and workers, hence all rows. A few backends come and go between the two queries,
    so fewer than four are none.
    """
    samples = context.facts.server_samples
    if not samples or not samples[-1].databases:
        return 0
    least = 0
    for sample in reversed(samples):
        rows = len([each for each in sample.backends if each.database])
        missing = sum(each.backends for each in sample.databases) - rows
        if missing <= 3:
            return 0
        least = min(least or missing, missing)
    return least


OVERSIZED_SHARE = 0.5
"""Share of the backends that did nothing in the window."""
LEAST_OVERSIZED = 10
WORD_SHARE = 0.85
"""Share of the usable slots from which the summary says it in percent."""
BUDGET_SHARE = 0.2
"""Share of the usable slots from which an idle pool is worth a word although it is not known whether clients wait."""


def find_oversized_pool(context: RuleContext) -> Iterator[Finding]:
    """Report a pool that holds many more connections than its work needs. Advice only: a fixed size may be meant.

    Threshold: ten backends or more, more than half of them frozen idle over the window, none opened, and no client
    waits. Likely: the pool's figures say that no client waits. Undetermined: that is not known; then only of a pool
    that takes a fifth of the usable slots.
    """
    facts = context.facts
    usable = facts.server.usable if facts.server else 0
    for application in facts.programs:
        tracks, frozen = context.keep_unexplained(application.tracks), context.keep_unexplained(application.frozen_idle)
        waiting = facts.count_waiting(application)
        if (
            len(tracks) < LEAST_OVERSIZED
            or len(frozen) <= OVERSIZED_SHARE * len(tracks)
            or application.opened
            or waiting
        ):
            continue
        if not waiting.is_known and (usable <= 0 or len(tracks) < BUDGET_SHARE * usable):
            continue
        in_use = _count_most_in_use(context, application)
        if 2 * in_use > len(tracks):
            # Its own pool counts them as taken, whatever the server sees of them.
            continue
        yield build_finding(
            "oversized-pool",
            severity="info",
            confidence="likely" if waiting.is_known else "undetermined",
            summary=f"{format_count(len(frozen))} of {plural(len(tracks), 'backend')} of "
            f"{name_application(application)} did nothing in {format_duration(facts.window)}, at most {in_use} were in "
            "use at once",
            evidence={
                "sessions": len(tracks),
                "frozen_idle": len(frozen),
                "most_in_use": in_use,
                "usable": usable,
                "waiting": waiting.count,
                "window": facts.window,
                "threshold": f"> {percent(OVERSIZED_SHARE)} frozen idle, none opened, no client waiting",
            },
            holders=context.find_holders(frozen),
            frees=max(0, min(len(frozen), len(tracks) - in_use)),
            decide_by=None if waiting.is_known else "a window that contains the peak, with the pool's own figures",
        )


def _count_most_in_use(context: RuleContext, application: Application) -> int:
    """Count the backends in use at once, at most, by the server's rows and by the pool's own figures."""
    pools = context.facts.find_pools_of(application)
    by_pools = sum(max((each.in_use or 0 for each in pool.figures), default=0) for pool in pools)
    by_sample: dict[float, int] = {}
    for track in application.tracks:
        for at, _ in track.used:
            by_sample[at] = by_sample.get(at, 0) + 1
    return max(by_pools, *by_sample.values(), 0)


WHO_WAITS = (
    "the pools' own figures (--pool-stats), if users see errors all the same: the server cannot see which clients wait"
)


def judge_health(context: RuleContext) -> Finding:
    """Build the finding healthy: nothing at warning or above.

    Certain: everything was observed, twice, and it is known of every application that no client waits in its pool.
    Otherwise likely. Undetermined: what was observed is too little, or something may be wrong; see ``_find_doubts``.
    """
    facts = context.facts
    waiting = facts.count_waiting()
    is_certain = facts.is_full_view and _is_every_wait_known(facts) and len(facts.samples) > 1
    confidence: Confidence = "certain" if is_certain else "likely"
    used = len(facts.tracks)
    usable = facts.server.usable if facts.server else None
    working = sum(1 for t in facts.tracks if t.last.is_active or t.last.in_transaction)
    of = f" of {format_count(usable)} usable" if usable is not None else ""
    share = f" ({percent(used / usable)})" if usable and used >= WORD_SHARE * usable else ""
    counts = f"{format_count(used)}{of} connections open{share}, {working} at work"
    still = _find_still(context)
    quiet = find_quiet_clients(context.facts)
    summary = (
        f"Healthy: {counts}, {_write_waiting(waiting)}{_write_locks(facts)}{_write_rests(context, still)}"
        f"{_write_quiet(quiet)}{_write_silence(context)}"
    )
    decide_by = None
    if not facts.samples:
        summary = "Healthy as far as observed: no client is known to wait; the server itself was not observed"
    if confidence == "likely" and not _is_every_wait_known(facts):
        decide_by = WHO_WAITS
    doubt = next(_find_doubts(context, counts, working), None)
    if doubt is not None:
        confidence = "undetermined"
        summary, decide_by = doubt
    return build_finding(
        "healthy",
        severity="info",
        confidence=confidence,
        summary=summary,
        evidence={
            "used": used,
            "usable": usable,
            "at_work": working,
            "waiting": waiting.count,
            "standing_still": {name_application(each): each.count for each in still} or None,
            "quiet_clients": {each.name: each.count for each in quiet} or None,
            "looks": len(facts.samples),
            "window": facts.window,
            "notes": list(write_notes(context)),
            "threshold": "no finding at warning or above",
        },
        decide_by=decide_by,
    )


def _is_every_wait_known(facts: LiveFacts) -> bool:
    """Return True if the pool of each application reports its waiting clients, and a name says whose each pool is."""
    return facts.count_waiting().is_known and all(
        pools and all(pool.waiting.is_known for pool in pools) and facts.find_unsure_owner(each) is None
        for each, pools in ((each, facts.find_pools_of(each)) for each in facts.programs)
    )


def _find_doubts(context: RuleContext, counts: str, working: int) -> Iterator[tuple[str, str]]:
    """Yield why health cannot be claimed although no rule found anything, and what would decide; worst first."""
    facts = context.facts
    waiting = facts.count_waiting()
    answer = "an answer of the server, of a pooler, or figures of the pools"
    for source in facts.observation.sources:
        if source.is_partial:
            yield (
                f"{_SOURCE_NAMES.get(source.kind, source.kind)} {quote(source.target, 80)} could be read only in part "
                f"({source.reason}); of what was read: {counts}",
                answer,
            )
    log = facts.observation.log
    if log is not None and log.trouble_at is not None:
        counts_by = {
            "refusal": sum(each.count for each in log.refusals),
            "lock wait": sum(each.count for each in log.lock_waits),
            "time-out": sum(each.timed_out for each in log.moments),
        }
        found = ", ".join(plural(count, what) for what, count in counts_by.items() if count)
        yield f"The log has {found or 'trouble'}, the first at {format_instant(log.trouble_at)}", answer
    if not facts.samples and not facts.queues and not facts.pgpools and not facts.pools:
        yield "Too little was observed for a verdict", answer
    full = [each for each in facts.pools if each.is_full_now]
    if not facts.samples and full:
        queued = sum(each.last.waiting or 0 for each in full)
        wait = f"{plural(queued, 'client')} {'waits' if queued == 1 else 'wait'}" if queued else "the next client waits"
        yield f"Every connection of {plural(len(full), 'pool')} is in use at the end, and {wait}", answer
    if not facts.samples and facts.pools and not waiting.is_known:
        in_use, most = (sum(getattr(each.last, name) or 0 for each in facts.pools) for name in ("in_use", "max_open"))
        of = f" of {most}" if most else ""
        yield (
            f"{plural(len(facts.pools), 'pool')} with {in_use}{of} connections in use; waiting clients: unknown",
            f"{answer}, with the number of clients that wait",
        )
    if facts.samples and not facts.tracks and facts.observation.is_from_files:
        yield "What was given shows no connection of a client, and not whether there were any", answer
    hidden = sum(each.last.is_hidden for each in facts.tracks)
    if facts.observation.is_from_files and 2 * hidden > len(facts.tracks):
        yield (
            f"{counts}: the role that asked may not see what {hidden} of them do",
            f"{answer}, asked by a member of pg_monitor",
        )
    blocked = [each for each in facts.tracks if each.last.blocked_by]
    if blocked and len(facts.samples) == 1:
        waiters = {each.pid for each in blocked}
        roots = sorted({pid for each in blocked for pid in each.last.blocked_by} - waiters)
        behind = f" behind {plural(len(roots), 'other')} (pid {', '.join(map(str, roots[:5]))})" if roots else ""
        verb = "waits" if len(blocked) == 1 else "wait"
        yield (
            f"{counts}: {len(blocked)} {verb} for a lock{behind}, in one sample, which does not show that it lasts",
            answer,
        )
    long = [each for each in facts.tracks if _is_long_at_work(each)]
    if facts.observation.is_from_files and facts.cores is None and len(long) >= CROWD:
        least = min(each.statement_age for each in long)
        yield (
            f"{counts}: {len(long)} statements have run for {format_duration(least)} or longer, and how many "
            "processors the server has was not given: they may be the limit",
            answer,
        )
    if facts.observation.is_from_files and len(facts.samples) > 1:
        first, last = ({each.pid for each in facts.samples[at].backends if each.is_client} for at in (0, -1))
        if len(first) > 1 and len(last) > 1 and not first & last:
            yield (
                f"{counts}: none of the {len(first)} of the first sample is in the last one, "
                f"{format_duration(facts.window)} later; what was given does not say how many came and went",
                "a log with log_connections and log_disconnections on",
            )
    idling = sum(each.is_in_transaction for each in facts.tracks)
    if facts.observation.is_from_files and len(facts.samples) == 1 and idling > 1 and not _has_clock(facts.samples[0]):
        yield (
            f"{counts}: {idling} are idle in a transaction, and without now() in what was given their ages are unknown",
            answer,
        )
    resting = [each for each in facts.tracks if each.is_in_transaction and each.last.state_at is None]
    if len(resting) > 1 and not facts.hidden and len(facts.samples) == 1:
        yield f"{counts}: {len(resting)} are idle in a transaction, and what was given does not say since when", answer
    if (
        facts.tracks
        and not facts.hidden
        and not any(track.last.state_at or track.last.transaction_at for track in facts.tracks)
    ):
        yield f"{counts}: what was given does not say for how long, and so not whether any of them is stuck", answer
    if facts.is_gone:
        said = f" ({quote(facts.refusal.text, 60)})" if facts.refusal is not None else ""
        yield (
            f"The server answered {plural(len(facts.samples), 'sample')} and then no more{said}: until then {counts}",
            answer,
        )
    for each in filter(_is_paused, facts.programs):
        since, limit = min(track.age for track in each.tracks), each.stuck_after
        # What is older than the limit, and no leak by other signs, is not decided by waiting for the limit again.
        until = f", which look alike until {format_duration(limit)}" if since < limit else ""
        yield (
            f"All {each.count} backends of {name_application(each)} have been idle in a transaction for "
            f"{format_duration(since)} or longer: slow work or a leak{until}; {counts}",
            f"a longer observation ({facts.write_longer(2 * max(since, limit))}): slow work ends by itself",
        )
    for each in facts.programs:
        unclear = [track for track in each.tracks if _may_rest(track)]
        if len(unclear) > 1:
            yield (
                f"{len(unclear)} of {plural(each.count, 'backend')} of {name_application(each)} have been in one and "
                f"the same transaction for {format_duration(min(track.age for track in unclear))} or longer, and this "
                f"role may not see whether they work in it: long statements or a leak; {counts}",
                "an observation as a member of pg_monitor, or from the server's own machine, with its process list",
            )
    if facts.hidden and working > 1 and facts.window < STUCK_AFTER:
        yield (
            f"{counts}; their states are hidden from this role, and {format_duration(facts.window)} are too short to "
            "infer which of them stand still",
            f"a longer observation ({facts.write_longer()}), or a role that is a member of pg_monitor",
        )


def _has_clock(sample: Sample) -> bool:
    """Return True if a pasted sample says when it was taken: by now(), or by the statement that asked for it.

    Else its newest instant stands for now, and what rests since then looks as if it had begun just now.
    """
    newest = max(
        ((at, row) for row in sample.backends for at in (row.state_at, row.query_at) if at is not None),
        key=lambda pair: pair[0],
        default=None,
    )
    return newest is None or sample.at > newest[0] or "pg_stat_activity" in (newest[1].query or "")


CROWD = 4
"""Statements at work from which a small server, of two cores, has more work than it can do at once."""
LONG_AT_WORK = 0.3
"""Seconds that each of them has run: quick ones crowd a server for moments only."""


def _is_long_at_work(track: Track) -> bool:
    is_working = track.last.is_active and track.last.wait_event_type not in ("Lock", "Client")
    return is_working and track.last.query_at is not None and track.statement_age >= LONG_AT_WORK


def _may_rest(track: Track) -> bool:
    """Return True if only its locks say that ``track`` is active, all the time in one transaction.

    The extended protocol keeps a portal open, which makes an idle transaction look the same. Where the process title
    was observed, the state is known, and so is the client.
    """
    last = track.last
    is_at_work = last.is_hidden and last.is_active and last.wait_event_type is None and last.client is None
    return is_at_work and track.is_confirmed and track.age > STUCK_AFTER


def _is_paused(application: Application) -> bool:
    """Return True if every backend is idle in a transaction, not yet longer than its transactions may take."""
    return application.count > 1 and all(
        track.is_in_transaction and track.is_confirmed and track.age > STUCK_AFTER for track in application.tracks
    )


def _write_waiting(waiting: Waiting) -> str:
    if not waiting:
        return "no client is known to wait"
    return f"{plural(waiting.count or 0, 'client')} waited for a moment"


def _find_still(context: RuleContext) -> list[Application]:
    """Find the applications whose backends all did nothing, where waiting clients are not reported."""
    return [
        each
        for each in context.facts.programs
        if all(t.is_idle and t.is_frozen and t.was_used and t.age > STUCK_AFTER for t in each.tracks)
        and each.count > 1
        and not context.facts.count_waiting(each).is_known
    ]


def _write_quiet(quiet: list[QuietClients]) -> str:
    if not quiet:
        return ""
    first = quiet[0]
    more = f" (nor have those of {plural(len(quiet) - 1, 'other application')})" if len(quiet) > 1 else ""
    return (
        f"; none of the {format_count(first.count)} clients of {first.name} at PgBouncer has sent anything for "
        f"{format_duration(first.since)} or longer{more}, quiet or stuck: the figures of its own pool (--pool-stats) "
        "would decide"
    )


LEAST_SILENCE = 2.0
"""Seconds without a transaction, from which that is worth a word: backends report theirs once a second."""


def _write_silence(context: RuleContext) -> str:
    """Write about databases in which no transaction ended, where this role may not see since when backends rest.

    Every role may see these counters. poolctl's own transactions are in those of its own database: three a sample at
    most.
    """
    facts = context.facts
    if not facts.hidden or facts.window < LEAST_SILENCE or facts.count_waiting().is_known:
        return ""
    own = facts.server.database if facts.server else None
    silent = {}
    for then, now in facts.counted:
        backends = [
            t for t in facts.tracks if t.last.database == now.name and t.last.is_hidden and not t.last.is_active
        ]
        ended = now.commits + now.rollbacks - then.commits - then.rollbacks
        most = 3 * len(facts.server_samples) if now.name == own else 0
        if len(backends) > 1 and ended <= most:
            silent[now.name] = len(backends)
    if not silent:
        return ""
    name, count = max(silent.items(), key=lambda item: item[1])
    return (
        f"; no transaction ended in database {name} for {format_duration(facts.window)}, in which {count} backends are "
        "open, quiet or stuck: this role may not see since when (pg_monitor may), and the figures of the pools "
        "(--pool-stats) would decide"
    )


LEAST_QUEUED = 3
"""Waiters at a time, on average, from which waits for locks are worth a word."""


def _write_locks(facts: LiveFacts) -> str:
    """Write about waits for locks that make no queue behind one backend, such as a row that all clients change."""
    active = [row for sample in facts.samples for row in sample.in_use if row.is_active]
    waiting = sum(row.wait_event_type == "Lock" for row in active)
    if 2 * waiting <= len(active) or waiting < LEAST_QUEUED * len(facts.samples):
        return ""
    return (
        f"; {percent(waiting / len(active))} of the statements under way waited for locks, each behind another for a "
        "moment; more connections make that longer"
    )


def _write_rests(context: RuleContext, still: list[Application]) -> str:
    """Write about what the server alone cannot separate: a quiet pool, and one whose connections never come back."""
    facts = context.facts
    resting = sum(track.is_idle and track.is_frozen for track in facts.tracks)
    if still:
        first = still[0]
        since = format_duration(min(track.age for track in first.tracks))
        more = f" (as have all of {plural(len(still) - 1, 'other application')})" if len(still) > 1 else ""
        return (
            f"; all {format_count(first.count)} backends of {name_application(first)} have done nothing for {since} or "
            f"longer{more}, quiet or stuck: the figures of its pool (--pool-stats) would decide"
        )
    if 2 * resting > len(facts.tracks) and not facts.count_waiting().is_known:
        rest = f"{format_count(resting)} of them {'rests' if resting == 1 else 'rest'}"
        return f"; {rest}: parked, unless users see timeouts"
    return ""


def write_notes(context: RuleContext) -> Iterator[str]:
    """Yield sentences about what looks like trouble and is none, the most important first."""
    facts = context.facts
    held = [t for each in facts.applications for t in each.tracks if t.is_in_transaction and t.age > STUCK_AFTER]
    if held:
        oldest = max(held, key=lambda track: track.age)
        who = quote(oldest.last.application or oldest.last.user or "?", 40)
        many = "one backend" if len(held) == 1 else f"{format_count(len(held))} backends"
        yield f"{many} held a transaction open while idle, the oldest for {format_duration(oldest.age)} ({who})"
    frozen = sum(len(each.frozen_idle) for each in facts.applications)
    if frozen > 0.5 * len(facts.tracks):
        known = facts.count_waiting()
        asked = "no client waits for them" if known.is_known and not known else "waiting clients: unknown"
        share = f"{format_count(frozen)} of {format_count(len(facts.tracks))} backends"
        yield f"{share} did nothing in the window: parked, {asked}"
    listening = sum(1 for t in facts.tracks if (t.last.query or "").lstrip()[:6].upper() == "LISTEN")
    if listening:
        yield f"{plural(listening, 'backend')} {'listens' if listening == 1 else 'listen'} for notifications"
    locks = sum(1 for t in facts.tracks if t.last.advisory_locks)
    if locks:
        yield f"{plural(locks, 'backend')} {'holds' if locks == 1 else 'hold'} advisory locks"
    waiting = sum(1 for t in facts.tracks if t.waits_for_lock)
    if waiting:
        yield f"{plural(waiting, 'backend')} waited for a lock for a moment"
    long = [t for t in facts.tracks if t.last.is_active and t.statement_age > 60.0]
    if long:
        ages = median(t.statement_age for t in long)
        run = "runs" if len(long) == 1 else "run"
        yield f"{plural(len(long), 'statement')} {run} for long (typically {format_duration(ages)})"
