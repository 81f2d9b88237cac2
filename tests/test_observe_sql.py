"""The statements as they are sent to servers of each version."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from watched import bindirs, started

import poolctl.observe.sql
from poolctl.observe.connection import ServerConnection
from poolctl.observe.sql import MARK, format_numbers, load_statement

NAMES = sorted(file.stem for file in (Path(poolctl.observe.sql.__file__).parent / "queries").glob("*.sql"))
VERSIONS = [version * 10000 for version in range(12, 19)]
FILLED = {
    "oids": "1259",
    "schema": "public",
    "known": "1",
    "pid": "0",
    "started_at": "1.5",
    "still": "a.state = 'idle'",
    "own": "poolctl simulate",
    "action": "terminate",
}


@pytest.fixture(scope="module", params=bindirs(), ids=lambda bindir: bindir.parent.name)
def connection(request: pytest.FixtureRequest) -> Iterator[ServerConnection]:
    with (
        started(request.param, max_connections=10) as sandbox,
        closing(ServerConnection.open(sandbox.admin_conninfo)) as connection,
    ):
        yield connection


@pytest.mark.server
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_what_an_older_server_is_asked_a_newer_one_understands_as_well(
    connection: ServerConnection, name: str, version: int
) -> None:
    # What was only renamed is left out: pg_stat_statements.total_time until 12.
    if version > connection.server_version or (name, version) == ("statements", 120000):
        version = connection.server_version // 10000 * 10000

    (rows,) = connection.read(load_statement(name, version).format(**FILLED))

    assert isinstance(rows, list)


@pytest.mark.parametrize(
    ("name", "column", "since"),
    [
        ("backends", "query_id", 14),
        ("locks", "waitstart", 14),
        ("databases", "session_time", 14),
        ("facts", "pg_use_reserved_connections", 16),
        ("roles", "pg_use_reserved_connections", 16),
        ("statements", "total_exec_time", 13),
        ("statements", "toplevel", 14),
    ],
)
def test_a_column_is_asked_for_from_the_version_on_that_has_it(name: str, column: str, since: int) -> None:
    asked = [version // 10000 for version in VERSIONS if column in load_statement(name, version)]

    assert asked == list(range(since, 19))


def test_what_a_version_calls_otherwise_is_asked_for_by_its_name() -> None:
    assert "s.total_time" in load_statement("statements", 120022)
    assert "s.total_time" not in load_statement("statements", 130000)


@pytest.mark.parametrize("name", NAMES)
def test_every_statement_says_whose_it_is_and_touches_no_size_and_no_user_table(name: str) -> None:
    text = load_statement(name)

    assert text.split(maxsplit=1)[1].startswith(MARK)
    for harmful in ("_size(", "regclass", "pg_relation", "pg_total"):
        assert harmful not in text


def test_a_list_of_numbers_is_never_empty() -> None:
    assert format_numbers({3, 1, -2}) == "-2, 1, 3"
    assert format_numbers(set()) == "NULL"
