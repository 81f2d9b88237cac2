"""Logs of real pool libraries: a pool of two, both connections taken, a third acquire that gives up."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from incidents.stacks import GO_PACKAGES, JARS, CannotBuild, build_stack
from psycopg.conninfo import conninfo_to_dict
from sandboxes import own_temporary_directory

from poolctl.engines.sandbox import Sandbox
from poolctl.observe.evidence.read import read_evidence
from poolctl.observe.snapshot import Observation, PoolFigures

pytestmark = pytest.mark.server

LOGGING = """\
import logging, os
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
"""
PSYCOPG_POOL = (
    LOGGING
    + """\
logging.getLogger("psycopg").setLevel(logging.INFO)
from psycopg_pool import ConnectionPool
with ConnectionPool(os.environ["CONNINFO"], min_size=2, max_size=2, name="web", timeout=0.5) as pool:
    pool.wait()
    taken = [pool.getconn(), pool.getconn()]
    try:
        pool.getconn()
    except Exception:
        logging.exception("failed")
    pool.putconn(taken[0])
    pool.putconn(pool.getconn())
    os._exit(0)
"""
)
SQLALCHEMY = (
    LOGGING
    + """\
import sqlalchemy
url = "postgresql+psycopg://{USER}@{HOST}:{PORT}/{DBNAME}".format(**os.environ)
engine = sqlalchemy.create_engine(url, pool_size=1, max_overflow=1, pool_timeout=0.5, echo_pool="debug")
taken = [engine.connect(), engine.connect()]
logging.info("%s", engine.pool.status())
try:
    engine.connect()
except Exception:
    logging.exception("failed")
taken[0].close()
os._exit(0)
"""
)
NODE = """\
const {Pool} = require(process.argv[2] + '/node_modules/pg');
const at = () => new Date().toISOString();
(async () => {
  const e = process.env;
  const place = {host: e.HOST, port: +e.PORT, user: e.USER, database: e.DBNAME};
  const pool = new Pool({...place, max: 2, connectionTimeoutMillis: 500});
  const [a, b] = [await pool.connect(), await pool.connect()];
  const {totalCount, idleCount, waitingCount} = pool;
  console.log(at(), 'pool', JSON.stringify({totalCount, idleCount, waitingCount}));
  try { await pool.connect(); } catch (error) { console.error(at(), error); }
  process.exit(0);
})();
"""
HIKARI = """\
import com.zaxxer.hikari.*;
import java.sql.*;
public class Leak {
  public static void main(String[] words) throws Exception {
    var e = System.getenv();
    HikariConfig config = new HikariConfig();
    config.setJdbcUrl("jdbc:postgresql://" + e.get("HOST") + ":" + e.get("PORT") + "/" + e.get("DBNAME"));
    config.setUsername(e.get("USER"));
    config.setPassword("");
    config.setPoolName("web");
    config.setMaximumPoolSize(2);
    config.setConnectionTimeout(500);
    config.setLeakDetectionThreshold(2000);
    HikariDataSource pool = new HikariDataSource(config);
    Connection first = pool.getConnection(), second = pool.getConnection();
    try {
      pool.getConnection();
    } catch (Exception error) {
      org.slf4j.LoggerFactory.getLogger("app").error("failed", error);
    }
    Thread.sleep(3000);
    first.close();
    Thread.sleep(500);
    System.exit(0);
  }
}
"""
GO = """\
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"time"

	_ "github.com/lib/pq"
)

func main() {
	pool, _ := sql.Open("postgres", os.ExpandEnv("host=$HOST port=$PORT user=$USER dbname=$DBNAME sslmode=disable"))
	pool.SetMaxOpenConns(2)
	for i := 0; i < 2; i++ {
		if _, err := pool.Conn(context.Background()); err != nil {
			panic(err)
		}
	}
	short, _ := context.WithTimeout(context.Background(), 500*time.Millisecond)
	_, err := pool.Conn(short)
	fmt.Println(time.Now().Format(time.RFC3339), err)
	fmt.Printf("%s %+v\\n", time.Now().Format(time.RFC3339), pool.Stats())
}
"""
LOGGING_JARS = (*JARS[:3], JARS[0].with_name("slf4j-simple.jar"))
Environment = dict[str, str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    with own_temporary_directory(tmp_path_factory), Sandbox.start(max_connections=30) as sandbox:
        values: dict[str, Any] = conninfo_to_dict(sandbox.direct_conninfo)
        names = {name.upper(): str(values[name]) for name in ("host", "port", "user", "dbname")}
        yield {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "CONNINFO": sandbox.direct_conninfo, **names}


def need(*needed: str | Path) -> None:
    missing = [
        str(each) for each in needed if not (Path(each).exists() if "/" in str(each) else shutil.which(str(each)))
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed here")


def read(folder: Path, environment: Environment, *command: str) -> Observation:
    """Run a program, and read what it logged."""
    log = folder / "app.log"
    with log.open("w") as file:
        subprocess.run(command, cwd=folder, env=environment, stdout=file, stderr=file, check=True, timeout=120)
    observation = read_evidence([str(log)])
    assert [source.reason for source in observation.sources] == [""], log.read_text()
    return observation


def last_pool(observation: Observation) -> PoolFigures:
    (pool,) = observation.last.pools
    assert all(0 <= snapshot.at - 1_790_000_000 < 1e9 for snapshot in observation.snapshots)
    assert observation.log is not None
    assert observation.log.trouble_at is not None
    return pool


def test_what_psycopg_pool_gave_less_what_came_back_is_in_use(environment: Environment, tmp_path: Path) -> None:
    observation = read(tmp_path, environment, sys.executable, "-c", PSYCOPG_POOL)

    pool = last_pool(observation)
    assert (pool.library, pool.name, pool.max_open, pool.in_use, pool.waiting) == ("psycopg_pool", "web", 2, 1, 0)
    assert pool.timed_out_total == 1.0


def test_sqlalchemys_log_counts_each_connection_once(environment: Environment, tmp_path: Path) -> None:
    pool = last_pool(read(tmp_path, environment, sys.executable, "-c", SQLALCHEMY))

    assert (pool.library, pool.max_open, pool.in_use, pool.timed_out_total) == ("sqlalchemy", 2, 1, 1.0)


def test_node_postgres_statistics_in_json_beside_its_error(environment: Environment, tmp_path: Path) -> None:
    try:
        program = Path(build_stack("node-postgres").command[-1])
    except CannotBuild as error:
        pytest.skip(str(error))
    (tmp_path / "leak.js").write_text(NODE)

    pool = last_pool(read(tmp_path, environment, "node", "leak.js", str(program.parent)))

    assert (pool.library, pool.open, pool.in_use, pool.idle, pool.timed_out_total) == ("node-pg", 2, 2, 0, 1.0)


def test_hikaricps_leaks_are_paired_with_what_came_back(environment: Environment, tmp_path: Path) -> None:
    need("javac", "java", *LOGGING_JARS)
    (tmp_path / "Leak.java").write_text(HIKARI)
    path = ":".join([".", *map(str, LOGGING_JARS)])
    subprocess.run(["javac", "-cp", path, "Leak.java"], cwd=tmp_path, check=True)
    logging = ("defaultLogLevel=debug", "showDateTime=true", "dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS")
    options = [f"-Dorg.slf4j.simpleLogger.{each}" for each in logging]

    words = ["-Xmx64m", *options, "-Dcom.zaxxer.hikari.housekeeping.periodMs=500", "-cp", path, "Leak"]
    observation = read(tmp_path, environment, "java", *words)

    pool = last_pool(observation)
    assert (pool.library, pool.name, pool.in_use, pool.idle, pool.max_open) == ("hikaricp", "web", 1, 1, 2)
    assert observation.log is not None
    assert (len(observation.log.leaks), observation.log.leaks_returned) == (1, 1)


def test_gos_statistics_as_they_are_printed(environment: Environment, tmp_path: Path) -> None:
    need("go", GO_PACKAGES / "src/github.com/lib/pq")
    (tmp_path / "leak.go").write_text(GO)
    building = environment | {"GO111MODULE": "off", "GOPATH": str(GO_PACKAGES), "GOCACHE": str(tmp_path / "cache")}
    subprocess.run(["go", "build", "-o", "leak", "leak.go"], cwd=tmp_path, env=building, check=True)

    (pool,) = read(tmp_path, environment, str(tmp_path / "leak")).last.pools

    assert (pool.library, pool.max_open, pool.open, pool.in_use, pool.idle) == ("database/sql", 2, 2, 2, 0)
    assert pool.wait_time_total is not None
    assert 0.4 < pool.wait_time_total < 30
