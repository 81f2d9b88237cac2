"""How much parallelism an application was seen to use: an Observation in, Figures out.

Decides what counts as busy (active, or idle within a transaction: either holds a connection), whose sessions are
counted, and over which stretches. What follows for a pool is decided elsewhere. Counters of pg_stat_database are exact
integrals that move only when a statement or transaction ends; samples see what runs now. The windows hold the counters'
figures and ``parallelism`` those of the samples, so that whoever sizes can see whether they agree.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, sqrt
from statistics import fmean

from poolctl.observe.snapshot import Backend, Observation, ServerFacts, ServerSample, StatementCounters
from poolctl.sizing.figures import Figure, Figures, Window, measured
from poolctl.sizing.measure_pools import measure_acquire_rate, measure_full_share, measure_hold_time, measure_wait_time

OURS = frozenset({"poolctl", "poolctl observer"})
"""Sessions of poolctl's that look. Those of ``simulate`` and of sweeps are load like any other."""

WINDOW = 10.0
"""Seconds of a window, at least: the counters of a backend are flushed at most once a second, and only when its state
changes, so a shorter one says more about flushing than about load."""

OTHERS_GROW = 1.2
"""What everybody else is counted with, of the most that was seen: nobody told their limits (sizing reference, 5.4)."""


FULL_SHARE = 0.5
"""Of the samples with every session of a client busy, from which on its pool is taken for full. Below it the mean of
those in use still says what was asked for: whoever had to wait came in a moment later."""

OWN_COST = 0.5
"""Of the cores busy with the server's processes, from which on what others use of this machine is lost to it, too."""


@dataclass(frozen=True, slots=True)
class ServiceMeasurement:
    """``figures`` of ``application`` (None: of every client). ``sessions``, ``clients``: most sessions at once, and
    distinct client addresses: one instance behind each, or many behind a NAT. ``processes``: distinct processes behind
    the sessions, where all of them run on this machine and could be seen, else 0. ``sessions_each``: the most that one
    process had, or one address where the processes could not be seen."""

    application: str | None
    figures: Figures
    sessions: int
    clients: int
    processes: int = 0
    sessions_each: int = 0


def measure(observation: Observation, application: str | None = None) -> ServiceMeasurement:
    """What ``observation`` says about the application of that name; None: about the one with most sessions."""
    samples = observation.samples
    chosen = application if application is not None else find_largest_application(samples)
    database = _find_database(samples, chosen)
    busy = [[backend for backend in _select_own(sample, chosen) if _is_busy(backend)] for sample in samples]
    counts = [len(backends) for backends in busy]
    share = _find_share(samples, database, counts)
    windows = tuple(_cut_windows(samples, database, share, looked_at=_find_own_database(observation)))
    sessions = max((len(_select_own(sample, chosen)) for sample in samples), default=0)
    throughput = _find_throughput(observation, windows, sessions)
    pools = [pool for snapshot in observation.snapshots for pool in snapshot.pools]
    spread = _summarize_counts(counts)
    active = [backend for backends in busy for backend in backends if backend.is_active]
    figures = Figures(
        throughput=_make_figure(throughput),
        hold_time=_make_figure(measure_hold_time(observation)),
        hold_cv=_make_figure(_estimate_hold_cv(samples, database, chosen)),
        parallelism=_make_figure(spread[0] if spread else None),
        parallelism_p95=_make_figure(spread[1] if spread else None),
        parallelism_p99=_make_figure(spread[2] if spread else None),
        parallelism_max=_make_figure(spread[3] if spread else None),
        parallelism_counted=_make_figure(_average_busy(windows)),
        wait_time=_make_figure(measure_wait_time(observation)),
        current_max_open=_make_figure(max((pool.max_open for pool in pools if pool.max_open), default=None)),
        window=observation.window,
        samples=len(samples),
        effective_samples=effective_samples(counts),
        method="samples and counters" if windows else "samples",
        lock_share=_make_figure(_find_part(active, lambda b: b.wait_event_type == "Lock")),
        contention_share=_make_figure(_find_part(active, lambda b: b.wait_event_type in ("Lock", "LWLock"))),
        transaction_idle_share=_make_figure(_find_part([b for each in busy for b in each], lambda b: b.in_transaction)),
        censored_share=_make_figure(measure_full_share(pools)),
        is_stats_reset=_was_reset(samples),
        is_behind_pooler=observation.server is not None and observation.server.is_behind_pooler,
        windows=windows,
    )
    figures = _add_host(_add_limits(figures, observation.server, samples, chosen), observation)
    clients = len({b.client for sample in samples for b in _select_own(sample, chosen) if b.client is not None})
    owners = _find_owners(observation, chosen)
    groups = [_group_by_owner(_select_own(sample, chosen), owners) for sample in samples]
    each = max((len(group) for by_owner in groups for group in by_owner.values()), default=0)
    if figures.censored_share is None:
        figures = figures.with_(censored_share=_find_full_share(groups))
    return ServiceMeasurement(chosen, figures, sessions, clients, len(set(owners.values())), each)


def add_round_trip(figures: Figures, round_trip: float) -> Figures:
    """``figures`` with one round trip (seconds) in each hold: from the client's statement to the server and back.

    The server sees a connection as busy from a statement's arrival to its end; the application holds it for longer.
    Round trips within a transaction are in the figures already, as idle in transaction. A hold that pools measured
    themselves has everything in it.
    """
    if figures.hold_time is not None or figures.throughput is None:
        return figures
    longer = figures.throughput.value * round_trip

    def more(figure: Figure | None) -> Figure | None:
        return None if figure is None else measured(figure.value + longer)

    return figures.with_(
        parallelism=more(figures.parallelism),
        parallelism_counted=more(figures.parallelism_counted),
        windows=tuple(replace(window, busy=window.busy + window.throughput * round_trip) for window in figures.windows),
    )


def _find_owners(observation: Observation, application: str | None) -> dict[int, int]:
    """The process behind each backend of the application; empty unless every one of the last sample has one."""
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
    return found if last and all(b.pid in found for b in last) else {}


def _group_by_owner(backends: Sequence[Backend], owners: Mapping[int, int]) -> dict[object, list[Backend]]:
    groups: dict[object, list[Backend]] = {}
    for backend in backends:
        groups.setdefault(owners.get(backend.pid) if owners else backend.client, []).append(backend)
    return groups


def _find_full_share(groups: Sequence[Mapping[object, Sequence[Backend]]]) -> Figure | None:
    """Of the looks at a process's sessions, those with all of them busy; None where that is less than
    ``FULL_SHARE`` or nobody told: a pool's own figures are better."""
    looks = [sessions for by_owner in groups for sessions in by_owner.values()]
    full = sum(all(map(_is_busy, sessions)) for sessions in looks)
    return _make_figure(full / len(looks)) if looks and full >= FULL_SHARE * len(looks) else None


def _add_limits(
    figures: Figures, server: ServerFacts | None, samples: Sequence[ServerSample], application: str | None
) -> Figures:
    """What the server lets everybody have, what others of it take, and the limits of the application's own role."""
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
        role_limit=_make_figure(role.connection_limit if role and not role.is_superuser else None),
        database_limit=_make_figure(database.connection_limit if database else None),
        session_idle_limit=_make_figure(idle_limit or None),
    )


def _add_host(figures: Figures, observation: Observation) -> Figures:
    """The processors, where the server runs on this machine."""
    hosts = [snapshot.host for snapshot in observation.snapshots if snapshot.host and snapshot.host.has_server]
    cores = next((host.cores for host in hosts if host.cores), None)
    used = [host.server_cpu for host in hosts if host.server_cpu is not None]
    if cores is None:
        return figures
    busy = [snapshot.cpu_share for snapshot in hosts if snapshot.cpu_share is not None]
    share = min(1.0, fmean(used) / cores) if used else None
    if share is not None and busy and share >= OWN_COST:
        # What others on the same machine take, the database cannot have either.
        share = min(1.0, max(share, fmean(busy)))
    cpu_time = None
    if used and figures.throughput is not None and figures.throughput.value > 0:
        cpu_time = fmean(used) / figures.throughput.value
    return figures.with_(cores=measured(cores), database_cpu=_make_figure(share), cpu_time=_make_figure(cpu_time))


def _make_figure(value: float | None) -> Figure | None:
    return None if value is None else measured(value)


def find_largest_application(samples: Sequence[ServerSample]) -> str | None:
    """The name that most client sessions have; None when none has a name, or nobody is there."""
    names = Counter(b.application for sample in samples for b in sample.clients if not _is_ours(b))
    name = max(names, key=lambda each: (names[each], each), default="")
    return name or None


def _summarize_counts(counts: Sequence[int]) -> tuple[float, float, float, float] | None:
    """Mean, p95, p99 (the smallest count that so many samples do not exceed) and maximum."""
    if not counts:
        return None
    ordered = sorted(counts)

    def quantile(share: float) -> float:
        return ordered[max(0, ceil(share * len(ordered)) - 1)]

    return fmean(counts), quantile(0.95), quantile(0.99), ordered[-1]


def effective_samples(counts: Sequence[int]) -> float:
    """n (1 - r1) / (1 + r1), r1 the lag-1 autocorrelation, never more than n (the variance of the mean of an AR(1)
    series). Samples of a system that does not change at all are worth one."""
    n = len(counts)
    if n < 3:
        return float(n)
    mean = fmean(counts)
    total = sum((x - mean) ** 2 for x in counts)
    if total == 0:
        return 1.0
    r1 = sum((x - mean) * (y - mean) for x, y in pairwise(counts)) / total
    r1 = min(max(r1, 0.0), 0.999)
    return max(1.0, n * (1 - r1) / (1 + r1))


def _is_ours(backend: Backend) -> bool:
    return backend.application in OURS


def _select_own(sample: ServerSample, application: str | None) -> list[Backend]:
    return [b for b in sample.clients if not _is_ours(b) and application in (None, b.application)]


def _select_others(sample: ServerSample, application: str | None) -> list[Backend]:
    return [b for b in sample.clients if not _is_ours(b) and application not in (None, b.application)]


def _is_busy(backend: Backend) -> bool:
    return backend.is_active or backend.in_transaction


def _find_database(samples: Sequence[ServerSample], application: str | None) -> str | None:
    """The database that the application's sessions are in, most of them."""
    names = Counter(b.database for sample in samples for b in _select_own(sample, application) if b.database)
    return max(names, key=lambda each: (names[each], each), default=None)


def _find_own_database(observation: Observation) -> str | None:
    """The database that poolctl itself is connected to, whose counters its own transactions move."""
    return observation.server.database if observation.server is not None else None


def _cut_windows(
    samples: Sequence[ServerSample], database: str | None, share: float, *, looked_at: str | None = None
) -> Iterator[Window]:
    """Stretches of ``WINDOW`` seconds or more (the whole, when it is shorter), none across a reset of the counters."""
    start = 0
    for end in range(1, len(samples)):
        length = samples[end].at - samples[start].at
        rest = samples[-1].at - samples[end].at
        if (length < WINDOW or 0 < rest < WINDOW) and end < len(samples) - 1:
            continue
        own = sum(map(_count_own_transactions, samples[start:end])) if database == looked_at else 0
        if window := _make_window(samples[start], samples[end], database, share, own):
            yield window
        start = end


def _count_own_transactions(sample: ServerSample) -> int:
    """That poolctl committed for one look: the look itself, and one each for statements and tables."""
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
    # What began before the window is added whole when it ends, and what has not ended is not added at all.
    early = sum(time for key, time in begun.items() if key not in still)
    late = sum(min(time, duration) for time in still.values())
    work = max(0.0, sum(ended) + late - early)
    transactions = max(0, new.commits + new.rollbacks - old.commits - old.rollbacks - own)
    return Window(duration, transactions / duration * share, work / duration * share)


def _find_unfinished(sample: ServerSample, database: str | None) -> dict[tuple[int, float], float]:
    """How long each busy session has been in its state."""
    return {
        (b.pid, b.state_at): max(0.0, sample.at - b.state_at)
        for b in sample.clients
        if b.database == database and _is_busy(b) and b.state_at is not None
    }


def _average_busy(windows: Sequence[Window]) -> float | None:
    seconds = sum(window.duration for window in windows)
    return sum(window.busy * window.duration for window in windows) / seconds if seconds > 0 else None


def _find_throughput(observation: Observation, windows: Sequence[Window], sessions: int) -> float | None:
    """Acquires a second of the whole service, where pools count them; else transactions."""
    counted = measure_acquire_rate(observation)
    if counted is not None:
        return counted * _scale_to_backends(observation, sessions)
    seconds = sum(window.duration for window in windows)
    return sum(window.throughput * window.duration for window in windows) / seconds if seconds > 0 else None


def _scale_to_backends(observation: Observation, sessions: int) -> float:
    """How many times the connections of the pools that told their figures all the application's sessions are: the
    others, of other instances, are taken to be like them."""
    opened = [sum(pool.open or 0 for pool in snapshot.pools) for snapshot in observation.snapshots if snapshot.pools]
    most = max(opened, default=0)
    return max(1.0, sessions / most) if most else 1.0


def _find_share(samples: Sequence[ServerSample], database: str | None, counts: Sequence[int]) -> float:
    """The application's part of the database's busy connections; 1 when it is alone there, or nobody works."""
    everyone = sum(len([b for b in s.clients if b.database == database and _is_busy(b)]) for s in samples)
    return min(1.0, sum(counts) / everyone) if everyone else 1.0


def _estimate_hold_cv(samples: Sequence[ServerSample], database: str | None, application: str | None) -> float | None:
    """Spread of one statement's time: within statements (their stddev) and between them (their means)."""
    # The server is not asked for them in every look.
    told = [sample.statements for sample in samples if sample.statements]
    if len(told) < 2:
        return None
    # Not those of other roles, poolctl's own among them.
    users = {b.user for sample in samples for b in _select_own(sample, application) if b.user}
    old = {(s.query_id, s.user, s.database): s for s in told[0]}
    calls, first, second = 0, 0.0, 0.0
    for now in told[-1]:
        before = old.get((now.query_id, now.user, now.database))
        new_calls = now.calls - (before.calls if before else 0)
        new_time = now.time - (before.time if before else 0.0)
        is_foreign = (database and now.database not in (None, database)) or (users and now.user not in (None, *users))
        if is_foreign or new_calls <= 0 or new_time < 0:
            continue
        mean = new_time / new_calls
        calls += new_calls
        first += new_time
        # The deviation is that of all calls ever, so the sums of squares are subtracted, as the sums are.
        squares = _sum_squares(now) - (_sum_squares(before) if before else 0.0)
        second += max(squares, new_calls * mean**2)
    if calls < 2 or first <= 0:
        return None
    variance = second / calls - (first / calls) ** 2
    return sqrt(max(0.0, variance)) / (first / calls)


def _sum_squares(statement: StatementCounters) -> float:
    """The sum of the squared times of all calls."""
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
