"""Tomcat JDBC, Commons DBCP2 and c3p0, set by properties. None has a jitter.

The first two use Spring Boot's names, where ${random.long[...]} draws a lifetime for each process.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import round_milliseconds, round_seconds
from poolctl.stacks.stack import Stack

_TOMCAT = "spring.datasource.tomcat"
_DBCP2 = "spring.datasource.dbcp2"


def _drawn(advice: PoolAdvice) -> str:
    """Return the lifetime in milliseconds; with a jitter, an expression by which each process draws its own."""
    assert advice.max_lifetime is not None
    assert advice.least_lifetime is not None
    shortest, longest = round_milliseconds(advice.least_lifetime), round_milliseconds(advice.max_lifetime)
    return f"{longest}" if shortest == longest else f"${{random.long[{shortest},{longest}]}}"


def _tomcat(advice: PoolAdvice) -> Iterator[str]:
    yield "# Milliseconds. Without a type Spring Boot uses HikariCP if it is on the class path."
    yield "spring.datasource.type=org.apache.tomcat.jdbc.pool.DataSource"
    yield f"{_TOMCAT}.max-active={advice.max_open}"
    yield f"{_TOMCAT}.max-idle={max(1, advice.max_idle)}"
    yield f"{_TOMCAT}.min-idle={advice.min_idle}"
    yield f"{_TOMCAT}.initial-size={advice.min_idle}"
    yield f"{_TOMCAT}.max-age={'0' if advice.max_lifetime is None else _drawn(advice)}"
    if advice.max_idle_time is None:
        yield "# No idle time: the eviction is off, and a release closes connections above max-idle."
        yield f"{_TOMCAT}.time-between-eviction-runs-millis=-1"
    else:
        yield "# While the eviction runs (the default) max-idle has no effect."
        yield f"{_TOMCAT}.min-evictable-idle-time-millis={round_milliseconds(advice.max_idle_time)}"
    yield f"{_TOMCAT}.max-wait={-1 if advice.acquire_timeout is None else round_milliseconds(advice.acquire_timeout)}"
    yield f"# Unless {_TOMCAT}.rollback-on-return=true an open transaction passes to the next user."


def _dbcp2(advice: PoolAdvice) -> Iterator[str]:
    yield "# Milliseconds; -1 is off."
    yield "spring.datasource.type=org.apache.commons.dbcp2.BasicDataSource"
    yield f"{_DBCP2}.max-total={advice.max_open}"
    yield f"{_DBCP2}.max-idle={advice.max_idle}"
    yield f"{_DBCP2}.min-idle={advice.min_idle}"
    yield f"{_DBCP2}.max-conn-lifetime-millis={'-1' if advice.max_lifetime is None else _drawn(advice)}"
    yield "# Without it min-idle and the idle time have no effect."
    if advice.max_idle_time is None:
        yield f"{_DBCP2}.time-between-eviction-runs-millis={30_000 if advice.min_idle else -1}"
        yield f"{_DBCP2}.min-evictable-idle-time-millis=-1"
    else:
        idle = round_milliseconds(advice.max_idle_time)
        yield f"{_DBCP2}.time-between-eviction-runs-millis={min(30_000, idle)}"
        yield f"{_DBCP2}.min-evictable-idle-time-millis=-1"
        yield "# soft: closes down to min-idle and not below."
        yield f"{_DBCP2}.soft-min-evictable-idle-time-millis={idle}"
    yield "# Default -1: an acquire waits without a limit."
    wait = -1 if advice.acquire_timeout is None else round_milliseconds(advice.acquire_timeout)
    yield f"{_DBCP2}.max-wait-millis={wait}"


def _c3p0(advice: PoolAdvice) -> Iterator[str]:
    yield "# 0 is off. checkoutTimeout is in milliseconds, the other times are in seconds."
    yield f"c3p0.maxPoolSize={advice.max_open}"
    yield f"c3p0.minPoolSize={advice.min_idle}"
    yield f"c3p0.initialPoolSize={advice.min_idle}"
    yield "# Default 3: three connections are opened at a time."
    yield "c3p0.acquireIncrement=1"
    yield f"c3p0.maxConnectionAge={0 if advice.max_lifetime is None else round_seconds(advice.max_lifetime)}"
    if advice.least_lifetime is not None and advice.jitter_time:
        shortest = round_seconds(advice.least_lifetime)
        yield f"# It has no jitter: give each process its own value from {shortest} up, as -Dc3p0.maxConnectionAge=..."
    yield "# maxIdleTime would also close connections within minPoolSize."
    idle = 0 if advice.max_idle_time is None else round_seconds(advice.max_idle_time)
    yield f"c3p0.maxIdleTimeExcessConnections={idle}"
    yield f"c3p0.checkoutTimeout={0 if advice.acquire_timeout is None else round_milliseconds(advice.acquire_timeout)}"


TOMCAT = Stack(
    name="tomcat",
    library="Tomcat JDBC pool 9 to 11, by Spring Boot",
    file="application.properties",
    aliases=("tomcat-jdbc",),
    write=_tomcat,
)
DBCP2 = Stack(
    name="dbcp2",
    library="Commons DBCP 2.9 and later, by Spring Boot",
    file="application.properties",
    aliases=("dbcp", "commons-dbcp2", "commons-dbcp"),
    write=_dbcp2,
)
C3P0 = Stack(
    name="c3p0",
    library="c3p0 0.9.5 and later",
    file="c3p0.properties",
    write=_c3p0,
)
