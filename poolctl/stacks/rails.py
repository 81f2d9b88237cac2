"""ActiveRecord, for every version from 6.0 to 8.1. Times are seconds."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import FOR_EVER, format_seconds, round_seconds
from poolctl.stacks.stack import Stack

_EACH = "# Add to your entry. Each process has such a pool for all of its threads (Puma, Sidekiq)."


def _timeouts(advice: PoolAdvice) -> Iterator[str]:
    if advice.max_idle_time is None:
        yield "  idle_timeout: 0 # off"
    else:
        yield f"  idle_timeout: {format_seconds(advice.max_idle_time)}"
    if advice.acquire_timeout is None:
        yield f"  checkout_timeout: {format_seconds(FOR_EVER)} # cannot be switched off"
    else:
        yield f"  checkout_timeout: {format_seconds(advice.acquire_timeout)}"


def _threads(advice: PoolAdvice) -> Iterator[str]:
    if advice.waiting_workers:
        yield f"  # {advice.workers} threads share them. Before Rails 7.2 a thread keeps one until the end of"
        yield f"  # its request: run at most {advice.max_open} threads (RAILS_MAX_THREADS), or the others time out."


def _since_8_1(advice: PoolAdvice) -> Iterator[str]:
    yield _EACH
    yield "production:"
    # max_connections, its name since 8.1, would be ignored before and leave the default of 5; pool works in all.
    yield f"  pool: {advice.max_open}"
    yield from _threads(advice)
    yield f"  min_connections: {advice.min_idle} # ignored before Rails 8.1"
    if advice.max_lifetime is None:
        yield "  # no max_age: off"
    else:
        # Whole seconds: ActiveRecord drops the fraction, and 0 would switch it off.
        yield f"  max_age: {round_seconds(advice.max_lifetime)} # ignored before Rails 8.1"
        yield f"  pool_jitter: {advice.max_lifetime_jitter:g} # share taken off max_age; default 0.2"
    yield from _timeouts(advice)


def _until_8_0(advice: PoolAdvice) -> Iterator[str]:
    yield _EACH
    yield "production:"
    yield f"  pool: {advice.max_open}"
    yield from _threads(advice)
    yield from _timeouts(advice)
    if advice.max_lifetime is not None:
        yield "  # No lifetime before Rails 8.1 (max_age): after a failover restart the processes, one by one."
    if advice.min_idle:
        yield f"  # No setting keeps {advice.min_idle} ready before Rails 8.1 (min_connections)."


RAILS = Stack(
    name="rails",
    library="ActiveRecord 6.0 to 8.1",
    file="config/database.yml",
    aliases=("rails-8.1", "rails8.1", "activerecord", "ruby", "active-record"),
    write=_since_8_1,
)
RAILS_8_0 = Stack(
    name="rails-8.0",
    library="ActiveRecord 6.0 to 8.0",
    file="config/database.yml",
    aliases=("rails8.0", "rails-8", "rails-7", "rails-7.2", "rails-7.1", "rails-6"),
    write=_until_8_0,
)
