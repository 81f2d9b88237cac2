"""Sequel (Ruby). Times are seconds. It opens on demand and closes nothing by itself; a lifetime is an extension."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import FOR_EVER, format_seconds, round_seconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolAdvice) -> Iterator[str]:
    wait = FOR_EVER if advice.acquire_timeout is None else advice.acquire_timeout
    remark = "cannot be switched off" if advice.acquire_timeout is None else "default 5"
    yield "DB = Sequel.connect("
    yield '  ENV.fetch("DATABASE_URL"),'
    yield f"  max_connections: {advice.max_open}, # default 4"
    yield f"  pool_timeout: {format_seconds(wait)} # {remark}"
    yield ")"
    if advice.least_lifetime is not None:
        yield "# Checked when a connection is acquired."
        yield "DB.extension(:connection_expiration)"
        yield f"DB.pool.connection_expiration_timeout = {round_seconds(advice.least_lifetime)}"
        if advice.jitter_time:
            jitter = max(1, round(advice.jitter_time))
            yield f"DB.pool.connection_expiration_random_delay = {jitter} # added to it; default 0"
    if advice.max_idle_time is not None:
        idle = format_seconds(advice.max_idle_time)
        yield f"# Sequel closes no unused connection. Set idle_session_timeout on the server to {idle} s, and let"
        yield "# DB.extension(:connection_validator) replace closed connections."


STACK = Stack(
    name="sequel",
    library="Sequel 5",
    file="config/database.rb",
    aliases=("sequel-5", "ruby-sequel"),
    write=_write,
)
