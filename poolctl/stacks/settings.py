"""The two inputs of a configuration: the advice for a pool in each process, and the advice for a pooler in between."""

from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolAdvice:
    """Settings for the pool of one process. Times are seconds; None is "off": without a limit.

    Raises ValueError for impossible values: ``max_open`` below 1 (unlimited is no advice), ``max_idle`` or ``min_idle``
    above it, a time that is not above 0, a jitter outside 0 to 1.
    """

    max_open: int
    max_idle: int
    """Number of idle connections kept."""
    min_idle: int = 0
    max_lifetime: float | None = None
    max_lifetime_jitter: float = 0.0
    """Share of ``max_lifetime``, below 1: connections live from (1 - jitter) x max_lifetime to max_lifetime."""
    max_idle_time: float | None = None
    acquire_timeout: float | None = None
    """None: an acquire waits without a limit."""
    workers: int | None = None
    """Threads of each process that acquire; None: not known."""
    processes: int | None = None
    """Number of processes with such a pool at the worst moment, for the comment; None: not known."""

    def __post_init__(self) -> None:
        _check("max_open", self.max_open, 1)
        _check("max_idle", self.max_idle, 0, self.max_open)
        _check("min_idle", self.min_idle, 0, self.max_open)
        _check("processes", self.processes, 1)
        _check("workers", self.workers, 1)
        for name in ("max_lifetime", "max_idle_time", "acquire_timeout"):
            _check_time(name, getattr(self, name))
        if not 0 <= self.max_lifetime_jitter < 1:
            raise ValueError(f"max_lifetime_jitter is {self.max_lifetime_jitter}; it must be a share from 0 to below 1")

    @property
    def waiting_workers(self) -> int:
        """Threads without a connection when all of them want one; 0 where their number is not known."""
        return max(0, (self.workers or 0) - self.max_open)

    @property
    def jitter_time(self) -> float:
        """Seconds by which the lifetimes of connections differ; 0 without a lifetime."""
        return (self.max_lifetime or 0.0) * self.max_lifetime_jitter

    @property
    def least_lifetime(self) -> float | None:
        """The shortest life of a connection: ``max_lifetime`` less the whole jitter; None without a lifetime."""
        return None if self.max_lifetime is None else self.max_lifetime - self.jitter_time


PoolMode = Literal["session", "transaction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolerAdvice:
    """Settings for one pooler process, in PgBouncer's names. Times are seconds; None is "off": without a limit.

    Raises ValueError for impossible values.
    """

    pool_mode: PoolMode = "transaction"
    default_pool_size: int
    """Server connections for each pair of user and database."""
    reserve_pool_size: int = 0
    reserve_pool_timeout: float = 5.0
    """How long a client waits before the reserve is used."""
    min_pool_size: int = 0
    max_db_connections: int | None = None
    """Most server connections to one database, for all users together."""
    max_client_conn: int
    query_wait_timeout: float | None = None
    server_lifetime: float | None = None
    server_idle_timeout: float | None = None
    pairs: int = 1
    """Number of pairs of user and database in use."""
    max_connections: int | None = None
    """The server's own limit; None: not known."""
    num_init_children: int | None = None
    """Pgpool-II: clients at the same time; None: as many as the slots allow."""
    max_pool: int | None = None
    """Pgpool-II: server connections that each child keeps; None: one for each pair."""

    def __post_init__(self) -> None:
        _check("default_pool_size", self.default_pool_size, 1)
        _check("reserve_pool_size", self.reserve_pool_size, 0)
        _check("min_pool_size", self.min_pool_size, 0, self.default_pool_size)
        for name in ("max_client_conn", "max_db_connections", "pairs", "max_connections"):
            _check(name, getattr(self, name), 1)
        _check("num_init_children", self.num_init_children, 1)
        _check("max_pool", self.max_pool, 1)
        for name in ("reserve_pool_timeout", "query_wait_timeout", "server_lifetime", "server_idle_timeout"):
            _check_time(name, getattr(self, name))

    @property
    def slots(self) -> int:
        """The most server connections that this pooler opens."""
        most = (self.default_pool_size + self.reserve_pool_size) * self.pairs
        return most if self.max_db_connections is None else min(most, self.max_db_connections)

    @property
    def cached_by_child(self) -> int:
        """Pgpool-II: server connections that each child keeps."""
        return self.max_pool or self.pairs

    @property
    def children(self) -> int:
        """Pgpool-II opens up to children x ``cached_by_child`` connections, so the slots limit the children."""
        return self.num_init_children or max(1, self.slots // self.cached_by_child)


def _check(name: str, value: int | None, least: int, most: float = inf) -> None:
    if value is not None and not least <= value <= most:
        allowed = f"{least} or more" if most == inf else f"from {least} to {most}"
        raise ValueError(f"{name} is {value}; it must be {allowed}")


def _check_time(name: str, value: float | None) -> None:
    if value is not None and not (value > 0 and isfinite(value)):
        raise ValueError(f"{name} is {value}; it must be seconds above 0, or None for off")
