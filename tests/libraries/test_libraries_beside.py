"""The rules of the presets beside the real libraries, in their own runtimes."""

import asyncio
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import psycopg2.pool
import psycopg_pool
import pytest
from beside import Case, Figures, cases_of, compare, drive_program, drive_threads, model, skip_without, try_again
from sqlalchemy.pool import QueuePool

from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.scenario.scenario import parse_scenario

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
GO_PACKAGES = Path("/usr/share/gocode")


class Opened:
    """Counts openings, and makes each last as long as the case says."""

    def __init__(self, case: Case) -> None:
        self.case, self.count, self.lock = case, 0, threading.Lock()

    def __call__(self) -> None:
        time.sleep(self.case.connect)
        with self.lock:
            self.count += 1


@pytest.fixture
def conninfo(servers: ThrowAwayServers) -> str:
    sandbox = servers.serve(parse_scenario({"name": "libraries", "load": {"workers": 1}})).sandbox
    assert sandbox is not None
    return str(sandbox.direct_conninfo)


@pytest.mark.parametrize(("kind", "case"), cases_of("sqlalchemy"))
@try_again
def test_sqlalchemy(kind: str, case: Case) -> None:
    class Connection:
        def rollback(self) -> None: ...
        def close(self) -> None: ...

    opened = Opened(case)

    def create() -> Any:
        opened()
        return Connection()

    size = case.max_idle or case.max_open
    pool = QueuePool(
        create,
        pool_size=size,
        max_overflow=case.max_open - size,
        timeout=case.acquire_timeout or 600,
        recycle=case.max_lifetime or -1,
    )
    figures = drive_threads(case, pool.connect, lambda connection: connection.close())
    figures.opened = opened.count

    compare(figures, model(kind, case))


@pytest.mark.parametrize(("kind", "case"), cases_of("psycopg_pool"))
@try_again
def test_psycopg_pool(kind: str, case: Case, conninfo: str) -> None:
    opened = Opened(case)

    class Slow(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, *arguments: Any, **options: Any) -> Any:
            opened()
            return super().connect(*arguments, **options)

    with psycopg_pool.ConnectionPool(
        conninfo,
        connection_class=Slow,
        min_size=0,
        max_size=case.max_open,
        timeout=case.acquire_timeout or 600,
        max_lifetime=case.max_lifetime or 3600,
        max_idle=case.max_idle_time or 600,
        open=True,
    ) as pool:
        figures = drive_threads(case, pool.getconn, pool.putconn)
        figures.opened = opened.count

    compare(figures, model(kind, case))


def test_psycopg2_rejects_at_once_and_opens_one_after_the_other(conninfo: str) -> None:
    case = Case("rejections", callers=6, max_open=3, connect=0.2, hold=2.0, again=4.0, max_idle=1)
    opened = Opened(case)

    class Slow(psycopg2.pool.ThreadedConnectionPool):
        def _connect(self, key: Any = None) -> Any:
            opened()
            return super()._connect(key)  # type: ignore[misc]

    pool = Slow(1, case.max_open, conninfo)
    figures = drive_threads(case, pool.getconn, pool.putconn)
    figures.opened = opened.count
    pool.closeall()

    compare(figures, model("psycopg2", case))


@pytest.mark.parametrize(("kind", "case"), cases_of("asyncpg"))
@try_again
def test_asyncpg(kind: str, case: Case, conninfo: str) -> None:
    figures = Figures()
    options = psycopg.conninfo.conninfo_to_dict(conninfo)
    target = {"host": options["host"], "port": int(str(options["port"])), "user": options["user"]}

    async def connect(*arguments: Any, **settings: Any) -> Any:
        await asyncio.sleep(case.connect)
        figures.opened += 1
        return await asyncpg.connect(*arguments, **settings)

    async def call(pool: Any, at: float) -> None:
        await asyncio.sleep(at)
        began = time.monotonic()
        try:
            connection = await pool.acquire(timeout=case.acquire_timeout or None)
        except TimeoutError:
            connection = None
        figures.total_wait += time.monotonic() - began
        figures.served += connection is not None
        figures.failed += connection is None
        if connection is not None:
            await asyncio.sleep(case.hold)
            await pool.release(connection)

    async def drive() -> None:
        pool = await asyncpg.create_pool(
            **target,
            database=str(options["dbname"]),
            min_size=0,
            max_size=case.max_open,
            max_inactive_connection_lifetime=case.max_idle_time,
            connect=connect,
        )
        comings = [0.0, case.again] if case.again else [0.0]
        await asyncio.gather(*(call(pool, at) for at in comings for _ in range(case.callers)))
        await pool.close()

    asyncio.run(drive())

    compare(figures, model(kind, case))


def build_go(source: str, folder: Path) -> list[str]:
    """Compile one of the programs, and return the command that runs it."""
    skip_without("go")
    program = folder / source
    # Without modules: the packages are Debian's, and nothing is fetched.
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GO_PACKAGES)}
    sources = [str(HERE / "callers.go"), str(HERE / f"{source}.go")]
    subprocess.run(["go", "build", "-o", str(program), *sources], env=environment, check=True, timeout=300)
    return [str(program)]


@pytest.fixture(scope="session")
def database_sql(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return build_go("database_sql", tmp_path_factory.mktemp("database_sql"))


@pytest.fixture(scope="session")
def pgxpool(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    if not (GO_PACKAGES / "src/github.com/jackc/pgx/v4").exists():
        pytest.skip("golang-github-jackc-pgx-v4-dev is not installed")
    return build_go("pgxpool", tmp_path_factory.mktemp("pgxpool"))


@pytest.mark.parametrize(("kind", "case"), cases_of("database/sql"))
@try_again
def test_database_sql(kind: str, case: Case, database_sql: list[str], tmp_path: Path) -> None:
    compare(drive_program(database_sql, case, tmp_path), model(kind, case))


# The preset is that of pgx 5.10, which looks at the age when it acquires. pgx 4 does not yet.
@pytest.mark.parametrize(("kind", "case"), [one for one in cases_of("pgxpool") if "lifetime" not in str(one.id)])
@try_again
def test_pgxpool(
    kind: str, case: Case, pgxpool: list[str], conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = psycopg.conninfo.conninfo_to_dict(conninfo)
    # pgx takes an option that it does not know for a setting of the server.
    monkeypatch.setenv("CONNINFO", " ".join(f"{key}={options[key]}" for key in ("host", "port", "user", "dbname")))

    compare(drive_program(pgxpool, case, tmp_path), model(kind, case))


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_without("node", "npm")
    folder = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--silent", "--no-fund", "--no-audit", "pg-pool@3", "pg@8", "knex@3", "mysql2@3"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install: {done.stderr.strip()[-200:]}")
    (folder / "node_pools.js").write_text((HERE / "node_pools.js").read_text())
    return folder


@pytest.mark.parametrize(("kind", "case"), cases_of("node-pg", "knex", "mysql2"))
@try_again
def test_node_pools(kind: str, case: Case, node_folder: Path) -> None:
    compare(drive_program(["node", "node_pools.js", kind], case, node_folder), model(kind, case))


def test_a_pool_of_pipelining_clients_gives_a_connection_to_one_request_at_a_time(
    node_folder: Path, conninfo: str
) -> None:
    options = psycopg.conninfo.conninfo_to_dict(conninfo)
    target = {"host": options["host"], "port": int(str(options["port"])), "user": options["user"]}
    settings = json.dumps(target | {"database": options["dbname"], "max": 1, "pipeline": True})
    program = f"""
        const pool = new (require('pg').Pool)({settings});
        pool.connect().then((first) => {{
            pool.query('SELECT 1');
            first.query('SELECT 1');
            setTimeout(() => {{ console.log(pool.totalCount, pool.waitingCount); process.exit(0); }}, 500);
        }});
    """
    done = subprocess.run(
        ["node", "-e", program], cwd=node_folder, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.split() == ["1", "1"]


JAR_FOLDER = Path("/usr/share/java")
JAR_NAMES = ("HikariCP", "slf4j-api", "slf4j-nop", "commons-dbcp2", "commons-pool2", "commons-logging", "c3p0")
TOMCAT_NAMES = ("tomcat9-jdbc", "tomcat9-juli")
JARS = ":".join(str(JAR_FOLDER / f"{name}.jar") for name in (*JAR_NAMES, *TOMCAT_NAMES))


@pytest.fixture(scope="session")
def java_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_without("java", "javac")
    if not all(Path(jar).exists() for jar in JARS.split(":")):
        pytest.skip("libhikaricp-java, libcommons-dbcp2-java, libc3p0-java or libtomcat9-java is not installed")
    folder = tmp_path_factory.mktemp("java")
    command = ["javac", "-cp", JARS, "-d", str(folder), str(HERE / "JdbcPools.java")]
    done = subprocess.run(command, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize(("kind", "case"), cases_of("hikaricp", "dbcp2", "tomcat", "c3p0"))
@try_again
def test_jdbc_pools(kind: str, case: Case, java_folder: Path) -> None:
    command = ["java", "-cp", f"{JARS}:{java_folder}", "JdbcPools", kind]
    floor = {"min_idle": 1} if kind == "c3p0" else {}

    compare(drive_program(command, case, java_folder), model(kind, case, **floor))
