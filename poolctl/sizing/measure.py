"""The parallelism that an application used: an Observation in, Figures out.

Decides what counts as busy (active, or idle in a transaction: both hold a connection), whose backends are counted, and
over which windows. What follows for a pool is decided elsewhere. The counters of pg_stat_database are exact integrals,
but they move only when a statement or transaction ends; samples show what runs at an instant. The windows hold the
figures of the counters and ``parallelism`` those of the samples, so that ``doubts`` can compare them.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, sqrt
from statistics import fmean, median

from poolctl.observe.snapshot import Backend, Observation, ServerFacts, ServerSample, StatementCounters
from poolctl.sizing.defaults import RESTING
from poolctl.sizing.figures import Figure, Figures, Window, measured, measured_if_known
from poolctl.sizing.measure_pools import count_reporting_pools, measure_pools
from poolctl.sizing.samples import effective_samples, summarize_counts

OURS = re.compile(r"poolctl|poolctl observer( .*)?")
"""Backends of poolctl that only observe. The backends of ``simulate`` and of sweeps are load like any other."""

WINDOW = 10.0
"""Least seconds of a window. A backend reports its counters at most once a second, and only when its state changes, so
a shorter window measures the reporting more than the load."""

OTHERS_GROW = 1.2
"""Factor on the most backends observed of other services, because their limits are not known: a peak is rarely
observed."""


_TRANSACTION_CONTROL = (
    "BEGIN",
    "START",
    "COMMIT",
    "END",
    "ROLLBACK",
    "SAVEPOINT",
    "RELEASE",
    "SET",
    "RESET",
    "DISCARD",
)
"""First words of statements that belong to a transaction and are no acquire of their own."""

FULL_SHARE = 0.5
"""Share of the samples with every backend of a client busy, from which on its pool counts as full. Below it the mean in
use still shows the demand, because a request that had to wait acquired soon after."""

OWNED_SHARE = 0.8
"""Share of the backends whose client process must be known, so that processes can be counted."""

_RESTS = tuple(0.125 * 2**step for step in range(10))
STEADY = 1.2
"""Ratio of the backends that worked within a time to those within its half, up to which no more of them were in use."""
IN_TURN = 0.8
"""Median over mean of the times that idle backends have rested: 1 where each waits for its turn, 0.7 or less where they
rest for a random time, as while a client holds them, or some of them for long."""

OWN_COST = 0.5
"""Share of the cores used by the server's processes, above which cores used by other processes are lost to it."""


@dataclass(frozen=True, slots=True)
class ServiceMeasurement:
    """``figures`` of ``application``; None: of all clients.

    ``backends`` is the most backends at once, ``clients`` the number of client addresses: each may be one instance, or
    many behind a NAT. ``processes`` is the number of processes behind the backends, 0 unless all run on this machine.
    ``backends_each`` is the most backends of one process, or of one address where the processes are not visible.
    """

    application: str | None
    figures: Figures
    backends: int
    clients: int
    processes: int = 0
    backends_each: int = 0
    pools: int = 0
    """Number of pools of the service, by the pools that report figures; 0 where none does."""


def measure(observation: Observation, application: str | None = None) -> ServiceMeasurement:
    """Measure the application with that application_name in ``observation``; None: the one with most backends.

    What the application's own pools report replaces what the server shows of the same load.
    """
    samples = observation.samples
    chosen = application if application is not None else find_largest_application(samples)
    backends = max((len(_select_own(sample, chosen)) for sample in samples), default=0)
    figures = _measure_server(observation, chosen, backends)
    figures = measure_pools(observation, figures, backends) or figures
    figures = _add_host(_add_limits(figures, observation.server, samples, chosen), observation)
    clients = len({b.client for sample in samples for b in _select_own(sample, chosen) if b.client is not None})
    owners = _find_owners(observation, chosen)
    groups = [_group_by_owner(_select_own(sample, chosen), owners) for sample in samples]
    each = max((len(group) for by_owner in groups for group in by_owner.values()), default=0)
    if figures.censored_share is None:
        figures = figures.with_(censored_share=_find_full_share(groups))
    pools = count_reporting_pools(observation, backends)
    return ServiceMeasurement(chosen, figures, backends, clients, len(set(owners.values())), each, pools)


def _measure_server(observation: Observation, application: str | None, backends: int) -> Figures:
    """Return the load of ``application`` as the server shows it."""
    samples = observation.samples
    database = _find_database(samples, application)
    busy = [[backend for backend in _select_own(sample, application) if _is_busy(backend)] for sample in samples]
    counts = [len(each) for each in busy]
    share = _find_share(samples, database, application)
    windows = tuple(_cut_windows(samples, database, share, own_database=_find_own_database(observation)))
    if _is_standing_still(windows, busy):
        windows = ()
    spread = summarize_counts(counts)
    throughput = _find_throughput(windows)
    if throughput is None and samples:
        throughput = _count_statements(samples, database, application)
    active = [backend for each in busy for backend in each if backend.is_active]
    # Samples that are all the same are worth one, unless exact counters stand beside them.
    is_counted = len(set(counts)) == 1 and bool(throughput)
    return Figures(
        throughput=measured_if_known(throughput),
        hold_cv=measured_if_known(_estimate_hold_cv(samples, database, application)),
        in_use=measured_if_known(spread.mean if spread else None),
        open_connections=measured_if_known(backends or None),
        in_use_at_most=measured_if_known(find_most_in_use(samples, application)),
        parallelism=measured_if_known(spread.mean if spread else None),
        parallelism_p95=measured_if_known(spread.p95 if spread else None),
        parallelism_p99=measured_if_known(spread.p99 if spread else None),
        parallelism_max=measured_if_known(spread.largest if spread else None),
        parallelism_counted=measured_if_known(_average_busy(windows)),
        window=observation.window,
        samples=len(samples),
        effective_samples=None if is_counted else effective_samples(counts),
        method="samples and counters" if windows else "samples",
        lock_share=measured_if_known(_find_part(active, lambda b: b.wait_event_type == "Lock")),
        contention_share=measured_if_known(_find_part(active, lambda b: b.wait_event_type in ("Lock", "LWLock"))),
        transaction_idle_share=measured_if_known(_find_idle_share(busy)),
        is_stats_reset=_was_reset(samples),
        is_behind_pooler=observation.server is not None and observation.server.is_behind_pooler,
        is_server_view=backends > 0,
        windows=windows,
    )


def find_most_in_use(samples: Sequence[ServerSample], application: str | None) -> float | None:
    """Return how many connections of the application may have been in use at once (95 % of the time), at most.

    A connection that looks idle is held by a client or rests in the pool. How long a client keeps one is not known; but
    a pool that hands out the connection that came back last lets the others rest much longer. Counted is what worked
    within a time, where twice the time adds hardly any. None where that says nothing: the server shows no times, or
    the pool hands its connections out in turn, so that they all work and rest about equally long.
    """
    half = (samples[-1].at - samples[0].at) / 2 if samples else 0.0
    rests = []
    # From the middle on, so that each rest that counts began while poolctl watched, not when the pool was opened.
    for sample in samples:
        own = _select_own(sample, application)
        if any(not _is_busy(backend) and backend.state_at is None for backend in own):
            return None
        if sample.at >= samples[0].at + half:
            rests.append(sorted(0.0 if _is_busy(b) or b.state_at is None else sample.at - b.state_at for b in own))
    idle = [rest for each in rests for rest in each if rest > 0]
    counts = [[bisect_right(rest, time) for rest in rests] for time in _RESTS if time <= half]
    if len(counts) < 2 or not idle:
        return None
    most = counts[-1]
    for shorter in reversed(counts[:-1]):
        if fmean(most) > STEADY * fmean(shorter):
            break
        most = shorter
    spread = summarize_counts(most)
    is_resting = fmean(most) <= RESTING * fmean(map(len, rests))
    return spread.p95 if spread and (is_resting or median(idle) <= IN_TURN * fmean(idle)) else None


def _find_idle_share(busy: Sequence[Sequence[Backend]]) -> float | None:
    """Return how much of the use is idle in a transaction, without transactions that rest in all samples.

    Those are no part of the work that was observed: it may be that they never end.
    """
    resting = set(map(_identify_rest, busy[0])) & set(map(_identify_rest, busy[-1])) if len(busy) > 1 else set()
    moving = [b for each in busy for b in each if (rest := _identify_rest(b)) is None or rest not in resting]
    return _find_part(moving, lambda b: b.in_transaction)


def _identify_rest(backend: Backend) -> object:
    """Identify a rest in a transaction by its backend and moment; None outside of one, or where neither is known."""
    since = backend.state_at if backend.state_at is not None else backend.virtual_transaction
    return (backend.pid, since) if backend.in_transaction and since is not None else None


def add_round_trip(figures: Figures, round_trip: float) -> Figures:
    """Return ``figures`` with one round trip (seconds) added to each hold.

    The server counts a connection as busy from the arrival of a statement to its end; the application holds it for a
    round trip longer. Round trips inside a transaction are in the figures already, as idle in transaction. A hold time
    that the pools measured includes everything.
    """
    if not figures.is_server_view or figures.throughput is None:
        return figures
    longer = figures.throughput.value * round_trip

    def more(figure: Figure | None) -> Figure | None:
        return None if figure is None else measured(figure.value + longer)

    return figures.with_(
        in_use=more(figures.in_use),
        parallelism=more(figures.parallelism),
        parallelism_counted=more(figures.parallelism_counted),
        windows=tuple(replace(window, busy=window.busy + window.throughput * round_trip) for window in figures.windows),
    )


def _find_owners(observation: Observation, application: str | None) -> dict[int, int]:
    """Find the client process of each backend of the application; empty unless most of the last sample have one.

    The processes are listed less often than the backends, so connections opened since then have no owner yet.
    """
    ports: dict[int, int] = {}
    backends: dict[int, int] = {}
    for snapshot in observation.snapshots:
        for process in snapshot.host.processes if snapshot.host else ():
            if process.backend_pid is not None:
                backends[process.backend_pid] = process.pid
            else:
                ports[process.port] = process.pid
    found: dict[int, int] = {}
    for sample in observation.samples:
        for b in _select_own(sample, application):
            owner = backends.get(b.pid) or (ports.get(b.client_port) if b.client_port is not None else None)
            if owner is not None:
                found[b.pid] = owner
    last = _select_own(observation.samples[-1], application) if observation.samples else []
    return found if last and sum(b.pid in found for b in last) >= OWNED_SHARE * len(last) else {}


def _group_by_owner(backends: Sequence[Backend], owners: Mapping[int, int]) -> dict[object, list[Backend]]:
    groups: dict[object, list[Backend]] = {}
    for backend in backends:
        if not owners or backend.pid in owners:
            groups.setdefault(owners.get(backend.pid) if owners else backend.client, []).append(backend)
    return groups


def _find_full_share(groups: Sequence[Mapping[object, Sequence[Backend]]]) -> Figure | None:
    """Return the share of the samples of a process in which all its backends were busy.

    None below ``FULL_SHARE``: then it is no evidence of a full pool. The figures of the pool itself are better.
    """
    sampled = [backends for by_owner in groups for backends in by_owner.values()]
    full = sum(all(map(_is_busy, backends)) for backends in sampled)
    return measured_if_known(full / len(sampled)) if sampled and full >= FULL_SHARE * len(sampled) else None


def _add_limits(
    figures: Figures, server: ServerFacts | None, samples: Sequence[ServerSample], application: str | None
) -> Figures:
    """Add the server's slots, what other clients use of them, and the limits of the application's own role."""
    if server is None:
        return figures
    others = max((len(_select_others(sample, application)) for sample in samples), default=0)
    users = Counter(b.user for sample in samples for b in _select_own(sample, application) if b.user)
    role = next((role for role in server.roles if users and role.name == users.most_common(1)[0][0]), None)
    database = next((d for d in server.databases if d.name == _find_database(samples, application)), None)
    idle_limit = server.settings.get("idle_session_timeout")
    return figures.with_(
        max_connections=measured(server.max_connections),
        superuser_reserved=measured(server.superuser_reserved),
        reserved=measured(server.reserved),
        other_connections=measured(ceil(others * OTHERS_GROW)),
        role_limit=measured_if_known(role.connection_limit if role and not role.is_superuser else None),
        database_limit=measured_if_known(database.connection_limit if database else None),
        session_idle_limit=measured_if_known(idle_limit or None),
    )


def _add_host(figures: Figures, observation: Observation) -> Figures:
    """Add the processors, if the server runs on this machine."""
    hosts = [snapshot.host for snapshot in observation.snapshots if snapshot.host and snapshot.host.has_server]
    cores = next((host.cores for host in hosts if host.cores), None)
    used = [host.server_cpu for host in hosts if host.server_cpu is not None]
    if cores is None:
        return figures
    busy = [snapshot.cpu_share for snapshot in hosts if snapshot.cpu_share is not None]
    share = min(1.0, fmean(used) / cores) if used else None
    if share is not None and busy and share >= OWN_COST:
        # The database cannot use what other processes of this machine use.
        share = min(1.0, max(share, fmean(busy)))
    cpu_time = None
    if used and figures.throughput is not None and figures.throughput.value > 0:
        cpu_time = fmean(used) / figures.throughput.value
    return figures.with_(
        cores=measured(cores), database_cpu=measured_if_known(share), cpu_time=measured_if_known(cpu_time)
    )


def find_largest_application(samples: Sequence[ServerSample]) -> str | None:
    """Return the application_name of most client backends; None if no backend has a name, or there is none."""
    names = Counter(b.application for sample in samples for b in sample.clients if not _is_ours(b))
    name = max(names, key=lambda each: (names[each], each), default="")
    return name or None


def _is_ours(backend: Backend) -> bool:
    return OURS.fullmatch(backend.application) is not None


def _select_own(sample: ServerSample, application: str | None) -> list[Backend]:
    return [b for b in sample.clients if not _is_ours(b) and application in (None, b.application)]


def _select_others(sample: ServerSample, application: str | None) -> list[Backend]:
    return [b for b in sample.clients if not _is_ours(b) and application not in (None, b.application)]


def _is_busy(backend: Backend) -> bool:
    return backend.is_active or backend.in_transaction


def _find_database(samples: Sequence[ServerSample], application: str | None) -> str | None:
    """Find the database of most of the application's backends."""
    names = Counter(b.database for sample in samples for b in _select_own(sample, application) if b.database)
    return max(names, key=lambda each: (names[each], each), default=None)


def _find_own_database(observation: Observation) -> str | None:
    """Find the database of poolctl itself, whose counters count its own transactions, too."""
    return observation.server.database if observation.server is not None else None


def _cut_windows(
    samples: Sequence[ServerSample], database: str | None, share: float, *, own_database: str | None = None
) -> Iterator[Window]:
    """Cut windows of ``WINDOW`` seconds or more (or one of the whole), none across a reset of the counters."""
    start = 0
    for end in range(1, len(samples)):
        length = samples[end].at - samples[start].at
        rest = samples[-1].at - samples[end].at
        if (length < WINDOW or 0 < rest < WINDOW) and end < len(samples) - 1:
            continue
        own = sum(map(_count_own_transactions, samples[start:end])) if database == own_database else 0
        if window := _make_window(samples[start], samples[end], database, share, own):
            yield window
        start = end


def _count_own_transactions(sample: ServerSample) -> int:
    """Count what poolctl committed for one sample: the sample, and one each for statements and tables."""
    return 1 + bool(sample.statements) + bool(sample.tables)


def _make_window(
    first: ServerSample, last: ServerSample, database: str | None, share: float, own: int
) -> Window | None:
    old = next((d for d in first.databases if d.name == database), None)
    new = next((d for d in last.databases if d.name == database), None)
    duration = last.at - first.at
    if old is None or new is None or old.reset_at != new.reset_at or duration <= 0:
        return None
    pairs = ((old.active_time, new.active_time), (old.transaction_idle_time, new.transaction_idle_time))
    ended = [after - before for before, after in pairs if before is not None and after is not None]
    if len(ended) < len(pairs):
        return None
    begun, still = _find_unfinished(first, database), _find_unfinished(last, database)
    # The server adds a statement whole when it ends: subtract what ran before the window, add what still runs.
    early = sum(time for key, time in begun.items() if key not in still)
    late = sum(min(time, duration) for time in still.values())
    work = max(0.0, sum(ended) + late - early)
    transactions = max(0, new.commits + new.rollbacks - old.commits - old.rollbacks - own)
    return Window(duration, transactions / duration * share, work / duration * share)


def _find_unfinished(sample: ServerSample, database: str | None) -> dict[tuple[int, float], float]:
    """Return how many seconds each busy backend has been in its state."""
    return {
        (b.pid, b.state_at): max(0.0, sample.at - b.state_at)
        for b in sample.clients
        if b.database == database and _is_busy(b) and b.state_at is not None
    }


def _average_busy(windows: Sequence[Window]) -> float | None:
    seconds = sum(window.duration for window in windows)
    return sum(window.busy * window.duration for window in windows) / seconds if seconds > 0 else None


def _find_throughput(windows: Sequence[Window]) -> float | None:
    """Return transactions per second over all windows; None without any."""
    seconds = sum(window.duration for window in windows)
    return sum(window.throughput * window.duration for window in windows) / seconds if seconds > 0 else None


def _is_standing_still(windows: Sequence[Window], busy: Sequence[Sequence[Backend]]) -> bool:
    """Return True if the counters moved by less than half of the transactions that the samples saw ending.

    A backend reports its transactions and times only together with its work on tables: statements that read none, as
    SELECT pg_sleep(1), are never counted. Then the counters say nothing (what they have is poolctl's own and other
    clients'), and the samples alone show the load.
    """
    counted = sum(window.throughput * window.duration for window in windows)
    at_work = [{(b.pid, b.transaction_at or b.state_at) for b in backends} for backends in busy]
    return 2 * counted < sum(len(before - after) for before, after in pairwise(at_work))


def _count_statements(samples: Sequence[ServerSample], database: str | None, application: str | None) -> float | None:
    """Return the application's statements per second by pg_stat_statements, each taken for an acquire; None without."""
    listed = [sample for sample in samples if sample.statements]
    if len(listed) < 2 or listed[-1].at <= listed[0].at:
        return None
    grown = _list_grown(samples, database, application)
    calls = sum(calls for now, _, calls in grown if not (now.query or "").upper().startswith(_TRANSACTION_CONTROL))
    return calls / (listed[-1].at - listed[0].at) if calls > 0 else None


def _find_share(samples: Sequence[ServerSample], database: str | None, application: str | None) -> float:
    """Return the application's share of the work in its database: of the busy backends, else of all backends."""
    everyone = [b for s in samples for b in s.clients if b.database == database and not _is_ours(b)]
    busy = [b for b in everyone if _is_busy(b)]
    own = [b for b in busy if application in (None, b.application)]
    if not own:
        # Statements too short to be met by a sample are at work all the same.
        busy, own = everyone, [b for b in everyone if application in (None, b.application)]
    return len(own) / len(busy) if busy else 1.0


def _estimate_hold_cv(samples: Sequence[ServerSample], database: str | None, application: str | None) -> float | None:
    """Estimate the variation of statement times: within statements (stddev) and between them (means)."""
    calls, first, second = 0, 0.0, 0.0
    for now, before, new_calls in _list_grown(samples, database, application):
        new_time = now.time - (before.time if before else 0.0)
        if new_time < 0:
            continue
        mean = new_time / new_calls
        calls += new_calls
        first += new_time
        # The reported deviation covers all calls since the reset, so sums of squares are subtracted, not deviations.
        squares = _sum_squares(now) - (_sum_squares(before) if before else 0.0)
        second += max(squares, new_calls * mean**2)
    if calls < 2 or first <= 0:
        return None
    variance = second / calls - (first / calls) ** 2
    return sqrt(max(0.0, variance)) / (first / calls)


def _list_grown(
    samples: Sequence[ServerSample], database: str | None, application: str | None
) -> Iterator[tuple[StatementCounters, StatementCounters | None, int]]:
    """Yield the last and first counters of each statement of the application that was called, and its new calls."""
    # Not every sample queries the statements.
    sampled = [sample.statements for sample in samples if sample.statements]
    if len(sampled) < 2:
        return
    # Leave out statements of other roles, among them poolctl's own.
    users = {b.user for sample in samples for b in _select_own(sample, application) if b.user}
    old = {(s.query_id, s.user, s.database): s for s in sampled[0]}
    for now in sampled[-1]:
        before = old.get((now.query_id, now.user, now.database))
        new_calls = now.calls - (before.calls if before else 0)
        is_foreign = (database and now.database not in (None, database)) or (users and now.user not in (None, *users))
        if not is_foreign and new_calls > 0:
            yield now, before, new_calls


def _sum_squares(statement: StatementCounters) -> float:
    """Return the sum of the squared times of all calls."""
    if statement.calls <= 0:
        return 0.0
    return statement.calls * ((statement.time / statement.calls) ** 2 + (statement.stddev_time or 0.0) ** 2)


def _was_reset(samples: Sequence[ServerSample]) -> bool:
    return any(
        old.reset_at != new.reset_at
        for before, after in pairwise(samples)
        for old in before.databases
        for new in after.databases
        if old.name == new.name
    )


def _find_part(backends: Sequence[Backend], is_of_it: Callable[[Backend], bool]) -> float | None:
    return sum(map(is_of_it, backends)) / len(backends) if backends else None
