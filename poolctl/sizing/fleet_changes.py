"""The changes that make a fleet fit: which sizes of pools and poolers, from what to what.

Decides who gives way. If half of its sizes or more is left to the part that takes most, only that part shrinks;
otherwise every size of the exceeded limit shrinks in proportion, down to 1. Slots that remain because of rounding are
given back to the sizes that lost most. The result is always checked against every limit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from poolctl.sizing.fleet import Fleet, FleetPooler
from poolctl.sizing.fleet_limits import LimitCheck, as_number, check_limits, list_pairs

UNLIMITED_AS = 10
"""The size from which an unlimited pool shrinks, if no other pool is larger."""


@dataclass(frozen=True, slots=True)
class Change:
    """Set ``key`` of ``who`` from ``now`` (None: unlimited) to ``to``. ``where``: "user@database" of a pool_size."""

    who: str
    key: str
    now: int | None
    to: int
    where: str = ""


@dataclass(frozen=True, slots=True)
class _Size:
    """A number in the fleet file that can be changed, from ``least`` to ``start``."""

    who: str
    key: str
    where: str
    now: int | None
    start: int
    least: int
    is_service: bool
    via: str = ""


Sizes = Mapping[_Size, int]


def propose_changes(fleet: Fleet) -> tuple[Change, ...] | None:
    """Return changes with which every limit is kept and every thread has its connection; None if there are none.

    A pool with fewer connections than threads grows to its threads where there is room. Where there is none, its
    threads shrink with it. Where one connection for each client is more than PgBouncer accepts, it accepts more.
    """
    sizes: dict[_Size, int] = {size: size.start for size in _list_sizes(fleet)}
    raised: list[Change] = []
    for _ in range(4 * len(sizes) + 4 + len(fleet.poolers)):
        broken = next((limit for limit in check_limits(_apply(fleet, sizes)) if not limit.is_kept), None)
        if broken is None:
            sizes = _give_back(fleet, sizes)
            found = [change for size, value in sizes.items() for change in _write_changes(fleet, size, value)]
            return (*raised, *found)
        smaller = _shrink(fleet, sizes, broken)
        if smaller is not None:
            sizes = smaller
            continue
        wider = find_client_limit(fleet, broken)
        if wider is None:
            return None
        raised.append(wider)
        fleet = apply_changes(fleet, [wider])
    return None


def find_client_limit(fleet: Fleet, limit: LimitCheck) -> Change | None:
    """Return the max_client_conn that accepts all clients of ``limit``; None for other limits and unlimited clients.

    PgBouncer's clients cost files and little memory; those of Pgpool-II are processes with server connections.
    """
    pooler = next((p for p in fleet.poolers if limit.kind == "pooler-clients" and p.name == limit.name), None)
    if pooler is None or pooler.kind != "pgbouncer" or limit.worst is None:
        return None
    return Change(pooler.name, "max_client_conn", pooler.max_client_conn, ceil(limit.worst / pooler.processes))


def find_database_cap(fleet: Fleet, pooler: FleetPooler) -> int | None:
    """Return the largest max_db_connections of ``pooler`` that alone makes the server's limit kept; None without one.

    A pooler that has the limit already has nothing to gain from this; and each pair must keep one connection.
    """
    if pooler.kind != "pgbouncer" or pooler.max_db_connections:
        return None
    pairs = list_pairs(fleet, pooler)
    databases = {database for _, database in pairs}
    least = max((sum(pair[1] == database for pair in pairs) for database in databases), default=1)

    def is_kept(cap: int) -> bool:
        poolers = tuple(replace(p, max_db_connections=cap) if p.name == pooler.name else p for p in fleet.poolers)
        return next(check_limits(replace(fleet, poolers=poolers))).is_kept

    if not is_kept(least):
        return None
    return _find_largest(least, fleet.server.usable, is_kept)


def _find_largest(least: int, most: int, is_kept: Callable[[int], bool]) -> int:
    """Return the largest number for which ``is_kept`` is true, by halving; ``least`` is known to be kept."""
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if is_kept(middle) else (least, middle - 1)
    return least


def _list_sizes(fleet: Fleet) -> list[_Size]:
    largest = max(UNLIMITED_AS, *(service.size or 0 for service in fleet.services))
    found = [
        _Size(s.name, "max_open", "", s.max_open, s.threads or s.max_open or largest, 1, is_service=True, via=s.via)
        for s in fleet.services
    ]
    for pooler in fleet.poolers:
        if pooler.kind == "pgpool":
            found.append(_make_size(pooler, "num_init_children", pooler.max_client_conn))
            continue
        written = {(size.user, size.database): size.pool_size for size in pooler.sizes}
        pairs = list_pairs(fleet, pooler)
        # What an unlimited pool shrinks from: as large as the largest that has a size, else all of its clients.
        largest = max((written.get(pair, pooler.default_pool_size) for pair in pairs), default=0)
        largest = largest or pooler.max_client_conn
        if any(pair not in written for pair in pairs):
            found.append(_make_size(pooler, "default_pool_size", pooler.default_pool_size, unlimited=largest))
        found += [
            _make_size(pooler, "pool_size", s.pool_size, where=f"{s.user}@{s.database}", unlimited=largest)
            for s in pooler.sizes
        ]
        for key, least in (("reserve_pool_size", 0), ("max_db_connections", 1), ("max_user_connections", 1)):
            if getattr(pooler, key):
                found.append(_make_size(pooler, key, getattr(pooler, key), least))
    return found


def _make_size(
    pooler: FleetPooler, key: str, now: int, least: int = 1, *, where: str = "", unlimited: int = 0
) -> _Size:
    # Only a pool's own size can be 0, which is unlimited: the other keys are left out then.
    return _Size(pooler.name, key, where, now or None, now or unlimited, least, is_service=False)


Named = Mapping[tuple[str, str, str], int]
"""New values by who, key and where."""


def apply_changes(fleet: Fleet, changes: Iterable[Change]) -> Fleet:
    """Return the fleet with ``changes`` made."""
    return _set_values(fleet, {(change.who, change.key, change.where): change.to for change in changes})


def _apply(fleet: Fleet, sizes: Sizes) -> Fleet:
    """Return the fleet with ``sizes``, and no more threads in a process than its pool has connections."""
    named = {(size.who, size.key, size.where): value for size, value in sizes.items()}
    for service in fleet.services:
        if service.threads is not None:
            named[service.name, "threads", ""] = min(service.threads, named[service.name, "max_open", ""])
    return _set_values(fleet, named)


def _set_values(fleet: Fleet, named: Named) -> Fleet:
    services = tuple(
        replace(
            service,
            max_open=named.get((service.name, "max_open", ""), service.max_open),
            threads=named.get((service.name, "threads", ""), service.threads),
        )
        for service in fleet.services
    )
    return replace(fleet, services=services, poolers=tuple(_set_pooler_values(p, named) for p in fleet.poolers))


def _set_pooler_values(pooler: FleetPooler, named: Named) -> FleetPooler:
    def get(key: str, now: int, where: str = "") -> int:
        return named.get((pooler.name, key, where), now)

    if pooler.kind == "pgpool":
        children = get("num_init_children", pooler.max_client_conn)
        return replace(pooler, max_client_conn=children, default_pool_size=children * pooler.max_pool)
    return replace(
        pooler,
        max_client_conn=get("max_client_conn", pooler.max_client_conn),
        default_pool_size=get("default_pool_size", pooler.default_pool_size),
        reserve_pool_size=get("reserve_pool_size", pooler.reserve_pool_size),
        max_db_connections=get("max_db_connections", pooler.max_db_connections),
        max_user_connections=get("max_user_connections", pooler.max_user_connections),
        sizes=tuple(
            replace(size, pool_size=get("pool_size", size.pool_size, f"{size.user}@{size.database}"))
            for size in pooler.sizes
        ),
    )


def _check_again(fleet: Fleet, sizes: Sizes, limit: LimitCheck) -> LimitCheck:
    """Check the same limit with other sizes."""
    limits = check_limits(_apply(fleet, sizes))
    return next(found for found in limits if (found.kind, found.name) == (limit.kind, limit.name))


def _shrink(fleet: Fleet, sizes: dict[_Size, int], limit: LimitCheck) -> dict[_Size, int] | None:
    """Return sizes that keep ``limit``; None where not even the least ones do."""
    parts = {part.who for part in limit.parts}
    ours = [size for size in sizes if size.who in parts and (not size.is_service or _is_direct(size, limit))]
    if not ours or not _check_again(fleet, _scale(sizes, ours, 0.0), limit).is_kept:
        return None
    takes_most = max(limit.parts, key=lambda part: as_number(part.connections)).who
    alone = [size for size in ours if size.who == takes_most]
    # An unlimited pool has no size of which a half could be left, so anything from 1 up is fair to it.
    share = 0.0 if any(size.now is None for size in alone) else 0.5
    if alone and _check_again(fleet, _scale(sizes, alone, share), limit).is_kept:
        ours = alone
    low, high = 0.0, 1.0
    # Closer factors would differ by less than one connection in the largest size.
    while high - low > 0.25 / max(sizes[size] for size in ours):
        middle = (low + high) / 2
        if _check_again(fleet, _scale(sizes, ours, middle), limit).is_kept:
            low = middle
        else:
            high = middle
    return _scale(sizes, ours, low)


def _is_direct(size: _Size, limit: LimitCheck) -> bool:
    return size.via == (limit.name if limit.kind == "pooler-clients" else "")


def _scale(sizes: Mapping[_Size, int], ours: Sequence[_Size], factor: float) -> dict[_Size, int]:
    """Return ``sizes`` with ``ours`` multiplied and rounded up, which spares the small ones, none below its least."""
    return {**sizes, **{size: max(size.least, ceil(sizes[size] * factor - 1e-9)) for size in ours}}


def _give_back(fleet: Fleet, sizes: dict[_Size, int]) -> dict[_Size, int]:
    """Return ``sizes`` raised towards their start as long as every limit is kept, first the ones that lost most."""
    totals = [limit.worst for limit in check_limits(_apply(fleet, sizes))]
    for size in sizes:
        # A size that does not decide anything, as a pool_size above max_db_connections, need not change at all.
        restored = {**sizes, size: size.start}
        if [limit.worst for limit in check_limits(_apply(fleet, restored))] == totals:
            sizes = restored
    open_sizes = [size for size, value in sizes.items() if value < size.start]
    while open_sizes:
        size = min(open_sizes, key=lambda each: sizes[each] / each.start)
        raised = {**sizes, size: sizes[size] + 1}
        if all(limit.is_kept for limit in check_limits(_apply(fleet, raised))):
            sizes = raised
        if sizes is not raised or sizes[size] == size.start:
            open_sizes.remove(size)
    return sizes


def _write_changes(fleet: Fleet, size: _Size, value: int) -> list[Change]:
    """Return the change of one size, and of the threads that share a smaller pool; none where it stays."""
    changes = [Change(size.who, size.key, size.now, value, size.where)] if value != size.now else []
    threads = next((service.threads for service in fleet.services if service.name == size.who), None)
    if size.is_service and threads is not None and value < threads:
        changes.append(Change(size.who, "threads", threads, value))
    return changes
