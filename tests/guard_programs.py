"""Programs that leak connections, one way after another, written out for each library and run under the guard.

Each shape is a template; what a library calls acquire, release and query is filled in. The line that the guard has to
name ends in a mark: ``# <- leak``.
"""

from dataclasses import dataclass

MARK = "# <- "


@dataclass(frozen=True, slots=True)
class Library:
    """How a library spells what the shapes do. ``cannot``: shapes that its own rules exclude."""

    name: str
    imports: str
    pool: str
    acquire: str
    release: str
    query: str
    begin: str = "pass"
    close: str = "pass"
    is_async: bool = False
    cannot: frozenset[str] = frozenset()

    @property
    def file(self) -> str:
        """The name of its program."""
        return f"program_{self.name.replace('-', '_')}.py"

    @property
    def module(self) -> str:
        """The package that has to be installed."""
        return self.imports.split()[1].split(".")[0]


NO_POOL = frozenset({"nested", "pool_per_request", "other_thread"})
# asyncio itself closes a generator that is not exhausted, at the end of its loop.
ASYNC = frozenset({"dying_thread", "fork", "generator", "other_thread"})

LIBRARIES = (
    Library(
        "psycopg_pool",
        "import psycopg_pool",
        "psycopg_pool.ConnectionPool(DSN, min_size=1, max_size=4, open=True)",
        "pool.getconn()",
        "pool.putconn(connection)",
        "connection.execute('SELECT 1')",
        close="pool.close()",
    ),
    Library(
        "psycopg_pool-null",
        "import psycopg_pool",
        "psycopg_pool.NullConnectionPool(DSN, max_size=4, open=True)",
        "pool.getconn()",
        "pool.putconn(connection)",
        "connection.execute('SELECT 1')",
        close="pool.close()",
    ),
    Library(
        "psycopg_pool-async",
        "import psycopg_pool",
        "await open_pool(psycopg_pool.AsyncConnectionPool(DSN, min_size=1, max_size=4, open=False))",
        "await pool.getconn()",
        "await pool.putconn(connection)",
        "await connection.execute('SELECT 1')",
        close="await pool.close()",
        is_async=True,
        cannot=ASYNC,
    ),
    Library(
        "psycopg",
        "import psycopg",
        "None",
        "psycopg.connect(DSN)",
        "connection.close()",
        "connection.execute('SELECT 1')",
        cannot=NO_POOL | {"released_twice"},
    ),
    Library(
        "psycopg-async",
        "import psycopg",
        "None",
        "await psycopg.AsyncConnection.connect(DSN)",
        "await connection.close()",
        "await connection.execute('SELECT 1')",
        is_async=True,
        cannot=NO_POOL | ASYNC | {"released_twice"},
    ),
    Library(
        "psycopg2-pool",
        "import psycopg2.pool",
        "psycopg2.pool.ThreadedConnectionPool(1, 4, DSN)",
        "pool.getconn()",
        "pool.putconn(connection)",
        "execute(connection.cursor())",
        close="pool.closeall()",
    ),
    Library(
        "psycopg2",
        "import psycopg2",
        "None",
        "psycopg2.connect(DSN)",
        "connection.close()",
        "execute(connection.cursor())",
        cannot=NO_POOL | {"released_twice"},
    ),
    Library(
        "sqlalchemy",
        "import sqlalchemy",
        "sqlalchemy.create_engine(URL.replace('postgresql:', 'postgresql+psycopg:'))",
        "pool.connect()",
        "connection.close()",
        "connection.exec_driver_sql('SELECT 1')",
        close="pool.dispose()",
        # Its Connection may be closed as often as one likes, and an engine's fork needs dispose(close=False).
        cannot=frozenset({"released_twice"}),
    ),
    Library(
        "sqlalchemy-async",
        "import sqlalchemy\nfrom sqlalchemy.ext.asyncio import create_async_engine",
        "create_async_engine(URL.replace('postgresql:', 'postgresql+asyncpg:'))",
        "await pool.connect()",
        "await connection.close()",
        "await connection.exec_driver_sql('SELECT 1')",
        close="await pool.dispose()",
        is_async=True,
        cannot=ASYNC | {"released_twice"},
    ),
    Library(
        "asyncpg",
        "import asyncpg",
        "await asyncpg.create_pool(URL, min_size=1, max_size=4)",
        "await pool.acquire()",
        "await pool.release(connection)",
        "await connection.execute('SELECT 1')",
        begin="await connection.transaction().start()",
        close="pool.terminate()",
        is_async=True,
        cannot=ASYNC,
    ),
    Library(
        "asyncpg-plain",
        "import asyncpg",
        "None",
        "await asyncpg.connect(URL)",
        "await connection.close()",
        "await connection.execute('SELECT 1')",
        begin="await connection.transaction().start()",
        is_async=True,
        cannot=NO_POOL | ASYNC | {"released_twice"},
    ),
    Library(
        "aiopg",
        "import aiopg",
        "await aiopg.create_pool(DSN, minsize=1, maxsize=4)",
        "await pool.acquire()",
        "await pool.release(connection)",
        "await execute_async(connection)",
        close="pool.terminate()",
        is_async=True,
        # It raises for a second release by an assertion that -O removes.
        cannot=ASYNC | {"released_twice"},
    ),
)

SHAPES = {
    "error_path": """
def error_path(pool):
    connection = ACQUIRE  # <- leak
    KEPT.append(connection)
    QUERY
    raise Rejected("in the error path")
    RELEASE
""",
    "early_return": """
def early_return(pool):
    connection = ACQUIRE  # <- leak
    KEPT.append(connection)
    if connection:
        return 1
    RELEASE
""",
    "generator": """
def rows(pool):
    connection = ACQUIRE  # <- leak
    try:
        yield 1
        yield 2
    finally:
        RELEASE

def generator(pool):
    KEPT.append(rows(pool))
    for row in KEPT[-1]:
        break
""",
    "cancelled": """
def worker(pool):
    connection = ACQUIRE  # <- leak
    KEPT.append(connection)
    await asyncio.sleep(60)
    RELEASE

def cancelled(pool):
    before = len(KEPT)
    task = asyncio.create_task(worker(pool))
    while len(KEPT) == before:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
""",
    "dying_thread": """
def job(pool):
    connection = ACQUIRE  # <- leak
    KEPT.append(connection)
    raise Rejected("the thread dies")

def dying_thread(pool):
    thread = threading.Thread(target=job, args=(pool,), name="dying")
    thread.start()
    thread.join()
""",
    "forgotten": """
def forgotten(pool):
    connection = ACQUIRE  # <- leak
    QUERY
    KEPT.append(connection)
""",
    "cursor_kept": """
def find(pool):
    connection = ACQUIRE  # <- leak
    return QUERY, connection

def cursor_kept(pool):
    KEPT.append(CALL(find(pool)))
""",
    "collected": """
def collected(pool):
    connection = ACQUIRE  # <- leak
    del connection
    gc.collect()
""",
    "left_in_transaction": """
def left_in_transaction(pool):
    connection = ACQUIRE  # <- leak
    BEGIN
    QUERY
    KEPT.append(connection)
""",
    "nested": """
def nested(pool):
    connection = ACQUIRE  # <- leak
    other(pool, connection)
    RELEASE

def other(pool, outer):
    connection = ACQUIRE  # <- second
    RELEASE
""",
    "released_twice": """
def released_twice(pool):
    connection = ACQUIRE  # <- leak
    RELEASE
    RELEASE
""",
    "other_thread": """
def give_back(pool, connection):
    RELEASE

def other_thread(pool):
    connection = ACQUIRE  # <- leak
    thread = threading.Thread(target=give_back, args=(pool, connection))
    thread.start()
    thread.join()
""",
    "pool_per_request": """
def pool_per_request(_):
    for _ in range(4):
        pool = POOL  # <- leak
        OPENED.append(pool)
        connection = ACQUIRE
        RELEASE
""",
    "fork": """
def fork(pool):
    connection = ACQUIRE  # <- leak
    QUERY
    KEPT.append(connection)
    if not os.fork():
        QUERY
        os._exit(0)
    os.wait()
""",
}
ONLY_ASYNC = {"cancelled"}

EXPECTED = {
    "nested": ("self-deadlock",),
    "released_twice": ("released-twice",),
    "other_thread": ("released-elsewhere",),
    "pool_per_request": ("pools-again-and-again",),
    "fork": ("used-after-fork",),
    "collected": ("leak", "left-to-the-collector"),
}
"""Codes of the finding, by shape; by default a leak, with or without an open transaction."""
LEAK = ("leak", "leak-in-transaction")

_HEAD = """\
import asyncio, gc, os, threading
{imports}

DSN, URL = os.environ["GUARD_DSN"], os.environ["GUARD_URL"]
KEPT, OPENED = [], []

class Rejected(Exception):
    pass

def execute(cursor):
    cursor.execute("SELECT 1")
    return cursor

async def execute_async(connection):
    cursor = await connection.cursor()
    await cursor.execute("SELECT 1")
    return cursor

async def open_pool(pool):
    await pool.open()
    return pool
"""
_SYNC_TAIL = """
def main():
    for shape in ({names},):
        OPENED.append({pool})
        try:
            shape(OPENED[-1])
        except Exception as error:
            KEPT.append(error)
    for pool in OPENED:
        {close}

main()
"""
_ASYNC_TAIL = """
async def main():
    for shape in ({names},):
        OPENED.append({pool})
        try:
            await shape(OPENED[-1])
        except Exception as error:
            KEPT.append(error)
    for pool in OPENED:
        {close}

asyncio.run(main())
"""


def shapes_of(library: Library) -> tuple[str, ...]:
    """Return the shapes that can happen with ``library``."""
    return tuple(
        shape for shape in SHAPES if shape not in library.cannot and (library.is_async or shape not in ONLY_ASYNC)
    )


def write_program(library: Library) -> str:
    """Return a program that leaks in every shape that can happen with ``library``, each with a pool of its own."""
    parts = [_HEAD.format(imports=library.imports)]
    for shape in shapes_of(library):
        text = SHAPES[shape]
        if library.is_async:
            text = text.replace("def ", "async def ").replace("for row in", "async for row in")
            text = text.replace("    other(pool", "    await other(pool").replace("CALL(find", "(await find")
        text = text.replace("CALL(find", "(find")
        for word, meaning in (
            ("ACQUIRE", library.acquire),
            ("RELEASE", library.release),
            ("QUERY", library.query),
            ("BEGIN", library.begin),
            ("POOL", library.pool),
        ):
            text = text.replace(word, meaning)
        parts.append(text.replace(f"{MARK}leak", f"{MARK}{shape}").replace(f"{MARK}second", f"{MARK}{shape} second"))
    tail = _ASYNC_TAIL if library.is_async else _SYNC_TAIL
    parts.append(tail.format(names=", ".join(shapes_of(library)), pool=library.pool, close=library.close))
    return "\n".join(parts)


def line_of(program: str, mark: str) -> int:
    """Return the number of the line of ``program`` that ends in ``mark``."""
    return next(at for at, line in enumerate(program.splitlines(), 1) if line.endswith(f"{MARK}{mark}"))
