"""Amazon RDS Proxy. Its sizes are percentages of the server's max_connections, its times whole seconds."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolerAdvice
from poolctl.stacks.spelling import round_seconds
from poolctl.stacks.stack import Stack

_LONGEST_BORROW = 300
"""Seconds. Older documents allow 3600, and 0 for no limit; the present one allows neither."""


def _write(advice: PoolerAdvice) -> Iterator[str]:
    slots = advice.slots
    yield "# A SET or a temporary table pins a client to one connection, which is then no longer shared"
    yield "# (CloudWatch: DatabaseConnectionsCurrentlySessionPinned)."
    if advice.max_connections is None:
        yield f"# {slots} connections, as a percentage of the server's limit."
        yield f'percent=$((100 * {slots} / $(psql "$DATABASE_URL" -XAtc "SHOW max_connections")))'
    else:
        # Rounded down, so that the slots are never exceeded.
        percent = max(1, min(100, 100 * slots // advice.max_connections))
        yield f"# {slots} of {advice.max_connections} connections."
        yield f"percent={percent}"
    patience = advice.query_wait_timeout
    wait = _LONGEST_BORROW if patience is None else min(round_seconds(patience), _LONGEST_BORROW)
    yield 'aws rds modify-db-proxy-target-group --db-proxy-name "$PROXY" --target-group-name default \\'
    yield "  --connection-pool-config \\"
    yield f"  MaxConnectionsPercent=$percent,MaxIdleConnectionsPercent=$percent,ConnectionBorrowTimeout={wait}"
    yield "# RDS Proxy has no lifetime of server connections and no limit of clients."


STACK = Stack(
    name="rds-proxy",
    library="Amazon RDS Proxy, AWS CLI 2",
    file="rds-proxy.sh",
    takes=PoolerAdvice,
    aliases=("rdsproxy", "aws-rds-proxy"),
    write=_write,
)
