"""Worlds in which a program may run: servers with workers, gevent, uvloop, -O, monkey patches, packages, watch()."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from guard_runs import run_guard, run_program

from poolctl.engines.sandbox.server import free_port

pytestmark = pytest.mark.server


WSGI = """
import os
import psycopg_pool
POOL = None

def app(environ, start_response):
    global POOL
    if POOL is None:
        POOL = psycopg_pool.ConnectionPool(os.environ["GUARD_DSN"], min_size=1, max_size=4, open=True)
    connection = POOL.getconn()  # line 10
    connection.execute("SELECT 1")
    if "leak" not in environ["PATH_INFO"]:
        POOL.putconn(connection)
    start_response("200 OK", [])
    return [b"ok"]
"""
ASGI = """
import os
import asyncpg
POOL = None
KEPT = []

async def app(scope, receive, send):
    global POOL
    if scope["type"] != "http":
        return
    if POOL is None:
        POOL = await asyncpg.create_pool(os.environ["GUARD_URL"], min_size=1, max_size=4)
    connection = await POOL.acquire()  # line 13
    await connection.execute("SELECT 1")
    if "leak" in scope["path"]:
        KEPT.append(connection)
    else:
        await POOL.release(connection)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""

FETCH = """
import sys, time, urllib.request
for _ in range(600):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/").read()
        break
    except OSError:
        time.sleep(0.1)
for path in ("a", "b", "leak", "c"):
    urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/{path}").read()
"""


def serve_and_fetch(command: list[str], port: int, environment: dict[str, str], folder: Path) -> dict[str, object]:
    """Run a server under the guard, send requests of which one leaks, stop it, and return the document."""
    import json

    guard = subprocess.Popen(
        [sys.executable, "-m", "poolctl", "guard", "--json", "--", sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        subprocess.run([sys.executable, "-c", FETCH, str(port)], check=True, timeout=60)
    finally:
        guard.send_signal(signal.SIGTERM)
        out, _ = guard.communicate(timeout=60)
    document: dict[str, object] = json.loads(out)
    return document


def places(document: dict[str, object], *codes: str) -> set[str]:
    findings = document["findings"]
    assert isinstance(findings, list)
    return {finding["evidence"]["acquired_at"] for finding in findings if not codes or finding["code"] in codes}


LEAKS = ("leak", "leak-in-transaction", "leak-or-long-hold")


def test_gunicorn_workers_are_followed(environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "wsgi.py").write_text(WSGI, encoding="utf-8")
    port = free_port()
    command = ["-m", "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}", "wsgi:app"]

    document = serve_and_fetch(command, port, environment, tmp_path)

    assert places(document, *LEAKS) == {"wsgi.py:10"}


def test_uvicorn_workers_are_followed(environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    (tmp_path / "asgi.py").write_text(ASGI, encoding="utf-8")
    port = free_port()
    command = ["-m", "uvicorn", "--workers", "2", "--port", str(port), "asgi:app"]

    document = serve_and_fetch(command, port, environment, tmp_path)

    assert places(document, *LEAKS) == {"asgi.py:13"}


CELERY = """
import os, signal
import celery, psycopg2.pool
app = celery.Celery("tasks", broker="filesystem://", backend=None)
app.conf.broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue"}
POOL = None
DONE = []

@app.task
def work(leak):
    global POOL
    if POOL is None:
        POOL = psycopg2.pool.SimpleConnectionPool(1, 4, os.environ["GUARD_DSN"])
    connection = POOL.getconn()  # line 14
    connection.cursor().execute("SELECT 1")
    if not leak:
        POOL.putconn(connection)
    DONE.append(leak)
    if len(DONE) == 3:
        os.kill(os.getppid(), signal.SIGTERM)  # the worker ends when this task has
"""


@pytest.mark.slow
def test_celery_prefork_is_followed(environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("celery")
    (tmp_path / "tasks.py").write_text(CELERY, encoding="utf-8")
    (tmp_path / "queue").mkdir()
    subprocess.run(
        [sys.executable, "-c", "import tasks; [tasks.work.delay(leak) for leak in (0, 1, 0)]"],
        cwd=tmp_path,
        env=environment,
        check=True,
        timeout=60,
    )
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "1", "--without-gossip"]

    result = run_guard(
        [*command, "--without-mingle", "--without-heartbeat"],
        environment,
        options=("--json", "--for", "60s"),
        folder=tmp_path,
    )

    assert places(result.document, *LEAKS) == {"tasks.py:14"}


GEVENT = """
from gevent import monkey
monkey.patch_all()
import os
import gevent
import psycopg_pool
POOL = psycopg_pool.ConnectionPool(os.environ["GUARD_DSN"], min_size=2, max_size=2, open=True)
KEPT = []

def clean():
    with POOL.connection() as connection:
        gevent.sleep(0.1)

def leak():
    KEPT.append(POOL.getconn())  # line 15

gevent.joinall([gevent.spawn(clean) for _ in range(6)])
gevent.joinall([gevent.spawn(leak)])
POOL.close()
"""


def test_greenlets_are_separate_actors(environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    result = run_program(GEVENT, environment, tmp_path)

    assert places(result.document) == {"program.py:15"}, result.document["findings"]
    assert result.findings("leak")[0]["evidence"]["actors"][0].startswith("greenlet")


UVLOOP = """
import asyncio, os
import asyncpg, uvloop
KEPT = []

async def main():
    pool = await asyncpg.create_pool(os.environ["GUARD_URL"], min_size=1, max_size=3)
    async def clean():
        async with pool.acquire() as connection:
            await connection.execute("SELECT 1")
    async def cancelled():
        KEPT.append(await pool.acquire())  # line 12
        await asyncio.sleep(60)
    await asyncio.gather(*(clean() for _ in range(20)))
    task = asyncio.create_task(cancelled(), name="mine")
    while not KEPT:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    pool.terminate()

uvloop.run(main())
"""


def test_uvloop_and_a_cancelled_task(environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    result = run_program(UVLOOP, environment, tmp_path)

    assert places(result.document) == {"program.py:12"}
    (leak,) = result.findings("leak")
    assert leak["evidence"]["actor_outcome"] == "cancelled"


PLAIN = """
import os
import psycopg_pool
pool = psycopg_pool.ConnectionPool(os.environ["GUARD_DSN"], min_size=1, max_size=2, open=True)
kept = pool.getconn()  # line 5
with pool.connection():
    pass
pool.close()
"""


def test_other_ways_to_start_python(environment: dict[str, str], tmp_path: Path) -> None:
    ways = [["-O"], ["-OO"], ["-X", "frozen_modules=on"], ["-W", "error"], ["-P"]]
    for number in range(len(ways)):
        (tmp_path / f"way{number}.py").write_text(PLAIN, encoding="utf-8")
    starts = [[sys.executable, *way, f"way{number}.py"] for number, way in enumerate(ways)]
    program = f"import subprocess\nfor start in [subprocess.Popen(words) for words in {starts!r}]: start.wait()"

    result = run_program(program, environment, tmp_path)

    assert places(result.document, *LEAKS) == {f"way{number}.py:5" for number in range(len(ways))}


def test_a_program_that_patches_the_pool_itself(environment: dict[str, str], tmp_path: Path) -> None:
    program = """
import os
import psycopg_pool
original = psycopg_pool.ConnectionPool.getconn

def getconn(self, timeout=None):
    return original(self, timeout)

psycopg_pool.ConnectionPool.getconn = getconn

class Mine(psycopg_pool.ConnectionPool):
    def getconn(self, timeout=None):
        return super().getconn(timeout)

def use(pool):
    return pool.getconn()  # line 16

pool = Mine(os.environ["GUARD_DSN"], min_size=1, max_size=2, open=True)
kept = use(pool)
pool.close()
"""
    result = run_program(program, environment, tmp_path)

    (leak,) = result.findings("leak")
    assert "program.py:16" in [leak["evidence"]["acquired_at"], *leak["evidence"]["called_from"]]


def test_a_pool_opened_before_a_fork_is_named_when_the_child_uses_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    program = """
import os
import psycopg2.pool
pool = psycopg2.pool.SimpleConnectionPool(1, 2, os.environ["GUARD_DSN"])  # line 4
if not os.fork():
    connection = pool.getconn()  # line 6
    pool.putconn(connection)
    os._exit(0)
os.wait()
"""
    result = run_program(program, environment, tmp_path)

    (finding,) = result.findings("used-after-fork")
    assert finding["evidence"]["acquired_at"] == "program.py:4"
    assert finding["evidence"]["at"] == "program.py:6"


def test_a_cursor_used_after_the_release_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    program = """
import os
import psycopg_pool
pool = psycopg_pool.ConnectionPool(os.environ["GUARD_DSN"], min_size=1, max_size=2, open=True)
with pool.connection() as connection:  # line 5
    cursor = connection.cursor()
cursor.execute("SELECT 1")  # line 7
connection.rollback()
pool.close()
"""
    result = run_program(program, environment, tmp_path)

    found = {(one["evidence"]["acquired_at"], one["evidence"]["at"]) for one in result.findings("used-after-release")}
    assert ("program.py:5", "program.py:7") in found


JAM = """
import os, threading
import psycopg_pool
pool = psycopg_pool.ConnectionPool(os.environ["GUARD_DSN"], min_size=2, max_size=2, timeout=1, open=True)
together = threading.Barrier(2)

def work():
    with pool.connection():  # line 8
        together.wait()
        try:
            with pool.connection():  # line 11
                pass
        except psycopg_pool.PoolTimeout:
            pass

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
pool.close()
"""


def test_a_self_deadlock_is_critical_when_it_was_seen(environment: dict[str, str], tmp_path: Path) -> None:
    result = run_program(JAM, environment, tmp_path)

    (finding,) = result.findings("self-deadlock")
    assert (finding["severity"], finding["confidence"]) == ("critical", "certain")
    assert (finding["evidence"]["acquired_at"], finding["evidence"]["second_at"]) == ("program.py:8", "program.py:11")


DJANGO = """
import os, threading
import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict
parts = conninfo_to_dict(os.environ["GUARD_DSN"])
settings.configure(DATABASES={{"default": {{
    "ENGINE": "django.db.backends.postgresql", "NAME": parts["dbname"], "USER": parts["user"],
    "HOST": parts["host"], "PORT": parts["port"], "CONN_MAX_AGE": {age}, "OPTIONS": {options}}}}})
django.setup()
from django.core.signals import request_finished, request_started
from django.db import connection, connections

def count():
    with connection.cursor() as cursor:  # line 15
        cursor.execute("SELECT 1")
        return cursor.fetchone()

def own_thread():
    count()
    waiting.set()
    done.wait()

def request_thread():
    request_started.send(sender=None, environ={{}})
    count()
    request_finished.send(sender=None)
    waiting.set()
    done.wait()

count()
done = threading.Event()
for target in [request_thread, own_thread]:
    waiting = threading.Event()
    threading.Thread(target=target, name=target.__name__, daemon=True).start()
    waiting.wait()
"""


@pytest.mark.parametrize(("age", "options"), [(0, "{}"), (60, "{}"), (0, "{'pool': {'min_size': 1, 'max_size': 4}}")])
def test_a_thread_of_the_programs_own_has_to_close_djangos_connection(
    age: int, options: str, environment: dict[str, str], tmp_path: Path
) -> None:
    result = run_program(DJANGO.format(age=age, options=options), environment, tmp_path)

    (leak,) = [finding for finding in result.document["findings"] if finding["code"] in LEAKS]
    assert leak["evidence"]["acquired_at"] == "program.py:15"
    assert leak["evidence"]["actors"] == ["thread own_thread"]


SERVED_DJANGO = """
import asyncio, gc, os, threading
from wsgiref.util import setup_testing_defaults
import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict
parts = conninfo_to_dict(os.environ["GUARD_DSN"])
settings.configure(ROOT_URLCONF="__main__", ALLOWED_HOSTS=["*"], DATABASES={{"default": {{
    "ENGINE": "django.db.backends.postgresql", "NAME": parts["dbname"], "USER": parts["user"],
    "HOST": parts["host"], "PORT": parts["port"], "CONN_MAX_AGE": {age}}}}})
django.setup()
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection
from django.http import HttpResponse
from django.urls import path

def count():
    with connection.cursor() as cursor:  # line 20
        cursor.execute("SELECT 1")

def view(request):
    count()
    return HttpResponse("ok")

async def async_view(request):
    await sync_to_async(count)()
    return HttpResponse("ok")

PATHS = ("/view", "/async")
urlpatterns = [path("view", view), path("async", async_view)]
STATUSES = []

def serve_wsgi():
    for each in PATHS:
        environ = {{"PATH_INFO": each}}
        setup_testing_defaults(environ)
        response = WSGIHandler()(environ, lambda *_: None)
        STATUSES.append(response.status_code)
        response.close()
    served.set()
    forever.wait()

async def serve_asgi():
    app = ASGIHandler()
    for each in PATHS:
        messages = [{{"type": "http.request", "body": b""}}]

        async def receive():
            return messages.pop() if messages else await asyncio.Event().wait()

        async def send(message):
            STATUSES.append(message.get("status", 200))

        scope = {{"type": "http", "method": "GET", "path": each, "headers": [], "query_string": b""}}
        await app(scope, receive, send)

served, forever = threading.Event(), threading.Event()
threading.Thread(target=serve_wsgi, daemon=True).start()
served.wait(30)
asyncio.run(serve_asgi())
gc.collect()  # else it is chance whether the collector comes before the end
assert STATUSES == [200] * 6, STATUSES
"""


@pytest.mark.parametrize(("age", "codes"), [(0, set()), (60, {"left-to-the-collector"})])
def test_the_connections_that_django_serves_with_are_no_leaks(
    age: int, codes: set[str], environment: dict[str, str], tmp_path: Path
) -> None:
    result = run_program(SERVED_DJANGO.format(age=age), environment, tmp_path)

    assert result.code == 0, result.stderr
    # With ASGI each request has a thread of its own, which ends with a connection that Django meant to keep.
    assert {finding["code"] for finding in result.document["findings"]} == codes


WATCH = """
import logging, os, sys
import {imports}
from poolctl import guard
logging.basicConfig(stream=sys.stdout, format="%(message)s")
pool = {pool}
other = {pool}
original = type({real}).{method}
with guard.watch(pool, name="orders") as watched:
    assert type({real}).{method} is not original
    def take():
        return {acquire}
    first = take()
    {query}
    ignored = {other_acquire}
    (held,) = watched.holders()
    print("held", held.site[0].place, held.site[0].function, held.state, held.backend_pid > 0)
    try:
        second = take()
    except Exception as error:
        print("error", type(error).__name__)
    print(watched.prometheus())
    {release}
    assert watched.holders() == ()
    assert watched.oldest_hold() == 0.0
assert type({real}).{method} is original
"""


@pytest.mark.parametrize(
    "words",
    [
        {
            "imports": "psycopg_pool",
            "pool": 'psycopg_pool.ConnectionPool(os.environ["GUARD_DSN"], min_size=1, max_size=1, timeout=0.3, '
            "open=True)",
            "real": "pool",
            "method": "getconn",
            "acquire": "pool.getconn()",
            "other_acquire": "other.getconn()",
            "query": 'first.execute("SELECT 1")',
            "release": "pool.putconn(first)",
        },
        {
            "imports": "sqlalchemy",
            "pool": 'sqlalchemy.create_engine(os.environ["GUARD_URL"].replace(":", "+psycopg2:", 1), pool_size=1, '
            "max_overflow=0, pool_timeout=0.3)",
            "real": "pool.pool",
            "method": "connect",
            "acquire": "pool.connect()",
            "other_acquire": "other.connect()",
            "query": 'first.exec_driver_sql("SELECT 1")',
            "release": "first.close()",
        },
        {
            "imports": "psycopg2.pool",
            "pool": 'psycopg2.pool.SimpleConnectionPool(1, 1, os.environ["GUARD_DSN"])',
            "real": "pool",
            "method": "getconn",
            "acquire": "pool.getconn()",
            "other_acquire": "other.getconn()",
            "query": 'first.cursor().execute("SELECT 1")',
            "release": "pool.putconn(first)",
        },
    ],
    ids=lambda words: words["imports"],
)
def test_watch_gives_holders_metrics_and_one_line_when_the_pool_is_exhausted(
    words: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    from poolctl.observe.pool_metrics import read_pools

    (tmp_path / "program.py").write_text(WATCH.format(**words), encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert finished.returncode == 0, finished.stderr
    assert "held program.py:12 take idle in transaction True" in finished.stdout
    assert finished.stdout.count("pool 'orders' is exhausted: 1 of 1 in use") == 1
    metrics = "\n".join(
        line for line in finished.stdout.splitlines() if line.startswith(("db_client_", "poolctl_guard_"))
    )
    (figures,) = read_pools(metrics, "test").pools
    assert (figures.name, figures.max_open, figures.in_use, figures.idle) == ("orders", 1, 1, 0)
    assert figures.timed_out_total == 1
    assert 'site="program.py:12 in take' in metrics


def test_watch_refuses_what_is_no_pool() -> None:
    from poolctl import guard

    with pytest.raises(TypeError, match="dict is no pool or engine that the guard knows"):
        guard.watch({})
