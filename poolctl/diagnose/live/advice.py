"""Advice: missing safety nets, evidence that could not be read, a partial view, pools larger than their work.

Decides what is worth saying although it needs no immediate action.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

from poolctl.diagnose.catalog import build_finding
from poolctl.diagnose.finding import Finding
from poolctl.diagnose.live.context import SOURCE_NAMES, RuleContext, name_application
from poolctl.diagnose.live.tracks import Application, is_monitor
from poolctl.units import agree, format_count, format_duration, percent, plural, quote

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
        summary=f"{SOURCE_NAMES[first.kind]} {quote(first.target, 80)} could not be read: {first.reason}{more}",
        evidence={
            "unread": len(unread),
            "sources": [f"{source.target}: {source.reason}" for source in unread[:10]],
            "threshold": "any source that was named and gave nothing",
        },
    )


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
    remedy = ""
    if facts.has_only_titles:
        remedy = "Give a role that may take a reserved slot (--emergency), or observe again when a slot is free."
        if facts.is_silent:
            remedy = "Observe again when the server answers."
        did = "did not answer" if facts.is_silent else "refused"
        summary = f"The server {did}, so {agree(observed, 'backend', 'are')} known by the process title only"
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
        remedy=remedy,
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
    by_sample = Counter(chain.from_iterable(track.usage.times for track in application.tracks))
    return max(by_pools, *by_sample.values(), 0)
