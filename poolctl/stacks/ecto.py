"""Ecto, whose pool is DBConnection's. Times are milliseconds.

All connections are opened at start and stay. Its queue has CoDel in place of a maximum wait: when no request of an
interval was served within queue_target, those that have waited twice as long are dropped.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import group_digits, round_milliseconds
from poolctl.stacks.stack import Stack

_A_DAY = 86_400.0


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield "# All are opened at start and stay open: there is no idle time."
    yield "config :my_app, MyApp.Repo,"
    yield f"  pool_size: {advice.max_open},"
    if advice.least_lifetime is not None and advice.max_lifetime is not None:
        shortest, longest = round_milliseconds(advice.least_lifetime), round_milliseconds(advice.max_lifetime)
        yield "  # A range, from db_connection 2.10 on: each connection draws its own."
        yield f"  max_lifetime: {group_digits(shortest)}..{group_digits(longest)},"
    if advice.acquire_timeout is None:
        yield "  # There is no off; the option timeout (15 s) ends waiting and holding together."
        yield f"  queue_target: {group_digits(round_milliseconds(_A_DAY))}"
    else:
        yield "  # No maximum wait: under overload those are dropped that waited for twice the target."
        yield f"  queue_target: {group_digits(round_milliseconds(advice.acquire_timeout / 2))}"


STACK = Stack(
    name="ecto",
    library="Ecto 3 on db_connection 2.10",
    file="config/runtime.exs",
    aliases=("elixir", "phoenix", "db_connection", "postgrex"),
    write=_write,
)
