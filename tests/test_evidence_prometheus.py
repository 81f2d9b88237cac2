"""A real Prometheus that scrapes a real pool, read back by inspect and recommend."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner
from prometheuses import BINARY, run_prometheus, serve, wait_for
from psycopg_pool import ConnectionPool
from sandboxes import connect, own_temporary_directory

from poolctl.cli import poolctl
from poolctl.engines.sandbox import Sandbox
from poolctl.errors import BadInput, CannotConnect, CannotDo
from poolctl.observe.evidence.history import HistoryQuery, Range, find_busiest, plan_range, read_history

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(BINARY is None and "POOLCTL_REQUIRE_SERVERS" not in os.environ, reason="no prometheus here"),
]

SIZE = 4
NOON = 1_791_892_800.0  # 2026-10-13 12:00 UTC


@dataclass(frozen=True)
class Kept:
    """A Prometheus with the history of a pool that leaked one connection after the other until clients waited."""

    url: str
    began: float
    ended: float


def write_metrics(pool: ConnectionPool[Any], sandbox: Sandbox) -> str:
    """Write a real pool's figures by OpenTelemetry's names, and the server's by postgres_exporter's."""
    stats = pool.get_stats()
    size, free = stats["pool_size"], stats["pool_available"]
    lines = [
        f'db_client_connection_count{{pool_name="shop",state="used"}} {size - free}',
        f'db_client_connection_count{{pool_name="shop",state="idle"}} {free}',
        f'db_client_connection_max{{pool_name="shop"}} {stats["pool_max"]}',
        f'db_client_connection_pending_requests{{pool_name="shop"}} {stats.get("requests_waiting", 0)}',
        f'db_client_connection_wait_time_seconds_count{{pool_name="shop"}} {stats.get("requests_num", 0)}',
    ]
    with connect(sandbox.admin_conninfo) as admin:
        rows = admin.execute(
            b"select datname, state, count(*) from pg_stat_activity where backend_type = 'client backend' "
            b"and pid <> pg_backend_pid() group by 1, 2"
        ).fetchall()
        limit = admin.execute(b"select current_setting('max_connections')").fetchone()
    lines += [f'pg_stat_activity_count{{datname="{name}",state="{state}"}} {count}' for name, state, count in rows]
    assert limit is not None
    return "\n".join([*lines, f"pg_settings_max_connections {limit[0]}", ""])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        stack.enter_context(own_temporary_directory(tmp_path_factory))
        sandbox = stack.enter_context(Sandbox.start(max_connections=20))
        pool = stack.enter_context(ConnectionPool(sandbox.conninfo, min_size=SIZE, max_size=SIZE, timeout=60))
        pool.wait()
        port = stack.enter_context(serve(lambda: write_metrics(pool, sandbox)))
        url = stack.enter_context(run_prometheus(folder, [port]))
        wait_for(url, "db_client_connection_max", SIZE)
        began = time.time()
        taken = []
        for _ in range(SIZE):
            taken.append(pool.getconn())
            time.sleep(1.5)
        time.sleep(2.5)
        ended = time.time()
        yield Kept(url, began, ended)
        for connection in taken:
            pool.putconn(connection)


def run(*words: str) -> Any:
    result = CliRunner().invoke(poolctl, [*words, "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def test_the_history_of_a_pool_is_a_series_of_its_samples(kept: Kept) -> None:
    observation = read_history(HistoryQuery(kept.url, 'job="shop"'), Range(kept.began, kept.ended, 1.0))

    counts = [pool.in_use or 0 for snapshot in observation.snapshots for pool in snapshot.pools]
    assert counts[0] <= 1
    assert counts[-1] == SIZE
    assert counts == sorted(counts)
    pool = observation.last.pools[0]
    assert (pool.max_open, pool.idle, pool.waiting, pool.name) == (SIZE, 0, 0, "shop")
    assert pool.source.startswith(f"{kept.url} instance=127.0.0.1:")
    assert observation.server is not None
    assert observation.server.max_connections == 20
    assert len(observation.samples[-1].clients) >= SIZE


def test_inspect_shows_the_trend_and_that_the_pool_is_full(kept: Kept) -> None:
    words = ["inspect", "--prometheus", kept.url, "--from", moment(kept.began), "--step", "1s"]
    shown = run(*words)
    report = CliRunner().invoke(poolctl, [*words, "--quiet"]).stdout

    assert shown["observed"]["sources"] == [
        {"kind": "prometheus", "target": kept.url, "ok": True, "reason": "", "is_partial": False}
    ]
    assert [limit["free"] for limit in shown["limits"] if limit["scope"] == "pool"] == [0]
    assert "What the history says" in report
    assert "full since" in report
    assert "(-" not in report.replace("(--", "")


def test_recommend_sizes_from_the_busiest_stretch(kept: Kept) -> None:
    shown = run(
        *("recommend", "--prometheus", kept.url, "--from", moment(kept.began), "--step", "1s"),
        *("--max-connections", "20", "--no-verify"),
    )

    assert shown["measured"]["parallelism"]["max"] == SIZE
    assert any("in Prometheus" in note for note in shown["notes"])


def test_a_selector_that_matches_nothing_and_one_that_is_none_are_refused(kept: Kept) -> None:
    stretch = Range(kept.began, kept.ended, 1.0)

    with pytest.raises(BadInput, match="has no figures"):
        read_history(HistoryQuery(kept.url, '{job="other"}'), stretch)
    with pytest.raises(CannotDo, match="refused the query"):
        read_history(HistoryQuery(kept.url, "job=shop"), stretch)


def test_a_prometheus_that_does_not_answer_is_an_error_without_its_password() -> None:
    with pytest.raises(CannotConnect) as caught:
        read_history(HistoryQuery("http://user:secret@127.0.0.1:9"), Range(NOON, NOON + 60, 15.0))

    assert "secret" not in str(caught.value)


def test_the_busiest_half_hour_of_a_longer_time_is_found(kept: Kept) -> None:
    busiest = find_busiest(HistoryQuery(kept.url), Range(kept.ended - 7200, kept.ended, 15.0))

    # The server rounds to milliseconds.
    assert busiest.since - 0.001 <= kept.ended <= busiest.until + 60
    assert busiest.until - busiest.since <= 1800


@pytest.mark.parametrize(
    ("since", "until", "step", "expected"),
    [
        (None, None, None, Range(NOON - 3600, NOON, 15.0)),
        (11 * 3600.0, 11.5 * 3600, None, Range(NOON - 3600, NOON - 1800, 15.0)),
        (23 * 3600.0, None, None, Range(NOON - 13 * 3600, NOON, 94.0)),
        (NOON - 600, NOON, 5.0, Range(NOON - 600, NOON, 5.0)),
    ],
)
def test_a_time_of_day_is_the_last_such_one(
    since: float | None, until: float | None, step: float | None, expected: Range
) -> None:
    assert plan_range(since, until, step, 3600.0, NOON) == expected


def test_a_step_that_is_too_fine_and_an_empty_stretch_are_refused() -> None:
    with pytest.raises(BadInput, match="--step"):
        plan_range(NOON - 86_400 * 7, NOON, 1.0, 3600.0, NOON)
    with pytest.raises(BadInput, match="nothing lies between"):
        plan_range(NOON, NOON - 60, None, 3600.0, NOON)
