"""Healthy code under the guard: 1,000 tests of every library, and the test suites of packages from PyPI."""

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest
from guard_suites import QUIET, is_plugin_installed, run_suite
from psycopg.conninfo import conninfo_to_dict

from poolctl.engines.sandbox import Sandbox

HEALTHY = """
import asyncio, os, threading
import asyncpg, psycopg, psycopg2, psycopg2.pool, psycopg_pool, pytest, sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

DSN, URL = os.environ["GUARD_DSN"], os.environ["GUARD_URL"]
NUMBERS = pytest.mark.parametrize("number", range(REPEATS))

@pytest.fixture(scope="session")
def old_pool():
    pool = psycopg2.pool.ThreadedConnectionPool(1, 4, DSN)
    yield pool
    pool.closeall()

@pytest.fixture(scope="module")
def engine():
    engine = sqlalchemy.create_engine(URL.replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()

@pytest.fixture
def session(engine):
    with Session(engine) as session:
        yield session

@pytest.fixture
def row(session):
    return session.execute(sqlalchemy.text("SELECT 1")).scalar()  # the session's connection, released by the session

@NUMBERS
def test_psycopg_pool(pool, number):
    with pool.connection() as connection:
        connection.execute("SELECT 1")

@NUMBERS
def test_by_hand(pool, number):
    connection = pool.getconn()
    try:
        connection.execute("SELECT 1")
    finally:
        pool.putconn(connection)

@NUMBERS
def test_an_error(pool, number):
    with pytest.raises(psycopg.errors.UndefinedTable), pool.connection() as connection:
        connection.execute("SELECT * FROM nowhere")

@NUMBERS
def test_in_a_thread(pool, number):
    def work():
        with pool.connection() as connection:
            connection.execute("SELECT 1")
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

@NUMBERS
def test_psycopg(number):
    with psycopg.connect(DSN) as connection:
        connection.execute("SELECT 1")

@NUMBERS
def test_psycopg2(old_pool, number):
    connection = old_pool.getconn()
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    old_pool.putconn(connection)

@NUMBERS
def test_sqlalchemy(engine, number):
    with engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1")

@NUMBERS
def test_a_session(row, session, number):
    assert session.execute(sqlalchemy.text("SELECT 1")).scalar() == row

@NUMBERS
def test_asyncpg(number):
    async def main():
        async with asyncpg.create_pool(URL, min_size=1, max_size=2) as pool:
            await asyncio.gather(*(pool.fetch("SELECT 1") for _ in range(4)))
    asyncio.run(main())

@NUMBERS
def test_async_engine(number):
    async def main():
        engine = create_async_engine(URL.replace("postgresql:", "postgresql+asyncpg:"))
        async with engine.connect() as connection:
            await connection.exec_driver_sql("SELECT 1")
        await engine.dispose()
    asyncio.run(main())
"""


@pytest.mark.server
@pytest.mark.parametrize("number", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_nothing_is_said_of_healthy_tests(number: int, environment: dict[str, str], tmp_path: Path) -> None:
    files = {"test_healthy.py": HEALTHY.replace("REPEATS", str(number // 10))}
    result = run_suite(tmp_path, environment, files, "-q", "-r", "fE", "--poolctl-threshold", "20s")

    assert result.code == 0, result.output[-3000:]
    assert f"{number} passed" in result.output
    assert "poolctl:" not in result.output


def read_outcomes(output: str) -> set[str]:
    return {" ".join(line.split()[:2]) for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))}


def run_package(folder: Path, environment: Mapping[str, str], *, on: bool) -> str:
    plugin = [] if is_plugin_installed() else ["-p", "poolctl.guard.pytest_plugin"]
    options = ["-q", "-r", "fE", "--tb", "line", "-W", "ignore", "-p", "no:cacheprovider", "-p", "no:postgresql"]
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *QUIET, *plugin, *(["--poolctl"] if on else []), "tests"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert " passed" in finished.stdout, finished.stdout[-2000:] + finished.stderr[-2000:]
    return finished.stdout


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "module", "leaks"),
    [
        ("postgresql-audit==0.18.0", "postgresql_audit", set()),
        # Its fixture "connection" returns engine.connect() and closes it nowhere.
        ("sqlalchemy-utils==0.43.0", "sqlalchemy_utils", {"tests/conftest.py:143 in connection"}),
    ],
)
def test_the_suite_of_a_package_ends_as_without_the_guard(
    package: str, module: str, leaks: set[str], tmp_path: Path
) -> None:
    pytest.importorskip(module)
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", package]
    if subprocess.run(download, cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip(f"{package} cannot be downloaded")
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    with Sandbox.start(max_connections=100) as sandbox:
        with psycopg.connect(sandbox.admin_conninfo, autocommit=True) as admin:
            admin.execute("ALTER ROLE app SUPERUSER")
            admin.execute(f"CREATE DATABASE {module}_test OWNER app".encode())
        parts = conninfo_to_dict(sandbox.conninfo)
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "PGHOST": str(parts["host"]),
            "PGPORT": str(parts["port"]),
            "POSTGRESQL_AUDIT_TEST_USER": "app",
            "SQLALCHEMY_UTILS_TEST_POSTGRESQL_USER": "app",
            "SQLALCHEMY_UTILS_TEST_POSTGRESQL_HOST": f"{parts['host']}:{parts['port']}",
        }
        without = run_package(folder, environment, on=False)
        guarded = run_package(folder, environment, on=True)

    assert set(re.findall(r"^  acquired  (\S+ in \w+)", guarded, re.MULTILINE)) == leaks
    assert read_outcomes(without) <= read_outcomes(guarded)
    if not leaks:
        assert read_outcomes(without) == read_outcomes(guarded)
