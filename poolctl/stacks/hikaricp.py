"""HikariCP, in Java and as Spring Boot's properties. Times are milliseconds; 0 is off.

A value that is too small is replaced by a default, with a line in the log: a lifetime below 30 s by 30 minutes, an idle
time below 10 s by 10 minutes, a timeout below 250 ms by 30 s. So the smallest accepted value is written instead.
"""

from collections.abc import Iterator
from typing import NamedTuple

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import group_digits, round_milliseconds
from poolctl.stacks.stack import Stack

_LIVES_LEAST = 30_000
_IDLES_LEAST = 10_000
_WAITS_LEAST = 250
_MARGIN = 1_000
"""An idle time that ends less than this before the lifetime is switched off by the pool."""

_FACTOR = "com.zaxxer.hikari.lifeTimeVarianceFactor"


class _Times(NamedTuple):
    lifetime: int
    idle: int
    timeout: int


def _times(advice: PoolAdvice) -> _Times:
    lifetime = _at_least(_LIVES_LEAST, advice.max_lifetime)
    idle = _at_least(_IDLES_LEAST, advice.max_idle_time)
    if lifetime and idle + _MARGIN > lifetime:
        idle = 0
    return _Times(lifetime, idle, _at_least(_WAITS_LEAST, advice.acquire_timeout))


def _is_too_short(advice: PoolAdvice) -> bool:
    return advice.max_lifetime is not None and round_milliseconds(advice.max_lifetime) < _LIVES_LEAST


def _at_least(least: int, time: float | None) -> int:
    return 0 if time is None else max(least, round_milliseconds(time))


def _jitter(advice: PoolAdvice) -> str:
    """Describe what the pool takes off each lifetime: up to a quarter by default (since 6.1), else 1 / factor."""
    if advice.max_lifetime is None:
        return ""
    share = advice.max_lifetime_jitter
    factor = 40 if share < 1 / 40 else max(2, round(1 / share))
    if factor == 4:
        return "Jitter: the pool shortens each lifetime by up to 25 % (since 6.1; 2.5 % before)."
    return f"Jitter: up to 25 % off each; -D{_FACTOR}={factor} makes it {100 / factor:.3g} %."


def _java(advice: PoolAdvice) -> Iterator[str]:
    times = _times(advice)
    yield "// Milliseconds. A value that is too small becomes the default, with only a warning in the log."
    yield "HikariConfig config = new HikariConfig();"
    yield 'config.setJdbcUrl(System.getenv("JDBC_DATABASE_URL"));'
    yield f"config.setMaximumPoolSize({advice.max_open});"
    yield f"config.setMinimumIdle({advice.min_idle}); // default: the maximum, a pool of fixed size"
    if jitter := _jitter(advice):
        yield f"// {jitter}"
    yield f"config.setMaxLifetime({group_digits(times.lifetime)});{_off(times.lifetime, ' // 0 is off')}"
    yield f"config.setIdleTimeout({group_digits(times.idle)});{_off(times.idle, ' // 0 is off')}"
    no_limit = _off(times.timeout, " // 0 waits without a limit")
    yield f"config.setConnectionTimeout({group_digits(times.timeout)});{no_limit}"
    yield "HikariDataSource dataSource = new HikariDataSource(config);"
    if _is_too_short(advice) and advice.max_lifetime is not None:
        longest = int(advice.max_lifetime)
        yield f"// 30 s is the shortest lifetime that it accepts. To stay within {longest} s, a timer closes idle"
        yield "// connections; those in use close at their release."
        yield "ScheduledExecutorService evictor = Executors.newSingleThreadScheduledExecutor();"
        yield "evictor.scheduleAtFixedRate(() -> dataSource.getHikariPoolMXBean().softEvictConnections(),"
        yield f"    {longest}, {longest}, TimeUnit.SECONDS);"


def _spring(advice: PoolAdvice) -> Iterator[str]:
    times = _times(advice)
    prefix = "spring.datasource.hikari"
    yield "# Milliseconds; 0 is off. A value that is too small becomes the default, with only a warning in the log."
    yield f"{prefix}.maximum-pool-size={advice.max_open}"
    yield f"{prefix}.minimum-idle={advice.min_idle}"
    if jitter := _jitter(advice):
        yield f"# {jitter}"
    yield f"{prefix}.max-lifetime={times.lifetime}"
    if _is_too_short(advice) and advice.max_lifetime is not None:
        longest = int(advice.max_lifetime)
        yield f"# 30 s is the shortest that it accepts. To stay within {longest} s, call that often, by"
        yield "# @Scheduled: dataSource.getHikariPoolMXBean().softEvictConnections()"
    yield f"{prefix}.idle-timeout={times.idle}"
    yield f"{prefix}.connection-timeout={times.timeout}"
    yield "# Unless spring.jpa.open-in-view=false a request holds its connection until the response is written."


def _off(value: int, remark: str) -> str:
    return "" if value else remark


HIKARICP = Stack(
    name="hikaricp",
    library="HikariCP 7.0",
    file="Database.java",
    comment="//",
    aliases=("hikari", "java"),
    write=_java,
)
SPRING_BOOT = Stack(
    name="spring-boot",
    library="Spring Boot 3 and 4 on HikariCP",
    file="application.properties",
    aliases=("spring", "springboot"),
    write=_spring,
)
