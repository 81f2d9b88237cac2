"""A fleet file: everything that may connect to one server, and the limits of that server.

Decides what the file may contain; its keys are public. Counts are connections unless a key says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

from poolctl.scenario.toml import TomlSource, TomlTable, read_toml
from poolctl.sizing.defaults import SURGE_SHARE, Assumption, choose_headroom
from poolctl.units import MOST

Deploy = Literal["rolling", "blue-green", "recreate", "serverless"]
DEPLOYS: tuple[Deploy, ...] = ("rolling", "blue-green", "recreate", "serverless")
TOGETHER = ("together", "one-by-one")


@dataclass(frozen=True, slots=True)
class ServerLimits:
    max_connections: int = 100
    superuser_reserved: int = 3
    reserved: int = 0
    headroom: int = 3
    """Slots kept free for people and migrations; not written: 3, or 3 % of max_connections."""

    @property
    def usable(self) -> int:
        """Slots that an ordinary role can use."""
        return self.max_connections - self.superuser_reserved - self.reserved


@dataclass(frozen=True, slots=True)
class FleetService:
    """An application.

    ``max_open`` is the size of each pool; None: unlimited (0 or "unlimited" in the file). ``threads`` of each process
    keep a connection each (Puma, Sidekiq); None: not given, and no limit. Counts of instances are resolved: ``surge``
    more during a deploy, while ``terminating`` old ones still exist. ``via`` is the name of a pooler, "" for the server
    itself. ``user`` and ``database`` "": the same for all services that name none.
    """

    name: str
    max_open: int | None
    replicas: int = 1
    max_replicas: int = 1
    processes: int = 1
    threads: int | None = None
    pools: int = 1
    """In each process: engines, database aliases, tenants."""
    deploy: Deploy = "rolling"
    surge: int = 0
    terminating: int = 0
    user: str = ""
    database: str = ""
    via: str = ""

    @property
    def size(self) -> int | None:
        """The most connections that one pool can have in use: its threads never use more; None: unlimited."""
        return min((size for size in (self.max_open, self.threads) if size is not None), default=None)

    def instances(self, moment: Literal["usual", "peak", "deploy"]) -> int:
        """Return the number of instances at a moment."""
        if moment == "usual":
            return self.replicas
        return self.max_replicas if moment == "peak" else self.max_replicas + self.surge + self.terminating

    def connections(self, moment: Literal["usual", "peak", "deploy"]) -> int | None:
        """Return the most connections at a moment; None: unlimited."""
        each = self.pools_at(moment)
        return None if self.size is None and each else each * (self.size or 0)

    def pools_at(self, moment: Literal["usual", "peak", "deploy"]) -> int:
        """Return the number of pools at a moment."""
        return self.instances(moment) * self.processes * self.pools


@dataclass(frozen=True, slots=True)
class Extra:
    """A job or a monitor: ``connections`` each, ``at_once`` of them. ``during_deploy``: only then, as migrations."""

    kind: Literal["job", "monitor"]
    name: str
    connections: int = 1
    at_once: int = 1
    during_deploy: bool = False
    user: str = ""
    database: str = ""
    via: str = ""

    @property
    def total(self) -> int:
        return self.connections * self.at_once


@dataclass(frozen=True, slots=True)
class PoolSize:
    """The pool_size of one pair of user and database; it replaces the pooler's default."""

    user: str
    database: str
    pool_size: int


@dataclass(frozen=True, slots=True)
class FleetPooler:
    """PgBouncer or Pgpool-II in ``processes`` processes.

    Sizes have PgBouncer's names and are for each process; 0 means no limit. For Pgpool-II ``max_client_conn`` is
    num_init_children and ``default_pool_size`` is num_init_children x max_pool.
    """

    name: str
    kind: Literal["pgbouncer", "pgpool"] = "pgbouncer"
    processes: int = 1
    max_client_conn: int = 100
    default_pool_size: int = 20
    reserve_pool_size: int = 0
    max_db_connections: int = 0
    max_user_connections: int = 0
    sizes: tuple[PoolSize, ...] = ()
    max_pool: int = 1
    """Pgpool-II: server connections that each child keeps."""

    def bound(self, pool_size: int) -> int:
        """Return the most server connections of a pool of that size. 0 is unlimited (PgBouncer 1.24): one for each of
        its clients."""
        return pool_size or self.max_client_conn


@dataclass(frozen=True, slots=True)
class NamedLimit:
    name: str
    connections: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """``deploys``: whether all services may be deployed at the same moment.

    ``assumptions`` are the values that the file does not contain, named as in the file: "server.headroom", "api.surge".
    """

    name: str
    server: ServerLimits
    services: tuple[FleetService, ...]
    extras: tuple[Extra, ...] = ()
    poolers: tuple[FleetPooler, ...] = ()
    roles: tuple[NamedLimit, ...] = ()
    databases: tuple[NamedLimit, ...] = ()
    deploys: Literal["together", "one-by-one"] = "together"
    assumptions: tuple[Assumption, ...] = ()

    def is_assumed(self, name: str) -> bool:
        """Return True if the file does not contain the value with that name."""
        return any(assumption.name == name for assumption in self.assumptions)


def load_fleet(path: Path) -> Fleet:
    """Read a fleet file. Raises BadInput."""
    values, text = read_toml(path)
    return parse_fleet(values, TomlSource(str(path), text))


def parse_fleet(values: Mapping[str, Any], source: TomlSource | None = None) -> Fleet:
    """Build a fleet from the values of a file. Raises BadInput, which names the key, the value and the rule."""
    top = TomlTable(values, source or TomlSource())
    name = top.take_text("name", "")
    deploys = top.take_choice("deploys", "together", TOGETHER)
    server, roles, databases = top.take_table("server"), top.take_table("roles"), top.take_table("databases")
    services, poolers = top.take_tables("service"), top.take_tables("pooler")
    jobs, monitors = top.take_tables("job"), top.take_tables("monitor")
    if top.has("load"):
        raise top.refuse("load", top.peek("load"), "belongs to a scenario file", hint="simulate runs it")
    top.finish()
    if not services:
        raise top.refuse_missing(
            "service", "is required", hint="describe each application in a table [[service]] with its name"
        )
    assumptions: list[Assumption] = []
    parsed_poolers = tuple(_pooler(table, assumptions) for table in poolers)
    known = frozenset(pooler.name for pooler in parsed_poolers)
    fleet = Fleet(
        name=name,
        server=_server(server, assumptions),
        services=tuple(_service(table, known, assumptions) for table in services),
        extras=(
            *(_extra(table, "job", known) for table in jobs),
            *(_extra(table, "monitor", known) for table in monitors),
        ),
        poolers=parsed_poolers,
        roles=_limits(roles),
        databases=_limits(databases),
        deploys="together" if deploys == "together" else "one-by-one",
        assumptions=tuple(assumptions),
    )
    names = [*(service.name for service in fleet.services), *(pooler.name for pooler in fleet.poolers)]
    for at, (table, name) in enumerate(zip((*services, *poolers), names, strict=True)):
        if name in names[:at]:
            raise table.refuse("name", name, "is the name of another service or pooler")
    return fleet


_SERVER_DEFAULTS = {
    "max_connections": "PostgreSQL's default",
    "superuser_reserved": "PostgreSQL's default of superuser_reserved_connections",
    "reserved": "PostgreSQL's default of reserved_connections",
    "headroom": "for people, migrations and monitors: 3, or 3 % of max_connections",
}


def _server(table: TomlTable, assumptions: list[Assumption]) -> ServerLimits:
    missing = [key for key in _SERVER_DEFAULTS if key not in table]
    most = table.take_count("max_connections", 100, least=1)
    server = ServerLimits(
        max_connections=most,
        superuser_reserved=table.take_count("superuser_reserved", 3),
        reserved=table.take_count("reserved", 0),
        headroom=table.take_count("headroom", choose_headroom(most)),
    )
    table.finish()
    assumptions += [Assumption(f"server.{key}", getattr(server, key), _SERVER_DEFAULTS[key]) for key in missing]
    if server.usable <= 0:
        left = f"leaves nothing of max_connections ({most})"
        raise table.refuse("superuser_reserved", server.superuser_reserved, f"with reserved ({server.reserved}) {left}")
    return server


def _service(table: TomlTable, poolers: frozenset[str], assumptions: list[Assumption]) -> FleetService:
    name = _name(table)
    deploy = table.take_choice("deploy", "rolling", DEPLOYS)
    if deploy == "serverless":
        for key in ("replicas", "max_replicas", "surge", "max_unavailable", "terminating"):
            if key in table:
                raise table.refuse(key, table.peek(key), "a serverless platform has concurrency instead")
        if "concurrency" not in table:
            raise table.refuse_missing("concurrency", "is required: how many environments the platform may run at once")
        replicas = most = table.take_count("concurrency", 1, least=1)
        surge = terminating = 0
    else:
        if "concurrency" in table:
            raise table.refuse(
                "concurrency",
                table.peek("concurrency"),
                'needs deploy = "serverless"',
                hint="for the threads of a process (Puma, Sidekiq) write threads",
            )
        replicas = table.take_count("replicas", 1)
        most = table.take_count("max_replicas", replicas)
        if most < replicas:
            raise table.refuse("max_replicas", most, f"must not be below replicas ({replicas})")
        surge, terminating = _read_rollout(table, name, deploy, most, assumptions)
    max_open: int | None = 1
    if "max_open" in table:
        max_open = table.take_count_or_unlimited("max_open", None) or None
    elif deploy == "serverless":
        why = "an environment serves one request at a time; give max_open if it serves more"
        assumptions.append(Assumption(f"{name}.max_open", 1, why))
        table.skip("max_open")
    else:
        raise table.refuse_missing("max_open", "is required: the most connections of one pool", hint='or "unlimited"')
    threads = table.take_count("threads", 1, least=1) if "threads" in table else None
    table.skip("threads")
    service = FleetService(
        name=name,
        max_open=max_open,
        replicas=replicas,
        max_replicas=most,
        processes=table.take_count("processes", 1, least=1),
        threads=threads,
        pools=table.take_count("pools", 1, least=1),
        deploy=next(known for known in DEPLOYS if known == deploy),
        surge=surge,
        terminating=terminating,
        user=table.take_text("user", ""),
        database=table.take_text("database", ""),
        via=_via(table, poolers),
    )
    table.finish()
    return service


def _read_rollout(
    table: TomlTable, name: str, deploy: str, most: int, assumptions: list[Assumption]
) -> tuple[int, int]:
    """Return surge and terminating instances. As in Kubernetes, maxSurge rounds up and maxUnavailable down."""
    if deploy != "rolling":
        for key in ("surge", "max_unavailable"):
            if key in table:
                raise table.refuse(key, table.peek(key), 'needs deploy = "rolling"')
        surge = most if deploy == "blue-green" else 0
        return surge, table.take_count("terminating", 0)
    missing = [key for key in ("surge", "terminating") if key not in table]
    surge = _read_instances(table, "surge", most, up=True)
    unavailable = _read_instances(table, "max_unavailable", most, up=False)
    # A rollout has at most the old and the new generation, unless the file says otherwise.
    leaving = min(max(surge, unavailable), max(0, most - surge))
    terminating = table.take_count("terminating", leaving)
    if "surge" in missing and surge:
        assumptions.append(Assumption(f"{name}.surge", surge, "a rolling deploy starts 25 % more, as in Kubernetes"))
    if "terminating" in missing and terminating:
        why = "as many old instances are still ending as a deploy replaces at a time"
        assumptions.append(Assumption(f"{name}.terminating", terminating, why))
    return surge, terminating


def _read_instances(table: TomlTable, key: str, most: int, *, up: bool) -> int:
    value = table.peek(key)
    if isinstance(value, str):
        text = table.take_text(key, "").strip()
        number = text.removesuffix("%").strip()
        if not text.endswith("%") or not number.isdecimal() or len(number) > 6:
            raise table.refuse(key, value, 'must be a whole number, or a percentage such as "25%"')
        share = int(number) / 100
    elif value is not None:
        return table.take_count(key, 0)
    else:
        table.skip(key)
        share = SURGE_SHARE
    return ceil(share * most - 1e-9) if up else int(share * most + 1e-9)


def _extra(table: TomlTable, kind: Literal["job", "monitor"], poolers: frozenset[str]) -> Extra:
    name = _name(table)
    when = table.take_choice("during", "always", ("always", "deploy"))
    extra = Extra(
        kind=kind,
        name=name,
        connections=table.take_count("connections", 1),
        at_once=table.take_count("at_once", 1),
        during_deploy=when == "deploy",
        user=table.take_text("user", ""),
        database=table.take_text("database", ""),
        via=_via(table, poolers),
    )
    table.finish()
    return extra


def _pooler(table: TomlTable, assumptions: list[Assumption]) -> FleetPooler:
    name = _name(table)
    if table.take_choice("kind", "pgbouncer", ("pgbouncer", "pgpool")) == "pgpool":
        _assume(table, name, {"num_init_children": 32, "max_pool": 4}, "Pgpool-II's default", assumptions)
        children = table.take_count("num_init_children", 32, least=1)
        cached = table.take_count("max_pool", 4, least=1)
        pooler = FleetPooler(
            name,
            "pgpool",
            processes=table.take_count("processes", 1, least=1),
            max_client_conn=children,
            default_pool_size=children * cached,
            max_pool=cached,
        )
        table.finish()
        return pooler
    defaults = {"max_client_conn": 100, "default_pool_size": 20, "max_db_connections": 0}
    _assume(table, name, defaults, "PgBouncer's default", assumptions)
    sizes = tuple(_pool_size(size) for size in table.take_tables("pool"))
    pooler = FleetPooler(
        name=name,
        processes=table.take_count("processes", 1, least=1),
        max_client_conn=table.take_count("max_client_conn", 100, least=1),
        default_pool_size=table.take_count("default_pool_size", 20),
        reserve_pool_size=table.take_count("reserve_pool_size", 0),
        max_db_connections=table.take_count("max_db_connections", 0),
        max_user_connections=table.take_count("max_user_connections", 0),
        sizes=sizes,
    )
    table.finish()
    return pooler


def _assume(table: TomlTable, name: str, defaults: Mapping[str, int], why: str, assumptions: list[Assumption]) -> None:
    """Add an assumption for each key of ``defaults`` that the table does not contain."""
    assumptions += [Assumption(f"{name}.{key}", value, why) for key, value in defaults.items() if key not in table]


def _pool_size(table: TomlTable) -> PoolSize:
    size = PoolSize(table.take_text("user", ""), table.take_text("database", ""), table.take_count("pool_size", 20))
    table.finish()
    return size


def _limits(table: TomlTable) -> tuple[NamedLimit, ...]:
    limits = []
    for name, value in table.take_rest().items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
            raise table.refuse(name, value, f"must be a whole number from 0 to {MOST:,}: its CONNECTION LIMIT")
        limits.append(NamedLimit(name, value))
    return tuple(limits)


def _name(table: TomlTable) -> str:
    name = table.take_text("name", "")
    if not name:
        raise table.refuse_missing("name", "is required")
    return name


def _via(table: TomlTable, poolers: frozenset[str]) -> str:
    via = table.take_text("via", "")
    if via and via not in poolers:
        known = ", ".join(sorted(poolers)) or "there is none"
        raise table.refuse("via", via, f"must be the name of a [[pooler]] ({known})")
    return via
