"""What is written for Python, run by the real libraries on a real server: the pools have the values of the advice."""

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from live_runs import scenario_of
from psycopg.conninfo import conninfo_to_dict
from stack_parts import OFF, ORDINARY

from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.stacks import PoolAdvice, render

pytestmark = pytest.mark.server

TEN_YEARS = 315_360_000.0


@pytest.fixture
def url(servers: ThrowAwayServers, monkeypatch: pytest.MonkeyPatch) -> str:
    """The throw-away server's address, which stands in DATABASE_URL too."""
    values = conninfo_to_dict(servers.serve(scenario_of()).conninfo)
    url = f"postgresql://{values['user']}@{values['host']}:{values['port']}/{values['dbname']}?sslmode=disable"
    monkeypatch.setenv("DATABASE_URL", url)
    return url


def run(stack: str, advice: PoolAdvice, **names: Any) -> dict[str, Any]:
    """What the text defines, as a module of the user's would."""
    exec(compile(render(stack, advice).text, f"{stack}.py", "exec"), names)
    return names


@pytest.mark.usefixtures("url")
@pytest.mark.parametrize(
    ("advice", "lifetime", "idle", "patience"),
    [(ORDINARY, 1500.0, 300.0, 2.0), (OFF, TEN_YEARS, TEN_YEARS, TEN_YEARS)],
    ids=["ordinary", "off"],
)
def test_psycopg_pool_has_the_values_and_serves(
    advice: PoolAdvice, lifetime: float, idle: float, patience: float
) -> None:
    with run("psycopg_pool", advice)["pool"] as pool:
        assert (pool.min_size, pool.max_size) == (advice.min_idle, advice.max_open)
        assert (pool.max_lifetime, pool.max_idle, pool.timeout) == (lifetime, idle, patience)
        for _ in range(10):
            with pool.connection() as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        # A lifetime of 0 would open one for each use; the first client may open one beside those being opened.
        assert pool.get_stats()["connections_num"] <= advice.min_idle + 1


@pytest.mark.usefixtures("url")
@pytest.mark.parametrize("advice", [ORDINARY, OFF], ids=["ordinary", "off"])
def test_psycopg2_has_the_values_and_serves(advice: PoolAdvice) -> None:
    names = run("psycopg2", advice)
    pool = names["pool"]
    try:
        with names["acquire"]() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)

        assert (pool.minconn, pool.maxconn) == (advice.max_idle, advice.max_open)
        assert len(pool._pool) == advice.max_idle
    finally:
        pool.closeall()


@pytest.mark.usefixtures("url")
def test_psycopg2_waits_for_a_slot_and_gets_it_back_from_a_user_that_failed() -> None:
    names = run("psycopg2", PoolAdvice(max_open=1, max_idle=1, acquire_timeout=0.05))
    acquire, pool = names["acquire"], names["pool"]
    try:
        with acquire(), pytest.raises(TimeoutError, match="no free database connection"), acquire():
            pass
        with pytest.raises(ZeroDivisionError), acquire() as connection:
            connection.cursor().execute(f"SELECT {1 // 0}")
        with acquire() as connection:
            assert connection.info.transaction_status == 0
    finally:
        pool.closeall()


@pytest.fixture
def sqlalchemy_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", url.replace("postgresql:", "postgresql+psycopg:"))


@pytest.mark.usefixtures("sqlalchemy_url")
@pytest.mark.parametrize(
    ("advice", "overflow", "patience", "watched"),
    [(ORDINARY, 0, 2, True), (OFF, 3, None, False)],
    ids=["ordinary", "off"],
)
def test_sqlalchemy_has_the_values_and_serves(
    advice: PoolAdvice, overflow: int, patience: float | None, watched: bool
) -> None:
    engine = run("sqlalchemy", advice)["engine"]
    pool = engine.pool
    try:
        with ExitStack() as held:
            for _ in range(advice.max_open):
                assert held.enter_context(engine.connect()).exec_driver_sql("SELECT 1").scalar() == 1
            assert pool.checkedout() == advice.max_open

        assert (pool.size(), pool._max_overflow, pool.timeout()) == (advice.max_idle, overflow, patience)
        assert pool.checkedin() == advice.max_idle
        assert (pool._pre_ping, pool._pool.use_lifo) == (watched, watched)
        assert 1200 < pool._recycle <= 1500 if advice.max_lifetime else pool._recycle == -1
    finally:
        engine.dispose()


@pytest.mark.usefixtures("url")
@pytest.mark.parametrize(("advice", "idle"), [(ORDINARY, 300.0), (OFF, 0.0)], ids=["ordinary", "off"])
def test_asyncpg_has_the_values_and_serves(advice: PoolAdvice, idle: float) -> None:
    pytest.importorskip("asyncpg")
    names = run("asyncpg", advice)

    async def use() -> tuple[int, int, float, int]:
        async with await names["open_pool"]() as pool:
            assert await names["use"](pool) == 1
            await pool.expire_connections()
            assert await names["use"](pool) == 1
            return pool.get_min_size(), pool.get_max_size(), pool._holders[0]._max_inactive_time, len(pool._holders)

    assert asyncio.run(use()) == (advice.min_idle, advice.max_open, idle, advice.max_open)


@pytest.fixture
def databases(url: str) -> dict[str, Any]:
    """Django's setting of that name, as it stands above the text."""
    django = pytest.importorskip("django")
    settings = pytest.importorskip("django.conf").settings
    if not settings.configured:
        settings.configure(LOGGING_CONFIG=None)
        django.setup()
    values = conninfo_to_dict(url)
    return {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": values["host"],
            "PORT": values["port"],
            "USER": values["user"],
            "NAME": values["dbname"],
        }
    }


def connection_of(stack: str, advice: PoolAdvice, databases: dict[str, Any]) -> Any:
    handler = pytest.importorskip("django.db.utils").ConnectionHandler
    return handler(run(stack, advice, DATABASES=databases)["DATABASES"])["default"]


@pytest.mark.parametrize(
    ("advice", "lifetime", "patience"),
    [(ORDINARY, 1500.0, 2.0), (OFF, TEN_YEARS, TEN_YEARS)],
    ids=["ordinary", "off"],
)
def test_django_has_a_pool_with_the_values_and_serves(
    databases: dict[str, Any], advice: PoolAdvice, lifetime: float, patience: float
) -> None:
    connection = connection_of("django", advice, databases)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)
        pool = connection.pool

        assert (pool.min_size, pool.max_size) == (advice.min_idle, advice.max_open)
        assert (pool.max_lifetime, pool.timeout) == (lifetime, patience)
        assert pool._check is not None
    finally:
        connection.close()
        connection.close_pool()


@pytest.mark.parametrize("lifetime", [1500.0, None], ids=["ordinary", "off"])
def test_django_keeps_a_connection_for_each_thread_as_long_as_advised(
    databases: dict[str, Any], lifetime: float | None
) -> None:
    connection = connection_of("django-persistent", replace(ORDINARY, max_lifetime=lifetime), databases)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)
        connection.close_if_unusable_or_obsolete()

        assert connection.connection is not None
        assert connection.settings_dict["CONN_MAX_AGE"] == lifetime
        assert (connection.close_at is None) == (lifetime is None)
        assert connection.settings_dict["CONN_HEALTH_CHECKS"] is True
    finally:
        connection.close()
