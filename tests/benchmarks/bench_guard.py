"""What the guard costs: acquire + release with and without it, a test suite with and without it, and its memory.

python tests/benchmarks/bench_guard.py [CONNINFO]

Without a connection string it starts a throw-away PostgreSQL. Both sides of a ratio are measured in turns in one run,
in processor time of this process: what else runs on the machine does not count, nor does the wait for the server. With
a query the ratio of the time that a caller sees is therefore lower.
"""

import asyncio
import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import psycopg2.pool
import psycopg_pool
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict

from poolctl.engines.sandbox import Sandbox
from poolctl.guard import hooks
from poolctl.guard.compiled import COMPILED, SWITCH
from poolctl.guard.recorder import RECORDER

ROUNDS = 75
TESTS = 1000
PAIRS = 10

Timed = Callable[[int], float]


def compare(name: str, timed: Timed, count: int) -> None:
    """Print the times of one acquire + release without and with the guard, and their ratio."""
    bare, guarded = [], []
    timed(count)
    for _ in range(ROUNDS):
        bare.append(timed(count))
        hooks.install()
        guarded.append(timed(count))
        hooks.uninstall()
    # The least of many short rounds: whatever else the machine does only adds to a time.
    without, with_ = min(bare) / count, min(guarded) / count
    print(f"{name:<44} {without * 1e6:8.2f} us  {with_ * 1e6:8.2f} us  {with_ / without:5.2f} x")


def loop(step: Callable[[], object]) -> Timed:
    def timed(count: int) -> float:
        began = time.process_time()
        for _ in range(count):
            step()
        return time.process_time() - began

    return timed


def sync_pools(conninfo: str, url: str) -> None:
    with psycopg_pool.ConnectionPool(conninfo, min_size=1, max_size=1, open=True) as pool:

        def bare() -> None:
            pool.putconn(pool.getconn())

        def with_block() -> None:
            with pool.connection():
                pass

        def query() -> None:
            with pool.connection() as connection:
                connection.execute("SELECT 1")

        compare("psycopg_pool getconn + putconn", loop(bare), 600)
        compare("psycopg_pool with pool.connection()", loop(with_block), 400)
        compare("psycopg_pool with, and SELECT 1", loop(query), 60)
    old = psycopg2.pool.ThreadedConnectionPool(1, 1, conninfo)

    def old_bare() -> None:
        old.putconn(old.getconn())

    def old_query() -> None:
        connection = old.getconn()
        connection.cursor().execute("SELECT 1")
        old.putconn(connection)

    compare("psycopg2.pool getconn + putconn", loop(old_bare), 3000)
    compare("psycopg2.pool with SELECT 1", loop(old_query), 60)
    old.closeall()
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), pool_size=1)

    def alchemy() -> None:
        with engine.connect():
            pass

    def alchemy_query() -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")

    compare("SQLAlchemy with engine.connect()", loop(alchemy), 300)
    compare("SQLAlchemy with, and SELECT 1", loop(alchemy_query), 60)
    engine.dispose()


def async_pools(conninfo: str, url: str) -> None:
    with asyncio.Runner() as runner:
        pool: Any = runner.run(_open_async(conninfo))
        fast: Any = runner.run(_open_asyncpg(url))

        def timed(step: Callable[[], Any]) -> Timed:
            async def many(count: int) -> float:
                began = time.process_time()
                for _ in range(count):
                    await step()
                return time.process_time() - began

            return lambda count: runner.run(many(count))

        async def bare() -> None:
            await pool.putconn(await pool.getconn())

        async def fast_bare() -> None:
            async with fast.acquire():
                pass

        compare("psycopg_pool async getconn + putconn", timed(bare), 400)
        compare("asyncpg async with pool.acquire()", timed(fast_bare), 80)
        runner.run(pool.close())
        runner.run(fast.close())


async def _open_async(conninfo: str) -> Any:
    pool = psycopg_pool.AsyncConnectionPool(conninfo, min_size=1, max_size=1, open=False)
    await pool.open()
    return pool


async def _open_asyncpg(url: str) -> Any:
    return await asyncpg.create_pool(url, min_size=1, max_size=1)


SUITE = """
import os, psycopg_pool, pytest

@pytest.fixture(scope="session")
def pool():
    with psycopg_pool.ConnectionPool(os.environ["DSN"], min_size=2, max_size=4, open=True) as pool:
        with pool.connection() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS bench_guard (id int, name text)")
        yield pool

@pytest.mark.parametrize("number", range(%d))
def test_a_row_comes_back(pool, number):
    with pool.connection() as connection:
        connection.execute("INSERT INTO bench_guard VALUES (%%s, 'x')", (number,))
        assert connection.execute("SELECT name FROM bench_guard WHERE id = %%s", (number,)).fetchone()
        connection.rollback()
"""


def suite(conninfo: str) -> None:
    """Print what the plugin adds to a suite of 1,000 tests that each use the database, its start included.

    Runs are made in pairs, one after the other, the first of a pair in turns; a ratio is of one pair.
    """
    # Compiled modules are kept, as they are for anyone who runs a suite twice.
    environment = {**os.environ, "DSN": conninfo}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_bench.py").write_text(SUITE % TESTS, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:xdist", folder]
        if not _is_installed():
            command += ["-p", "poolctl.guard.pytest_plugin"]

        def run(*extra: str) -> tuple[float, float]:
            used, began = _used_by_children(), time.monotonic()
            finished = subprocess.run(
                [*command, *extra], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert f"{TESTS} passed" in finished.stdout, finished.stdout[-2000:]
            return _used_by_children() - used, time.monotonic() - began

        run("--poolctl")
        off: list[tuple[float, float]] = []
        on: list[tuple[float, float]] = []
        for number in range(PAIRS):
            for is_on in (True, False) if number % 2 else (False, True):
                (on if is_on else off).append(run("--poolctl") if is_on else run())
        for kind, of in (("processor time", 0), ("wall", 1)):
            ratios = sorted(one[of] / other[of] for one, other in zip(on, off, strict=True))
            least, most = min(one[of] for one in off), min(one[of] for one in on)
            print(
                f"{f'pytest, {TESTS} tests, {kind}':<44} {least:8.2f} s   {most:8.2f} s   {median(ratios):5.3f} x   "
                f"({PAIRS} pairs, {ratios[0]:.3f} to {ratios[-1]:.3f}; of the least times {most / least:.3f})"
            )


def _used_by_children() -> float:
    # os.times() counts in steps of 10 ms.
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(point.name == "poolctl" for point in entry_points(group="pytest11"))


def plugin_when_off() -> None:
    """Print how long the import of the inert plugin takes in a process that has pytest already."""
    program = (
        "import time, pytest; began = time.perf_counter(); import poolctl.guard.pytest_plugin; "
        "print(time.perf_counter() - began)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
        for _ in range(15)
    ]
    print(f"{'import of the plugin, switched off':<44} {min(times) * 1e3:8.2f} ms")


def memory() -> None:
    """Print what a held connection, a site, and 100,000 finished holds add to the memory."""

    class Connection:
        pass

    hooks.install()
    pool = RECORDER.add_pool(Connection, "psycopg_pool", "bench", 100)
    connections = [Connection() for _ in range(100)]
    tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]

    def acquire(connection: object) -> None:
        RECORDER.grant(RECORDER.ask(pool, sys._getframe()), connection)

    for connection in connections:
        acquire(connection)
    held = tracemalloc.get_traced_memory()[0]
    for connection in connections:
        RECORDER.release(connection)
    for _ in range(1000):
        for connection in connections:
            acquire(connection)
            RECORDER.release(connection)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    hooks.uninstall()
    print(f"{'memory for each connection held':<44} {(held - before) / 100:8.0f} B")
    print(f"{'memory after 100,000 holds, over before':<44} {(after - before) / 1024:8.1f} KiB")


def main(conninfo: str) -> None:
    parts = conninfo_to_dict(conninfo)
    url = f"postgresql://{parts['user']}@{parts['host']}:{parts['port']}/{parts['dbname']}"
    print(f"the {'plain' if COMPILED is None else 'compiled'} hot path ({SWITCH}=plain takes the plain one)")
    print(f"{'':<44} {'without':>11}  {'with':>11}  ratio")
    sync_pools(conninfo, url)
    async_pools(conninfo, url)
    suite(conninfo)
    plugin_when_off()
    memory()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with Sandbox.start(max_connections=40) as sandbox:
            main(sandbox.conninfo)
