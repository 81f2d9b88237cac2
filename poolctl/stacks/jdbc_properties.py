"""Tomcat JDBC, Commons DBCP2 and c3p0, set by properties. None has a jitter.

For the first two Spring Boot's names are written, whose ${random.long[...]} draws a lifetime for each process.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import round_milliseconds, round_seconds
from poolctl.stacks.stack import Stack

_TOMCAT = "spring.datasource.tomcat"
_DBCP2 = "spring.datasource.dbcp2"


def _drawn(advice: PoolAdvice) -> str:
    """Milliseconds of the lifetime, drawn anew by each process where there is a jitter to draw."""
    assert advice.max_lifetime is not None
    assert advice.least_lifetime is not None
    shortest, longest = round_milliseconds(advice.least_lifetime), round_milliseconds(advice.max_lifetime)
    return f"{longest}" if shortest == longest else f"${{random.long[{shortest},{longest}]}}"


def _tomcat(advice: PoolAdvice) -> Iterator[str]:
    yield "# Milliseconds. Without type Spring Boot takes HikariCP where it finds it."
    yield "spring.datasource.type=org.apache.tomcat.jdbc.pool.DataSource"
    yield f"{_TOMCAT}.max-active={advice.max_open}"
    yield f"{_TOMCAT}.max-idle={max(1, advice.max_idle)}"
    yield f"{_TOMCAT}.min-idle={advice.min_idle}"
    yield f"{_TOMCAT}.initial-size={advice.min_idle}"
    yield f"{_TOMCAT}.max-age={'0' if advice.max_lifetime is None else _drawn(advice)}"
    if advice.max_idle_time is None:
        yield "# No idle time: the sweep is off, and what is above max-idle is closed at release."
        yield f"{_TOMCAT}.time-between-eviction-runs-millis=-1"
    else:
        yield "# While the sweep runs (it does by default) max-idle is not looked at."
        yield f"{_TOMCAT}.min-evictable-idle-time-millis={round_milliseconds(advice.max_idle_time)}"
    yield f"{_TOMCAT}.max-wait={-1 if advice.acquire_timeout is None else round_milliseconds(advice.acquire_timeout)}"
    yield f"# Unless {_TOMCAT}.rollback-on-return=true the next user inherits an open transaction."


def _dbcp2(advice: PoolAdvice) -> Iterator[str]:
    yield "# Milliseconds, and -1 is off."
    yield "spring.datasource.type=org.apache.commons.dbcp2.BasicDataSource"
    yield f"{_DBCP2}.max-total={advice.max_open}"
    yield f"{_DBCP2}.max-idle={advice.max_idle}"
    yield f"{_DBCP2}.min-idle={advice.min_idle}"
    yield f"{_DBCP2}.max-conn-lifetime-millis={'-1' if advice.max_lifetime is None else _drawn(advice)}"
    yield "# Without it nothing looks at idle connections: min-idle and the idle time would be only words."
    if advice.max_idle_time is None:
        yield f"{_DBCP2}.time-between-eviction-runs-millis={30_000 if advice.min_idle else -1}"
        yield f"{_DBCP2}.min-evictable-idle-time-millis=-1"
    else:
        idle = round_milliseconds(advice.max_idle_time)
        yield f"{_DBCP2}.time-between-eviction-runs-millis={min(30_000, idle)}"
        yield f"{_DBCP2}.min-evictable-idle-time-millis=-1"
        yield "# soft: down to min-idle and not below it."
        yield f"{_DBCP2}.soft-min-evictable-idle-time-millis={idle}"
    yield "# Not given it is -1: an acquire waits for ever."
    wait = -1 if advice.acquire_timeout is None else round_milliseconds(advice.acquire_timeout)
    yield f"{_DBCP2}.max-wait-millis={wait}"


def _c3p0(advice: PoolAdvice) -> Iterator[str]:
    yield "# 0 is off. checkoutTimeout is milliseconds, the others are seconds."
    yield f"c3p0.maxPoolSize={advice.max_open}"
    yield f"c3p0.minPoolSize={advice.min_idle}"
    yield f"c3p0.initialPoolSize={advice.min_idle}"
    yield "# Not given it is 3: connections are opened in threes."
    yield "c3p0.acquireIncrement=1"
    yield f"c3p0.maxConnectionAge={0 if advice.max_lifetime is None else round_seconds(advice.max_lifetime)}"
    if advice.least_lifetime is not None and advice.jitter_time:
        shortest = round_seconds(advice.least_lifetime)
        yield f"# It has no jitter: give each process its own from {shortest} up, as -Dc3p0.maxConnectionAge=..."
    yield "# maxIdleTime would close those within minPoolSize as well."
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
