"""Npgsql. Times are whole seconds; 0 switches off the lifetime, and no other time."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import round_seconds
from poolctl.stacks.stack import Stack

_PRUNES_EVERY = 10
"""Default ConnectionPruningInterval in seconds; Npgsql refuses a shorter idle lifetime."""

_LONGEST_TIMEOUT = 1024


def _write(advice: PoolAdvice) -> Iterator[str]:
    lifetime, jitter = advice.max_lifetime, round(advice.jitter_time)
    # The idle lifetime cannot be switched off, but connections within the minimum are never pruned.
    least = advice.max_open if advice.max_idle_time is None else advice.min_idle
    yield 'var settings = new NpgsqlConnectionStringBuilder(builder.Configuration.GetConnectionString("Default"))'
    yield "{"
    yield f"    MaxPoolSize = {advice.max_open},"
    yield f"    MinPoolSize = {least}," + (
        "" if advice.max_idle_time else " // no idle limit: all connections are kept"
    )
    if lifetime is None:
        yield "    ConnectionLifetime = 0, // 0 is off; the default since 9 is an hour"
    elif jitter:
        longest = round_seconds(lifetime)
        yield f"    ConnectionLifetime = {longest} - Random.Shared.Next({jitter}), // seconds; the pool has no jitter"
    else:
        yield f"    ConnectionLifetime = {round_seconds(lifetime)}, // seconds"
    if advice.max_idle_time is not None:
        idle = round_seconds(advice.max_idle_time)
        yield f"    ConnectionIdleLifetime = {idle},"
        if idle < _PRUNES_EVERY:
            yield f"    ConnectionPruningInterval = {idle}, // must not exceed the idle lifetime"
    yield f"    Timeout = {_timeout(advice.acquire_timeout)}"
    yield "};"
    yield "// One data source for each process: every different connection string has its own pool."
    yield "builder.Services.AddSingleton(NpgsqlDataSource.Create(settings));"


def _timeout(time: float | None) -> str:
    if time is None:
        return f"{_LONGEST_TIMEOUT}, // the largest value; also limits opening a connection"
    return f"{min(round_seconds(time), _LONGEST_TIMEOUT)}, // also limits opening a connection"


STACK = Stack(
    name="npgsql",
    library="Npgsql 7 to 10",
    file="Program.cs",
    comment="//",
    aliases=("dotnet", ".net", "csharp", "c#", "ef-core", "efcore"),
    write=_write,
)
