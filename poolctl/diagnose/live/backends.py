"""Backends in states in which no healthy application leaves them for long, and clients that are gone or stopped.

Decides by signs of the backend itself, and by the client's process where this machine shows it.
"""

from collections.abc import Iterable, Iterator

from poolctl.diagnose.catalog import NOT_BY_STATE, build_finding
from poolctl.diagnose.finding import Confidence, Finding
from poolctl.diagnose.live.context import RuleContext, cap_confidence, name_application
from poolctl.diagnose.live.tracks import STUCK_AFTER, Application, Track
from poolctl.units import agree, format_duration, plural

STOPPED = frozenset({"stopped", "tracing-stop"})
LOOPBACK = ("127.", "::1", "local")


def find_orphaned_backends(context: RuleContext) -> Iterator[Finding]:
    """Report backends that work for a client that no longer exists.

    Threshold: one that is active or idle in a transaction, with an address of this machine and a client port (or the
    other end of its Unix socket) that no process owns, in two samples of the host. Certain: all sockets were visible.
    Nothing is said of remote clients, or from another network namespace, where no owner means nothing.
    """
    hosts = [s.host for s in context.facts.observation.snapshots if s.host is not None][-2:]
    if not hosts or not all(host.sees_all_sockets for host in hosts):
        return
    ports = frozenset.intersection(*(frozenset(host.unowned_ports) for host in hosts))
    pids = frozenset.intersection(*(frozenset(host.unowned_backends) for host in hosts))
    orphans = [
        track
        for track in context.keep_unexplained(context.facts.tracks)
        if (track.last.client_port in ports or track.pid in pids)
        and (track.last.is_active or track.last.in_transaction)
        and (len(hosts) > 1 or track.statement_age > STUCK_AFTER)
        and not track.has_moved
    ]
    for application, tracks in _group_tracks(context, orphans):
        oldest = max(track.statement_age for track in tracks)
        yield build_finding(
            "orphaned-backends",
            severity=context.judge_severity(application),
            confidence="certain",
            summary=f"{plural(len(tracks), 'backend')} of {name_application(application)} still "
            f"{'works' if len(tracks) == 1 else 'work'} for a client that is gone, for up to {format_duration(oldest)}",
            evidence={
                "orphans": len(tracks),
                "ports": sorted(t.last.client_port or 0 for t in tracks)[:20],
                "oldest_statement": oldest,
                "client_connection_check_interval": context.facts.get_setting("client_connection_check_interval"),
                "threshold": "active or in a transaction, local, and no process owns the client's port",
            },
            holders=context.find_holders(tracks),
            frees=len(tracks),
        )


def find_frozen_clients(context: RuleContext) -> Iterator[Finding]:
    """Report a stopped process that owns connections: it can neither use nor release them.

    Threshold: a process of this host in state T with backends that did not move. Certain: the host shows it. Operators'
    tools in the background hold nothing unless they are in a transaction.
    """
    by_process: dict[int, list[Track]] = {}
    for track in context.keep_unexplained(context.facts.tracks):
        process = context.clients.find_client(track).process
        if process is not None and process.status in STOPPED:
            by_process.setdefault(process.pid, []).append(track)
    for tracks in by_process.values():
        moved = [track for track in tracks if track.has_moved]
        applications = _group_tracks(context, tracks)
        harmless = all(application.is_tool for application, _ in applications) and not any(
            track.last.in_transaction for track in tracks
        )
        # It may have been stopped within the window, so that a few still moved; not most of them.
        if harmless or 2 * len(moved) > len(tracks):
            continue
        yield _build_frozen(context, applications[0][0], tuple(tracks))


def _build_frozen(context: RuleContext, application: Application, tracks: tuple[Track, ...]) -> Finding:
    process = context.clients.find_client(tracks[0]).process
    holding = sum(1 for track in tracks if not track.is_idle)
    return build_finding(
        "frozen-clients",
        severity=context.judge_severity(application),
        confidence="certain",
        summary=f"The process of {name_application(application)} (pid {process.pid if process else '?'}) is stopped "
        f"and keeps {plural(len(tracks), 'backend')}, {holding} of them in a statement or transaction",
        evidence={
            "backends": len(tracks),
            "in_use": holding,
            "process": process.pid if process else None,
            "status": process.status if process else None,
            "oldest_age": max(track.age for track in tracks),
            "threshold": "process stopped (state T), backends did not move",
        },
        holders=context.find_holders(tracks),
        frees=len(tracks),
    )


def find_frozen_peers(context: RuleContext) -> Iterator[Finding]:
    """Report one client whose backends all stand still while its peers work and other clients wait.

    It is frozen, or has a leak. Threshold: 100 % of one address's backends of an application frozen, two at least,
    while backends from other addresses move, with clients waiting. Always undetermined: only that client's machine can
    decide.
    """
    for application in context.facts.programs:
        if not context.facts.count_waiting(application) and not context.facts.is_refusing:
            continue
        by_client: dict[str, list[Track]] = {}
        for track in context.keep_unexplained(application.tracks):
            if track.last.client is not None and context.clients.find_client(track).process is None:
                by_client.setdefault(track.last.client, []).append(track)
        still = {client: tracks for client, tracks in by_client.items() if all(t.is_frozen for t in tracks)}
        moving = any(t.has_moved for client, tracks in by_client.items() if client not in still for t in tracks)
        for client, tracks in still.items():
            if moving and len(tracks) >= 2:
                yield _build_frozen_peer(context, application, client, tracks)


def _build_frozen_peer(context: RuleContext, application: Application, client: str, tracks: list[Track]) -> Finding:
    waiting = context.facts.count_waiting(application)
    wait = f" and {agree(waiting.count, 'client', 'wait')}" if waiting.count else ""
    return build_finding(
        "frozen-clients",
        severity=context.judge_severity(application),
        confidence="undetermined",
        summary=f"All {len(tracks)} backends of {name_application(application)} from {client} stand still while its "
        f"peers work{wait}: that client is frozen, gone, or has leaked them",
        evidence={
            "frozen": len(tracks),
            "client": client,
            "oldest_age": max(track.age for track in tracks),
            "waiting": waiting.count,
            "threshold": "all backends of one client frozen while others move",
        },
        holders=context.find_holders(tracks),
        remedy=NOT_BY_STATE,
        frees=len(tracks),
        decide_by=f"the machine {client}: whether the process is there, and not stopped",
    )


def find_aborted_transaction(context: RuleContext) -> Iterator[Finding]:
    """Report transactions in which a statement failed and that were not rolled back.

    Threshold: any for more than a second, by state_change (the server no longer reports the transaction's own start).
    Certain. A person at a client program may leave it so on purpose; that is no finding.
    """
    for application in context.facts.programs:
        failed = tuple(
            t
            for t in context.keep_unexplained(application.tracks)
            if t.last.state == "idle in transaction (aborted)" and t.age > STUCK_AFTER
        )
        if not failed:
            continue
        yield build_finding(
            "aborted-transaction",
            severity=context.judge_severity(application),
            confidence=cap_confidence("certain", failed),
            summary=f"{plural(len(failed), 'backend')} of {name_application(application)} "
            f"{'is' if len(failed) == 1 else 'are'} in a failed transaction that was not rolled back, for up to "
            f"{format_duration(max(t.age for t in failed))}",
            evidence={
                "aborted": len(failed),
                "sessions": application.count,
                "oldest_age": max(t.age for t in failed),
                "threshold": f"idle in transaction (aborted) for more than {format_duration(STUCK_AFTER)}",
            },
            holders=context.find_holders(failed),
            frees=len(failed),
        )


SLOW_READER = 5.0
"""Seconds for which a client reads a statement's rows from which it is a slow download."""
SURE_SAMPLES = 3
"""Samples in which the same statement waited for its client, which make up for the age in a short window: a client that
reads lets the server go on in between."""


def find_slow_reader(context: RuleContext) -> Iterator[Finding]:
    """Report statements that wait for a client that does not read their rows.

    Threshold: active and waiting to write to the client for more than 5 s, the same statement in every sample; or in
    three samples and more over two seconds. Certain: the same start in two samples. COPY and dumps are slow on purpose.
    """
    for application in context.facts.programs:
        reading = tuple(t for t in context.keep_unexplained(application.tracks) if _is_unread(t))
        if not reading:
            continue
        oldest = max(t.statement_age for t in reading)
        confidence: Confidence = "certain" if all(t.row_count >= 2 for t in reading) else "likely"
        yield build_finding(
            "slow-reader",
            severity=context.judge_severity(application),
            confidence=cap_confidence(confidence, reading),
            summary=f"{plural(len(reading), 'statement')} of {name_application(application)} "
            f"{'waits' if len(reading) == 1 else 'wait'} for a client that does not read the rows, for up to "
            f"{format_duration(oldest)}",
            evidence={
                "unread": len(reading),
                "sessions": application.count,
                "oldest_statement": oldest,
                "threshold": f"active, Client/ClientWrite, same statement, > {format_duration(SLOW_READER)} or in "
                f"{SURE_SAMPLES} samples",
            },
            holders=context.find_holders(reading),
            frees=len(reading),
        )


def _is_unread(track: Track) -> bool:
    last = track.last
    if not _waits_for_client(track, "ClientWrite") or (last.query or "").lstrip()[:4].upper() == "COPY":
        return False
    same = all(row.query_at == last.query_at and row.wait_event == "ClientWrite" for _, _, row in track.stretches)
    if not same:
        return False
    watched = track.now - track.first_at
    return track.statement_age > SLOW_READER or (track.row_count >= SURE_SAMPLES and watched >= 2.0)


STUCK_PROTOCOL = 60.0
"""Seconds; nothing on the server ever ends it."""
MAYBE_STUCK = 10.0
"""Seconds from which it is reported as undetermined: a pipeline pauses, but not for that long (a proposal)."""


def find_stuck_protocol(context: RuleContext) -> Iterator[Finding]:
    """Report backends that are active and wait for the rest of a message that the client never sends.

    Threshold: active and waiting to read from the client, not in COPY, for more than 60 s. Certain: the same statement
    in two samples. Undetermined: 10 s and more, or the statement is hidden and may be COPY.
    """
    for application in context.facts.programs:
        stuck = tuple(
            t
            for t in context.keep_unexplained(application.tracks)
            if _waits_for_client(t, "ClientRead") and t.statement_age > MAYBE_STUCK
        )
        stuck = tuple(t for t in stuck if "COPY" not in (t.last.query or "")[:200].upper())
        if not stuck:
            continue
        oldest = max(t.statement_age for t in stuck)
        same = all(t.row_count >= 2 and t.first.query_at == t.last.query_at for t in stuck)
        known = all(t.last.query for t in stuck)
        confidence: Confidence = "certain" if oldest > STUCK_PROTOCOL and same and known else "undetermined"
        yield build_finding(
            "stuck-protocol",
            severity=context.judge_severity(application),
            confidence=cap_confidence(confidence, stuck),
            summary=f"{plural(len(stuck), 'backend')} of {name_application(application)} "
            f"{'is' if len(stuck) == 1 else 'are'} active and wait for a message that its client began and never "
            f"ended, for up to {format_duration(oldest)}",
            evidence={
                "stuck": len(stuck),
                "oldest_statement": oldest,
                "threshold": f"active, Client/ClientRead, no COPY, > {format_duration(STUCK_PROTOCOL)}",
            },
            holders=context.find_holders(stuck),
            frees=len(stuck),
            decide_by=None
            if confidence == "certain"
            else f"whether it is still so after {format_duration(STUCK_PROTOCOL)}, and that the statement is no COPY",
        )


def _waits_for_client(track: Track, event: str) -> bool:
    return track.last.is_active and track.last.wait_event_type == "Client" and track.last.wait_event == event


def _group_tracks(context: RuleContext, tracks: Iterable[Track]) -> list[tuple[Application, tuple[Track, ...]]]:
    pids = {track.pid for track in tracks}
    found = [(each, tuple(t for t in each.tracks if t.pid in pids)) for each in context.facts.applications]
    return [(each, own) for each, own in found if own]
