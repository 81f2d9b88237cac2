"""A scenario: database, pool, load, leak and events, as both engines run it.

Decides what a scenario may say; the names are public (the scenario file). Times are float seconds, None where
something is switched off.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from math import log, sqrt
from pathlib import Path
from random import Random
from typing import Any

from poolctl.errors import BadInput
from poolctl.keys import Source, Table, override, read_toml
from poolctl.pool import KINDS, PoolSettings

DISTRIBUTIONS = ("constant", "exponential", "lognormal")
VIAS = ("none", "pgbouncer", "pgpool")
LEAK_SHAPES = ("forgotten", "in-transaction", "unread-rows", "dropped-reference", "long-hold")
EVENTS = ("restart", "failover", "pause", "slow", "deploy")
BUILT_IN_QUERIES = ("sleep", "select1", "cpu")


@dataclass(frozen=True, slots=True)
class Distribution:
    """A random time. ``mean`` is seconds; ``cv`` (deviation over mean) is used by lognormal alone."""

    kind: str
    mean: float
    cv: float = 1.0

    def sample(self, random: Random) -> float:
        if self.kind == "constant":
            return self.mean
        if self.kind == "exponential":
            return -log(1.0 - random.random()) * self.mean
        sigma2 = log(1.0 + self.cv * self.cv)
        return random.lognormvariate(log(self.mean) - sigma2 / 2, sqrt(sigma2)) if self.mean else 0.0


@dataclass(frozen=True, slots=True)
class Database:
    max_connections: int = 100
    reserved: int = 3
    """superuser_reserved_connections: what ordinary roles cannot use."""
    cores: int | None = 2
    """Model only. None: queries never slow each other down."""
    connect_time: Distribution = Distribution("constant", 0.005)
    """Model only; live measures it."""
    via: str = "none"
    pgbouncer: dict[str, Any] = field(default_factory=dict)
    pgpool: dict[str, Any] = field(default_factory=dict)
    setup: str = ""
    """SQL that is run once on the throw-away server before the load, by its superuser."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Extra closed-loop workers of each instance. ``until`` None: to the end; ``requests`` 0: over and over."""

    at: float
    until: float | None
    workers: int
    requests: int
    hold: Distribution
    think: Distribution


@dataclass(frozen=True, slots=True)
class Load:
    """What each instance is asked to do. ``workers`` and ``rate``: one of the two, or neither with bursts alone."""

    instances: int
    workers: int | None
    think: Distribution
    rate: float | None
    hold: Distribution
    query: str
    connections_per_request: int
    requests: int
    """Each instance stops after so many; 0: by duration alone."""
    duration: float | None
    """None: until the requests are done."""
    warmup: float
    drain: float
    error_pause: float
    """What a closed-loop worker waits after an acquire that failed at once (rejected, refused). Without it a
    full server is asked as fast as the processor allows."""
    seed: int
    bursts: tuple[Burst, ...] = ()


@dataclass(frozen=True, slots=True)
class Leak:
    every: int = 0
    """Every so many requests of an instance, one never gives its connection back; 0: none leaks."""
    shape: str = "forgotten"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens to the server, or (deploy) to the fleet. ``duration`` is "for" in the file."""

    at: float
    do: str
    duration: float = 0.0
    factor: float = 1.0
    overlap: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    description: str
    database: Database
    pool: PoolSettings
    load: Load
    leak: Leak
    events: tuple[Event, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As in the scenario file with every default filled in; times are seconds, None is "off"."""
        plain: dict[str, Any] = _plain(self)
        return plain


def load_scenario(path: Path, assignments: Iterable[str] = ()) -> Scenario:
    """Read a scenario file, with ``--set`` assignments on top. Raises BadInput."""
    values, text = read_toml(path)
    overridden = override(values, assignments)
    return parse_scenario(values, Source(str(path), text, overridden))


def parse_scenario(values: dict[str, Any], source: Source | None = None) -> Scenario:
    """A scenario from the values of a file, or from what ``Scenario.to_dict`` gave. Raises BadInput."""
    top = Table(values, source or Source())
    if "name" not in top:
        raise BadInput(f"{top.refuse('name', '', 'is required')}", hint='start the file with name = "..."')
    name, description = top.text("name", ""), top.text("description", "")
    database = _database(top.table("database"))
    pool = _pool(top.table("pool"))
    load = _load(top.table("load"))
    leak_table = top.table("leak")
    leak = Leak(leak_table.count("every", 0), leak_table.choice("shape", "forgotten", LEAK_SHAPES))
    leak_table.finish()
    events = tuple(_event(table, load) for table in top.tables("events"))
    top.finish()
    return Scenario(name, description, database, pool, load, leak, tuple(sorted(events, key=lambda e: e.at)))


def _database(table: Table) -> Database:
    default = Database()
    cores: int | None = default.cores
    if table.peek("cores") == "unlimited":
        table.text("cores", "")
        cores = None
    else:
        cores = table.count("cores", default.cores or 0, least=1)
    database = Database(
        max_connections=table.count("max_connections", default.max_connections, least=1),
        reserved=table.count("reserved", default.reserved),
        cores=cores,
        connect_time=_distribution(table, "connect_time", default.connect_time),
        via=table.choice("via", default.via, VIAS),
        pgbouncer=table.table("pgbouncer").rest(),
        pgpool=table.table("pgpool").rest(),
        setup=table.text("setup", ""),
    )
    if database.reserved >= database.max_connections:
        raise table.refuse("reserved", database.reserved, f"must be below max_connections ({database.max_connections})")
    table.finish()
    return database


def _pool(table: Table) -> PoolSettings:
    kind = KINDS[table.choice("kind", "database/sql", KINDS)]
    default = kind.defaults
    for key in ("max_open", "max_idle", "min_idle", "max_lifetime", "max_idle_time", "acquire_timeout"):
        if key in table and key not in kind.keys and table.peek(key) != getattr(default, key):
            known = ", ".join(f"{ours} ({native})" for ours, native in kind.native.items())
            raise table.refuse(key, table.peek(key), f"{kind.name} has no such setting", hint=f"it has {known}")
    max_open = table.count("max_open", default.max_open)
    settings = PoolSettings(
        kind=kind.name,
        max_open=max_open,
        max_idle=table.count("max_idle", min(default.max_idle, max_open or default.max_idle)),
        min_idle=table.count("min_idle", min(default.min_idle, max_open or default.min_idle)),
        max_lifetime=table.duration_or_off("max_lifetime", default.max_lifetime),
        max_idle_time=table.duration_or_off("max_idle_time", default.max_idle_time),
        acquire_timeout=table.duration_or_off("acquire_timeout", default.acquire_timeout),
    )
    for problem in kind.problems(settings):
        raise table.refuse(problem.key, getattr(settings, problem.key), problem.rule, hint=problem.hint)
    table.finish()
    return settings


def _load(table: Table) -> Load:
    query = table.text("query", "sleep")
    if not query.strip():
        raise table.refuse("query", query, f"must be {', '.join(BUILT_IN_QUERIES)} or an SQL statement")
    # A statement of the user's takes the time it takes; only pg_sleep has to be told.
    hold_default = Distribution("exponential", 0.020) if query == "sleep" else Distribution("constant", 0.0)
    hold = _distribution(table, "hold", hold_default)
    think = _distribution(table, "think", Distribution("constant", 0.0))
    bursts = tuple(_burst(burst, hold, think) for burst in table.tables("bursts"))
    workers = table.count("workers", 0, least=1) or None
    rate = table.number("rate", 0.0) or None
    if workers is not None and rate is not None:
        raise table.refuse("rate", rate, "give workers (closed loop) or rate (open loop), not both")
    if workers is None and rate is None and not bursts:
        raise table.refuse("workers", "", "is missing: give workers (closed loop) or rate (open loop)")
    requests = table.count("requests", 0)
    load = Load(
        instances=table.count("instances", 1, least=1),
        workers=workers,
        think=think,
        rate=rate,
        hold=hold,
        query=query,
        connections_per_request=table.count("connections_per_request", 1, least=1),
        requests=requests,
        duration=table.duration_or_off("duration", None if requests else 10.0),
        warmup=table.duration("warmup", 0.0),
        drain=table.duration("drain", 2.0),
        error_pause=table.duration("error_pause", 0.0 if requests else 0.05),
        seed=table.count("seed", 1),
        bursts=bursts,
    )
    if load.duration is None and not requests:
        raise table.refuse("duration", "off", "must be a duration unless requests is given")
    if load.duration is not None and load.duration <= load.warmup:
        raise table.refuse("duration", load.duration, f"must be longer than warmup ({load.warmup:g} s)")
    table.finish()
    return load


def _burst(table: Table, hold: Distribution, think: Distribution) -> Burst:
    if "at" not in table:
        raise table.refuse("at", "", 'is required, such as "5s"')
    burst = Burst(
        at=table.duration("at", 0.0),
        until=table.duration_or_off("until", None),
        workers=table.count("workers", 1, least=1),
        requests=table.count("requests", 0),
        hold=_distribution(table, "hold", hold),
        think=_distribution(table, "think", think),
    )
    if burst.until is not None and burst.until <= burst.at:
        raise table.refuse("until", burst.until, f"must be after at ({burst.at:g} s)")
    table.finish()
    return burst


def _event(table: Table, load: Load) -> Event:
    for key in ("at", "do"):
        if key not in table:
            raise table.refuse(key, "", "is required")
    event = Event(
        at=table.duration("at", 0.0),
        do=table.choice("do", "", EVENTS),
        duration=table.duration("for", 0.0),
        factor=table.number("factor", 1.0),
        overlap=table.duration("overlap", 0.0),
    )
    needed = {"pause": ("for",), "slow": ("for", "factor")}.get(event.do, ())
    for key, value, unset in (("for", event.duration, 0.0), ("factor", event.factor, 1.0)):
        if key in needed and value == unset:
            raise table.refuse(key, "", f"is required for {event.do}")
        if key not in needed and value != unset:
            raise table.refuse(key, value, f"means nothing for {event.do}")
    if event.overlap and event.do != "deploy":
        raise table.refuse("overlap", event.overlap, f"means nothing for {event.do}")
    if load.duration is not None and event.at >= load.duration:
        raise table.refuse("at", event.at, f"must be before the end of the load (load.duration = {load.duration:g} s)")
    table.finish()
    return event


def _distribution(table: Table, key: str, default: Distribution) -> Distribution:
    if key not in table:
        table.skip(key)
        return default
    if isinstance(table.peek(key), str | int | float):
        return Distribution("constant", table.duration(key, 0.0))
    inner = table.table(key)
    kind = inner.choice("distribution", "constant", DISTRIBUTIONS)
    if "mean" not in inner:
        raise inner.refuse("mean", "", "is required")
    mean = inner.duration("mean", 0.0)
    if "cv" in inner and kind != "lognormal" and inner.peek("cv") != 1.0:
        raise inner.refuse("cv", inner.peek("cv"), f"means nothing for a {kind} distribution")
    cv = inner.number("cv", 1.0)
    inner.finish()
    return Distribution(kind, mean, cv)


def _plain(value: Any) -> Any:
    if isinstance(value, Distribution):
        plain: dict[str, Any] = {"distribution": value.kind, "mean": value.mean}
        return plain | {"cv": value.cv} if value.kind == "lognormal" else plain
    if isinstance(value, Event):
        plain = {"at": value.at, "do": value.do}
        if value.do in ("pause", "slow"):
            plain["for"] = value.duration
        return (
            plain
            | ({"factor": value.factor} if value.do == "slow" else {})
            | ({"overlap": value.overlap} if value.do == "deploy" else {})
        )
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
