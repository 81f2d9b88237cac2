"""Sizes from watching a load, beside a grid of sizes under the same load, with the pools' figures and without.

    python tests/benchmarks/bench_watched_sizes.py [LOAD ...] [--for 22] [--seconds 3]

Goal: at least 0.95 of the best throughput, with at most twice the least size that reaches it. Each load runs in
processes of psycopg_pool or SQLAlchemy whose statements mostly sleep, so that a busy machine disturbs little.
"""

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any, NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo

from poolctl.api.recommend import recommend
from poolctl.engines.sandbox import Sandbox
from poolctl.engines.sandbox.server import free_port


class Load(NamedTuple):
    """Of each instance. ``statement``, ``outside`` (held after it) and ``think`` are mean milliseconds."""

    library: str
    instances: int
    size: int
    workers: int
    statement: float
    outside: float
    think: float


LOADS = {
    "roomy": Load("psycopg_pool", 2, 14, 14, 25, 0, 35),
    "outside": Load("psycopg_pool", 2, 12, 12, 10, 25, 60),
    "full": Load("psycopg_pool", 2, 3, 14, 20, 5, 40),
    "full-hard": Load("psycopg_pool", 1, 5, 20, 30, 0, 5),
    "alchemy": Load("sqlalchemy", 2, 12, 12, 25, 10, 80),
    "alchemy-full": Load("sqlalchemy", 2, 4, 10, 30, 0, 60),
}
SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("loads", nargs="*", default=list(LOADS))
    arguments.add_argument("--for", dest="watched", type=float, default=22.0)
    arguments.add_argument("--seconds", type=float, default=3.0)
    arguments.add_argument("--client", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.client:
        run_client(**json.loads(chosen.client))
        return
    with Sandbox.start(max_connections=150) as sandbox:
        with psycopg.connect(sandbox.admin_conninfo, autocommit=True) as admin:
            admin.execute("CREATE TABLE load_row AS SELECT 1")
            admin.execute("GRANT SELECT ON load_row TO PUBLIC")
        for name in chosen.loads:
            bench(sandbox, name, LOADS[name], chosen)


def bench(sandbox: Sandbox, name: str, load: Load, chosen: argparse.Namespace) -> None:
    ports = [free_port() for _ in range(load.instances)]
    clients = start(sandbox, load, load.size, chosen.watched + 8, ports)
    time.sleep(3)
    urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
    found = {}

    def watch(which: str, pool_stats: tuple[str, ...]) -> None:
        found[which] = recommend(conninfo=sandbox.admin_conninfo, pool_stats=pool_stats, duration=chosen.watched)

    watches = [threading.Thread(target=watch, args=each) for each in (("with figures", urls), ("without", ()))]
    for each in watches:
        each.start()
    for each in watches:
        each.join()
    count(clients)
    sizes = sorted({size for size in SIZES if size < load.workers} | {load.workers})
    rates: dict[int, float] = dict.fromkeys(sizes, 0.0)
    for size in random.sample(2 * sizes, 2 * len(sizes)):
        rates[size] = max(rates[size], count(start(sandbox, load, size, chosen.seconds)))
    for smaller, size in pairwise(sizes):
        rates[size] = max(rates[size], rates[smaller])
    best = rates[load.workers]
    least = min(size for size in sizes if rates[size] >= 0.95 * best)
    print(f"{name}: best {best:,.0f}/s, 0.95 of it from {least} on; watched with {load.size}")
    for which, result in found.items():
        answer = result.recommendation.recommendation
        chose, interval = answer.max_open, answer.interval
        if chose is None:
            print(f"  {which:13} refused")
            continue
        share = rates[max(each for each in sizes if each <= chose)] / best
        good = share >= 0.95 and chose <= 2 * least
        print(f"  {which:13} {chose:3} {interval}  {share:.2f}  {chose / least:.1f} x  {'good' if good else 'WRONG'}")


def start(
    sandbox: Sandbox, load: Load, size: int, seconds: float, ports: list[int] | None = None
) -> "list[subprocess.Popen[str]]":
    conninfo = make_conninfo(sandbox.conninfo, application_name="shop")
    orders = [
        {"conninfo": conninfo, "load": load, "size": size, "seconds": seconds, "port": ports[at] if ports else None}
        for at in range(load.instances)
    ]
    words = [[sys.executable, __file__, "--client", json.dumps(order)] for order in orders]
    return [subprocess.Popen(each, stdout=subprocess.PIPE, text=True) for each in words]


def count(clients: "list[subprocess.Popen[str]]") -> float:
    return sum(float(client.communicate()[0]) for client in clients)


def run_client(conninfo: str, load: list[Any], size: int, seconds: float, port: int | None) -> None:
    library, _, _, workers, statement, outside, think = load
    pool: Any
    if library == "psycopg_pool":
        import psycopg_pool

        pool = psycopg_pool.ConnectionPool(conninfo, min_size=size, max_size=size, kwargs={"autocommit": True})
        acquire, release, figures = pool.getconn, pool.putconn, pool.get_stats
        pool.wait(60)
    else:
        from sqlalchemy.pool import QueuePool

        pool = QueuePool(lambda: psycopg.connect(conninfo, autocommit=True), pool_size=size, max_overflow=0)  # type: ignore[arg-type]
        acquire, release = pool.connect, lambda connection: connection.close()

        def figures() -> dict[str, Any]:
            used, idle = pool.checkedout(), pool.checkedin()
            return {"library": "sqlalchemy", "max_open": size, "open": used + idle, "in_use": used, "idle": idle}

    class Figures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(figures()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    if port is not None:
        server = ThreadingHTTPServer(("127.0.0.1", port), Figures)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    done = [0] * workers

    def draw(mean: float) -> float:
        return random.expovariate(1000 / mean) if mean else 0.0

    def work(number: int) -> None:
        while True:
            time.sleep(draw(think))
            connection = acquire()
            cursor = connection.cursor()
            cursor.execute("SELECT pg_sleep(%s) FROM load_row", (draw(statement),))
            cursor.close()
            time.sleep(draw(outside))
            release(connection)
            done[number] += 1

    for number in range(workers):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    time.sleep(1)
    begun, before = time.monotonic(), sum(done)
    time.sleep(seconds)
    print((sum(done) - before) / (time.monotonic() - begun))
    sys.stdout.flush()
    # The threads never end, and their connections would be closed one by one.
    sys.exit(0)


if __name__ == "__main__":
    main()
