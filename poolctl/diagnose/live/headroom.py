"""Every limit that can refuse a client or make it wait, for the roles that matter, nearest first.

Decides which limit *binds*: the first that an application will meet. The roles that matter are the applications' own;
an ordinary role's share of the server is max_connections less the superusers' and the reserved slots.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from poolctl.diagnose.finding import Limit
from poolctl.diagnose.live.facts import SLOT_REFUSALS, LiveFacts
from poolctl.diagnose.live.tracks import Track
from poolctl.diagnose.live.waits import PoolSeries, measure_rise, parse_setting
from poolctl.observe.snapshot import BouncerLink, BouncerSample, PgpoolChild, RefusedBy

LEAST_GROWTH = 3
"""Net new backends in the window from which a time to exhaustion is given: fewer are the usual ups and downs of a
pool."""
WORD_SHARE = 0.85
"""Share of the server's usable slots from which a quiet fleet is worth a word: one deploy takes the rest."""
MOST_LIMITS = 200
"""Limits that are reported. A server may have thousands of roles with one."""


def find_limits(facts: LiveFacts) -> tuple[Limit, ...]:
    """Find the limits, by what is left of each; of equal ones the server's own first.

    At most one binds: the nearest that is hit or will be; none where nothing is short.
    """
    found = [
        *_list_server_limits(facts),
        *_list_role_limits(facts),
        *_list_database_limits(facts),
        *_list_bouncer_limits(facts),
        *_list_pgpool_limits(facts),
        *_list_pool_limits(facts),
    ]
    ordered = sorted(found, key=lambda limit: (max(0, limit.free), limit.free / max(1, limit.limit), limit.name))
    return _mark_binding(facts, ordered[:MOST_LIMITS])


def is_near(limit: Limit) -> bool:
    """Return True if less than a tenth of ``limit`` is left.

    postgres_exporter's mixin warns at 80 % of all but the reserved slots, which a fleet sized to its budget passes on a
    good day.
    """
    return limit.free < 0.1 * limit.limit or limit.free <= 0


def _mark_binding(facts: LiveFacts, limits: list[Limit]) -> tuple[Limit, ...]:
    refused = next((at for at, limit in enumerate(limits) if _is_refusing(facts, limit)), None)
    hit = next((at for at, limit in enumerate(limits) if limit.free <= 0 and limit.scope != "pool"), None)
    timed = [(limit.exhausted_in, at) for at, limit in enumerate(limits) if limit.exhausted_in is not None]
    near = next((at for at, limit in enumerate(limits) if is_near(limit)), None)
    at = refused if refused is not None else hit if hit is not None else min(timed)[1] if timed else near
    return tuple(replace(limit, binds=True) if index == at else limit for index, limit in enumerate(limits))


_REFUSED_SCOPES: dict[RefusedBy, str] = {
    **dict.fromkeys(SLOT_REFUSALS, "server"),
    "role-limit": "role",
    "database-limit": "database",
    "pooler-clients": "pgbouncer",
}


def _is_refusing(facts: LiveFacts, limit: Limit) -> bool:
    refusal = facts.refusal
    return refusal is not None and _REFUSED_SCOPES.get(refusal.by) == limit.scope and limit.free <= 0


def _list_server_limits(facts: LiveFacts) -> Iterator[Limit]:
    server = facts.server
    if server is None:
        if facts.refusal is not None and facts.refusal.by in SLOT_REFUSALS:
            # It refused before it said how many slots it has: the backends that exist are as many as there can be.
            used, note = len(facts.tracks), "as many as were observed from outside when it refused"
            yield Limit("max_connections", "server", limit=used, used=used, free=0, note=note)
        return
    kept = server.superuser_reserved + server.reserved
    privileged = count_privileged(facts)
    used = len(facts.tracks)
    # Superusers sit on their own slots last, so all that is open counts against what is left for the others.
    free = server.usable - used
    refusal = facts.refusal
    note = f"max_connections {server.max_connections} less {kept} kept back"
    if refusal is not None and refusal.by in SLOT_REFUSALS:
        note += f"; refused while {used} were observed" if used < server.usable else "; refusing"
        free = min(free, 0)
    elif privileged and free <= 0:
        note += f"; {privileged} of the {used} are superusers'"
    left, between = _estimate_time_left(facts, facts.tracks, free), None
    if facts.trend is not None and free > 0:
        by_floor, between = facts.trend.estimate_time_left(free)
        left = by_floor if left is None else left
    yield Limit(
        name="max_connections",
        scope="server",
        limit=server.usable,
        used=max(used, server.usable) if refusal is not None and refusal.by in SLOT_REFUSALS else used,
        free=max(0, free),
        exhausted_in=left,
        note=note,
        exhausted_between=between,
    )


def count_privileged(facts: LiveFacts) -> int:
    """Count the client backends of superusers and of roles that may use reserved slots."""
    roles = facts.roles
    return sum(
        1
        for track in facts.tracks
        if (role := roles.get(track.last.user or "")) is not None and (role.is_superuser or role.uses_reserved)
    )


def _list_role_limits(facts: LiveFacts) -> Iterator[Limit]:
    used = Counter(track.last.user for track in facts.tracks)
    for role in facts.roles.values():
        if role.connection_limit is None or role.connection_limit < 0 or role.is_superuser or not used[role.name]:
            continue
        own = tuple(track for track in facts.tracks if track.last.user == role.name)
        yield _build_limit(facts, f"CONNECTION LIMIT of role {role.name}", "role", role.connection_limit, own)


def _list_database_limits(facts: LiveFacts) -> Iterator[Limit]:
    for database in facts.server.databases if facts.server else ():
        own = tuple(track for track in facts.tracks if track.last.database == database.name)
        if database.connection_limit is not None and database.connection_limit >= 0 and own:
            limit = database.connection_limit
            yield _build_limit(facts, f"CONNECTION LIMIT of database {database.name}", "database", limit, own)


def _build_limit(facts: LiveFacts, name: str, scope: str, limit: int, own: tuple[Track, ...]) -> Limit:
    free = limit - len(own)
    return Limit(
        name=name,
        scope="role" if scope == "role" else "database",
        limit=limit,
        used=len(own),
        free=max(0, free),
        exhausted_in=_estimate_time_left(facts, own, free),
    )


@dataclass(frozen=True, slots=True)
class ClientLimit:
    """A limit of a PgBouncer on its clients. ``of``: of whom, for a sentence; ``counts``: the clients it counts."""

    setting: str
    of: str
    most: int
    used: int
    counts: Callable[[BouncerLink], bool] = lambda _: True


def list_client_limits(bouncer: BouncerSample) -> Iterator[ClientLimit]:
    """List the limits on clients: of all, and from 1.24 on of a database and of a user."""
    most = parse_setting(bouncer.config.get("max_client_conn"))
    if most:
        # SHOW LISTS counts the console that is asking.
        used = max(len(bouncer.clients), bouncer.lists.get("used_clients", 1) - 1)
        yield ClientLimit("max_client_conn", "", most, used)
    for database in bouncer.databases:
        if database.max_client_connections:
            yield ClientLimit(
                "max_db_client_connections",
                f" of database {database.name}",
                database.max_client_connections,
                database.current_client_connections,
                lambda client, name=database.name: client.database == name,  # type: ignore[misc]
            )
    for user in bouncer.users:
        if user.max_client_connections:
            yield ClientLimit(
                "max_user_client_connections",
                f" of user {user.name}",
                user.max_client_connections,
                user.current_client_connections,
                lambda client, name=user.name: client.user == name,  # type: ignore[misc]
            )


def _list_bouncer_limits(facts: LiveFacts) -> Iterator[Limit]:
    for bouncer in {each.target: each for s in facts.observation.snapshots for each in s.bouncers}.values():
        for each in list_client_limits(bouncer):
            note = f"PgBouncer {bouncer.target}"
            yield Limit(
                f"{each.setting}{each.of}", "pgbouncer", each.most, each.used, max(0, each.most - each.used), note=note
            )
    for queue in facts.queues:
        if queue.size:
            row = queue.last
            name = f"pool_size of {row.user}@{row.database}"
            waiting = f"{row.clients_waiting} waiting" if row.clients_waiting else ""
            taken = row.servers_active
            yield Limit(name, "pgbouncer", queue.size, taken, max(0, queue.size - taken), note=waiting)


def _list_pgpool_limits(facts: LiveFacts) -> Iterator[Limit]:
    for pgpool in facts.pgpools:
        most = pgpool.num_init_children or len(pgpool.children)
        if not most:
            continue
        busy = count_busy_children(pgpool.children)
        free = max(0, most - busy - (pgpool.reserved_connections or 0))
        waiting = f"{pgpool.waiting} waiting in the listen queue" if pgpool.waiting else ""
        yield Limit("num_init_children", "pgpool", most, busy, free, note=waiting)


def count_busy_children(children: tuple[PgpoolChild, ...]) -> int:
    """Count the children that serve a client other than poolctl. Before 4.3 a child with a database counts as busy."""
    return sum(1 for child in children if _is_busy(child) and not child.is_own)


def _is_busy(child: PgpoolChild) -> bool:
    return bool(child.database) if child.status is None else child.status.strip().lower() != "wait for connection"


def _list_pool_limits(facts: LiveFacts) -> Iterator[Limit]:
    for series in facts.pools:
        last = series.last
        if series.max_open and last.in_use is not None:
            name = f"max_open of {last.name or last.library}"
            waiting = f"{last.waiting} waiting" if last.waiting and not last.waiting_may_lie else ""
            free = max(0, series.max_open - last.in_use)
            left = _estimate_pool_time_left(series, free)
            yield Limit(name, "pool", series.max_open, last.in_use, free, exhausted_in=left, note=waiting)


LONG_TREND = 60.0
"""Seconds of figures from which a pool's trend is worth an estimate: a shorter rise is the load of a moment."""


def _estimate_pool_time_left(series: PoolSeries, free: int) -> float | None:
    """Return the seconds until a pool is full, by the growth of the least that is in use: what a leak leaves behind.

    The least of the first third is compared with that of the last third. None for a shorter window or less growth.
    """
    if series.window < LONG_TREND or free <= 0:
        return None
    grown = measure_rise(series.figures)
    return free * (series.window * 2 / 3) / grown if grown >= LEAST_GROWTH else None


def count_growth(facts: LiveFacts, tracks: tuple[Track, ...]) -> int:
    """Count the net new backends among ``tracks`` since the first sample.

    The backends that left are found by the same names.
    """
    if len(facts.samples) < 2:
        return 0
    users = {(t.last.user, t.last.application, t.last.database) for t in tracks}
    return sum(track.is_new for track in tracks) - sum(facts.left[each] for each in users)


def _estimate_time_left(facts: LiveFacts, tracks: tuple[Track, ...], free: int) -> float | None:
    grown = count_growth(facts, tracks)
    if free <= 0 or grown < LEAST_GROWTH or facts.window <= 0:
        return None
    return free * facts.window / grown
