"""Pgxpool, the pool of pgx.

It adds its jitter to the lifetime, so the configured lifetime is the shortest. Up to v5.10.0 a lifetime of 0 means
"always expired", and an idle time of 0 closes at every health check: off is written as ten years.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import FOR_EVER, format_go_duration
from poolctl.stacks.stack import Stack


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield 'config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL")) // a Config made by hand panics'
    yield "if err != nil {"
    yield "\tlog.Fatal(err)"
    yield "}"
    yield f"config.MaxConns = {advice.max_open}"
    yield f"config.MinIdleConns = {advice.min_idle}"
    if advice.least_lifetime is None:
        longest = format_go_duration(FOR_EVER)
        yield f"config.MaxConnLifetime = {longest} // no off: 0 opens a new one for each use"
    else:
        yield f"config.MaxConnLifetime = {format_go_duration(advice.least_lifetime)}"
        if advice.jitter_time:
            jitter = format_go_duration(max(1, round(advice.jitter_time)))
            yield f"config.MaxConnLifetimeJitter = {jitter} // added to the lifetime; default 0"
    if advice.max_idle_time is None:
        yield f"config.MaxConnIdleTime = {format_go_duration(FOR_EVER)} // no off"
    else:
        yield f"config.MaxConnIdleTime = {format_go_duration(advice.max_idle_time)}"
    yield "pool, err := pgxpool.NewWithConfig(context.Background(), config)"
    if advice.acquire_timeout is None:
        yield "// An acquire waits until the context of its caller ends."
    else:
        limit = format_go_duration(advice.acquire_timeout)
        yield f"// Only a context limits the wait: ctx, cancel := context.WithTimeout(ctx, {limit})"


STACK = Stack(
    name="pgxpool",
    library="pgx 5.10 pgxpool",
    file="main.go",
    comment="//",
    aliases=("pgx", "pgxpool-v5", "pgx-v5"),
    write=_write,
)
