"""What evidence leaves open, and the exact command that fetches it.

Decides what a diagnosis from files lacks most, and when an incident began in a log, and what came before that. A live
observation can go on for longer; a file cannot: its reader can only fetch another one.
"""

from collections.abc import Iterator
from dataclasses import replace
from shlex import quote as quote_shell

from poolctl.diagnose.finding import Finding
from poolctl.diagnose.live.facts import LiveFacts
from poolctl.observe.snapshot import LogFacts, Source
from poolctl.units import format_duration, format_instant, plural, quote

TWO_SAMPLES = (
    'psql -c "select now(), * from pg_stat_activity" -c "select pg_sleep(10)" '
    '-c "select now(), * from pg_stat_activity" > activity.txt'
)
"""Two pastes of one server, ten seconds apart: what moves and what stands still."""
BLOCKING = 'psql -c "select now(), pg_blocking_pids(pid) as blocked_by, * from pg_stat_activity" > blocking.txt'
CONSOLE = 'psql -p 6432 -d pgbouncer -c "show pools" -c "show clients" -c "show servers" -c "show config" > pooler.txt'
FIGURES = "curl -s http://HOST:PORT/metrics > pool.prom"

BEFORE = 600.0
"""Seconds before an incident in which a new application, a restart or a long statement is worth a word."""
SETTLED = 60.0
"""Seconds from the beginning of a log in which every application is new to it."""
LONG_STATEMENT = 60.0
"""Seconds from which a statement that ran into the incident is named."""


def _repeat(source: Source) -> str:
    """Return the option that names a source again."""
    target = "-" if source.target == "standard input" else quote_shell(source.target)
    return f"--prometheus {target}" if source.kind == "prometheus" else f"--evidence {target}"


def name_next_step(facts: LiveFacts, finding: Finding) -> Finding:
    """Return ``finding`` with the command that would decide it, where it stands on files alone and is undetermined."""
    if not facts.observation.is_from_files or finding.confidence != "undetermined":
        return finding
    steps = list(_list_missing(facts, finding))
    if not steps:
        return finding
    given = " ".join(map(_repeat, [each for each in facts.observation.sources[:3] if each.ok]))
    steps[2:] = [f"poolctl inspect {given} with --evidence for each new file"]
    return replace(finding, decide_by="; then ".join(steps[:3]))


def _list_missing(facts: LiveFacts, finding: Finding) -> Iterator[str]:
    waits_for_locks = any(track.waits_for_lock and not track.last.blocked_by for track in facts.tracks)
    if finding.layer == "pooler" and not any(queue.bouncer.servers for queue in facts.queues) and not facts.pgpools:
        yield f"which client holds which server connection: {CONSOLE}"
    if not facts.samples:
        yield f"what the connections do in PostgreSQL, at such a moment: {TWO_SAMPLES}"
    elif waits_for_locks:
        yield f"who blocks whom: {BLOCKING}"
    elif len(facts.samples) == 1:
        yield f"what moves and what stands still, at such a moment: {TWO_SAMPLES}"
    if not facts.count_waiting().is_known:
        yield f"whether clients wait in the applications' pools, by their own metrics or log: {FIGURES}"


def list_causes_before(log: LogFacts) -> Iterator[str]:
    """Yield what happened within ten minutes before the first trouble in ``log``, the nearest last; a phrase each.

    Threshold: an application that logged in for the first time, but not within the log's first minute, when every one
    is new; a start of the server; a statement of a minute or longer that was running at the time, as logged.
    """
    at = log.trouble_at
    if at is None or log.first_at is None:
        return
    found: list[tuple[float, str]] = []
    for each in log.applications:
        if each.first_at is not None and at - BEFORE <= each.first_at <= at and each.first_at > log.first_at + SETTLED:
            name = quote(each.name, 40) if each.name else "a client without a name"
            found.append((each.first_at, f"{name} logged in for the first time ({plural(each.sessions, 'session')})"))
    found += [(restart, "the server started") for restart in log.restarts if at - BEFORE <= restart <= at]
    for statement in log.statements:
        end = statement.longest_at
        if statement.longest >= LONG_STATEMENT and end is not None and end - statement.longest <= at <= end:
            text = f"a statement began that took {format_duration(statement.longest)}: {quote(statement.text, 60)}"
            found.append((end - statement.longest, text))
    for moment, text in sorted(found):
        yield f"{format_instant(moment)} {text}"
