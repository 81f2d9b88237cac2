"""Agroal, as Quarkus configures it. Times are durations ("1500s"); 0 is off. It has no jitter."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import round_milliseconds
from poolctl.stacks.stack import Stack

_JDBC = "quarkus.datasource.jdbc"


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield f"{_JDBC}.max-size={advice.max_open}"
    yield f"{_JDBC}.min-size={advice.min_idle}"
    yield "# 0 is off. Units are ms, s, m and h; a number without a unit is in seconds."
    yield f"{_JDBC}.acquisition-timeout={_format(advice.acquire_timeout)}"
    yield f"{_JDBC}.idle-removal-interval={_format(advice.max_idle_time)}"
    yield f"{_JDBC}.max-lifetime={_format(advice.max_lifetime)}"
    if advice.least_lifetime is not None and advice.jitter_time:
        yield f"# Agroal has no jitter: give each instance its own value from {_format(advice.least_lifetime)} up,"
        yield "# as QUARKUS_DATASOURCE_JDBC_MAX_LIFETIME."
    yield "# A @Transactional method holds its connection until it returns, calls to other services included."


def _format(time: float | None) -> str:
    """Format a duration in whole seconds, or in milliseconds where it has a fraction."""
    if time is None:
        return "0"
    length = round_milliseconds(time)
    return f"{length}ms" if length % 1000 else f"{length // 1000}s"


STACK = Stack(
    name="agroal",
    library="Agroal 2, by Quarkus 3",
    file="application.properties",
    aliases=("quarkus", "quarkus-agroal"),
    write=_write,
)
