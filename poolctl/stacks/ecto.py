"""Ecto, whose pool is DBConnection's. Times are milliseconds.

All connections are opened at start and stay open. Instead of a longest wait its queue has CoDel: if every request of an
interval waited longer than queue_target, requests that have waited twice as long are dropped.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import group_digits, round_milliseconds
from poolctl.stacks.stack import Stack

_A_DAY = 86_400.0


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield "# All connections are opened at start and stay open: there is no idle time."
    yield "config :my_app, MyApp.Repo,"
    yield f"  pool_size: {advice.max_open},"
    if advice.least_lifetime is not None and advice.max_lifetime is not None:
        shortest, longest = round_milliseconds(advice.least_lifetime), round_milliseconds(advice.max_lifetime)
        yield "  # A range, since db_connection 2.10: each connection draws its own lifetime."
        yield f"  max_lifetime: {group_digits(shortest)}..{group_digits(longest)},"
    if advice.acquire_timeout is None:
        yield "  # It cannot be switched off. The option timeout (15 s) limits waiting and holding together."
        yield f"  queue_target: {group_digits(round_milliseconds(_A_DAY))}"
    else:
        yield "  # There is no longest wait: under overload, requests that waited for twice the target are dropped."
        yield f"  queue_target: {group_digits(round_milliseconds(advice.acquire_timeout / 2))}"


STACK = Stack(
    name="ecto",
    library="Ecto 3 on db_connection 2.10",
    file="config/runtime.exs",
    aliases=("elixir", "phoenix", "db_connection", "postgrex"),
    write=_write,
)
