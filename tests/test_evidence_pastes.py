"""Pastes of a real psql in every output mode, and of poolers' consoles: the same backends as the server has."""

# ruff: noqa: E501 - pastes are as wide as they are
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from sandboxes import connect, eventually, one, own_temporary_directory

from poolctl.api.inspect import inspect
from poolctl.engines.sandbox import Sandbox
from poolctl.errors import BadInput
from poolctl.observe.evidence.activity_paste import parse_instant, parse_interval
from poolctl.observe.evidence.read import read_evidence
from poolctl.observe.snapshot import Backend, Observation, ServerSample

ACTIVITY = (
    "SELECT * FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY pid"
)
ODD = "SELECT 'a | b' AS \"x+\",\n  'second | line',\n  pg_sleep(0)"
"""A statement over several lines, with bars and a plus at the end of a line."""

MODES = {
    "aligned": [],
    "aligned with a frame": ["-P", "border=2"],
    "aligned without borders of lines": ["-P", "border=1", "-P", "linestyle=old-ascii"],
    "in unicode": ["-P", "linestyle=unicode", "-P", "border=2"],
    "expanded": ["-x"],
    "expanded with a frame": ["-x", "-P", "border=2"],
    "unaligned": ["-A"],
    "CSV": ["--csv"],
    "separated by tabs": ["-A", "-F", "\t"],
    "without bars": ["-P", "border=0"],
    "wrapped": ["-P", "format=wrapped", "-P", "columns=400"],
    "with a mark for what is null": ["-P", "null=(null)", "-P", "footer=off"],
    "HTML": ["-H"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with own_temporary_directory(tmp_path_factory), Sandbox.start(max_connections=20) as sandbox:
        clients = [psycopg.connect(sandbox.conninfo, application_name=f"shop {n}", autocommit=True) for n in range(4)]
        for client in clients[:2]:
            client.execute(b"BEGIN")
        for client in clients:
            client.execute(ODD.encode())
        with connect(sandbox.observer_conninfo) as observer:
            eventually(lambda: one(observer, "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle%'") == 4)
        yield sandbox
        for client in clients:
            client.close()


def psql(sandbox: Sandbox, query: str, *options: str) -> str:
    program = shutil.which("psql")
    if program is None:
        pytest.skip("psql is not installed (apt-get install postgresql-client)")
    target = {key: str(value) for key, value in conninfo_to_dict(sandbox.admin_conninfo).items()}
    conninfo = " ".join(f"{key}={value}" for key, value in target.items())
    command = [program, "--no-psqlrc", *options, "-c", query, conninfo]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PAGER": "cat", "PSQL_PAGER": "cat"}
    )
    return done.stdout


def evidence(folder: Path, *texts: str) -> Observation:
    paths = []
    for number, text in enumerate(texts):
        path = folder / f"paste-{number}"
        path.write_text(text, encoding="utf-8")
        paths.append(str(path))
    return read_evidence(paths)


def sample(observation: Observation) -> ServerSample:
    assert observation.last.server is not None
    return observation.last.server


def identities(backends: tuple[Backend, ...]) -> list[tuple[Any, ...]]:
    return sorted((each.pid, each.application, each.user, each.database, each.state) for each in backends)


@pytest.mark.server
@pytest.mark.parametrize("mode", MODES)
def test_a_paste_in_every_mode_of_psql_has_the_servers_own_backends(server: Sandbox, tmp_path: Path, mode: str) -> None:
    with connect(server.admin_conninfo) as admin:
        rows = admin.execute(
            b"SELECT pid, application_name, usename, datname, state FROM pg_stat_activity "
            b"WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY pid"
        ).fetchall()

    found = sample(evidence(tmp_path, psql(server, ACTIVITY, *MODES[mode])))

    assert identities(found.backends) == sorted(rows)
    assert all(each.started_at is not None and each.state_at is not None for each in found.backends)
    assert found.at == max(each.state_at or 0 for each in found.backends)


@pytest.mark.server
@pytest.mark.parametrize("mode", ["aligned", "aligned with a frame", "expanded", "CSV"])
def test_a_statement_over_several_lines_with_bars_in_it_comes_back_whole(
    server: Sandbox, tmp_path: Path, mode: str
) -> None:
    found = sample(evidence(tmp_path, psql(server, ACTIVITY, *MODES[mode])))

    queries = {" ".join((each.query or "").split()) for each in found.backends}
    assert queries == {" ".join(ODD.split())}


@pytest.mark.server
def test_counts_by_state_give_as_many_backends_without_an_identity(server: Sandbox, tmp_path: Path) -> None:
    query = "SELECT state, count(*) FROM pg_stat_activity WHERE state LIKE 'idle%' GROUP BY 1"

    found = sample(evidence(tmp_path, psql(server, query)))

    states = [each.state for each in found.backends]
    assert (states.count("idle"), states.count("idle in transaction")) == (2, 2)
    assert all(each.pid < 0 for each in found.backends)


@pytest.mark.server
def test_settings_in_a_paste_give_the_servers_limits(server: Sandbox, tmp_path: Path) -> None:
    shown = psql(server, "SHOW max_connections") + psql(server, "SHOW superuser_reserved_connections")
    listed = psql(server, "SELECT name, setting FROM pg_settings WHERE name LIKE '%connections'")

    for text in (shown, listed):
        facts = evidence(tmp_path, text + "\n" + psql(server, ACTIVITY)).server
        assert facts is not None
        assert (facts.max_connections, facts.usable) == (20, 17)


@pytest.mark.server
@pytest.mark.parametrize("options", [(), ("-P", "footer=off")], ids=["with a footer", "without"])
def test_two_pastes_one_after_the_other_are_two_samples(
    server: Sandbox, tmp_path: Path, options: tuple[str, ...]
) -> None:
    first = psql(server, ACTIVITY, *options)
    with connect(server.conninfo) as mover:
        mover.execute(b"SELECT 1")
        second = psql(server, ACTIVITY, *options)

    observation = evidence(tmp_path, first + second)

    assert [len(each.backends) for each in observation.samples] == [4, 5]


@pytest.mark.server
def test_a_paste_of_locks_says_who_blocks_whom(server: Sandbox, tmp_path: Path) -> None:
    from threading import Thread

    with connect(server.conninfo) as holder, connect(server.conninfo) as waiter:
        holder.execute(b"CREATE TABLE IF NOT EXISTS stock (id int)")
        holder.execute(b"BEGIN; LOCK TABLE stock IN ACCESS EXCLUSIVE MODE")
        waiting = Thread(target=waiter.execute, args=(b"SELECT count(*) FROM stock",))
        waiting.start()
        with connect(server.observer_conninfo) as observer:
            eventually(lambda: one(observer, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1)
        locks = psql(server, "SELECT * FROM pg_locks")
        text = psql(server, ACTIVITY) + "\n" + locks
        holder.execute(b"COMMIT")
        waiting.join()
        pids = holder.info.backend_pid, waiter.info.backend_pid

    for pasted in (text, locks):
        found = sample(evidence(tmp_path, pasted)).backends
        assert {each.pid: each.blocked_by for each in found if each.blocked_by} == {pids[1]: (pids[0],)}


MARKDOWN = """\
Here is what we see:

| pid | usename | state | state_change |
| --- | :--- | --- | --- |
| 12 | app | idle in transaction | 2026-03-06 22:12:15+00 |
| 13 | app | active | 2026-03-06 22:12:19+00 |

Any ideas?
"""


def test_a_markdown_table_between_sentences_is_read_and_the_sentences_are_left(tmp_path: Path) -> None:
    observation = evidence(tmp_path, MARKDOWN)

    assert identities(sample(observation).backends) == [
        (12, "", "app", None, "idle in transaction"),
        (13, "", "app", None, "active"),
    ]


def test_json_rows_and_rows_a_line_are_read(tmp_path: Path) -> None:
    rows = '[{"pid": 12, "usename": "app", "state": "idle"}, {"pid": 13, "usename": "app", "state": null}]'
    lines = '{"pid": 12, "usename": "app", "state": "idle"}\n{"pid": 13, "usename": "app", "state": null}\n'

    assert identities(sample(evidence(tmp_path, rows)).backends) == identities(
        sample(evidence(tmp_path, lines)).backends
    )


def test_a_record_with_deleted_lines_is_still_a_backend(tmp_path: Path) -> None:
    text = "-[ RECORD 1 ]----+-----\npid              | 12\nstate            | active\n-[ RECORD 2 ]----+----\npid              | 14\n"

    assert [(each.pid, each.state) for each in sample(evidence(tmp_path, text)).backends] == [
        (12, "active"),
        (14, None),
    ]


AGES = """\
 pid  |  duration   |        state        |      query
------+-------------+---------------------+------------------
 101  | 00:12:10    | active              | UPDATE x SET a=1
 102  | 00:12:00    | active              | UPDATE x SET b=1
(2 rows)
"""


def test_ages_without_any_instant_are_still_ages(tmp_path: Path) -> None:
    server = sample(evidence(tmp_path, AGES))

    assert [server.at - (each.query_at or 0.0) for each in server.backends] == [730.0, 720.0]
    assert all(each.is_client for each in server.backends)


BLOCKED = """\
 blocked_pid | blocked_user | blocking_pid | blocking_user |  blocked_statement   | current_statement_in_blocking_process
-------------+--------------+--------------+---------------+----------------------+---------------------------------------
        4242 | shop         |         4100 | shop          | UPDATE stock SET a=1 | UPDATE stock SET a=2
        4243 | shop         |         4242 | shop          | UPDATE stock SET a=1 | UPDATE stock SET a=1
(2 rows)
"""


def test_pairs_of_who_waits_and_who_blocks_name_the_one_they_all_wait_for(tmp_path: Path) -> None:
    observation = evidence(tmp_path, BLOCKED)

    assert {each.pid: each.blocked_by for each in sample(observation).backends} == {
        4100: (),
        4242: (4100,),
        4243: (4242,),
    }
    finding = inspect(evidence=[str(tmp_path / "paste-0")]).findings[0]
    assert finding.confidence == "undetermined"
    assert "2 wait for a lock behind 1 other (pid 4100)" in finding.summary


PASSING = """\
 now | pid | application_name | backend_type | backend_start
-----+-----+------------------+--------------+--------------
 2026-11-29 07:37:44+00 {} | 2026-11-29 07:37:43.99+00
(1 row)

 now | pid | application_name | backend_type | backend_start
-----+-----+------------------+--------------+--------------
 2026-11-29 07:37:46+00 | 90 | job | client backend | 2026-11-29 07:37:45.99+00
(1 row)
"""


@pytest.mark.parametrize("first", ["| 71 | job | client backend", "| 10 | | checkpointer"])
def test_two_samples_without_a_session_in_both_do_not_show_health(first: str, tmp_path: Path) -> None:
    evidence(tmp_path, PASSING.format(first))

    (finding,) = inspect(evidence=[str(tmp_path / "paste-0")]).findings
    assert finding.confidence == "undetermined"
    assert "no connection of the last sample was in the first one, 2 s before" in finding.summary


@pytest.mark.parametrize(
    "text",
    [
        " pid | usename | state\n-----+---------+-------\n 7 | | \n(1 row)\n",
        "pid,usename,state,query\n7,,,<insufficient privilege>\n8,,,<insufficient privilege>\n",
        "pid,usename,state,state_change\n7,a,idle in transaction,2026-11-01 12:00:00+00\n"
        "8,a,idle in transaction,2026-11-01 12:00:00+00\n",
        " pid | state | xact_start\n-----+---+---\n 7 | idle in transaction | 2026-11-01 12:00:00+00\n"
        " 8 | idle in transaction | 2026-11-01 12:00:09+00\n(2 rows)\n",
    ],
    ids=["no client", "hidden", "no clock", "since when is missing"],
)
def test_a_paste_that_shows_too_little_is_no_proof_of_health(text: str, tmp_path: Path) -> None:
    evidence(tmp_path, text)

    findings = inspect(evidence=[str(tmp_path / "paste-0")]).findings
    assert [each.confidence for each in findings if each.code == "healthy"] == ["undetermined"]


@pytest.mark.parametrize(
    "text",
    [
        " idle | 2\n idle in transaction | 1\n",  # psql -t
        "      2 idle\n      1 idle in transaction\n",  # sort | uniq -c
        "idle|2\nidle in transaction|1\n",  # psql -At
    ],
)
def test_counts_by_state_without_names_are_counts(text: str, tmp_path: Path) -> None:
    states = [each.state for each in sample(evidence(tmp_path, text)).backends]

    assert sorted(filter(None, states)) == ["idle", "idle", "idle in transaction"]


def test_an_export_with_quotation_marks_is_read_by_whatever_separates_it(tmp_path: Path) -> None:
    for mark in ",;|\t":
        rows = [('"pid"', '"usename"', '"state"'), ("12", '"app"', '"idle"')]
        text = "".join(mark.join(row) + "\n" for row in rows)
        assert identities(sample(evidence(tmp_path, text)).backends) == [(12, "", "app", None, "idle")]


def test_waiting_clients_of_a_pooler_are_read_from_a_few_of_their_columns(tmp_path: Path) -> None:
    text = (
        " type | user | database | state | addr | wait\n---+---+---+---+---+---\n C | app | shop | waiting | ::1 | 30\n"
    )

    (bouncer,) = evidence(tmp_path, text).last.bouncers

    assert [each.user for each in bouncer.clients] == ["app"]


SHOW_POOLS = """\
   database   |   user    | cl_active | cl_waiting | sv_active | sv_idle | sv_used | maxwait | maxwait_us |  pool_mode
--------------+-----------+-----------+------------+-----------+---------+---------+---------+------------+-------------
 shop         | shop_user |       357 |        419 |        80 |       0 |       0 |       1 |     142343 | transaction
(1 row)
"""
EXPORTER = """\
pgbouncer_config_max_client_connections 5000
pgbouncer_databases_pool_size{database="shop",name="shop",pool_mode="transaction"} 80
pgbouncer_pools_client_active_connections{database="shop",user="shop_user"} 357
pgbouncer_pools_client_waiting_connections{database="shop",user="shop_user"} 419
pgbouncer_pools_server_active_connections{database="shop",user="shop_user"} 80
pgbouncer_pools_server_idle_connections{database="shop",user="shop_user"} 0
"""


@pytest.mark.parametrize("text", [SHOW_POOLS, EXPORTER], ids=["pasted", "exported"])
def test_what_a_pgbouncer_says_of_its_pools_is_read_pasted_and_exported(tmp_path: Path, text: str) -> None:
    (bouncer,) = evidence(tmp_path, text).last.bouncers
    (pool,) = bouncer.pools

    assert (pool.user, pool.clients_active, pool.clients_waiting, pool.servers_active) == ("shop_user", 357, 419, 80)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-10-13 06:31:02.804+00", 1791873062.804),
        ("2026-10-13 08:31:02.804+02", 1791873062.804),
        ("2026-10-13T06:31:02.804Z", 1791873062.804),
        ("2026-10-13 06:31:02,804 UTC", 1791873062.804),
        ("not a time", None),
        (None, None),
    ],
)
def test_an_instant_is_read_in_every_zone(text: str | None, seconds: float | None) -> None:
    assert parse_instant(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00:10.5", 10.5),
        ("1 day 02:00:00", 93600.0),
        ("-00:00:01", -1.0),
        ("3 days", 259200.0),
        ("12.5", 12.5),
        ("x", None),
    ],
)
def test_an_interval_is_read_as_psql_writes_it(text: str, seconds: float | None) -> None:
    assert parse_interval(text) == seconds


CORPUS = [
    MARKDOWN,
    SHOW_POOLS,
    EXPORTER,
    '{"pid": 1, "state": "idle", "usename": "x"}\n',
    "pid,usename,state\n1,app,idle\n",
]
PIECES = [
    "|",
    "\n",
    "-+-",
    "(2 rows)",
    "-[ RECORD 3 ]-",
    '"',
    "{",
    "[1]",
    "\x1b[31m",
    "\0",
    " FATAL:  ",
    "é",
    "\t",
    "pid | state",
]


@settings(max_examples=300, deadline=None)
@given(
    text=st.sampled_from(CORPUS),
    changes=st.lists(st.tuples(st.floats(0, 1), st.sampled_from(PIECES), st.integers(0, 12)), max_size=6),
)
def test_no_damage_to_a_paste_ends_in_anything_but_a_reading_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, text: str, changes: list[tuple[float, str, int]]
) -> None:
    for where, piece, cut in changes:
        at = int(where * len(text))
        text = text[:at] + piece + text[at + cut :]
    path = tmp_path_factory.mktemp("damaged") / "paste"
    path.write_text(text, encoding="utf-8")

    with suppress(BadInput):
        assert read_evidence([str(path)]).sources
