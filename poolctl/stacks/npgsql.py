"""Npgsql. Times are whole seconds; 0 is off for the lifetime alone."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import round_seconds
from poolctl.stacks.stack import Stack

_LOOKS_EVERY = 10
"""Seconds of ConnectionPruningInterval; an idle lifetime below it is refused."""

_LONGEST_TIMEOUT = 1024


def _write(advice: PoolAdvice) -> Iterator[str]:
    lifetime, jitter = advice.max_lifetime, round(advice.jitter_time)
    # Nothing is pruned at or below the minimum, and the idle lifetime has no off.
    least = advice.max_open if advice.max_idle_time is None else advice.min_idle
    yield 'var settings = new NpgsqlConnectionStringBuilder(builder.Configuration.GetConnectionString("Default"))'
    yield "{"
    yield f"    MaxPoolSize = {advice.max_open},"
    yield f"    MinPoolSize = {least}," + ("" if advice.max_idle_time else " // no idle limit: never pruned below it")
    if lifetime is None:
        yield "    ConnectionLifetime = 0, // 0 is off; since 9 it is an hour when not given"
    elif jitter:
        longest = round_seconds(lifetime)
        yield f"    ConnectionLifetime = {longest} - Random.Shared.Next({jitter}), // seconds; no jitter of its own"
    else:
        yield f"    ConnectionLifetime = {round_seconds(lifetime)}, // seconds"
    if advice.max_idle_time is not None:
        idle = round_seconds(advice.max_idle_time)
        yield f"    ConnectionIdleLifetime = {idle},"
        if idle < _LOOKS_EVERY:
            yield f"    ConnectionPruningInterval = {idle}, // not above the idle lifetime"
    yield f"    Timeout = {_timeout(advice.acquire_timeout)}"
    yield "};"
    yield "// One data source a process: every other connection string has a pool of its own."
    yield "builder.Services.AddSingleton(NpgsqlDataSource.Create(settings));"


def _timeout(time: float | None) -> str:
    if time is None:
        return f"{_LONGEST_TIMEOUT}, // the most that it takes; the limit of opening a connection as well"
    return f"{min(round_seconds(time), _LONGEST_TIMEOUT)}, // the limit of opening a connection as well"


STACK = Stack(
    name="npgsql",
    library="Npgsql 7 to 10",
    file="Program.cs",
    comment="//",
    aliases=("dotnet", ".net", "csharp", "c#", "ef-core", "efcore"),
    write=_write,
)
