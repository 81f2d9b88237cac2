"""What is too slow, too small or too hasty: the database, the pool, the client; each with what it must not be "
"called."""

from typing import Any

import pytest
from observations import (
    LEAKS,
    NOW,
    Row,
    busy,
    calling,
    codes,
    count_sessions,
    find,
    full_pool,
    held_by,
    host,
    pids,
    pool,
    rows,
    server,
    troubles,
    verdict,
)

from poolctl.diagnose.slow_database import find_filtered_columns
from poolctl.observe.snapshot import (
    IN_TRANSACTION,
    DatabaseCounters,
    PoolFigures,
    Refusal,
    StatementCounters,
    TableCounters,
)

SCAN = "SELECT count(*) FROM orders WHERE customer_id = $1"


def scanning(count: int) -> list[Row]:
    return [Row(100 + i, "active", age=0.01 * i + 0.02, turns=0.4, query=SCAN) for i in range(count)]


STATEMENTS = [
    [StatementCounters(1, "app", "app", SCAN, 10, 5.0), StatementCounters(2, "app", "app", "SELECT 1", 900, 1.0)],
    [StatementCounters(1, "app", "app", SCAN, 90, 45.0), StatementCounters(2, "app", "app", "SELECT 1", 990, 1.1)],
]
TABLES = [[TableCounters("orders", 400_000, 10, 4_000_000)], [TableCounters("orders", 400_000, 90, 36_000_000)]]


def test_a_statement_that_crowds_the_cores_is_a_slow_database_with_table_and_column() -> None:
    diagnosis = verdict(*scanning(12), hosts=[host(cores=2, server_cpu=1.9)], statements=STATEMENTS, tables=TABLES)

    finding = find(diagnosis, "slow-database")
    assert finding.confidence == "certain"
    assert finding.evidence["statement_share"] == "100 %"
    assert "CREATE INDEX CONCURRENTLY ON orders (customer_id)" in finding.remedy
    assert finding.frees == 0
    assert not (LEAKS | {"pool-undersized", "healthy"}) & set(codes(diagnosis))


@pytest.mark.parametrize(
    ("server_cpu", "tables", "confidence"), [(0.1, [], "undetermined"), (1.9, [], "likely"), (0.1, TABLES, "likely")]
)
def test_statements_of_which_a_role_sees_not_what_they_wait_for_may_only_wait(
    server_cpu: float, tables: list[list[TableCounters]], confidence: str
) -> None:
    """Six statements that wait for a timer, staged: 'slow-database, likely', on a server that did nothing."""
    counted = [[DatabaseCounters("app", backends=12, commits=count, active_time=0.4 * count)] for count in (0, 50, 100)]
    scene: dict[str, Any] = {"hosts": [host(cores=2, server_cpu=server_cpu)], "tables": tables, "databases": counted}

    diagnosis = verdict(*scanning(12), hides=True, **scene)

    assert find(diagnosis, "slow-database").confidence == confidence


@pytest.mark.parametrize(("samples", "confidence"), [(3, "undetermined"), (6, "likely")])
def test_few_samples_without_times_do_not_show_that_connections_come_back_quickly(
    samples: int, confidence: str
) -> None:
    diagnosis = verdict(*calling(6, 0.01), pools=full_pool(6, 9), samples=samples, hides=True)

    assert find(diagnosis, "pool-undersized").confidence == confidence


def test_without_statement_statistics_the_looks_tell_the_statement() -> None:
    finding = find(verdict(*scanning(12), hosts=[host(cores=2, server_cpu=1.9)]), "slow-database")

    assert finding.evidence["share_from"] == "samples"
    assert "customer_id" in str(finding.evidence["statement"])


def test_the_cores_of_a_server_that_ended_meanwhile_are_still_known() -> None:
    diagnosis = verdict(*scanning(12), hosts=[host(cores=2)] * 6 + [host(cores=2, has_server=False, server_cpu=None)])

    assert find(diagnosis, "slow-database").evidence["cores"] == 2


def test_the_cores_are_known_where_the_process_list_came_too_late() -> None:
    """As on a crowded machine: a look of 2 s called six clients with a missing index healthy, one of 5 s did not."""
    here = verdict(*scanning(6), facts=server(cores=2), statements=STATEMENTS, tables=TABLES)

    assert find(here, "slow-database").confidence == "certain"
    assert find(here, "slow-database").evidence["cores"] == 2


@pytest.mark.parametrize(
    ("count", "tables", "found"),
    [(6, TABLES, ["slow-database"]), (3, TABLES, []), (6, [], [])],
)
def test_a_missing_index_is_worth_a_word_on_a_server_of_unknown_size(
    count: int, tables: list[list[TableCounters]], found: list[str]
) -> None:
    diagnosis = verdict(*scanning(count), statements=STATEMENTS, tables=tables)

    assert troubles(diagnosis) == found
    if found:
        finding = find(diagnosis, "slow-database")
        assert finding.confidence == "undetermined"
        assert finding.evidence["column"] == "customer_id"
        assert finding.decide_by == "how many cores the server has, and how busy they are"


def test_a_slow_database_behind_a_full_pool_is_no_reason_for_a_bigger_one() -> None:
    diagnosis = verdict(*scanning(12), hosts=[host(cores=2, server_cpu=1.9)], pools=full_pool(12, 30))

    assert find(diagnosis, "slow-database").severity == "critical"
    assert "pool-undersized" not in codes(diagnosis)


def test_many_statements_that_take_no_time_are_busy_and_not_slow() -> None:
    quick = [Row(100 + i, "active", age=0.0001 * i, turns=0.003) for i in range(16)]

    assert troubles(verdict(*quick, hosts=[host(cores=2, server_cpu=1.95)])) == []


def test_quick_statements_that_use_up_the_processors_while_clients_wait_are_no_small_pool() -> None:
    quick = [Row(100 + i, "active", age=0.0001 * i, turns=0.003) for i in range(6)]

    busy_server = verdict(*quick, hosts=[host(cores=2, server_cpu=1.95)], pools=full_pool(6, 9))
    idle_server = verdict(*quick, hosts=[host(cores=16, server_cpu=1.95)], pools=full_pool(6, 9))

    assert troubles(busy_server) == ["slow-database"]
    assert troubles(idle_server) == ["pool-undersized"]


@pytest.mark.parametrize(("age", "found"), [(0.012, ["slow-database"]), (0.005, [])])
def test_scans_that_keep_the_processors_busy_are_slow_though_each_is_short(age: float, found: list[str]) -> None:
    scans = rows(6, state="active", age=age, turns=2 * age)

    assert troubles(verdict(*scans, hosts=[host(cores=2, server_cpu=1.9)])) == found


SHARED: dict[str, Any] = {"cores": 2, "server_cpu": 1.1}


@pytest.mark.parametrize(("cpu_share", "found"), [(0.6, []), (1.0, ["slow-database"])])
def test_other_work_on_the_machine_does_not_hide_a_database_that_takes_all_that_is_left(
    cpu_share: float, found: list[str]
) -> None:
    scans = [Row(100 + i, "active", age=0.02, turns=0.4, query=SCAN) for i in range(3)]

    assert troubles(verdict(*scans, hosts=[host(**SHARED, cpu_share=cpu_share)])) == found


@pytest.mark.parametrize("seconds", [2.0, 10.0, 60.0])
def test_the_counters_mean_time_decides_and_not_how_old_statements_were_when_they_were_caught(seconds: float) -> None:
    """Six clients with scans of 41 ms on two cores."""
    scans = [Row(100 + i, "active", age=0.011, turns=0.022, query=SCAN) for i in range(6)]
    calls = round(6 * seconds / 0.041)
    counted = [[StatementCounters(1, "app", "app", SCAN, n, 0.041 * n)] for n in (10, 10 + calls)]

    diagnosis = verdict(*scans, window=seconds, hosts=[host(cores=2, server_cpu=1.0)], statements=counted)

    assert find(diagnosis, "slow-database").confidence == "certain"


def test_what_poolctl_asks_is_never_the_statement_that_takes_the_time() -> None:
    own = [
        [StatementCounters(9, "watcher", "app", "BEGIN READ ONLY", 5, 1.0)],
        [StatementCounters(9, "watcher", "app", "BEGIN READ ONLY", 9, 3.0)],
    ]

    finding = find(verdict(*scanning(12), hosts=[host(cores=2, server_cpu=1.9)], statements=own), "slow-database")

    assert (finding.evidence["share_from"], SCAN in str(finding.evidence["statement"])) == ("samples", True)


def test_where_statements_are_hidden_the_table_that_is_read_whole_is_named() -> None:
    counted = [[DatabaseCounters("app", backends=12, commits=n, active_time=0.3 * n)] for n in (10, 90)]

    diagnosis = verdict(
        *scanning(12), hides=True, hosts=[host(cores=2, server_cpu=1.9)], tables=TABLES, databases=counted
    )

    finding = find(diagnosis, "slow-database")
    assert finding.evidence["table"] == "orders"
    assert "read orders from end to end" in finding.remedy


def test_statements_that_sleep_or_wait_for_locks_are_not_at_work() -> None:
    asleep = rows(20, state="active", age=0.3, turns=1.0, wait=("Timeout", "PgSleep"))

    assert troubles(verdict(*asleep, hosts=[host(cores=2, server_cpu=0.1)])) == []


def test_long_statements_that_keep_a_pool_full_are_no_small_pool() -> None:
    asleep = [Row(100 + i, "active", age=0.3 * i + 0.4, turns=3.0, wait=("IO", "DataFileRead")) for i in range(6)]

    diagnosis = verdict(*asleep, hosts=[host(cores=16)], pools=full_pool(6, 9))

    assert "slow-database" in codes(diagnosis)
    assert "pool-undersized" not in codes(diagnosis)


def test_long_statements_that_began_together_are_slow_also_when_they_have_just_begun() -> None:
    together = rows(6, state="active", age=0.1, turns=2.0, wait=("Timeout", "PgSleep"))

    diagnosis = verdict(*together, hosts=[host()], pools=full_pool(6, 12))

    assert "slow-database" in codes(diagnosis)
    assert "pool-undersized" not in codes(diagnosis)


@pytest.mark.parametrize(("transactions", "found"), [(500, ["slow-database"]), (20_000, [])])
def test_without_privileges_the_counters_tell_slow_statements_from_many_quick_ones(
    transactions: int, found: list[str]
) -> None:
    counted = [
        [DatabaseCounters("app", backends=16, commits=i * transactions // 6, rollbacks=0, active_time=i * 8.0)]
        for i in range(7)
    ]
    crowd = rows(16, state="active", age=0.01, turns=0.02)

    diagnosis = verdict(*crowd, hides=True, hosts=[host(cores=2, server_cpu=1.95)], databases=counted)

    assert troubles(diagnosis) == found


@pytest.mark.parametrize(("acquires", "code"), [(24, "slow-database"), (600, "pool-undersized")])
def test_a_pool_that_counts_acquires_says_how_long_a_statement_takes(acquires: int, code: str) -> None:
    """All looks at the same phase: four statements of half a second, or four of 20 ms."""
    alike = rows(4, state="active", age=0.005, turns=0.0101, wait=("Timeout", "PgSleep"))
    figures = [[pool(max_open=4, open=4, in_use=4, waiting=8, acquired_total=i * acquires / 6)] for i in range(7)]

    diagnosis = verdict(*alike, Row(300, "active", application="search"), hosts=[host()], pools=figures)

    assert [troubles(diagnosis), held_by(find(diagnosis, code))] == [[code], {"shop"}]


def test_a_transaction_of_several_quick_statements_is_no_slow_one() -> None:
    """Caught 0.2 s after the beginning of a transaction of 0.6 s, on average: there are three statements in it."""
    alike = rows(4, state="active", age=0.005, turns=0.0101, began=0.2, wait=("Timeout", "PgSleep"))
    figures = [[pool(max_open=4, open=4, in_use=4, waiting=8, acquired_total=i * 20 / 6)] for i in range(7)]

    assert troubles(verdict(*alike, hosts=[host()], pools=figures)) == ["pool-undersized"]


def test_a_server_of_unknown_size_is_undetermined() -> None:
    assert find(verdict(*scanning(40)), "slow-database").confidence == "undetermined"


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        (SCAN, ["customer_id"]),
        ("SELECT * FROM t WHERE t.a > $1 AND b = $2 ORDER BY c", ["b", "a"]),
        ("SELECT 1", []),
        ("DELETE FROM t WHERE x IN ($1) GROUP BY y = 2", ["x"]),
    ],
)
def test_index_candidates_come_from_the_condition(query: str, columns: list[str]) -> None:
    assert find_filtered_columns(query) == columns


@pytest.mark.parametrize("size", [3, 10, 60])
def test_a_full_pool_whose_connections_all_come_back_is_too_small(size: int) -> None:
    diagnosis = verdict(*busy(size), hosts=[host()], pools=full_pool(size, 12))

    finding = find(diagnosis, "pool-undersized")
    assert (finding.confidence, finding.layer, finding.severity) == ("certain", "application", "critical")
    assert not (LEAKS | {"slow-database", "healthy", "held-across-io"}) & set(codes(diagnosis))


def go_pool(sample: int, *, rate: int = 400) -> list[PoolFigures]:
    """database/sql: no gauge of waiters, totals only."""
    return [pool(max_open=4, open=4, in_use=4, queued_total=1000.0 + sample * rate, wait_time_total=50.0 + sample * 5)]


def test_a_pool_without_a_gauge_of_waiters_tells_by_its_totals() -> None:
    diagnosis = verdict(*busy(4), hosts=[host()], pools=[go_pool(sample) for sample in range(7)])

    assert find(diagnosis, "pool-undersized").evidence["waiting"] == 10


def test_a_burst_that_drained_is_no_small_pool() -> None:
    burst = [[pool(max_open=8, open=8, in_use=8, waiting=20)]] * 2
    burst += [[pool(max_open=8, open=8, in_use=3, waiting=0)]] * 5

    assert troubles(verdict(*busy(8), pools=burst)) == []


@pytest.mark.parametrize("still", [2, 4, 6])
def test_a_full_pool_that_stands_still_in_part_is_not_simply_too_small(still: int) -> None:
    diagnosis = verdict(*rows(still, age=8.0, step=2.0), *busy(8 - still), hosts=[host()], pools=full_pool(8, 5))

    assert "pool-undersized" not in codes(diagnosis)
    assert "healthy" not in codes(diagnosis)


def test_a_pool_that_waits_and_whose_sessions_nobody_saw_is_undetermined() -> None:
    diagnosis = verdict(pools=full_pool(8, 5), sees_backends=False, facts=None)

    assert [(f.code, f.confidence) for f in diagnosis.findings] == [("leak-or-long-hold", "undetermined")]


def test_timeouts_with_a_free_connection_are_the_clients_own() -> None:
    starving = [[pool(max_open=10, open=10, in_use=0, waiting=0, timed_out_total=float(5 * i))] for i in range(7)]

    diagnosis = verdict(*rows(10, age=0.2, turns=3.0), pools=starving)

    finding = find(diagnosis, "client-starved")
    assert (finding.layer, finding.confidence) == ("host", "likely")
    assert not (LEAKS | {"pool-undersized"}) & set(codes(diagnosis))


def test_a_measured_lag_makes_it_certain() -> None:
    starving = [
        [pool(max_open=10, open=10, in_use=0, waiting=0, timed_out_total=float(5 * i), loop_lag=0.8)] for i in range(7)
    ]

    assert find(verdict(*rows(10, age=0.2, turns=3.0), pools=starving), "client-starved").confidence == "certain"


def test_slots_that_only_the_pool_believes_in_are_lost() -> None:
    diagnosis = verdict(*busy(1, application="other"), pools=full_pool(4, 5))

    finding = find(diagnosis, "pool-slots-lost")
    assert (finding.evidence["lost"], finding.confidence) == (3, "likely")
    assert not (LEAKS | {"pool-undersized", "healthy"}) & set(codes(diagnosis))


def fleet(pods: int, **values: Any) -> list[list[PoolFigures]]:
    """One pool in each pod, all under one name."""
    return [[pool(labels={"pod": f"shop-{number}"}, **values) for number in range(pods)]]


def test_the_pools_of_a_fleet_are_too_small_together() -> None:
    short = fleet(3, max_open=4, open=4, in_use=4, waiting=5)

    diagnosis = verdict(*busy(12), hosts=[host()], pools=short)

    assert troubles(diagnosis) == ["pool-undersized"]
    finding = find(diagnosis, "pool-undersized")
    assert (finding.evidence["max_open"], finding.evidence["waiting"], finding.evidence["pools"]) == (12, 15, 3)
    assert finding.summary.startswith("All 12 connections in 3 pools of shop are in use")


def test_of_a_fleet_only_the_pools_that_are_short_are_too_small() -> None:
    (short,) = fleet(2, max_open=4, open=4, in_use=4, waiting=5)
    spare = pool(labels={"pod": "shop-9"}, max_open=4, open=4, in_use=1, waiting=0)

    finding = find(verdict(*busy(12), hosts=[host()], pools=[[*short, spare]]), "pool-undersized")

    assert (finding.evidence["max_open"], finding.evidence["pools"]) == (8, 2)
    assert finding.summary.startswith("All 8 connections in 2 of 3 pools of shop are in use")


def test_a_fleet_that_nothing_explains_is_one_question() -> None:
    short = fleet(3, max_open=4, open=4, in_use=4, waiting=5)

    diagnosis = verdict(*rows(6, age=8.0, step=2.0), *busy(6), hosts=[host()], pools=short)

    assert len([each for each in diagnosis.findings if each.code == "leak-or-long-hold"]) == 1


def test_slots_that_a_fleet_lost_are_counted_over_all_its_pods() -> None:
    diagnosis = verdict(*busy(5), pools=fleet(3, max_open=4, open=4, in_use=4, waiting=5))

    finding = find(diagnosis, "pool-slots-lost")
    assert (finding.evidence["in_use"], finding.evidence["sessions"], finding.evidence["lost"]) == (12, 5, 7)


def test_a_starved_fleet_is_one_finding() -> None:
    starving = [
        fleet(3, max_open=4, open=4, in_use=0, waiting=0, timed_out_total=float(5 * sample))[0] for sample in range(7)
    ]

    diagnosis = verdict(*rows(12, age=0.2, turns=3.0), pools=starving)

    assert troubles(diagnosis) == ["client-starved"]
    assert find(diagnosis, "client-starved").evidence["timed_out"] == 90


@pytest.mark.parametrize(("opened", "transactions"), [(300, 300), (60, 400), (12, 30)])
def test_a_session_for_every_few_transactions_is_churn(opened: int, transactions: int) -> None:
    diagnosis = verdict(*busy(4), databases=count_sessions(opened, transactions))

    assert find(diagnosis, "connection-churn").evidence["opened"] == opened
    assert "healthy" not in codes(diagnosis)


@pytest.mark.parametrize(
    ("opened", "transactions"),
    [pytest.param(2, 10, id="a health check"), pytest.param(40, 9000, id="little beside the work"), (0, 0)],
)
def test_a_few_new_sessions_are_no_churn(opened: int, transactions: int) -> None:
    assert troubles(verdict(*busy(4), databases=count_sessions(opened, transactions))) == []


def test_a_session_that_only_the_first_sample_caught_names_who_opens_them() -> None:
    """A look of two seconds catches few sessions of milliseconds each. One that was open for long only ended."""
    brief = Row(200, application="lambda", opened=3.3, until_sample=0)
    ended = Row(201, application="shop", opened=600.0, until_sample=0)

    finding = find(verdict(brief, ended, databases=count_sessions(300, 300)), "connection-churn")

    assert held_by(finding) == {"lambda"}


@pytest.mark.parametrize(("beside", "held"), [(["lambda"], {"lambda"}), ([], {"poolctl"})])
def test_an_operators_program_that_comes_beside_others_opens_no_churn(beside: list[str], held: set[str]) -> None:
    came = [
        Row(700 + i, age=0.001, opened=0.02, application=name, from_sample=6)
        for i, name in enumerate([*beside, "poolctl"])
    ]

    diagnosis = verdict(*rows(4), *came, databases=count_sessions(20, 40))

    assert held_by(find(diagnosis, "connection-churn")) == held


def test_a_fleet_that_starts_up_is_no_churn() -> None:
    coming = [Row(100 + i, age=0.3, opened=0.5, from_sample=5) for i in range(30)]

    assert troubles(verdict(*coming, *busy(4), databases=count_sessions(30, 60))) == []


def test_clients_that_leave_without_a_goodbye_are_churn() -> None:
    assert (
        "dropped"
        in find(verdict(*busy(4), databases=count_sessions(60, 9000, abandoned=40)), "connection-churn").summary
    )


def test_before_version_14_only_what_the_looks_caught_is_known() -> None:
    brief = [Row(200 + i, age=0.1, opened=2.0, from_sample=1 + i % 5, until_sample=1 + i % 5) for i in range(9)]

    finding = find(verdict(*brief, *busy(3), facts=server(version_number=130010)), "connection-churn")

    assert finding.confidence == "undetermined"


def test_a_rush_after_a_restart_that_is_refused_is_a_storm() -> None:
    rush = [Row(100 + i, age=1.0, opened=8.0 + i * 0.01) for i in range(60)]
    logging_in = [Row(300 + i, "starting", age=1.5, opened=1.5, from_sample=4) for i in range(6)]

    diagnosis = verdict(*rush, *logging_in, started_at=NOW - 10.0)

    assert find(diagnosis, "reconnect-storm").confidence == "likely"
    assert not (LEAKS | {"pool-undersized"}) & set(codes(diagnosis))


def caught_logging_in(sample: int) -> Row:
    ago = 0.5 * (6 - sample)
    return Row(300 + sample, "starting", age=ago, opened=ago, from_sample=sample, until_sample=sample)


def test_logins_that_are_refused_within_milliseconds_are_counted_look_by_look() -> None:
    rush = [Row(100 + i, age=1.0, opened=8.0 + i * 0.01) for i in range(60)]
    one_each = [caught_logging_in(sample) for sample in (1, 2, 4)]

    finding = find(verdict(*rush, *one_each, started_at=NOW - 10.0), "reconnect-storm")

    assert finding.evidence["logging_in"] == 3
    assert troubles(verdict(*rush, *one_each[:2], started_at=NOW - 10.0)) == []


def test_a_connection_for_every_request_is_no_storm_after_a_start() -> None:
    stay = [Row(100 + i, age=1.0, opened=8.0 + i * 0.01) for i in range(20)]
    passing = [caught_logging_in(sample) for sample in range(6)]

    diagnosis = verdict(*stay, *passing, databases=count_sessions(300, 300), started_at=NOW - 10.0)

    assert troubles(diagnosis) == ["connection-churn"]


def test_a_restart_that_everybody_got_over_is_healthy() -> None:
    rush = [Row(100 + i, age=1.0, opened=8.0 + i * 0.01) for i in range(40)]

    assert troubles(verdict(*rush, *busy(5), started_at=NOW - 10.0)) == []


def test_connections_that_never_say_who_they_are_pile_up() -> None:
    half = [Row(300 + i, "starting", age=5.0, opened=5.0, user="", database="", application="") for i in range(5)]

    diagnosis = verdict(*half, *busy(4))

    finding = find(diagnosis, "handshake-pile-up")
    assert (finding.confidence, finding.frees) == ("certain", 5)
    assert not (LEAKS | {"pool-undersized", "slow-database"}) & set(codes(diagnosis))


def test_connections_that_never_say_who_they_are_are_no_storm_after_a_start() -> None:
    half = [Row(300 + i, "starting", age=5.0, opened=5.0, user="", database="", application="") for i in range(15)]

    assert troubles(verdict(*half, *busy(4), started_at=NOW - 30.0)) == ["handshake-pile-up"]


def test_sessions_that_log_in_at_this_moment_are_no_pile() -> None:
    coming = [Row(300 + i, "starting", age=0.01, opened=0.01, from_sample=6) for i in range(5)]

    assert troubles(verdict(*coming, *busy(4))) == []


def test_a_refusal_with_fewer_backends_than_slots_hides_half_open_connections() -> None:
    refused = Refusal("superuser-slots", "remaining connection slots are reserved", "53300", "InitPostgres")

    assert find(verdict(*busy(60), refusal=refused), "handshake-pile-up").confidence == "likely"


def test_a_small_pool_beside_a_leak_of_another_application_gives_both() -> None:
    leaked = rows(5, 900, state=IN_TRANSACTION, age=4.0, step=2.0, application="checkout")

    diagnosis = verdict(*leaked, *busy(6), hosts=[host()], pools=full_pool(6, 9, application="shop"))

    assert held_by(find(diagnosis, "leak-in-transaction")) == {"checkout"}
    assert held_by(find(diagnosis, "pool-undersized")) == {"shop"}


def test_commits_that_no_standby_confirms_are_not_told_as_statements_to_make_cheaper() -> None:
    waiting = rows(8, state="active", age=4.0, wait=("IPC", "SyncRep"), query="UPDATE item SET n = n + 1")

    finding = find(verdict(*waiting, hosts=[host(cores=16)]), "slow-database")

    assert (finding.confidence, len(pids(finding))) == ("certain", 8)
    assert "8 commits wait for a synchronous standby, the longest for 4 s" in finding.summary
    assert "synchronous_standby_names" in finding.remedy


def test_commits_that_a_standby_confirms_in_time_are_healthy() -> None:
    waiting = rows(8, state="active", age=0.02, turns=0.05, wait=("IPC", "SyncRep"), query="COMMIT")

    assert troubles(verdict(*waiting, *busy(20), hosts=[host(cores=16)])) == []
