"""The rules of the presets beside the real libraries, in their own runtimes."""

import asyncio
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
from beside import COLD_BURST, OVERLOAD, Case, Figures, compare, drive_program, drive_threads, model, skip_without
from sqlalchemy.pool import QueuePool

from poolctl.engines.live.live_servers import ThrowAwayServers
from poolctl.scenario.scenario import parse_scenario

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
CASES = pytest.mark.parametrize("case", [COLD_BURST, OVERLOAD], ids=["cold burst", "overload"])


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


@CASES
def test_sqlalchemy(case: Case) -> None:
    class Connection:
        def rollback(self) -> None: ...
        def close(self) -> None: ...

    opened = Opened(case)

    def create() -> Any:
        opened()
        return Connection()

    pool = QueuePool(create, pool_size=case.max_open, max_overflow=0, timeout=case.timeout or 600)
    figures = drive_threads(case, pool.connect, lambda connection: connection.close())
    figures.opened = opened.count

    compare(figures, model("sqlalchemy", case, max_idle=case.max_open))


@CASES
def test_psycopg_pool(case: Case, conninfo: str) -> None:
    opened = Opened(case)

    class Slow(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, *arguments: Any, **options: Any) -> Any:
            opened()
            return super().connect(*arguments, **options)

    with psycopg_pool.ConnectionPool(
        conninfo, connection_class=Slow, min_size=0, max_size=case.max_open, timeout=case.timeout or 600, open=True
    ) as pool:
        figures = drive_threads(case, pool.getconn, pool.putconn)
        figures.opened = opened.count

    compare(figures, model("psycopg_pool", case, min_idle=0))


def test_psycopg2_rejects_at_once_and_opens_one_after_the_other(conninfo: str) -> None:
    case = Case(callers=6, max_open=3, connect=0.2, hold=2.0)
    opened = Opened(case)

    class Slow(psycopg2.pool.ThreadedConnectionPool):
        def _connect(self, key: Any = None) -> Any:
            opened()
            return super()._connect(key)  # type: ignore[misc]

    pool = Slow(1, case.max_open, conninfo)
    figures = drive_threads(case, pool.getconn, pool.putconn)
    figures.opened = opened.count
    pool.closeall()

    compare(figures, model("psycopg2", case, max_idle=1))


@CASES
def test_asyncpg(case: Case, conninfo: str) -> None:
    figures = Figures()
    options = psycopg.conninfo.conninfo_to_dict(conninfo)
    target = {"host": options["host"], "port": int(str(options["port"])), "user": options["user"]}

    async def connect(*arguments: Any, **settings: Any) -> Any:
        await asyncio.sleep(case.connect)
        figures.opened += 1
        return await asyncpg.connect(*arguments, **settings)

    async def call(pool: Any) -> None:
        began = time.monotonic()
        try:
            connection = await pool.acquire(timeout=case.timeout or None)
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
            **target, database=str(options["dbname"]), min_size=0, max_size=case.max_open, connect=connect
        )
        await asyncio.gather(*(call(pool) for _ in range(case.callers)))
        await pool.close()

    asyncio.run(drive())

    compare(figures, model("asyncpg", case, min_idle=0))


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_without("go")
    program = tmp_path_factory.mktemp("go") / "pool"
    subprocess.run(["go", "build", "-o", str(program), str(HERE / "database_sql.go")], check=True, timeout=300)
    return program


@CASES
def test_database_sql(case: Case, go_program: Path, tmp_path: Path) -> None:
    compare(drive_program([str(go_program)], case, tmp_path), model("database/sql", case, max_idle=case.max_open))


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_without("node", "npm")
    folder = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--silent", "--no-fund", "--no-audit", "pg-pool@3", "pg@8", "tarn@3"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install: {done.stderr.strip()[-200:]}")
    (folder / "node_pools.js").write_text((HERE / "node_pools.js").read_text())
    return folder


@CASES
@pytest.mark.parametrize(("library", "kind", "pool"), [("pg-pool", "node-pg", {}), ("tarn", "knex", {"min_idle": 0})])
def test_node_pools(case: Case, library: str, kind: str, pool: dict[str, Any], node_folder: Path) -> None:
    compare(drive_program(["node", "node_pools.js", library], case, node_folder), model(kind, case, **pool))


JAR_FOLDER = Path("/usr/share/java")
JAR_NAMES = ("HikariCP", "slf4j-api", "slf4j-nop", "commons-dbcp2", "commons-pool2", "commons-logging")
TOMCAT_NAMES = ("tomcat9-jdbc", "tomcat9-juli")
JARS = ":".join(str(JAR_FOLDER / f"{name}.jar") for name in (*JAR_NAMES, *TOMCAT_NAMES))


@pytest.fixture(scope="session")
def java_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_without("java", "javac")
    if not all(Path(jar).exists() for jar in JARS.split(":")):
        pytest.skip("libhikaricp-java, libcommons-dbcp2-java or libtomcat9-java is not installed")
    folder = tmp_path_factory.mktemp("java")
    command = ["javac", "-cp", JARS, "-d", str(folder), str(HERE / "JdbcPools.java")]
    done = subprocess.run(command, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@CASES
@pytest.mark.parametrize(
    ("kind", "pool"), [("hikaricp", {"min_idle": 0}), ("dbcp2", {"max_idle": 8}), ("tomcat", {"min_idle": 0})]
)
def test_jdbc_pools(case: Case, kind: str, pool: dict[str, Any], java_folder: Path) -> None:
    command = ["java", "-cp", f"{JARS}:{java_folder}", "JdbcPools", kind]

    compare(drive_program(command, case, java_folder), model(kind, case, **pool))
