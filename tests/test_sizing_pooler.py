"""When a pooler is needed, and that its settings add up."""

import pytest
import recommendations
from hypothesis import given, settings
from hypothesis import strategies as st

from poolctl.sizing.figures import Figures
from poolctl.sizing.figures import given as said
from poolctl.sizing.pooler import PgBouncerSettings, PoolerPlan, spread
from poolctl.sizing.recommend import recommend

VECTOR = recommendations.VECTOR.with_(arrival_cv=said(1), connections_per_request=said(1), wait_target=None)


def pooler(figures: Figures) -> PoolerPlan:
    return recommend(figures).pooler


def test_pools_that_fit_side_by_side_need_none_and_say_what_the_split_costs() -> None:
    found = pooler(VECTOR.with_(wait_target=said(0.050)))

    assert not found.recommended
    assert found.partition_cost == 32 - 12
    assert (found.pgbouncer, found.pgpool, found.app_max_open) == (None, None, None)


def test_pools_that_do_not_fit_need_one_with_the_settings_of_the_worked_division() -> None:
    found = pooler(VECTOR.with_(wait_target=said(0.005)))

    assert found.recommended
    assert found.why == "36 processes at worst x 4 needed = 144, and there are 82 slots; one shared pool needs 16"
    assert found.app_max_open == 4
    assert found.pgbouncer == PgBouncerSettings(
        processes=1,
        pool_mode="transaction",
        default_pool_size=16,
        min_pool_size=9,
        reserve_pool_size=4,
        reserve_pool_timeout=2.0,
        max_db_connections=82,
        max_client_conn=173,
        query_wait_timeout=5.0,
        server_lifetime=1800.0,
        server_idle_timeout=600.0,
        nofile=355,
    )


def test_the_pool_size_is_19_where_hardly_anybody_may_wait() -> None:
    bouncer = pooler(VECTOR.with_(wait_target=said(0.0))).pgbouncer

    assert bouncer is not None
    assert bouncer.default_pool_size == 19


def test_more_processes_than_slots_need_one() -> None:
    found = pooler(Figures(instances=said(200), max_connections=said(100), workers=said(8)))

    assert found.recommended
    assert "need 1 each, and 94 slots leave 0" in found.why
    assert found.app_max_open == 8


FIFTY = VECTOR.with_(
    arrival_rate=said(50),
    instances=said(50),
    max_instances=said(50),
    processes=said(1),
    max_connections=said(2000),
    wait_target=said(0.0),
)
"""20 erlangs over 50 pods: 150 connections where one pool needs 32."""


@pytest.mark.parametrize(
    ("capacity", "recommended", "why"),
    [
        (None, True, "150 connections in the usual fleet, of which 32 are useful"),
        (40, True, "the split leaves 1 of 40 useful connections to each process, which needs 3"),
        (130, False, "the split costs 118 connections (150 instead of 32)"),
        # Fewer than one shared pool needs: that the database is the limit is nothing a pooler mends.
        (20, False, "Not needed"),
    ],
)
def test_pools_that_fit_need_one_where_the_split_starves_them_or_overruns_the_database(
    capacity: int | None, recommended: bool, why: str
) -> None:
    found = pooler(FIFTY.with_(capacity=None if capacity is None else said(capacity)))

    assert found.recommended == recommended
    assert why in found.why


def test_queued_queries_give_up_before_the_request_does() -> None:
    bouncer = pooler(VECTOR.with_(wait_target=said(0.005), request_timeout=said(4))).pgbouncer

    assert bouncer is not None
    assert bouncer.query_wait_timeout == 2.0


@given(
    size=st.integers(1, 300),
    reserve=st.integers(0, 60),
    spare=st.integers(0, 200),
    clients=st.integers(1, 5000),
    processes=st.integers(1, 8),
    users=st.integers(1, 4),
    databases=st.integers(1, 4),
)
def test_spread_over_processes_users_and_databases_the_sum_stays_what_it_was(
    size: int, reserve: int, spare: int, clients: int, processes: int, users: int, databases: int
) -> None:
    most = size + reserve + spare
    one = PgBouncerSettings(1, "transaction", size, 0, reserve, 2.0, most, clients, 5.0, 1800.0, 600.0, 1000)
    each = spread(one, processes, users=users, databases=databases)

    parts = processes * users * databases
    opened = parts * (each.default_pool_size + each.reserve_pool_size)
    assert opened <= max(most, parts)
    assert processes * databases * each.max_db_connections <= max(most, parts)
    assert processes * each.max_client_conn >= clients
    assert each.default_pool_size >= 1


def test_there_is_at_least_one_of_everything() -> None:
    one = PgBouncerSettings(1, "transaction", 20, 0, 4, 2.0, 50, 100, 5.0, 1800.0, 600.0, 1000)

    assert spread(one, 1) == one.__class__(1, "transaction", 20, 0, 4, 2.0, 50, 100, 5.0, 1800.0, 600.0, 250)
    with pytest.raises(ValueError, match="must each be 1 or more"):
        spread(one, 0)


@settings(deadline=None)
@given(
    rate=st.floats(1.0, 500.0),
    instances=st.integers(1, 100),
    processes=st.integers(1, 8),
    workers=st.integers(1, 32),
    most=st.integers(10, 1000),
)
def test_whatever_a_pooler_is_recommended_for_it_stays_within_the_slots(
    rate: float, instances: int, processes: int, workers: int, most: int
) -> None:
    answer = recommend(
        Figures(
            arrival_rate=said(rate),
            hold_time=said(0.01),
            instances=said(instances),
            processes=said(processes),
            workers=said(workers),
            max_connections=said(most),
        )
    )
    if answer.pooler.pgbouncer is None or answer.pooler.pgpool is None:
        assert not answer.pooler.recommended or answer.budget.total == 0
        return
    bouncer, pgpool = answer.pooler.pgbouncer, answer.pooler.pgpool

    assert bouncer.default_pool_size + bouncer.reserve_pool_size <= bouncer.max_db_connections <= answer.budget.total
    assert bouncer.min_pool_size <= bouncer.default_pool_size
    assert bouncer.max_client_conn >= answer.fleet.worst_case_processes * (answer.pooler.app_max_open or 0)
    assert bouncer.nofile > bouncer.max_client_conn + bouncer.max_db_connections
    assert pgpool.num_init_children * pgpool.max_pool <= answer.budget.total
