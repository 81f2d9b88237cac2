"""A scenario: database, pool, load, leak and events, as both engines run it.

Decides what a scenario file may contain. Its names are public. Times are float seconds; None means "off".
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from math import log, sqrt
from pathlib import Path
from random import Random
from typing import Any

from poolctl.pool import LIBRARIES, NOT_MODELED, PoolSettings
from poolctl.scenario.toml import TomlSource, TomlTable, override, read_toml
from poolctl.units import MOST

DISTRIBUTIONS = ("constant", "exponential", "lognormal")
VIAS = ("none", "pgbouncer", "pgpool")
LEAK_SHAPES = ("forgotten", "in-transaction", "unread-rows", "dropped-reference", "long-hold")
EVENTS = ("restart", "failover", "pause", "slow", "deploy")
RUN_KEYS = ("duration", "warmup", "drain", "seed")
"""Keys of load that are valid for the whole run, with all its services."""
BUILT_IN_QUERIES = ("sleep", "select1", "cpu")

MOST_CONNECTIONS = 262_143
"""The largest max_connections that PostgreSQL accepts (MAX_BACKENDS). No pool can have more connections."""

MOST_INSTANCES = 100_000
"""Most instances of a run, later generations included. Each takes 3 kB of memory in the model."""

MOST_WORKERS = 1_000_000
"""Most workers of a run, times the connections that each request takes. Each takes 400 bytes in the model."""

MOST_RATE = 1_000_000
"""Most arrivals a second, of an instance and of a run: the models handle about as many each second of real time."""

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Distribution:
    """A random time. ``mean``: seconds. ``cv``: standard deviation / mean, used by lognormal only."""

    kind: str
    mean: float
    cv: float = 1.0

    def sample(self, random: Random) -> float:
        """Draw one time, in seconds."""
        if self.kind == "constant":
            return self.mean
        if self.kind == "exponential":
            return -log(1.0 - random.random()) * self.mean
        # In a lognormal distribution 1 + cv^2 is exp(sigma^2), and the mean is exp(mu + sigma^2 / 2).
        sigma2 = log(1.0 + self.cv * self.cv)
        return random.lognormvariate(log(self.mean) - sigma2 / 2, sqrt(sigma2)) if self.mean else 0.0


@dataclass(frozen=True, slots=True)
class Database:
    """The server, and what is between it and the pool."""

    max_connections: int = 100
    reserved: int = 3
    """superuser_reserved_connections: slots that ordinary roles cannot use."""
    cores: int | None = 2
    """Model only. None: queries never slow each other down, as where they only sleep."""
    connect_time: Distribution = Distribution("constant", 0.005)
    """Model only; live measures it."""
    connect_cpu: float = 0.002
    """Model only: seconds of processor time that one opening costs the server, a part of connect_time."""
    contention: float = 0.0
    """Model only: each query is slower by this share for each other query that runs (alpha of the Universal
    Scalability Law). With 0.02 and 11 running queries each takes 1.2 times as long."""
    coherency: float = 0.0
    """Model only: also slower by this share for each ordered pair of running queries (beta of that law)."""
    pooler_connect_time: Distribution = Distribution("constant", 0.0005)
    """Model only: the time of an opening from a client to the pooler."""
    via: str = "none"
    pgbouncer: dict[str, Any] = field(default_factory=dict)
    pgpool: dict[str, Any] = field(default_factory=dict)
    listen: str = ""
    """An address of this machine where the throw-away server also listens, for instances on other machines."""
    setup: str = ""
    """SQL that runs once on the throw-away server before the load."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Extra closed-loop workers of each instance. ``until`` None: to the end; ``requests`` 0: without a limit."""

    at: float
    until: float | None
    workers: int
    requests: int
    hold: Distribution
    think: Distribution


@dataclass(frozen=True, slots=True)
class Load:
    """The load of each instance. ``workers`` and ``rate``: one of the two, or none if there are bursts."""

    instances: int
    workers: int | None
    think: Distribution
    rate: float | None
    hold: Distribution
    """Time from acquire to release on a server that is not busy."""
    hold_outside: Distribution
    """Model only: the part of hold that is spent outside the database, such as a call to another service within the
    transaction. It keeps the connection and needs no core."""
    query: str
    connections_per_request: int
    requests: int
    """Each instance stops after so many requests; 0: there is no such limit."""
    duration: float | None
    """None: until the requests are done."""
    warmup: float
    drain: float
    error_pause: float
    """Seconds that a closed-loop worker waits after an acquire that failed at once (rejected, refused). Without a
    pause it would repeat the acquire as fast as the processor allows."""
    seed: int
    retries: int = 0
    """Model only: how often a request repeats an acquire that failed. Each repetition counts as an acquire."""
    retry_backoff: float = 0.0
    """Seconds before the first retry."""
    retry_growth: float = 2.0
    """Factor from each backoff to the next."""
    retry_jitter: float = 0.0
    """Each backoff is shortened at random by up to this share."""
    bursts: tuple[Burst, ...] = ()

    @property
    def ends_when_done(self) -> bool:
        """Whether the run ends with the last request. Otherwise it lasts for its duration, also without any load."""
        return self.duration is None or self.requests > 0


@dataclass(frozen=True, slots=True)
class Leak:
    """Which requests leak, and in which state they leave the connection."""

    every: int = 0
    """One of so many requests of an instance never releases its connections; 0: none leaks."""
    shape: str = "forgotten"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens to the server, or (deploy) to the instances. ``duration`` is "for" in the file."""

    at: float
    do: str
    duration: float = 0.0
    factor: float = 1.0
    overlap: float = 0.0
    down: float | None = None
    """Model only: seconds without a server in a restart or failover; None: 0.5 and 0."""


@dataclass(frozen=True, slots=True)
class Service:
    """One of several applications on the same server ([[service]], model only), with a pool and load of its own.

    Duration, warm-up, drain and seed are those of the top-level load for all of them.
    """

    name: str
    pool: PoolSettings
    load: Load
    leak: Leak


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to run."""

    name: str
    description: str
    database: Database
    pool: PoolSettings
    load: Load
    leak: Leak
    events: tuple[Event, ...] = ()
    services: tuple[Service, ...] = ()
    """Empty for a single application. Otherwise ``pool``, ``load`` and ``leak`` are those of the first service."""

    @property
    def all_services(self) -> tuple[Service, ...]:
        """The services. A single application counts as one without a name."""
        return self.services or (Service("", self.pool, self.load, self.leak),)

    @property
    def model_only(self) -> tuple[str, ...]:
        """The keys in use that only the model engine supports."""
        in_use = {
            "service": bool(self.services),
            "database.contention": self.database.contention or self.database.coherency,
            "load.hold_outside": self.load.hold_outside.mean,
            "load.retries": self.load.retries,
            "events.down": any(event.down is not None for event in self.events),
            "pool.max_waiting": self.pool.max_waiting and self.pool.kind == "mysql2",
        }
        return tuple(key for key, is_used in in_use.items() if is_used)

    def to_dict(self) -> dict[str, Any]:
        """Return the values of the scenario file, with all defaults. Times are seconds, None is "off"."""
        plain: dict[str, Any] = _plain(self)
        services = plain.pop("services")
        if services:
            plain["load"] = {key: services[0]["load"][key] for key in RUN_KEYS}
            for service in services:
                for key in RUN_KEYS:
                    del service["load"][key]
            plain["service"] = services
            del plain["pool"], plain["leak"]
        return plain


def load_scenario(path: Path, assignments: Iterable[str] = ()) -> Scenario:
    """Read a scenario file, with ``--set`` assignments on top. Raises BadInput."""
    values, text = read_toml(path)
    overridden = override(values, assignments)
    return parse_scenario(values, TomlSource(str(path), text, overridden))


def parse_scenario(values: dict[str, Any], source: TomlSource | None = None) -> Scenario:
    """Create a scenario from the values of a file, or from what ``Scenario.to_dict`` gave. Raises BadInput."""
    top = TomlTable(values, source or TomlSource())
    name, description = top.take_text("name", ""), top.take_text("description", "")
    sections = [top.take_table(section) for section in ("database", "pool", "load", "leak")]
    event_tables, service_tables = top.take_tables("events"), top.take_tables("service")
    if top.has("server"):
        raise top.refuse("server", top.peek("server"), "belongs to a fleet file", hint="recommend --fleet reads it")
    # First the misspelled keys, then the missing ones: a misspelled key is often the missing one.
    top.finish()
    if not name:
        raise top.refuse_missing("name", "is required", hint='start the file with name = "..."')
    database_table, pool_table, load_table, leak_table = sections
    has_cores = database_table.has("cores")
    database = _database(database_table)
    if service_tables:
        run = {key: load_table.peek(key) for key in RUN_KEYS if load_table.has(key)}
        for key in RUN_KEYS:
            load_table.skip(key)
        for section, table in (("pool", pool_table), ("load", load_table), ("leak", leak_table)):
            _refuse_shared(table, section, service_tables)
        services = tuple(_service(table, run) for table in service_tables)
        pool, load, leak = services[0].pool, services[0].load, services[0].leak
    else:
        services = ()
        pool, load = _pool(pool_table), _load(load_table)
        leak = _leak(leak_table)
    loads = [service.load for service in services] or [load]
    if not has_cores and all(each.query == "sleep" for each in loads):
        # Sleeping takes no processor: a live run of the same file shows none in use.
        database = replace(database, cores=None)
    events = sorted((_event(table) for table in event_tables), key=lambda event: event.at)
    _check_size(top, services or (Service("", pool, load, leak),), sum(event.do == "deploy" for event in events) + 1)
    return Scenario(name, description, database, pool, load, leak, tuple(events), services)


def _check_size(top: TomlTable, services: Sequence[Service], generations: int) -> None:
    """Refuse what would not fit into memory: each instance and each worker is an object of the model."""
    each = [service.load.instances * generations for service in services]
    workers = [(s.load.workers or 0) + sum(burst.workers for burst in s.load.bursts) for s in services]
    taken = [
        count * max(number * s.load.connections_per_request, s.pool.min_idle)
        for count, number, s in zip(each, workers, services, strict=True)
    ]
    rates = [service.load.instances * (service.load.rate or 0.0) for service in services]
    for key, total, most, what in (
        ("instances", sum(each), MOST_INSTANCES, "instances of all services and of all generations of deploys"),
        ("workers", sum(taken), MOST_WORKERS, "workers (or idle connections) of all instances and bursts"),
        ("rate", sum(rates), MOST_RATE, "arrivals a second of all instances"),
    ):
        if total > most:
            path = "service" if len(services) > 1 else f"load.{key}"
            raise top.refuse_missing(path, f"these are {total:,.0f} {what}, and {most:,} is the most")


def _refuse_shared(table: TomlTable, section: str, services: Sequence[TomlTable]) -> None:
    """Refuse keys at the top that belong to each service."""
    for key, value in table.take_rest().items():
        name = services[0].peek("name") or "NAME"
        raise table.refuse(
            key,
            value,
            "belongs to a service here",
            hint=f"write it in its [[service]], or service.{name}.{section}.{key}",
        )


def _service(table: TomlTable, run: dict[str, Any]) -> Service:
    name = table.take_text("name", "")
    pool_table, load_table, leak_table = (table.take_table(section) for section in ("pool", "load", "leak"))
    table.finish()
    if not name:
        raise table.refuse_missing("name", "is required for a service")
    for key in RUN_KEYS:
        if load_table.has(key):
            raise load_table.refuse(key, load_table.peek(key), "holds for the whole run", hint="write it under [load]")
    return Service(name, _pool(pool_table), _load(load_table.with_values(run)), _leak(leak_table))


def _leak(table: TomlTable) -> Leak:
    leak = Leak(table.take_count("every", 0), table.take_choice("shape", "forgotten", LEAK_SHAPES))
    table.finish()
    return leak


def _database(table: TomlTable) -> Database:
    default = Database()
    database = Database(
        max_connections=table.take_count("max_connections", default.max_connections, least=1, most=MOST_CONNECTIONS),
        reserved=table.take_count("reserved", default.reserved, most=MOST_CONNECTIONS),
        cores=table.take_count_or_unlimited("cores", default.cores, least=1, most=1_000_000),
        connect_time=_distribution(table, "connect_time", default.connect_time),
        connect_cpu=table.take_duration("connect_cpu", default.connect_cpu),
        contention=table.take_share("contention", default.contention),
        coherency=table.take_share("coherency", default.coherency),
        pooler_connect_time=_distribution(table, "pooler_connect_time", default.pooler_connect_time),
        via=table.take_choice("via", default.via, VIAS),
        pgbouncer=_pooler(table.take_table("pgbouncer")),
        pgpool=_pooler(table.take_table("pgpool")),
        listen=table.take_text("listen", default.listen),
        setup=table.take_text("setup", ""),
    )
    table.finish()
    if re.search(r"[\s,='\\*]", database.listen) or database.listen in ("0.0.0.0", "::"):
        raise table.refuse("listen", database.listen, "must be one address of this machine, not all of them")
    if database.listen and database.via != "none":
        raise table.refuse("listen", database.listen, "goes with via = none: the pooler listens on this machine only")
    if database.reserved >= database.max_connections:
        raise table.refuse("reserved", database.reserved, f"must be below max_connections ({database.max_connections})")
    return database


def _pooler(table: TomlTable) -> dict[str, Any]:
    """Take the settings of a pooler, which get them as they are. Only what neither engine could bear is refused."""
    settings = table.take_rest()
    for key, value in settings.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and not -MOST <= value <= MOST:
            raise table.refuse(key, value, f"must be between -{MOST:,} and {MOST:,}")
        if key in _AT_LEAST_ONE and value in (0, False):
            raise table.refuse(key, value, "must be 1 or more")
        if isinstance(value, dict | list):
            raise table.refuse(key, value, "must be a number, a text, or true or false")
    return settings


_AT_LEAST_ONE = ("num_init_children", "max_pool")
"""Settings of Pgpool-II with which it has no connection at all if they are 0."""

_POOL_COUNTS = ("max_open", "max_idle", "min_idle", "max_uses", "max_waiting")
_UNBOUNDED = ("max_uses", "max_waiting")
"""Counts of requests and not of connections."""
_POOL_TIMES = ("max_lifetime", "max_idle_time", "acquire_timeout", "max_lifetime_jitter")


def _pool(table: TomlTable) -> PoolSettings:
    named = table.peek("kind")
    if isinstance(named, str) and named in NOT_MODELED:
        raise table.refuse("kind", named, NOT_MODELED[named])
    kind = LIBRARIES[table.take_choice("kind", "database/sql", LIBRARIES)]
    written = {key: table.peek(key) for key in _POOL_COUNTS + _POOL_TIMES}
    for ours, native in kind.native.items():
        if table.has(native) and native not in written:
            raise table.refuse(native, table.peek(native), f"{kind.name}'s {native} is {ours} here")
    given: dict[str, Any] = {
        key: table.take_count(key, 0, most=MOST if key in _UNBOUNDED else MOST_CONNECTIONS)
        for key in _POOL_COUNTS
        if table.has(key)
    }
    given |= {key: table.take_duration_or_off(key, None) for key in _POOL_TIMES if table.has(key)}
    for key in written:
        table.skip(key)
    table.finish()
    settings = kind.complete({key: value for key, value in given.items() if key in kind.keys})
    for key in sorted(given.keys() - kind.keys):
        # A setting that the library lacks is accepted if it has the value that is in force anyway.
        if given[key] != getattr(settings, key):
            known = ", ".join(f"{ours} ({native})" for ours, native in kind.native.items())
            raise table.refuse(key, written[key], f"{kind.name} has no such setting", hint=f"it has {known}")
    for problem in kind.problems(settings):
        raise table.refuse(problem.key, getattr(settings, problem.key), problem.rule, hint=problem.hint)
    return settings


def _load(table: TomlTable) -> Load:
    query = table.take_text("query", "sleep")
    # The duration of the user's statement is its own; only pg_sleep needs one.
    hold_default = Distribution("exponential", 0.020) if query == "sleep" else Distribution("constant", 0.0)
    hold = _distribution(table, "hold", hold_default)
    think = _distribution(table, "think", Distribution("constant", 0.0))
    bursts = tuple(_burst(burst, hold, think) for burst in table.take_tables("bursts"))
    workers = None if table.is_off("workers") else table.take_count("workers", 0, least=1, most=MOST_WORKERS) or None
    rate = None if table.is_off("rate") else table.take_number("rate", 0.0, most=MOST_RATE) or None
    requests = table.take_count("requests", 0)
    load = Load(
        instances=table.take_count("instances", 1, least=1, most=MOST_INSTANCES),
        workers=workers,
        think=think,
        rate=rate,
        hold=hold,
        hold_outside=_distribution(table, "hold_outside", Distribution("constant", 0.0)),
        query=query,
        connections_per_request=table.take_count("connections_per_request", 1, least=1, most=1000),
        requests=requests,
        duration=table.take_duration_or_off("duration", None if requests else 10.0),
        warmup=table.take_duration("warmup", 0.0),
        drain=table.take_duration("drain", 2.0),
        error_pause=table.take_duration("error_pause", 0.0 if requests else 0.05),
        seed=table.take_count("seed", 1, most=LARGEST_SEED),
        retries=table.take_count("retries", 0, most=100),
        retry_backoff=table.take_duration("retry_backoff", 0.0),
        retry_growth=table.take_number("retry_growth", 2.0, most=100),
        retry_jitter=table.take_share("retry_jitter", 0.0),
        bursts=bursts,
    )
    table.finish()
    if not query.strip():
        raise table.refuse("query", query, f"must be {', '.join(BUILT_IN_QUERIES)} or an SQL statement")
    if workers is not None and rate is not None:
        raise table.refuse("rate", rate, "give workers (closed loop) or rate (open loop), not both")
    if workers is None and rate is None and not bursts:
        raise table.refuse_missing("workers", "is missing: give workers (closed loop) or rate (open loop)")
    if load.hold_outside.mean > hold.mean:
        raise table.refuse("hold_outside", load.hold_outside.mean, f"is a part of hold ({hold.mean:g} s)")
    if load.duration is None and not requests:
        raise table.refuse("duration", "off", "must be a duration unless requests is given")
    if load.duration is None and any(burst.until is None and not burst.requests for burst in load.bursts):
        raise table.refuse("duration", "off", "must be a duration, or a burst would go on for ever")
    if load.duration is not None and load.duration <= load.warmup:
        raise table.refuse("duration", load.duration, f"must be longer than warmup ({load.warmup:g} s)")
    return load


def _burst(table: TomlTable, hold: Distribution, think: Distribution) -> Burst:
    dated = "at" in table
    burst = Burst(
        at=table.take_duration("at", 0.0),
        until=table.take_duration_or_off("until", None),
        workers=table.take_count("workers", 1, least=1, most=MOST_WORKERS),
        requests=table.take_count("requests", 0),
        hold=_distribution(table, "hold", hold),
        think=_distribution(table, "think", think),
    )
    table.finish()
    if not dated:
        raise table.refuse_missing("at", 'is required, such as "5s"')
    if burst.until is not None and burst.until <= burst.at:
        raise table.refuse("until", burst.until, f"must be after at ({burst.at:g} s)")
    return burst


_EVENT_KEYS: dict[str, tuple[str, ...]] = {
    "pause": ("for",),
    "slow": ("for", "factor"),
    "deploy": ("overlap",),
    "restart": ("down",),
    "failover": ("down",),
}


def _event(table: TomlTable) -> Event:
    written = {key: table.peek(key) for key in ("at", "do", "for", "factor", "overlap", "down") if key in table}
    event = Event(
        at=table.take_duration("at", 0.0),
        do=table.take_choice("do", "", EVENTS),
        duration=table.take_duration("for", 0.0),
        factor=table.take_number("factor", 1.0, most=1_000_000),
        overlap=table.take_duration("overlap", 0.0),
        down=table.take_duration_or_off("down", None),
    )
    table.finish()
    for key in ("at", "do"):
        if key not in written:
            raise table.refuse_missing(key, "is required")
    meant = _EVENT_KEYS.get(event.do, ())
    for key in ("for", "factor", "overlap", "down"):
        if key in written and key not in meant:
            raise table.refuse(key, written[key], f"means nothing for {event.do}")
        # A deploy without overlap is possible; a pause without a length is not.
        if event.do in ("pause", "slow") and key in meant and key not in written:
            raise table.refuse_missing(key, f"is required for {event.do}")
    if event.do in ("pause", "slow") and not event.duration:
        raise table.refuse("for", written["for"], "must be more than 0")
    return event


def _distribution(table: TomlTable, key: str, default: Distribution) -> Distribution:
    if key not in table:
        table.skip(key)
        return default
    if isinstance(table.peek(key), str | int | float):
        return Distribution("constant", table.take_duration(key, 0.0))
    inner = table.take_table(key)
    kind = inner.take_choice("distribution", "constant", DISTRIBUTIONS)
    measured = "mean" in inner
    mean, cv = inner.take_duration("mean", 0.0), inner.take_number("cv", 1.0, most=1000)
    inner.finish()
    if not measured:
        raise inner.refuse_missing("mean", "is required")
    if kind != "lognormal" and cv != 1.0:
        raise inner.refuse("cv", cv, f"means nothing for a {kind} distribution")
    return Distribution(kind, mean, cv)


def _plain(value: Any) -> Any:
    if isinstance(value, Distribution):
        plain: dict[str, Any] = {"distribution": value.kind, "mean": value.mean}
        return plain | {"cv": value.cv} if value.kind == "lognormal" else plain
    if isinstance(value, Event):
        plain = {"at": value.at, "do": value.do}
        if value.down is not None:
            plain["down"] = value.down
        if value.do in ("pause", "slow"):
            plain["for"] = value.duration
        return (
            plain
            | ({"factor": value.factor} if value.do == "slow" else {})
            | ({"overlap": value.overlap} if value.do == "deploy" else {})
        )
    if isinstance(value, Service):
        return {"name": value.name} | {key: _plain(getattr(value, key)) for key in ("pool", "load", "leak")}
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
