"""Turns a scenario into the numbers the kernel works with, and refuses what cannot be modeled faithfully."""

from dataclasses import dataclass
from math import inf, log, sqrt

from poolctl.engines.pool_kinds import overdue_kind, rejected_kind
from poolctl.engines.workload import plan_jobs
from poolctl.errors import BadInput
from poolctl.pool import LIBRARIES, PoolRules
from poolctl.scenario.scenario import Burst, Database, Distribution, Scenario, Service

CONSTANT, EXPONENTIAL, LOGNORMAL = 0, 1, 2

Times = tuple[int, float, float, float]
"""A distribution: its kind, mean, and for lognormal the mean and deviation of the logarithm."""

RESTART_TIME = 0.5
"""Seconds that a restart takes when the scenario does not say: about what the throw-away server needs."""

_POOLER_KEYS = {
    "pgbouncer": frozenset(
        {
            "pool_mode",
            "default_pool_size",
            "min_pool_size",
            "reserve_pool_size",
            "reserve_pool_timeout",
            "max_db_connections",
            "max_user_connections",
            "max_client_conn",
            "query_wait_timeout",
            "server_lifetime",
            "server_idle_timeout",
            "server_login_retry",
            "server_round_robin",
        }
    ),
    "pgpool": frozenset(
        {"num_init_children", "max_pool", "reserved_connections", "connection_life_time", "child_life_time"}
    ),
}


def times(distribution: Distribution) -> Times:
    if distribution.kind == "exponential":
        return EXPONENTIAL, distribution.mean, 0.0, 0.0
    if distribution.kind == "lognormal" and distribution.mean:
        variance = log(1.0 + distribution.cv * distribution.cv)
        return LOGNORMAL, distribution.mean, log(distribution.mean) - variance / 2, sqrt(variance)
    return CONSTANT, distribution.mean, 0.0, 0.0


class ServicePlan:
    """One service in numbers: its pool's settings and rules, its load and its leak. No limit is inf."""

    __slots__ = (
        "bursts",
        "every",
        "hold",
        "instances",
        "keeps",
        "lifetime",
        "load",
        "max_open",
        "max_queue",
        "max_uses",
        "min_idle",
        "outside",
        "overdue",
        "patience",
        "rate",
        "rejected",
        "rules",
        "service",
        "settings",
        "shape",
        "sweep",
        "think",
    )

    def __init__(self, service: Service) -> None:
        self.service, self.settings, self.load = service, service.pool, service.load
        settings, load = self.settings, self.load
        self.rules: PoolRules = LIBRARIES[settings.kind].rules
        self.max_open = float(settings.max_open or inf)
        self.keeps = float(self.rules.kept_idle(settings))
        self.min_idle = self.rules.floor_of(settings)
        self.lifetime = inf if settings.max_lifetime is None else settings.max_lifetime
        self.patience = settings.acquire_timeout
        self.max_uses = settings.max_uses
        self.max_queue = settings.max_waiting
        self.instances = load.instances
        self.rate = load.rate or 0.0
        self.hold, self.outside, self.think = times(load.hold), times(load.hold_outside), times(load.think)
        self.bursts: tuple[Burst, ...] = load.bursts
        self.every, self.shape = service.leak.every, service.leak.shape
        self.sweep = self.rules.sweep_interval(settings)
        self.overdue, self.rejected = overdue_kind(settings), rejected_kind(settings)
        """What a request meets that got no connection in time, or that found too many waiting."""


@dataclass(frozen=True, slots=True)
class ModelInstance:
    """An instance of a service for its part of the run; ``ends_at`` inf: until its requests are done."""

    part: int
    begins_at: float
    ends_at: float


def plan_instances(scenario: Scenario) -> list[ModelInstance]:
    found = []
    for number, service in enumerate(scenario.all_services):
        alone = Scenario(
            scenario.name,
            "",
            scenario.database,
            service.pool,
            service.load,
            service.leak,
            scenario.events,
        )
        found += [
            ModelInstance(number, job.begins_at, inf if job.ends_at is None else job.ends_at)
            for job in plan_jobs(alone, "")
        ]
    return found


def check(scenario: Scenario) -> None:
    """Raise BadInput for what the model would have to guess."""
    database = scenario.database
    if database.via != "none":
        _check_pooler(database)
    for service in scenario.all_services:
        if service.load.query not in ("sleep", "select1", "cpu"):
            raise BadInput(
                f"load.query = {service.load.query!r}: the model runs no SQL",
                hint="leave load.query out and say with load.hold how long the statement takes",
            )
        if service.load.query == "select1" and not service.load.hold.mean:
            raise BadInput(
                "load.hold: the model cannot know how long SELECT 1 takes", hint='give load.hold, such as "0.2ms"'
            )


def _check_pooler(database: Database) -> None:
    settings = database.pgbouncer if database.via == "pgbouncer" else database.pgpool
    known = _POOLER_KEYS[database.via]
    for key, value in settings.items():
        if key not in known:
            raise BadInput(
                f"database.{database.via}.{key} = {value}: the model does not know what it does",
                hint=f"it knows {', '.join(sorted(known))}",
            )
        if key == "pool_mode":
            if value not in ("session", "transaction"):
                raise BadInput(f'database.pgbouncer.pool_mode = "{value}": the model knows session and transaction')
        elif isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise BadInput(f"database.{database.via}.{key} = {value}: must be a number, 0 or more")
