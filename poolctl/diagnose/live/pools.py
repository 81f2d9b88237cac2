"""What an application's own pool reports of itself, compared with the server: too small, starved, slots lost.

Decides when a bigger pool is the remedy: of exactly one finding, ``pool-undersized``, and only while the server has
room for more work and every connection comes back quickly.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from poolctl.diagnose.catalog import EXPLAIN_WAITS, SIZE_POOL, build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, name_application
from poolctl.diagnose.live.tracks import STUCK_AFTER, Application, Track, count_at
from poolctl.diagnose.live.waits import PoolSeries
from poolctl.diagnose.slow_database import BUSY_SHARE
from poolctl.units import agree, format_duration, percent, plural, quote, write_all


def find_pool_undersized(context: RuleContext) -> Iterator[Finding]:
    """Report clients that wait for a full pool whose connections all come back quickly, with a server that has time to
    spare.

    Threshold: the pool's figures show it full in four samples of five with clients waiting in half of them, four
    backends in five move within the window, none is stuck, and neither the database nor work elsewhere explains the
    time. Certain: two samples or more and the server's processors known not to be busy. Undetermined: fewer than four
    samples, by a role that sees no times.
    """
    facts = context.facts
    for owner, pools in facts.group_pools():
        short = tuple(series for series in pools if series.is_short)
        if not short or owner is None:
            continue
        most, waiting = sum(series.size for series in short), _count_waiting(short)
        # Pools that count more connections than there are backends are another application's, or have lost slots.
        if not context.is_turning_over(owner) or owner.count < 0.8 * most:
            continue
        cores, cpu = facts.cores, facts.server_cpu
        idle_server = cores is not None and cpu is not None and cpu < BUSY_SHARE * cores
        confidence: Confidence = (
            "certain" if idle_server and len(facts.samples) > 1 and facts.is_full_view else "likely"
        )
        is_open = facts.hidden > 0 and len(facts.samples) < LEAST_HIDDEN
        confidence = "undetermined" if is_open else confidence
        busy = "" if cpu is None or cores is None else f", the server uses {cpu:.1f} of {plural(cores, 'core')}"
        come = "comes" if sum(series.size for series in short) == 1 else "come"
        yield build_finding(
            "pool-undersized",
            severity="critical",
            confidence=confidence,
            summary=f"{_write_all(short, pools, name_application(owner))} in use and {come} back quickly, and still "
            f"{agree(waiting, 'client', 'wait')}{busy}",
            evidence={
                "max_open": most,
                "in_use": _count_in_use(short),
                "waiting": waiting,
                "pools": len(short),
                "looks_full": min(series.full for series in short),
                "looks": len(facts.samples),
                "moved": len(owner.moved),
                "sessions": owner.count,
                "typical_use": owner.typical_use,
                "cores": cores,
                "server_cpu": cpu,
                "threshold": "full in 4 samples of 5, waiting in half of them, 4 backends of 5 move, none stuck, "
                "database not the limit",
            },
            holders=context.find_holders(context.keep_unexplained(owner.tracks)),
            remedy=SIZE_POOL,
            decide_by=f"a longer observation ({facts.write_longer()}), or one as a member of pg_monitor: whether they "
            "are held across other work"
            if is_open
            else None,
        )


LEAST_HIDDEN = 4
"""Samples from which a role that sees no times knows that transactions come back quickly."""


def find_client_starved(context: RuleContext) -> Iterator[Finding]:
    """Report acquires that fail or wait although a connection is free: the client, not the pool, has no time.

    Threshold: the pool's figures count timeouts in the window, with a connection idle and no client waiting in every
    sample; or they count waiting clients beside idle connections in every sample, which no pool that is served shows.
    Certain: the event loop's lag was measured at 100 ms or more.
    """
    for owner, pools in context.facts.group_pools():
        starved = tuple(series for series in pools if _times_out_beside_idle(series) or _waits_beside_idle(series))
        if not starved:
            continue
        timed_out = sum(series.measure_growth("timed_out_total") or 0 for series in starved)
        waiting = sum(series.last.waiting or 0 for series in starved)
        idle = sum(series.last.idle or 0 for series in starved)
        lag = max((series.last.loop_lag for series in starved if series.last.loop_lag is not None), default=None)
        name = name_application(owner) if owner else _name_pools(starved)
        what = f"{plural(round(timed_out), 'acquire')} of {name} timed out"
        if waiting:
            what = f"{plural(waiting, 'client')} of {name} {'waits' if waiting == 1 else 'wait'}"
        lags = f", its event loop lags {format_duration(lag)}" if lag else ""
        yield build_finding(
            "client-starved",
            severity="critical",
            confidence="certain" if lag is not None and lag >= 0.1 else "likely",
            summary=f"{what} with {plural(idle, 'connection')} free: the client itself has no time, or its pool is "
            f"stuck{lags}",
            evidence={
                "timed_out": timed_out,
                "waiting": waiting,
                "idle": idle,
                "in_use": _count_in_use(starved),
                "max_open": sum(series.max_open for series in starved) or None,
                "pools": len(starved),
                "loop_lag": lag,
                "threshold": "timeouts or waiting clients with a free connection in every sample",
            },
            holders=context.find_holders(context.keep_unexplained(owner.tracks)) if owner else (),
        )


def _times_out_beside_idle(series: PoolSeries) -> bool:
    queues = any(each.waiting and not each.waiting_may_lie for each in series.figures)
    return (series.measure_growth("timed_out_total") or 0) >= 1 and _has_free(series) and not queues


def _waits_beside_idle(series: PoolSeries) -> bool:
    """Return True if clients wait in every sample although connections are idle: more idle ones than a hand-over takes.

    One free connection beside a waiter may be on its way to it.
    """
    return _has_free(series) and all(
        (each.waiting or 0) > 0 and not each.waiting_may_lie and (each.idle or 0) > 1 for each in series.figures
    )


def _has_free(series: PoolSeries) -> bool:
    return all((each.idle or 0) > 0 and not (each.in_use or 0) >= (each.max_open or 1 << 30) for each in series.figures)


def find_pool_slots_lost(context: RuleContext) -> Iterator[Finding]:
    """Report a pool that counts connections that the server does not have.

    Threshold: more in use, by the pool's own figures, than its application has backends, in each of two samples or
    more, while clients wait or nothing is idle. Only without a pooler in between, whose clients are not backends.
    Certain: backends carry the name that the figures give. Likely: whose pool it is was concluded. Undetermined: no
    backend carries the name, and all that no other pool names are fewer: the pool may be of another server. In files
    one sample has to do, with half of the connections missing: figures and paste are of different moments, and a paste
    may leave rows out; so it is never certain there.
    """
    facts = context.facts
    if (
        not facts.server_samples
        or facts.queues
        or facts.pgpools
        or (facts.server is not None and facts.server.is_behind_pooler)
    ):
        return
    least = 1 if facts.observation.is_from_files else 2
    if any(limit.scope == "server" and limit.free <= 0 for limit in context.limits) or len(facts.samples) < least:
        return
    fleets: dict[tuple[str | None, str], list[PoolSeries]] = {}
    for series in facts.pools:
        fleets.setdefault((series.last.application, series.last.name), []).append(series)
    for (application, name), pools in fleets.items():
        backends = _count_backends(context, application, pools)
        if backends is None:
            continue
        claimed = sum(min((each.in_use or 0) for each in series.figures) for series in pools)
        lost, waiting = claimed - backends.most, _count_waiting(pools)
        samples = min(len(series.figures) for series in pools)
        runs_out = any(series.waiting or series.is_full or not series.last.idle for series in pools)
        if lost < 1 or samples < least or not runs_out or (least == 1 and 2 * lost < claimed):
            continue
        confidence: Confidence = "certain" if facts.is_full_view and backends.is_sure else "likely"
        if backends.is_foreign:
            confidence = "undetermined"
        elif least == 1:
            confidence = "likely" if len(facts.samples) > 1 else "undetermined"
        yield build_finding(
            "pool-slots-lost",
            severity="critical" if waiting else "warning",
            confidence=confidence,
            summary=f"The {'pool' if len(pools) == 1 else 'pools'} of {application or name or pools[0].last.library} "
            f"{'counts' if len(pools) == 1 else 'count'} {claimed} connections in use, {backends.words}: "
            f"{plural(lost, 'slot')} lost, {_write_waiting(pools)}",
            evidence={
                "in_use": claimed,
                "sessions": backends.most,
                "lost": lost,
                "max_open": sum(series.max_open for series in pools),
                "waiting": waiting if _is_waiting_known(pools) else None,
                "pools": len(pools),
                "looks": samples,
                "threshold": "more in use than backends, in every sample",
            },
            frees=lost,
            decide_by="its backends and its own figures at one and the same moment"
            if least == 1
            else None
            if backends.is_sure
            else facts.write_settling(pools),
        )


NO_NAMES = frozenset({"", "default"})
"""Names of pools whose figures give none."""


@dataclass(frozen=True, slots=True)
class _PoolBackends:
    """The backends that can be a pool's at most, in any sample. ``is_sure``: they carry the name of its application.
    ``is_foreign``: none does, and nothing else shows that any is the pool's."""

    most: int
    words: str
    is_sure: bool = False
    is_foreign: bool = False


def _count_backends(context: RuleContext, application: str | None, pools: Sequence[PoolSeries]) -> _PoolBackends | None:
    """Count the backends that can be these pools': by name, by process, or of the owner that was concluded.

    A label that no backend carries does not mean that there are none: then all that no other pool names may be its own.
    None: nothing says that these figures were meant for this server.
    """
    facts = context.facts
    if application is not None and any(track.last.application == application for track in facts.all_tracks):
        most = _count_most(track for track in facts.all_tracks if track.last.application == application)
        return _PoolBackends(most, f"the server has {plural(most, 'backend')} of it", True)
    owners = [facts.explain_owner(series) for series in pools]
    pids = {owner.pid for owner in owners}
    if None not in pids:
        own = [track for track in facts.all_tracks if _find_pid(context, track) in pids]
        most = _count_most(own)
        return _PoolBackends(most, f"the server has {plural(most, 'backend')} of its process")
    found = {id(owner.application): owner.application for owner in owners}
    if len(found) == 1 and (owner := owners[0].application) is not None:
        most = _count_most((*owner.tracks, *owner.gone))
        words = f"the server has {plural(most, 'backend')} of {name_application(owner)}"
        return _PoolBackends(most, words, all(each.is_sure for each in owners))
    if application is not None:
        others = {series.last.application for series in facts.pools} - {application}
        most = _count_most(track for track in facts.all_tracks if track.last.application not in others)
        words = f"no backend has this name, and there are only {plural(most, 'backend')} that may be its own"
        return _PoolBackends(most, words, is_foreign=True)
    # Without any name the pool may be of any application, but of one.
    most = max((_count_most((*each.tracks, *each.gone)) for each in facts.programs), default=0)
    if not most and all(series.last.name in NO_NAMES for series in pools):
        return None
    words = f"no application has more than {plural(most, 'backend')}" if most else "the server has no backend"
    return _PoolBackends(most, words)


def _find_pid(context: RuleContext, track: Track) -> int | None:
    process = context.clients.find_client(track).process
    return process.pid if process is not None else None


def _count_most(tracks: Iterable[Track]) -> int:
    counts = count_at(tracks)
    return max(counts.values(), default=0)


LEAST_BEYOND = 3
BEYOND_SHARE = 0.25
"""Backends, and their share of the pools' limits, from which they are more than a pool that replaces old ones."""


def find_backends_beyond_pool(context: RuleContext) -> Iterator[Finding]:
    """Report more backends than the pools of their client may have open: opened outside of the pool, or by pools that
    were made again and never closed.

    Threshold: in every sample three more, and a quarter more, than the limits of all pools whose figures come from the
    same process of this host, or whose application has no other process; or from the same address, of the application
    that owns them. As many of them did nothing in the window: a second pool that works exports no figures and is none
    of this. Likely; undetermined by address, which may be that of several instances.
    """
    for clients in _group_by_client(context):
        limit = sum(series.max_open for series in clients.pools)
        counts = count_at(clients.tracks)
        beyond = min((counts[sample.at] for sample in context.facts.samples), default=0) - limit
        resting = [t for t in context.keep_unexplained(clients.tracks) if t.is_idle and t.rests and not t.has_moved]
        if beyond < max(LEAST_BEYOND, BEYOND_SHARE * limit) or len(resting) < beyond:
            continue
        names = _name_pools(clients.pools)
        # The pool's own are in use or were used last, so that the ones that rest longest are the others.
        others = sorted(resting, key=lambda track: (-track.age, track.pid))[:beyond]
        yield build_finding(
            "backends-beyond-pool",
            severity=context.judge_severity(),
            confidence="likely" if clients.pid is not None else "undetermined",
            summary=f"{clients.name} has {plural(len(clients.tracks), 'backend')}, and "
            f"{'its pool' if len(clients.pools) == 1 else 'its pools'} ({names}) may open {limit}: "
            f"{plural(beyond, 'backend')} outside of any pool that has figures, and as many did nothing",
            evidence={
                "sessions": len(clients.tracks),
                "max_open": limit,
                "beyond": beyond,
                "resting": len(resting),
                "pools": len(clients.pools),
                "oldest_age": max(track.age for track in others),
                "threshold": f"{LEAST_BEYOND} more, and {percent(BEYOND_SHARE)} more, than all its pools may open, in "
                "every sample",
            },
            holders=context.find_holders(others),
            frees=beyond,
            decide_by="where its code opens connections or makes pools: in the process itself"
            if clients.pid is not None
            else f"how many instances stand behind {clients.name}: the figures of each of them",
        )


@dataclass(frozen=True, slots=True)
class _ClientPools:
    """A client with all its pools that have figures, and its backends of their applications. ``pid`` None: an
    address."""

    name: str
    pid: int | None
    pools: tuple[PoolSeries, ...]
    tracks: tuple[Track, ...]


def _group_by_client(context: RuleContext) -> Iterator[_ClientPools]:
    facts = context.facts
    found: dict[int | str, list[PoolSeries]] = {}
    for series in facts.pools:
        owner = facts.explain_owner(series)
        address = urlsplit(series.last.source).hostname if "://" in series.last.source else None
        pid = owner.pid if owner.pid is not None else _find_only_pid(context, owner.application)
        if pid is not None:
            found.setdefault(pid, []).append(series)
        elif address is not None and owner.application is not None and address not in context.clients.own:
            found.setdefault(address, []).append(series)
    for client, pools in found.items():
        if not all(series.max_open for series in pools):
            continue
        owners = {id(each): each for series in pools if (each := facts.find_owner(series)) is not None}
        tracks = tuple(
            track
            for application in owners.values()
            for track in application.tracks
            if (_find_pid(context, track) if isinstance(client, int) else track.last.client) == client
        )
        if not tracks:
            continue
        of = ", ".join(map(name_application, owners.values()))
        name = f"Process {client} of {of}" if isinstance(client, int) else f"{of} at {client}"
        yield _ClientPools(name, client if isinstance(client, int) else None, tuple(pools), tracks)


def _find_only_pid(context: RuleContext, application: Application | None) -> int | None:
    """Find the process of this host that has all backends of ``application``; None if there are several or unknown
    ones."""
    tracks = application.tracks if application is not None else ()
    pids = {_find_pid(context, track) for track in tracks}
    return pids.pop() if len(pids) == 1 else None


def find_unexplained_wait(context: RuleContext) -> Iterator[Finding]:
    """Report ``leak-or-long-hold`` where clients wait for a full pool and nothing above explains it; this rule comes
    last.

    Threshold: the pool's figures show it full in four samples of five with clients waiting in half of them, or full
    without a word about waiting clients, while no server was observed; or full in every sample, as far as is known
    without an acquire, while the server shows no backend that is known to be its. Some of its connections stand still
    and some turn over, or none of its backends was observed: then one finding for all such pools. Always undetermined.
    """
    if context.reported & EXPLAIN_WAITS:
        return
    unobserved = [each for each in context.facts.pools if _stands_full_unobserved(context, each)]
    for owner, pools in context.facts.group_pools():
        short = tuple(series for series in pools if series.is_short)
        tracks = owner.tracks if owner is not None else ()
        if not short or len(context.keep_unexplained(tracks)) < len(tracks):
            continue
        if not tracks:
            unobserved.extend(short)
            continue
        waiting = _count_waiting(short)
        still = [track for track in tracks if track.age > STUCK_AFTER]
        part = _write_still(len(still), len(tracks))
        decide_by = f"a longer observation ({context.facts.write_longer()}) of the server and the pool's figures"
        if all(track.last.is_hidden and track.last.state_at is None for track in tracks):
            part = f"this role may not see since when its {agree(len(tracks), 'backend', 'rest')}"
            decide_by = "an observation as a member of pg_monitor, with the pool's figures side by side"
        yield build_finding(
            "leak-or-long-hold",
            severity="critical",
            confidence="undetermined",
            summary=f"{_write_all(short, pools, name_application(owner) if owner else _name_pools(short))} in use "
            f"and {agree(waiting, 'client', 'wait')}; {part}",
            evidence={
                "max_open": sum(series.size for series in short),
                "in_use": _count_in_use(short),
                "waiting": waiting,
                "pools": len(short),
                "sessions": len(tracks),
                "standing_still": len(still),
                "moved": sum(track.has_moved for track in tracks),
                "threshold": "full in 4 samples of 5, waiting in half of them, and no other finding explains it",
            },
            holders=context.find_holders(still or tracks),
            remedy="Change nothing yet: a leak, a long job and a pool that is too small need opposite remedies.",
            frees=len(still),
            decide_by=decide_by,
        )
    if unobserved:
        yield _build_unobserved_wait(context, unobserved)


NO_CAUSE = frozenset(
    {
        "backends-beyond-pool",
        "fleet-over-budget",
        "slots-low",
        "evidence-unread",
        "connection-churn",
        "handshake-pile-up",
    }
)
"""Findings beside which a wait is still not explained."""


def find_waiting_unexplained(context: RuleContext) -> Iterator[Finding]:
    """Report ``waiting-unexplained``: clients wait for long, and no rule before found a cause; this rule comes last."""
    waiting = context.facts.count_waiting()
    if not waiting.sustained or context.reported - NO_CAUSE:
        return
    facts = context.facts
    working = sum(1 for track in facts.tracks if track.last.is_active or track.last.in_transaction)
    server = f"; the server has {plural(len(facts.tracks), 'backend')}, {working} at work" if facts.samples else ""
    clients = f"{plural(waiting.count or 0, 'client')} {'waits' if waiting.count == 1 else 'wait'}"
    empty = [series for series in facts.pools if series.last.open == 0 and series.last.waiting]
    why = "nothing observed says for what"
    if empty:
        why = f"{_name_pools(empty)} has no connection open: it cannot open any, or its process is stuck"
    # PAUSE without a name is in no row of SHOW DATABASES.
    severed = [each for each in facts.queues if each.waiting.sustained and not any(p.servers for p in each.pools)]
    if severed:
        why = "PgBouncer has no connection to the server for them: it is paused (RESUME ends that), or cannot log in"
    yield build_finding(
        "waiting-unexplained",
        severity="critical",
        confidence="undetermined",
        summary=f"{clients} ({waiting.by}), and {why}{server}",
        evidence={
            "waiting": waiting.count,
            "reported_by": waiting.by,
            "pools": len(facts.pools),
            "in_use": _count_in_use(facts.pools) if facts.pools else None,
            "backends": len(facts.tracks) if facts.samples else None,
            "threshold": "clients wait in half of the samples and in the last one, and no finding explains it",
        },
        decide_by=f"a longer observation ({facts.write_longer()}) of all of them together: the server, its poolers and "
        "the pools' own figures; and what the process that waits is doing (its processor time, its threads or event "
        "loop)",
    )


def _stands_full_unobserved(context: RuleContext, series: PoolSeries) -> bool:
    if not context.facts.samples:
        return _is_full_and_silent(series)
    is_silent = not series.waiting and not series.measure_growth("acquired_total")
    is_strange = context.facts.find_owner(series) is None and bool(series.max_open)
    return is_strange and is_silent and series.was_always_full


def _is_full_and_silent(series: PoolSeries) -> bool:
    """Return True if every connection is in use and the figures do not say whether clients wait now.

    A total of all waits so far is no client that waits now.
    """
    is_reported = any(each.waiting is not None for each in series.figures)
    return bool(series.max_open) and series.is_full and not series.is_short and not is_reported


def _write_still(still: int, backends: int) -> str:
    if not still:
        return f"none of {plural(backends, 'backend')} stands still, so nothing explains it"
    verb = "stands" if still == 1 else "stand"
    return f"{still} of {plural(backends, 'backend')} {verb} still, which explains it only in part"


def _build_unobserved_wait(context: RuleContext, pools: list[PoolSeries]) -> Finding:
    """Build the finding for pools whose connections only the server could show."""
    waiting, refusal, programs = _count_waiting(pools), context.facts.refusal, context.facts.programs
    why = f": {quote(refusal.text, 60)}" if refusal is not None and refusal.text else ""
    unknown = "what the connections do was not observed on the server"
    longer = context.facts.write_longer(20.0)
    decide_by = f"an answer of the server: a longer observation ({longer}), from another machine if this one is busy"
    if len(programs) > 1 or (programs and context.facts.server_samples):
        unknown = "which application's they are is not known"
        decide_by = context.facts.write_settling(pools)
    elif context.facts.server_samples:
        unknown = "the server has no backend of any application: they lead to another server, or are lost"
        decide_by = "which server the pool leads to: its connection settings"
    most = sum(series.size for series in pools)
    wait = f"{plural(waiting, 'client')} {'waits' if waiting == 1 else 'wait'}"
    mean = _measure_mean_wait(pools)
    if not waiting:
        wait = "no client waits yet" if _is_waiting_known(pools) else "whether clients wait is not known"
        if mean is not None and mean < SHORT_WAIT:
            wait += f" (its acquires waited {format_duration(mean)} on average so far: it did not fill up by load)"
    return build_finding(
        "leak-or-long-hold",
        severity="critical" if waiting or not _is_waiting_known(pools) else "warning",
        confidence="undetermined",
        summary=f"{write_all(most, 'connection')} of {plural(len(pools), 'pool')} ({_name_pools(pools)}) "
        f"{'is' if most == 1 else 'are'} in use and {wait}; {unknown}{why}",
        evidence={
            "mean_wait_so_far": mean,
            "max_open": most,
            "in_use": _count_in_use(pools),
            "waiting": waiting if _is_waiting_known(pools) else None,
            "pools": len(pools),
            "sessions": 0,
            "threshold": "full in 4 samples of 5, waiting in half of them, and no backend known to be theirs",
        },
        remedy="Change nothing yet: a leak, a slow database and a pool that is too small ask for opposite remedies. A "
        "server that answers late is a sign of a slow database rather than of a leak.",
        decide_by=decide_by,
    )


SHORT_WAIT = 0.005
"""Seconds on average over the whole life of a pool, below which its acquires hardly ever waited: a pool that is too
small for its load makes them wait for as long as a connection is held."""


def _measure_mean_wait(pools: Sequence[PoolSeries]) -> float | None:
    """Return how long an acquire waited on average since the pools began, seconds; None where that is not known."""
    acquired = sum(series.last.acquired_total or 0.0 for series in pools)
    known = all(series.last.wait_time_total is not None for series in pools)
    return sum(series.last.wait_time_total or 0.0 for series in pools) / acquired if known and acquired >= 1 else None


def _name_pools(pools: Sequence[PoolSeries]) -> str:
    names = dict.fromkeys(series.last.name or series.last.library for series in pools)
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")


def _write_all(short: Sequence[PoolSeries], pools: Sequence[PoolSeries], name: str) -> str:
    of = "" if len(short) == len(pools) else f"{len(short)} of "
    fleet = f" in {of}{plural(len(pools), 'pool')}" if len(pools) > 1 else ""
    size = sum(series.size for series in short)
    return f"{write_all(size, 'connection')}{fleet} of {name} {'is' if size == 1 else 'are'}"


def _count_waiting(pools: Sequence[PoolSeries]) -> int:
    return sum(series.waiting.count or 0 for series in pools)


def _is_waiting_known(pools: Sequence[PoolSeries]) -> bool:
    return any(series.waiting.is_known for series in pools)


def _write_waiting(pools: Sequence[PoolSeries]) -> str:
    known = _is_waiting_known(pools)
    return f"{plural(_count_waiting(pools), 'client')} waiting" if known else "waiting clients: unknown"


def _count_in_use(pools: Sequence[PoolSeries]) -> int:
    return sum(series.last.in_use or 0 for series in pools)
