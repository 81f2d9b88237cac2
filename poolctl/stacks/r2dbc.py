"""r2dbc-pool, by Spring Boot's names. Times are durations; a negative one is off, and 0 means at once."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import round_milliseconds
from poolctl.stacks.stack import Stack

_POOL = "spring.r2dbc.pool"


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield f"{_POOL}.max-size={advice.max_open}"
    yield "# Default 10, opened at start."
    yield f"{_POOL}.initial-size={advice.min_idle}"
    yield f"{_POOL}.min-idle={advice.min_idle}"
    yield "# Negative is off; 0 would mean at once."
    yield f"{_POOL}.max-idle-time={_format(advice.max_idle_time)}"
    if advice.max_lifetime is None:
        yield f"{_POOL}.max-life-time=-1ms"
    else:
        shortest, longest = round_milliseconds(advice.least_lifetime or 0.0), round_milliseconds(advice.max_lifetime)
        drawn = f"{longest}" if shortest == longest else f"${{random.long[{shortest},{longest}]}}"
        yield "# Milliseconds; the pool has no jitter, so each process draws its own lifetime."
        yield f"{_POOL}.max-life-time={drawn}"
    yield "# Default: an acquire waits without a limit."
    yield f"{_POOL}.max-acquire-time={_format(advice.acquire_timeout)}"


def _format(time: float | None) -> str:
    return "-1ms" if time is None else f"{round_milliseconds(time)}ms"


STACK = Stack(
    name="r2dbc-pool",
    library="r2dbc-pool 1, by Spring Boot 3",
    file="application.properties",
    aliases=("r2dbc", "spring-r2dbc", "webflux", "spring-webflux", "r2dbc-postgresql"),
    write=_write,
)
