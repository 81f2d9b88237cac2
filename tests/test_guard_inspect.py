"""``inspect`` with a guard's figures: holders by line, and ``leak-or-long-hold`` decided."""

from dataclasses import replace

import pytest
from observations import Scene, full_pool, played, rows

from poolctl.diagnose.finding import Finding
from poolctl.diagnose.live.diagnose import diagnose
from poolctl.observe.pool_metrics import read_pools
from poolctl.observe.snapshot import IN_TRANSACTION, PoolHold

SITE = "shop/refund.py:41 in charge"
METRICS = """
db_client_connection_max{db_client_connection_pool_name="orders"} 2
db_client_connection_count{db_client_connection_pool_name="orders",db_client_connection_state="used"} 2
db_client_connection_count{db_client_connection_pool_name="orders",db_client_connection_state="idle"} 0
poolctl_guard_hold_seconds{db_client_connection_pool_name="orders",site="shop/refund.py:41 in charge",\
state="idle",backend_pid="4711",outcome="cancelled"} 12.5
poolctl_guard_hold_seconds{db_client_connection_pool_name="orders",site="x",state="",backend_pid="",outcome=""} 3
"""


def test_the_holders_of_a_guard_are_read_with_the_figures_of_their_pool() -> None:
    (pool,) = read_pools(METRICS, "http://shop").pools

    assert (pool.name, pool.max_open, pool.in_use) == ("orders", 2, 2)
    assert pool.holds == (PoolHold(4711, SITE, 12.5, "cancelled"),)


def find(scene: Scene, code: str, holds: list[PoolHold]) -> list[Finding]:
    pools = [[replace(pool, holds=tuple(holds)) for pool in sample] for sample in scene.pools]
    return [one for one in diagnose(played(replace(scene, pools=pools))).findings if one.code == code]


IDLE = Scene(rows(10, age=8.0, step=2.0, application="checkout"), pools=full_pool(10, 7))


def test_without_a_guard_the_cause_stays_open() -> None:
    (finding,) = find(IDLE, "leak-or-long-hold", [])

    assert finding.holders[0].acquired_at is None


@pytest.mark.parametrize(("outcome", "code"), [("ended", "leak"), ("cancelled", "leak"), ("", "long-hold")])
def test_a_guard_decides_between_a_leak_and_a_long_hold(outcome: str, code: str) -> None:
    (undecided,) = find(IDLE, "leak-or-long-hold", [])
    pids = [pid for holder in undecided.holders for pid in holder.pids]
    holds = [PoolHold(pid, SITE, 30.0, outcome) for pid in pids]

    (finding,) = find(IDLE, code, holds)

    assert find(IDLE, "leak-or-long-hold", holds) == []
    assert finding.confidence != "undetermined"
    assert SITE in finding.summary
    assert finding.holders[0].acquired_at == SITE


def test_an_open_transaction_is_named_by_its_line() -> None:
    scene = Scene(rows(12, state=IN_TRANSACTION, age=45.0, step=11.0, application="checkout"), pools=full_pool(12, 7))
    (finding,) = find(scene, "leak-in-transaction", [PoolHold(100, SITE, 45.0, "")])

    assert [holder.acquired_at for holder in finding.holders] == [SITE]
