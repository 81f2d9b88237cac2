"""Why health cannot be claimed although no rule found anything: too little was observed, or something may be wrong.

Decides what is doubted, and what would decide it. A false "healthy" is the worst answer.
"""

from collections.abc import Iterator

from poolctl.diagnose.live.context import SOURCE_NAMES, RuleContext, name_application
from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.tracks import STUCK_AFTER, Sample, Track
from poolctl.diagnose.live.usage import MOST_HELD_SHARE
from poolctl.units import format_duration, format_instant, plural, quote

Doubt = tuple[str, str]
"""What is doubted, and what would decide it."""

ANSWER = "an answer of the server, of a pooler, or figures of the pools"


def find_doubts(context: RuleContext, counts: str, working: int) -> Iterator[Doubt]:
    """Yield why health cannot be claimed, worst first.

    ``counts``: the connections in words; ``working``: how many of them are at work.
    """
    facts = context.facts
    yield from _doubt_sources(facts, counts)
    yield from _doubt_pools(facts, counts)
    yield from _doubt_paste(facts, counts)
    yield from _doubt_locks(facts, counts)
    yield from _doubt_load(facts, counts)
    yield from _doubt_end(facts, counts)
    yield from _doubt_ages(facts, counts)
    yield from _doubt_holds(facts, counts, working)
    yield from _doubt_silence(facts, counts)


def _doubt_sources(facts: LiveFacts, counts: str) -> Iterator[Doubt]:
    """Doubt what could be read only in part, a log with trouble in it, and nothing at all."""
    for source in facts.observation.sources:
        if source.is_partial:
            yield (
                f"{SOURCE_NAMES.get(source.kind, source.kind)} {quote(source.target, 80)} could be read only in part "
                f"({source.reason}); of what was read: {counts}",
                ANSWER,
            )
    log = facts.observation.log
    if log is not None and log.trouble_at is not None:
        counts_by = {
            "refusal": sum(each.count for each in log.refusals),
            "lock wait": sum(each.count for each in log.lock_waits),
            "time-out": sum(each.timed_out for each in log.moments),
        }
        found = ", ".join(plural(count, what) for what, count in counts_by.items() if count)
        yield f"The log has {found or 'trouble'}, the first at {format_instant(log.trouble_at)}", ANSWER
    if not facts.samples and not facts.queues and not facts.pgpools and not facts.pools:
        yield "Too little was observed for a verdict", ANSWER


def _doubt_pools(facts: LiveFacts, counts: str) -> Iterator[Doubt]:
    """Doubt figures of pools without backends, and of full ones that do not say how many clients wait.

    A request that comes at random finds a pool full as often as the samples do: half of them are much.
    """
    stray = [each for each in facts.pools if facts.find_owner(each) is None and each.was_always_full]
    if facts.samples and any(not each.waiting.is_known for each in stray):
        name = next(filter(None, (stray[0].last.application, stray[0].last.name)), stray[0].last.library)
        yield (
            f"Every connection of pool {quote(name, 60)} was in use all the time by its own figures, which do not say "
            f"whether clients wait, and which backends are its own is not known; on the server: {counts}",
            facts.write_settling(stray),
        )
    silent = [each for each in facts.pools if not each.waiting.is_known and len(each.figures) > 1]
    # Without a limit a pool may only be as large as its load.
    silent = [each for each in silent if each.max_open or (each.was_always_full and each.size > 1)]
    worst = max(silent, key=lambda each: each.full / len(each.figures), default=None)
    if facts.samples and worst is not None and 2 * worst.full >= len(worst.figures):
        yield (
            f"{counts}; every connection of pool {quote(worst.last.name, 60)} ({worst.size}) was in use in "
            f"{worst.full} of {len(worst.figures)} samples by its own figures, which do not say whether clients wait",
            "how many clients wait for it (--pool-stats-map waiting=NAME), or time-outs in the application's log",
        )
    full = [each for each in facts.pools if each.is_full_now]
    waited_for = [each for each in full if all(figures.waiting for figures in each.figures[-2:])]
    if facts.samples and waited_for:
        many = sum(each.last.waiting or 0 for each in waited_for)
        yield (
            f"Every connection of {plural(len(waited_for), 'pool')} is in use at the end, and {plural(many, 'client')} "
            f"{'waits' if many == 1 else 'wait'}, for too short a time to say why; on the server: {counts}",
            f"a longer observation ({facts.write_longer()})",
        )
    if not facts.samples and full:
        queued = sum(each.last.waiting or 0 for each in full)
        wait = f"{plural(queued, 'client')} {'waits' if queued == 1 else 'wait'}" if queued else "the next client waits"
        yield f"Every connection of {plural(len(full), 'pool')} is in use at the end, and {wait}", ANSWER
    if not facts.samples and facts.pools and not facts.count_waiting().is_known:
        in_use, most = (sum(getattr(each.last, name) or 0 for each in facts.pools) for name in ("in_use", "max_open"))
        taken = f"{in_use} of {plural(most, 'connection')}" if most else plural(in_use, "connection")
        yield (
            f"{plural(len(facts.pools), 'pool')} with {taken} in use; waiting clients: unknown",
            f"{ANSWER}, with the number of clients that wait",
        )


def _doubt_paste(facts: LiveFacts, counts: str) -> Iterator[Doubt]:
    """Doubt a paste without connections, or with most of them hidden from the role that asked."""
    if facts.samples and not facts.tracks and facts.observation.is_from_files:
        yield "What was given shows no connection of a client, and not whether there were any", ANSWER
    hidden = sum(each.last.is_hidden for each in facts.tracks)
    if facts.observation.is_from_files and 2 * hidden > len(facts.tracks):
        yield (
            f"{counts}: the role that asked may not see what {hidden} of them do",
            f"{ANSWER}, asked by a member of pg_monitor",
        )


def _doubt_locks(facts: LiveFacts, counts: str) -> Iterator[Doubt]:
    """Doubt waits for locks in a single sample."""
    blocked = [each for each in facts.tracks if each.last.blocked_by]
    if blocked and len(facts.samples) == 1:
        waiters = {each.pid for each in blocked}
        roots = sorted({pid for each in blocked for pid in each.last.blocked_by} - waiters)
        behind = f" behind {plural(len(roots), 'other')} (pid {', '.join(map(str, roots[:5]))})" if roots else ""
        verb = "waits" if len(blocked) == 1 else "wait"
        yield (
            f"{counts}: {len(blocked)} {verb} for a lock{behind}, in one sample, which does not show that it lasts",
            ANSWER,
        )


def _doubt_load(facts: LiveFacts, counts: str) -> Iterator[Doubt]:
    """Doubt a paste of statements that run for long, or of sessions that all came and went."""
    long = [each for each in facts.tracks if _is_long_at_work(each)]
    if facts.observation.is_from_files and facts.cores is None and len(long) >= CROWD:
        least = min(each.statement_age for each in long)
        yield (
            f"{counts}: {len(long)} statements have run for {format_duration(least)} or longer, and how many "
            "processors the server has was not given: they may be the limit",
            ANSWER,
        )
    if facts.observation.is_from_files and len(facts.samples) > 1:
        first, last = ({each.pid for each in facts.samples[at].backends if each.is_client} for at in (0, -1))
        if last and not first & last:
            yield (
                f"{counts}: no connection of the last sample was in the first one, "
                f"{format_duration(facts.window)} before; what was given does not say how many came and went",
                "a log with log_connections and log_disconnections on",
            )


def _doubt_ages(facts: LiveFacts, counts: str) -> Iterator[Doubt]:
    """Doubt states of which it is not known since when they last."""
    idling = sum(each.is_in_transaction for each in facts.tracks)
    if facts.observation.is_from_files and len(facts.samples) == 1 and idling > 1 and not _has_clock(facts.samples[0]):
        yield (
            f"{counts}: {idling} are idle in a transaction, and without now() in what was given their ages are unknown",
            ANSWER,
        )
    untracked = sum(each.last.state == "disabled" for each in facts.tracks)
    if untracked > 1:
        yield (
            f"{counts}; what {untracked} of them do is not tracked (track_activities is off for them)",
            "track_activities on for their role, or the figures of their pools (--pool-stats)",
        )
    resting = [each for each in facts.tracks if each.is_in_transaction and each.last.state_at is None]
    if len(resting) > 1 and not facts.hidden and len(facts.samples) == 1:
        yield f"{counts}: {len(resting)} are idle in a transaction, and what was given does not say since when", ANSWER
    if (
        facts.tracks
        and not facts.hidden
        and not any(track.last.state_at or track.last.transaction_at for track in facts.tracks)
    ):
        yield f"{counts}: what was given does not say for how long, and so not whether any of them is stuck", ANSWER


def _doubt_end(facts: LiveFacts, counts: str) -> Iterator[Doubt]:
    """Doubt a server that answers no more, or never did, while its processes are there."""
    if facts.is_silent:
        yield (
            f"The server gives no answer ({quote(facts.refusals[-1].text, 60)}), although its processes are there: "
            f"frozen, overloaded or asked at a wrong address; by their titles {counts}",
            "the server's log and its machine's processor, memory and disk; then an observation that is answered",
        )
    if facts.is_gone:
        said = f" ({quote(facts.refusal.text, 60)})" if facts.refusal is not None else ""
        yield (
            f"The server answered {plural(len(facts.samples), 'sample')} and then no more{said}: until then {counts}",
            ANSWER,
        )


LEAST_LONE = 3
"""Applications of one backend that stands in a transaction, from which that is no single forgotten session."""


def _doubt_holds(facts: LiveFacts, counts: str, working: int) -> Iterator[Doubt]:
    """Doubt transactions that may be held by slow work or by a leak."""
    for each in facts.programs:
        paused = [track for track in each.tracks if track.is_in_transaction and track.is_confirmed]
        paused = [track for track in paused if track.age > STUCK_AFTER]
        if len(paused) < 2 or len(paused) < MOST_HELD_SHARE * each.count:
            continue
        since, limit = min(track.age for track in paused), each.stuck_after
        # What is older than the limit, and no leak by other signs, is not decided by waiting for the limit again.
        until = f", which look alike until {format_duration(limit)}" if since < limit else ""
        many = f"All {each.count}" if len(paused) == each.count else f"{len(paused)} of {each.count}"
        yield (
            f"{many} backends of {name_application(each)} have been idle in a transaction for "
            f"{format_duration(since)} or longer: slow work or a leak{until}; {counts}",
            f"a longer observation ({facts.write_longer(2 * max(since, limit))}): slow work ends by itself",
        )
    lone = [each.tracks[0] for each in facts.programs if each.count == 1]
    lone = [t for t in lone if t.is_in_transaction and t.is_confirmed and t.age > STUCK_AFTER]
    if len(lone) >= LEAST_LONE:
        ages = [track.age for track in lone]
        yield (
            f"The only backends of {len(lone)} applications have been idle in a transaction for "
            f"{format_duration(min(ages))} or longer: slow work or leaks; {counts}",
            f"a longer observation ({facts.write_longer(2 * max(ages))}): slow work ends by itself",
        )
    for each in facts.programs:
        unclear = [track for track in each.tracks if track.may_rest]
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


LEAST_SILENCE = 1.5
"""Seconds without a transaction, from which that is worth a word: backends report theirs once a second, and poolctl
looks for two if nothing else is asked."""


def _doubt_silence(facts: LiveFacts, counts: str) -> Iterator[Doubt]:
    """Doubt databases in which no transaction ended, where this role may not see since when backends rest.

    Every role may see these counters. A transaction that reads no table is not counted (PostgreSQL 15 and later), so
    a backend that was observed to do something is none of the silent ones.
    """
    if not facts.hidden or facts.window < LEAST_SILENCE or facts.count_waiting().is_known:
        return
    silent = {}
    for _, now in facts.counted:
        backends = [
            t
            for t in facts.tracks
            if t.last.database == now.name and t.last.is_hidden and not t.last.is_active and not t.has_moved
        ]
        if len(backends) > 1 and not facts.count_ended(now.name):
            silent[now.name] = len(backends)
    if silent:
        name, count = max(silent.items(), key=lambda item: item[1])
        yield (
            f"{counts}; no transaction on a table ended in database {name} for {format_duration(facts.window)}, in "
            f"which {count} backends rested: a quiet hour, or a pool that leaked whole; this role may not see since "
            "when they rest",
            "an observation as a member of pg_monitor, or the figures of the pools (--pool-stats)",
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
