"""What applications say of their own pools: every library's names as tables, real pools' own words, and a real HTTP."""

import contextlib
import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolctl.errors import BadInput
from poolctl.observe import pool_metrics as pool_stats
from poolctl.observe.pool_metrics import PoolMetrics, parse_names, read_pools
from poolctl.observe.prometheus import Exposition, Series, parse
from poolctl.observe.snapshot import PoolFigures


def test_whose_pool_it_is_can_be_said_before_the_place(tmp_path: Path) -> None:
    file, odd = tmp_path / "pools.prom", tmp_path / "a=b.prom"
    for each in (file, odd):
        each.write_text("go_sql_in_use_connections 4\n")

    def applications(place: str) -> list[str | None]:
        return [pool.application for pool in PoolMetrics(place).sample() or ()]

    assert applications(f"shop api={file}") == ["shop api"]
    assert applications(str(file)) == [None]
    assert applications(str(odd)) == [None]
    assert PoolMetrics(f"shop={file}").source.target == str(file)
    assert PoolMetrics("shop=http://x:1/m?a=b").source.target == "http://x:1/m"
    assert PoolMetrics("http://x:1/m?a=b").source.target == "http://x:1/m"


@pytest.mark.parametrize(
    ("line", "series"),
    [
        ("up 1", Series("up", {}, 1.0)),
        ("up{} 1", Series("up", {}, 1.0)),
        ("up\t1 1395066363000", Series("up", {}, 1.0)),
        ('up{a="b",c="d",} 1.5e3', Series("up", {"a": "b", "c": "d"}, 1500.0)),
        ('up { a = "b" } -2', Series("up", {"a": "b"}, -2.0)),
        (r'up{a="x\\y\"z\nw"} +Inf', Series("up", {"a": 'x\\y"z\nw'}, float("inf"))),
        ('up{a="}, {"} .5', Series("up", {"a": "}, {"}, 0.5)),
        ('up_bucket{le="0.1"} 8 # {trace_id="K"} 0.067 1520879607.789', Series("up_bucket", {"le": "0.1"}, 8.0)),
        (
            '{"db.client.connection.max", "pool.name"="x"} 4',
            Series("db_client_connection_max", {"pool_name": "x"}, 4.0),
        ),
        ("  up 1  \r", Series("up", {}, 1.0)),
    ],
)
def test_a_line_of_prometheus_text_is_read(line: str, series: Series) -> None:
    exposition = parse(f"# HELP up \\n\n# TYPE up gauge\n\n{line}\n# EOF\nnot read any more {{")

    assert (exposition.series, exposition.unreadable) == ((series,), ())
    assert parse(line, lambda name: False) == Exposition((), ())


@pytest.mark.parametrize(
    "line",
    [
        "up",
        "up one",
        "up 1_000",
        "up 0x10",
        "1up 1",
        'up{a="b} 1',
        'up{a="b" c="d"} 1',
        "up{a=b} 1",
        '{"a", "b"} 1',
        "{} 1",
        "up 1 2 3",
        "<html>",
        "up{",
        "up٣ 1",
        "DATABASE_URL=postgres://app:s3cr3t@db/shop",
    ],
)
def test_a_line_that_is_none_costs_no_other_and_is_told_by_its_number(line: str) -> None:
    exposition = parse(f"before 1\n{line}\nafter 2\n")

    assert [one.name for one in exposition.series] == ["before", "after"]
    assert exposition.unreadable == (2,)
    assert parse(f"before 1\n{line}\nafter 2\n", lambda name: name == "after").unreadable in ((2,), ())
    assert "s3cr3t" not in read_pools(f"a 1\n{line}", "here").complaint


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text('{}"\\=,# \n1a.-[]:').map(str))
def test_no_text_stops_the_reading(text: str) -> None:
    lines = range(1, len(text.splitlines()) + 2)

    assert set(parse(text).unreadable) <= set(lines)
    assert all(is_possible(pool) for pool in read_pools(text, "here").pools)


def is_possible(pool: PoolFigures) -> bool:
    """Whether a pool can have these figures."""
    figures = (pool.max_open, pool.open, pool.in_use, pool.idle, pool.waiting, pool.acquired_total)
    return pool.source == "here" and all(figure is None or 0 <= figure < inf for figure in figures)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["pool_size", "open", "InUse"]), inner),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_no_json_stops_the_reading(document: object) -> None:
    assert all(is_possible(pool) for pool in read_pools(json.dumps(document), "here").pools)


@pytest.mark.parametrize(
    "text", ['{"open": 1e999, "in_use": 1e308}', '{"open": ' + "9" * 400 + "}", "[" * 100_000, "{" * 99]
)
def test_numbers_and_nestings_without_end_are_no_pools(text: str) -> None:
    assert [pool.open for pool in read_pools(text, "here").pools] in ([], [None])


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_a_gauge_that_is_no_number_is_not_seen(value: str) -> None:
    text = f"go_sql_open_connections 3\ngo_sql_idle_connections {value}\ngo_sql_wait_duration_seconds_total {value}\n"
    (pool,) = read_pools(text, "here").pools

    assert (pool.open, pool.idle, pool.wait_time_total) == (3, None, None)


def test_an_enormous_gauge_is_read_as_it_is() -> None:
    (pool,) = read_pools("go_sql_open_connections 3\ngo_sql_idle_connections 1e308\n", "here").pools

    assert (pool.open, pool.idle) == (3, int(1e308))


GO = """
# HELP go_sql_max_open_connections Maximum number of open connections to the database.
# TYPE go_sql_max_open_connections gauge
go_sql_max_open_connections{db_name="shop"} 30
go_sql_open_connections{db_name="shop"} 12
go_sql_in_use_connections{db_name="shop"} 9
go_sql_idle_connections{db_name="shop"} 3
go_sql_wait_count_total{db_name="shop"} 41
go_sql_wait_duration_seconds_total{db_name="shop"} 12.5
go_sql_max_idle_closed_total{db_name="shop"} 5
go_sql_max_idle_time_closed_total{db_name="shop"} 6
go_sql_max_lifetime_closed_total{db_name="shop"} 7
"""
SQLSTATS = """
go_sql_stats_connections_max_open{db_name="shop"} 30
go_sql_stats_connections_open{db_name="shop"} 12
go_sql_stats_connections_in_use{db_name="shop"} 9
go_sql_stats_connections_idle{db_name="shop"} 3
go_sql_stats_connections_waited_for{db_name="shop"} 41
go_sql_stats_connections_blocked_seconds{db_name="shop"} 12.5
go_sql_stats_connections_closed_max_idle{db_name="shop"} 5
go_sql_stats_connections_closed_max_idle_time{db_name="shop"} 6
go_sql_stats_connections_closed_max_lifetime{db_name="shop"} 7
"""
GORM = """
gorm_dbstats_max_open_connections{db_name="shop"} 30
gorm_dbstats_open_connections{db_name="shop"} 12
gorm_dbstats_in_use{db_name="shop"} 9
gorm_dbstats_idle{db_name="shop"} 3
gorm_dbstats_wait_count{db_name="shop"} 41
gorm_dbstats_wait_duration{db_name="shop"} 1.25e+10
gorm_dbstats_max_idle_closed{db_name="shop"} 5
gorm_dbstats_max_idletime_closed{db_name="shop"} 6
gorm_dbstats_max_lifetime_closed{db_name="shop"} 7
"""
DBSTATS = json.dumps(
    {
        "shop": {
            "MaxOpenConnections": 30,
            "OpenConnections": 12,
            "InUse": 9,
            "Idle": 3,
            "WaitCount": 41,
            "WaitDuration": 12500000000,
            "MaxIdleClosed": 5,
            "MaxIdleTimeClosed": 6,
            "MaxLifetimeClosed": 7,
        }
    }
)
HIKARI = """
hikaricp_active_connections{pool="HikariPool-1",} 9.0
hikaricp_idle_connections{pool="HikariPool-1",} 1.0
hikaricp_pending_threads{pool="HikariPool-1",} 4.0
hikaricp_connections{pool="HikariPool-1",} 10.0
hikaricp_max_connections{pool="HikariPool-1",} 10.0
hikaricp_min_connections{pool="HikariPool-1",} 10.0
hikaricp_connection_timeout_total{pool="HikariPool-1",} 2.0
hikaricp_connection_acquired_nanos{pool="HikariPool-1",quantile="0.95",} 5.0
hikaricp_connection_acquired_nanos_count{pool="HikariPool-1",} 100.0
hikaricp_connection_acquired_nanos_sum{pool="HikariPool-1",} 2.5E9
hikaricp_connection_usage_millis_count{pool="HikariPool-1",} 90.0
hikaricp_connection_usage_millis_sum{pool="HikariPool-1",} 4500.0
hikaricp_connection_creation_millis_count{pool="HikariPool-1",} 11.0
"""
MICROMETER = """
hikaricp_connections_active{application="shop",pool="HikariPool-1"} 9.0
hikaricp_connections_idle{application="shop",pool="HikariPool-1"} 1.0
hikaricp_connections_pending{application="shop",pool="HikariPool-1"} 4.0
hikaricp_connections{application="shop",pool="HikariPool-1"} 10.0
hikaricp_connections_max{application="shop",pool="HikariPool-1"} 10.0
hikaricp_connections_min{application="shop",pool="HikariPool-1"} 10.0
hikaricp_connections_timeout_total{application="shop",pool="HikariPool-1"} 2.0
hikaricp_connections_acquire_seconds_count{application="shop",pool="HikariPool-1"} 100
hikaricp_connections_acquire_seconds_sum{application="shop",pool="HikariPool-1"} 2.5
hikaricp_connections_acquire_seconds_max{application="shop",pool="HikariPool-1"} 0.5
hikaricp_connections_usage_seconds_count{application="shop",pool="HikariPool-1"} 90
hikaricp_connections_usage_seconds_sum{application="shop",pool="HikariPool-1"} 4.5
hikaricp_connections_creation_seconds_count{application="shop",pool="HikariPool-1"} 11
"""
OTEL = """
db_client_connection_count{db_client_connection_pool_name="main",db_client_connection_state="idle"} 1
db_client_connection_count{db_client_connection_pool_name="main",db_client_connection_state="used"} 9
db_client_connection_max{db_client_connection_pool_name="main"} 10
db_client_connection_pending_requests{db_client_connection_pool_name="main"} 4
db_client_connection_timeouts_total{db_client_connection_pool_name="main"} 2
db_client_connection_wait_time_seconds_bucket{db_client_connection_pool_name="main",le="0.1"} 7
db_client_connection_wait_time_seconds_count{db_client_connection_pool_name="main"} 100
db_client_connection_wait_time_seconds_sum{db_client_connection_pool_name="main"} 2.5
db_client_connection_use_time_seconds_count{db_client_connection_pool_name="main"} 90
db_client_connection_use_time_seconds_sum{db_client_connection_pool_name="main"} 4.5
db_client_connection_create_time_seconds_count{db_client_connection_pool_name="main"} 11
"""
OLDER_OTEL = """
db_client_connections_usage{pool_name="main",state="idle"} 1
db_client_connections_usage{pool_name="main",state="used"} 9
db_client_connections_max{pool_name="main"} 10
db_client_connections_pending_requests{pool_name="main"} 4
db_client_connections_timeouts_total{pool_name="main"} 2
db_client_connections_wait_time_milliseconds_count{pool_name="main"} 100
db_client_connections_wait_time_milliseconds_sum{pool_name="main"} 2500
db_client_connections_use_time_milliseconds_count{pool_name="main"} 90
db_client_connections_use_time_milliseconds_sum{pool_name="main"} 4500
db_client_connections_create_time_milliseconds_count{pool_name="main"} 11
db_client_connections_usage{db_system="redis",pool_name="main",state="used"} 99
"""
PGXPOOL = """
pgxpool_acquire_count{db_name="shop"} 100
pgxpool_acquire_duration_ns{db_name="shop"} 2.5e+09
pgxpool_acquired_conns{db_name="shop"} 9
pgxpool_canceled_acquire_count{db_name="shop"} 2
pgxpool_constructing_conns{db_name="shop"} 0
pgxpool_empty_acquire{db_name="shop"} 41
pgxpool_idle_conns{db_name="shop"} 1
pgxpool_max_conns{db_name="shop"} 10
pgxpool_total_conns{db_name="shop"} 10
pgxpool_new_conns_count{db_name="shop"} 11
pgxpool_max_lifetime_destroy_count{db_name="shop"} 7
pgxpool_max_idle_destroy_count{db_name="shop"} 6
"""
GO_FIGURES = PoolFigures(
    "here",
    "shop",
    "database/sql",
    max_open=30,
    open=12,
    in_use=9,
    idle=3,
    queued_total=41.0,
    wait_time_total=12.5,
    closed_idle_total=11.0,
    closed_lifetime_total=7.0,
)


def busy(name: str, library: str, **more: object) -> PoolFigures:
    figures: dict[str, object] = {
        "max_open": 10, "open": 10, "in_use": 9, "idle": 1, "waiting": 4, "acquired_total": 100.0,
        "wait_time_total": 2.5, "timed_out_total": 2.0, "use_count_total": 90.0, "use_time_total": 4.5,
        "opened_total": 11.0,
    }  # fmt: skip
    return PoolFigures("here", name, library, **(figures | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        (GO, GO_FIGURES),
        (SQLSTATS, GO_FIGURES),
        (GORM, GO_FIGURES),
        (DBSTATS, GO_FIGURES),
        (HIKARI, busy("HikariPool-1", "hikaricp")),
        (MICROMETER, busy("HikariPool-1", "hikaricp", labels={"application": "shop"}, application="shop")),
        (OTEL, busy("main", "opentelemetry")),
        (OLDER_OTEL, busy("main", "opentelemetry")),
        (
            PGXPOOL,
            busy(
                "shop",
                "pgxpool",
                waiting=None,
                queued_total=41.0,
                use_count_total=None,
                use_time_total=None,
                closed_idle_total=6.0,
                closed_lifetime_total=7.0,
            ),
        ),
        (
            '[{"name": "main", "totalCount": 10, "idleCount": 1, "waitingCount": 4}]',
            PoolFigures("here", "main", "node-pg", open=10, in_use=9, idle=1, waiting=4),
        ),
        (
            '{"numUsed": 9, "numFree": 1, "numPendingAcquires": 4, "numPendingCreates": 0}',
            PoolFigures("here", "default", "tarn", open=10, in_use=9, idle=1, waiting=4),
        ),
        (
            '{"maxSize": 10, "minSize": 0, "size": 10, "available": 1, "using": 9, "waiting": 4}',
            PoolFigures("here", "default", "sequelize", max_open=10, open=10, in_use=9, idle=1, waiting=4),
        ),
        (
            '{"max": 10, "size": 10, "available": 1, "borrowed": 9, "pending": 4, "spareResourceCapacity": 0}',
            PoolFigures("here", "default", "generic-pool", max_open=10, open=10, in_use=9, idle=1, waiting=4),
        ),
        (
            '{"acquiredConnections": 9, "idleConnections": 1, "pendingConnections": 0, "waitingClients": 4}',
            PoolFigures("here", "default", "slonik", open=10, in_use=9, idle=1, waiting=4),
        ),
        (
            '{"size": 10, "freesize": 1, "minsize": 1, "maxsize": 10}',
            PoolFigures("here", "default", "aiopg", max_open=10, open=10, in_use=9, idle=1),
        ),
        (
            '{"size": 10, "idle_size": 1, "min_size": 10, "max_size": 10}',
            PoolFigures("here", "default", "asyncpg", max_open=10, open=10, in_use=9, idle=1),
        ),
        (
            '{"numConnections": 10, "numBusyConnections": 9, "numIdleConnections": 1, "maxPoolSize": 10,'
            ' "numThreadsAwaitingCheckoutDefaultUser": 4}',
            PoolFigures("here", "default", "c3p0", max_open=10, open=10, in_use=9, idle=1, waiting=4),
        ),
        (
            '{"activeConnections": 9, "idleConnections": 1, "totalConnections": 10, "threadsAwaitingConnection": 4}',
            PoolFigures("here", "default", "hikaricp", open=10, in_use=9, idle=1, waiting=4),
        ),
        (
            '{"pools": [{"name": "a", "library": "mine", "max_open": 0, "in_use": 2, "idle": 1, "waiting": 0,'
            ' "labels": {"pod": "x"}, "application": "web", "loop_lag": 0.25, "acquired_total": 7}]}',
            PoolFigures(
                "here",
                "a",
                "mine",
                {"pod": "x"},
                max_open=0,
                open=3,
                in_use=2,
                idle=1,
                waiting=0,
                acquired_total=7.0,
                loop_lag=0.25,
                application="web",
            ),
        ),
        (
            "orders: Pool size: 5  Connections in pool: 1 Current Overflow: 2 Current Checked out connections: 6\n",
            PoolFigures("here", "orders", "sqlalchemy", open=7, in_use=6, idle=1),
        ),
    ],
    ids=[
        "go",
        "sqlstats",
        "gorm",
        "DBStats",
        "hikari",
        "micrometer",
        "otel",
        "older otel",
        "pgxpool",
        "node-pg",
        "tarn",
        "sequelize-pool",
        "generic-pool",
        "slonik",
        "aiopg",
        "asyncpg",
        "c3p0 mxbean",
        "mxbean",
        "poolctl",
        "sqlalchemy",
    ],
)
def test_the_names_of_a_library_become_the_same_figures(text: str, figures: PoolFigures) -> None:
    read = read_pools(text, "here")

    assert read.pools == (figures,)
    assert read.complaint == ""


def test_pools_of_several_pods_and_databases_stay_apart() -> None:
    text = "".join(
        f'go_sql_open_connections{{db_name="{name}",pod="{pod}"}} {count}\n'
        for count, (name, pod) in enumerate([("shop", "a"), ("shop", "b"), ("audit", "a")])
    )

    assert [(pool.name, pool.labels, pool.open) for pool in read_pools(text, "here").pools] == [
        ("shop", {"pod": "a"}, 0),
        ("shop", {"pod": "b"}, 1),
        ("audit", {"pod": "a"}, 2),
    ]


def test_the_lag_of_an_event_loop_goes_with_the_pools_it_serves() -> None:
    text = GO + "nodejs_eventloop_lag_seconds 0.75\n"

    assert [pool.loop_lag for pool in read_pools(text, "here").pools] == [0.75]
    assert read_pools("nodejs_eventloop_lag_seconds 0.75\n", "here").pools == ()


def test_a_real_psycopg_pool_s_statistics_are_read() -> None:
    psycopg_pool = pytest.importorskip("psycopg_pool")
    with contextlib.closing(
        psycopg_pool.ConnectionPool("host=127.0.0.1 port=1", min_size=1, max_size=4, open=False)
    ) as pool:
        statistics = pool.get_stats()
    (figures,) = read_pools(json.dumps(statistics), "here").pools
    counted = {"requests_num": 100, "requests_errors": 10, "requests_wait_ms": 2500, "usage_ms": 4500}
    (later,) = read_pools(json.dumps(statistics | counted), "here").pools

    assert (figures.library, figures.max_open, figures.waiting, figures.waiting_may_lie) == ("psycopg_pool", 4, 0, True)
    assert (later.acquired_total, later.timed_out_total, later.wait_time_total, later.use_time_total) == (
        90.0, 10.0, 2.5, 4.5,
    )  # fmt: skip


def test_psycopg_pool_counts_no_timeouts_before_the_first_and_that_is_none_so_far() -> None:
    (figures,) = read_pools('{"pool_max": 4, "pool_size": 4, "pool_available": 4, "requests_num": 7}', "here").pools

    assert (figures.acquired_total, figures.timed_out_total) == (7.0, 0.0)


def test_a_real_sqlalchemy_pool_s_status_is_read() -> None:
    pool = pytest.importorskip("sqlalchemy.pool")
    queue = pool.QueuePool(lambda: None, pool_size=5, max_overflow=10)

    (figures,) = read_pools(queue.status(), "here").pools

    assert (figures.library, figures.open, figures.in_use, figures.idle) == ("sqlalchemy", 0, 0, 0)


class Application(http.server.BaseHTTPRequestHandler):
    """Answers with what the test put into ``answer``."""

    answer: Callable[["Application"], None]
    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        type(self).seen.append({"path": self.path, **{key.lower(): value for key, value in self.headers.items()}})
        type(self).answer(self)

    def log_message(self, *_: object) -> None:
        pass

    def say(self, text: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(text.encode())


class Served:
    def __init__(self) -> None:
        self.kind = type("Served", (Application,), {"seen": [], "answer": lambda handler: handler.say(GO)})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.kind)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/metrics"

    def answers(self, answer: Callable[[Application], None]) -> None:
        self.kind.answer = answer  # type: ignore[attr-defined]

    @property
    def seen(self) -> list[dict[str, str]]:
        seen: list[dict[str, str]] = self.kind.seen  # type: ignore[attr-defined]
        return seen


@pytest.fixture
def served() -> Iterator[Served]:
    application = Served()
    thread = threading.Thread(target=application.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield application
    application.server.shutdown()
    application.server.server_close()
    thread.join()


def test_a_page_of_metrics_is_fetched_at_each_look(served: Served) -> None:
    stats = PoolMetrics(served.url)
    first = stats.sample()
    served.answers(lambda handler: handler.say(GO.replace("12", "13")))
    second = stats.sample()

    assert first is not None
    assert second is not None
    assert [(pool.source, pool.open) for pool in first + second] == [(served.url, 12), (served.url, 13)]
    assert (stats.source.kind, stats.source.ok, stats.source.reason) == ("pool-stats", True, "")


def test_what_lets_poolctl_in_goes_to_that_host_and_nowhere_else(served: Served) -> None:
    other = Served()
    threading.Thread(target=other.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    served.answers(lambda handler: handler.say("", 302, Location=other.url))
    stats = PoolMetrics(served.url.replace("http://", "http://me:s3%63r3t@") + "?token=s3cr3t#x")
    try:
        pools = stats.sample()
    finally:
        other.server.shutdown()
        other.server.server_close()

    assert pools is not None
    assert [pool.open for pool in pools] == [12]
    assert served.seen[0]["authorization"] == "Basic bWU6czNjcjN0"
    assert served.seen[0]["path"] == "/metrics?token=s3cr3t"
    assert "authorization" not in other.seen[0]
    assert stats.source.target == served.url
    assert "s3cr3t" not in repr((stats.source, pools))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda handler: handler.say("no", 503), "it answered HTTP 503 Service Unavailable"),
        (lambda handler: handler.say("", 302, Location="file:///etc/passwd"), "it answered HTTP 302 Found"),
        (lambda handler: handler.say("", 302, Location="/metrics"), "it answered HTTP 302 Found"),
        (lambda handler: handler.wfile.write(b"\x00\xff nonsense\r\n\r\n"), "no readable HTTP answer"),
        (lambda handler: handler.say("<html>\n<body>\n"), "line 1 is not Prometheus text, nor are 1 more"),
        (lambda handler: handler.say("up 1\n"), "no figures of a pool among its metrics"),
        (lambda handler: handler.say("{}"), "no pool in this JSON"),
    ],
)
def test_a_page_that_tells_of_no_pool_costs_one_line(
    served: Served, answer: Callable[[Application], None], reason: str
) -> None:
    served.answers(answer)
    stats = PoolMetrics(served.url)

    assert not stats.sample()
    assert stats.source.reason.startswith(reason)
    assert "\n" not in stats.source.reason


def test_a_bad_line_among_good_ones_is_told_and_the_pools_are_kept(served: Served) -> None:
    served.answers(lambda handler: handler.say("go_sql_open{\n" + GO))
    stats = PoolMetrics(served.url)
    pools = stats.sample()

    assert pools is not None
    assert [pool.open for pool in pools] == [12]
    assert (stats.source.ok, stats.source.reason) == (False, "line 1 is not Prometheus text")


@pytest.mark.parametrize("drip", [False, True], ids=["says nothing", "says little by little"])
def test_an_application_that_hangs_costs_a_look_its_patience(served: Served, drip: bool) -> None:
    ended = threading.Event()

    def hang(handler: Application) -> None:
        if drip:
            handler.say("")
        while not ended.wait(0.02):
            with contextlib.suppress(OSError):
                handler.wfile.write(b"# \n" if drip else b"")

    served.answers(hang)
    stats = PoolMetrics(served.url, patience=0.3)
    began = time.monotonic()
    pools, took = stats.sample(), time.monotonic() - began
    ended.set()

    assert pools is None
    assert took < 10.0
    assert "0.3 s" in stats.source.reason or stats.source.reason == "no answer in time"


def test_a_page_without_an_end_is_read_up_to_a_limit(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_stats, "LARGEST", 4096)
    served.answers(
        lambda handler: handler.say(GO + "# padding\n" * 10_000 + 'go_sql_open_connections{db_name="late"} 1\n')
    )
    stats = PoolMetrics(served.url)
    pools = stats.sample()

    assert pools is not None
    assert [pool.name for pool in pools] == ["shop"]
    assert not stats.source.ok
    assert stats.source.reason.endswith("only the beginning was read")


def test_an_application_that_is_not_there_is_said_in_one_line() -> None:
    stats = PoolMetrics("http://me:s3cr3t@127.0.0.1:1/metrics")

    assert stats.sample() is None
    assert stats.source.reason == "Connection refused"
    assert "s3cr3t" not in repr(stats.source)


@pytest.mark.parametrize("url", ["http://", "http://[::1", "https://x:y@:z/", "http://a b/", "HTTP://\x00"])
def test_a_url_that_is_none_is_said_without_repeating_it(url: str) -> None:
    stats = PoolMetrics(url)

    assert stats.sample() is None
    assert not stats.source.ok
    assert stats.source.reason != ""


def test_a_file_is_read_again_at_each_look(tmp_path: Path) -> None:
    path = tmp_path / "pools.prom"
    stats = PoolMetrics(str(path))
    missing = stats.sample()
    reason = stats.source.reason
    path.write_text("\ufeff" + GO)
    pools = stats.sample()

    assert missing is None
    assert reason == "No such file or directory"
    assert pools is not None
    assert [pool.open for pool in pools] == [12]
    assert stats.source.ok


def test_a_file_that_is_none_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert PoolMetrics(str(pipe)).sample() is None
    assert PoolMetrics(str(tmp_path)).sample() is None
    assert PoolMetrics("\x00").sample() is None


def test_totals_without_a_gauge_are_a_complaint_and_no_pool_that_looks_idle() -> None:
    read = read_pools("pgxpool_acquires_total 100\npgxpool_empty_acquire_total 30\n", "scrape")

    assert read.pools == ()
    assert "no gauge of connections open, in use or idle" in read.complaint


def test_metrics_that_look_like_a_pool_are_named_when_none_is_known() -> None:
    read = read_pools("shop_db_pool_busy 10\nshop_db_pool_size 10\nhttp_requests_total 7\n", "scrape")

    assert read.pools == ()
    assert "shop_db_pool_busy, shop_db_pool_size (--pool-stats-map in_use=NAME,...)" in read.complaint


def test_names_of_the_users_own_go_before_the_known_ones() -> None:
    names = parse_names(["in_use=shop_db_pool_busy, max_open=shop_db_pool_size"])
    (pool,) = read_pools("shop_db_pool_busy 10\nshop_db_pool_size 12\n", "scrape", names).pools

    assert (pool.in_use, pool.max_open) == (10, 12)


def test_a_figure_that_no_pool_has_is_refused_with_those_that_exist() -> None:
    with pytest.raises(BadInput, match="busy is not a figure of a pool") as refused:
        parse_names(["busy=shop_db_pool_busy"])

    assert "in_use" in refused.value.hint


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("HikariPool-1 - Pool stats (total=10/10, idle=0/5, active=10, waiting=3)", (10, 10, 10, 0, 3)),
        ("HikariPool-1 - After cleanup  stats (total=1, active=0, idle=1, waiting=0)", (None, 1, 0, 1, 0)),
        (
            "main: Pool size: 5  Connections in pool: 1 Current Overflow: 0 Current Checked out connections: 4",
            (None, 5, 4, 1, None),
        ),
        ("QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00", (15, 15, 15, 0, None)),
        (
            "the connection pool has been exhausted, either raise "
            "'Max Pool Size' (currently 100) or 'Timeout' (currently 15 seconds)",
            (100, 100, 100, 0, None),
        ),
        (
            "Timed out fetching a new connection from the connection pool. (Current connection pool timeout: 10, "
            "connection limit: 5)",
            (5, 5, 5, 0, None),
        ),
        (
            "{MaxOpenConnections:100 OpenConnections:90 InUse:80 Idle:10 WaitCount:1 WaitDuration:1m2s}",
            (100, 90, 80, 10, None),
        ),
        (
            "Pool { size: 3, num_idle: 1, is_closed: false, options: PoolOptions { max_connections: 50, min: 0 } }",
            (50, 3, 2, 1, None),
        ),
        (
            '{"acquireDuration": "7.8s", "acquiredConns": 32, "idleConns": 0, "maxConns": 32, "totalConns": 32}',
            (32, 32, 32, 0, None),
        ),
        (
            '{"idleSize": 0, "acquiredSize": 10, "allocatedSize": 10, "pendingAcquireSize": 7, "maxAllocatedSize": 10}',
            (10, 10, 10, 0, 7),
        ),
        (
            "sql.DBStats{MaxOpenConnections:100, OpenConnections:90, InUse:80, Idle:10, WaitCount:1, WaitDuration:62}",
            (100, 90, 80, 10, None),
        ),
        (
            "time=2026-10-13T06:31:02Z level=INFO msg=pool total_conns=9 idle_conns=1 acquired_conns=8 max_conns=9",
            (9, 9, 8, 1, None),
        ),
        ("pool in_use=9 idle=0 waiting=7 max_open=9", (9, 9, 9, 0, 7)),
        ("pool { totalCount: 20, idleCount: 0, waitingCount: 12 }", (None, 20, 20, 0, 12)),
        ("{:size=>5, :connections=>5, :busy=>5, :dead=>0, :idle=>0, :waiting=>7}", (5, 5, 5, 0, 7)),
        ("{size: 5, connections: 5, busy: 5, dead: 0, idle: 0, waiting: 7}", (5, 5, 5, 0, 7)),
        ('{"size": 15, "connections": 3, "busy": 2, "dead": 0, "idle": 1, "waiting": 4}', (15, 3, 2, 1, 4)),
        (
            '{"value": {"ActiveConnections": 9, "IdleConnections": 1, "TotalConnections": 10}}',
            (None, 10, 9, 1, None),
        ),
    ],
)
def test_figures_are_read_as_each_library_prints_them(text: str, numbers: tuple[int | None, ...]) -> None:
    (pool,) = read_pools(text, "paste").pools

    assert (pool.max_open, pool.open, pool.in_use, pool.idle, pool.waiting) == numbers


@pytest.mark.parametrize(
    ("text", "library", "expected"),
    [
        (
            # otelpgx before and after it wrote the words in full.
            "pgxpool_acquired_conns 3\npgxpool_idle_conns 1\npgxpool_max_conns 8\npgxpool_canceled_acquires_total 2\n"
            "pgxpool_acquire_duration_nanoseconds_total 5e9\n",
            "pgxpool",
            {"in_use": 3, "idle": 1, "max_open": 8, "timed_out_total": 2.0, "wait_time_total": 5.0},
        ),
        (
            # node-postgres-prometheus-exporter.
            'pg_pool_size{host="db:5432"} 4\npg_pool_max{host="db:5432"} 10\n'
            'pg_pool_active_connections{host="db:5432"} 3\npg_pool_idle_connections{host="db:5432"} 1\n'
            'pg_pool_waiting_connections{host="db:5432"} 2\n',
            "node-pg",
            {"open": 4, "max_open": 10, "in_use": 3, "idle": 1, "waiting": 2},
        ),
        (
            # Telemetry of DBConnection, behind the application's own prefix.
            'shop_repo_pool_ready_conn_count{repo="Repo"} 1\nshop_repo_pool_checkout_queue_length{repo="Repo"} 7\n'
            'shop_repo_pool_size{repo="Repo"} 10\n',
            "ecto",
            {"max_open": 10, "in_use": 9, "idle": 1, "waiting": 7},
        ),
        (
            # Agroal's starter for Spring Boot.
            'agroal_connections_active_count{pool="main"} 5\nagroal_connections_available_count{pool="main"} 0\n'
            'agroal_awaiting_count{pool="main"} 4\n',
            "agroal",
            {"in_use": 5, "idle": 0, "waiting": 4},
        ),
        (
            # prometheus_exporter with its prefix switched off.
            'active_record_connection_pool_busy{pool_name="primary"} 5\n'
            'active_record_connection_pool_idle{pool_name="primary"} 0\n'
            'active_record_connection_pool_size{pool_name="primary"} 5\n',
            "rails",
            {"in_use": 5, "idle": 0, "max_open": 5},
        ),
        (
            # MBeans through jmx_exporter, in the bean's own capitals.
            'tomcat_jdbc_ConnectionPool_Active{name="main"} 9\ntomcat_jdbc_ConnectionPool_Idle{name="main"} 0\n'
            'tomcat_jdbc_ConnectionPool_MaxActive{name="main"} 9\n'
            'tomcat_jdbc_ConnectionPool_WaitCount{name="main"} 2\n',
            "tomcat-jdbc",
            {"in_use": 9, "idle": 0, "max_open": 9, "waiting": 2},
        ),
    ],
)
def test_names_that_exporters_really_write_are_known(text: str, library: str, expected: dict[str, float]) -> None:
    (pool,) = read_pools(text, "scrape").pools

    assert pool.library == library
    assert {name: getattr(pool, name) for name in expected} == expected


def test_threads_that_vertx_counts_are_no_connections() -> None:
    text = """\
vertx_pool_in_use{pool_type="worker",pool_name="vert.x-worker-thread"} 20
vertx_pool_queue_pending{pool_type="worker",pool_name="vert.x-worker-thread"} 3
vertx_pool_in_use{pool_type="sql",pool_name="pg"} 4
vertx_pool_queue_pending{pool_type="sql",pool_name="pg"} 1
"""

    (pool,) = read_pools(text, "scrape").pools

    assert (pool.name, pool.in_use, pool.waiting) == ("pg", 4, 1)


@pytest.mark.parametrize(
    ("library", "line"),
    [
        ("hikaricp", "HikariPool-1 - Connection is not available, request timed out after 30000ms."),
        (
            "hikaricp",
            "web - Connection is not available, request timed out after 30001ms (total=9, active=9, idle=0, waiting=2)",
        ),
        ("sqlalchemy", "TimeoutError: QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30"),
        ("psycopg_pool", "psycopg_pool.PoolTimeout: couldn't get a connection after 30.00 sec"),
        ("psycopg_pool", "psycopg_pool.TooManyRequests: the pool 'web' has already 10 requests waiting"),
        ("psycopg2", "psycopg2.pool.PoolError: connection pool exhausted"),
        ("npgsql", "The connection pool has been exhausted, either raise MaxPoolSize (currently 20) or Timeout"),
        (
            "prisma",
            "Timed out fetching a new connection from the connection pool. (Current connection limit: 17)",
        ),
        ("rails", "could not obtain a connection from the pool within 5.000 seconds (waited 5.001 seconds)"),
        ("ecto", "connection not available and request was dropped from queue after 2733ms."),
        ("knex", "KnexTimeoutError: Knex: Timeout acquiring a connection. The pool is probably full."),
        ("sequelize", "SequelizeConnectionAcquireTimeoutError: Operation timeout"),
        ("node-pg", "Error: timeout exceeded when trying to connect"),
        ("sqlx", "Error: pool timed out while waiting for an open connection"),
        ("bb8", "Err(RunError::TimedOut)"),
        ("deadpool", "Timeout occurred while waiting for a slot to become available"),
        ("r2d2", "timed out waiting for connection"),
        ("r2dbc-pool", "Connection acquisition timed out after 30000ms"),
        ("agroal", "java.sql.SQLException: Sorry, acquisition timeout!"),
        ("dbcp2", "Cannot get a connection, pool error Timeout waiting for idle object, borrowMaxWaitDuration=PT30S"),
        ("dbcp2", "Cannot get a connection, pool exhausted"),
        ("c3p0", "A client timed out while waiting to acquire a resource from com.mchange.v2.resourcepool@1"),
        (
            "tomcat-jdbc",
            "Timeout: Pool empty. Unable to fetch a connection in 30 seconds, none available[size:5; busy:5; idle:0; x",
        ),
        ("vertx", "ConnectionPoolTooBusyException: Connection pool reached max wait queue size of 128"),
    ],
)
def test_an_acquire_that_gave_up_is_counted_in_the_words_of_each_library(library: str, line: str) -> None:
    (pool,) = read_pools(f"2026-10-13 06:31:02 ERROR {line}\n", "log").pools

    assert (pool.library, pool.timed_out_total) == (library, 1.0)


def test_a_number_that_no_pool_can_have_is_not_known() -> None:
    line = f"HikariPool - web - Pool stats (total={'9' * 400}, active=3, idle=1{'0' * 20}, waiting=2)"

    (pool,) = read_pools(f"2026-10-13 06:31:02 DEBUG {line}\n", "log").pools

    assert (pool.open, pool.in_use, pool.idle, pool.waiting) == (None, 3, None, 2)
