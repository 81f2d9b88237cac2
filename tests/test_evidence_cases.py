"""What people had in public reports, as they pasted it: the verdict, or what would decide it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from poolctl.api.inspect import inspect
from poolctl.diagnose.finding import Finding

CASES = Path(__file__).with_name("cases")
FETCH_SERVER = 'psql -c "select now(), * from pg_stat_activity"'
FETCH_POOLER = 'psql -p 6432 -d pgbouncer -c "show pools"'


@dataclass(frozen=True)
class Verdict:
    """The worst finding, words of its summary, and words of what would decide where it is undetermined."""

    code: str
    confidence: str
    words: tuple[str, ...] = ()
    decides: str = ""


UNKNOWN_HOLDERS = ("leak-or-long-hold", "undetermined")
VERDICTS = {
    # The waits of its whole life are far too short for a pool that filled up by load.
    "01-pgxpool-stat.json": Verdict(*UNKNOWN_HOLDERS, ("All 32 connections", "71.6 µs", "not fill up"), FETCH_SERVER),
    "01-pgxpool-stat.txt": Verdict(*UNKNOWN_HOLDERS, ("All 32 connections", "71.6 µs", "not fill up"), FETCH_SERVER),
    "01-pgxpool-known.prom": Verdict(*UNKNOWN_HOLDERS, ("All 32 connections", "71.6 µs", "not fill up"), FETCH_SERVER),
    "02-r2dbc.prom": Verdict(*UNKNOWN_HOLDERS, ("All 10 connections", "7 clients wait"), FETCH_SERVER),
    "02-r2dbc.json": Verdict("healthy", "undetermined", ("in use", "next client waits"), FETCH_SERVER),
    "02-other-exporters.prom": Verdict(*UNKNOWN_HOLDERS, ("clients wait",), FETCH_SERVER),
    "03-known-spelling.json": Verdict("client-starved", "likely", ("12 clients", "20 connections free")),
    "03-prisma-idle-and-waiting.prom": Verdict("client-starved", "likely", ("12 clients", "20 connections free")),
    "04-go-dbstats.txt": Verdict(*UNKNOWN_HOLDERS, ("All 100 connections",), FETCH_SERVER),
    "04-pool-log-lines.log": Verdict(*UNKNOWN_HOLDERS, ("All 10 connections", "204 clients wait"), FETCH_SERVER),
    "04-sqlalchemy-error.txt": Verdict(*UNKNOWN_HOLDERS, ("All 15 connections", "1 client waits"), FETCH_SERVER),
    "04-sqlx-debug.txt": Verdict("healthy", "undetermined", ("0 of 50", "waiting clients: unknown"), FETCH_SERVER),
    "05-psql-activity.txt": Verdict("connection-per-request", "likely", ("5 of 5", "first second only")),
    "06-server-log.log": Verdict("slots-exhausted", "certain", ("3 clients were refused", "06:31:02", "06:31:09")),
    "10-slots-lost.json": Verdict("waiting-unexplained", "undetermined", ("6 clients wait",), FETCH_SERVER),
    "24-pgbouncer-exporter.prom": Verdict(*UNKNOWN_HOLDERS, ("80 of 80", "419 clients waiting"), FETCH_POOLER),
    "24-show-pools.txt": Verdict(*UNKNOWN_HOLDERS, ("80 server connections", "419 clients waiting"), FETCH_POOLER),
}


def judge(*names: str) -> Finding:
    return inspect(evidence=[str(CASES / name) for name in names]).findings[0]


@pytest.mark.parametrize("name", VERDICTS)
def test_what_was_pasted_gets_its_verdict_or_what_would_decide_it(name: str) -> None:
    verdict, finding = VERDICTS[name], judge(name)

    assert (finding.code, finding.confidence) == (verdict.code, verdict.confidence)
    assert all(words in finding.summary for words in verdict.words), finding.summary
    assert verdict.decides in (finding.decide_by or "")
    assert finding.confidence != "undetermined" or f"poolctl inspect --evidence {name}" in (finding.decide_by or "")


def test_figures_that_exceed_what_the_paste_shows_are_lost_slots() -> None:
    finding = judge("10-slots-lost.json", "10-activity.csv")

    assert (finding.code, finding.frees) == ("pool-slots-lost", 70)
    assert "restart" in finding.remedy.lower()


def test_every_exporter_of_the_report_is_read_by_its_own_names() -> None:
    observation = inspect(evidence=[str(CASES / "02-other-exporters.prom")]).observation

    pools = {pool.library: pool for pool in observation.last.pools}
    assert pools.keys() == {"agroal", "spring-jdbc", "prisma", "rails", "tomcat-jdbc", "vertx"}
    assert {pool.in_use for pool in pools.values()} == {10}
    assert all(pool.waiting == 7 for name, pool in pools.items() if name not in ("spring-jdbc", "tomcat-jdbc"))


def test_names_of_a_services_own_are_read_as_they_are_mapped() -> None:
    names = ["in_use=app_sql_inUse_connections,open=app_sql_open_connections"]
    observation = inspect(evidence=[str(CASES / "02-other-exporters.prom")], pool_stats_map=names).observation

    (own,) = [pool for pool in observation.last.pools if pool.library == "custom"]
    assert (own.in_use, own.open) == (10, 10)
