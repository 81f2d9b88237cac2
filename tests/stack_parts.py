"""The advices that the tests of stacks write, one with everything and one with everything off."""

from poolctl.stacks import PoolAdvice, PoolerAdvice, Stack

ORDINARY = PoolAdvice(
    max_open=12,
    max_idle=12,
    min_idle=2,
    max_lifetime=1500.0,
    max_lifetime_jitter=0.2,
    max_idle_time=300.0,
    acquire_timeout=2.0,
    processes=36,
)
OFF = PoolAdvice(max_open=8, max_idle=5)
POOLER = PoolerAdvice(
    pool_mode="transaction",
    default_pool_size=20,
    reserve_pool_size=4,
    reserve_pool_timeout=2.0,
    min_pool_size=5,
    max_db_connections=48,
    max_client_conn=520,
    query_wait_timeout=5.0,
    server_lifetime=1500.0,
    server_idle_timeout=600.0,
    pairs=2,
    max_connections=100,
)
POOLER_OFF = PoolerAdvice(pool_mode="session", default_pool_size=15, max_client_conn=15)


def ordinary(stack: Stack) -> PoolAdvice | PoolerAdvice:
    return POOLER if stack.is_pooler else ORDINARY


def off(stack: Stack) -> PoolAdvice | PoolerAdvice:
    return POOLER_OFF if stack.is_pooler else OFF
