"""Inspect against pg_activity, on the same server in one run: time to the first answer, cost on the server.

    python tests/benchmarks/bench_inspect.py [ROUNDS]

pg_activity (``pip install pg_activity``) and tmux have to be installed. Figures are medians of interleaved
rounds; what is quoted is the ratio, never a time.
"""

import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from poolctl.api.requests import SAMPLING_TIME
from poolctl.engines.sandbox import Sandbox
from poolctl.observe.postgres import Postgres

SESSIONS = (50, 500)


def first_paint(arguments: list[str], environment: dict[str, str], needle: str) -> float:
    """Seconds from the start of a terminal program until ``needle`` is on its screen.

    In a real terminal (tmux): such programs ask it questions, and wait ten seconds if there is no answer.
    """
    tmux = ["tmux", "-L", f"poolctl-bench-{os.getpid()}"]
    began = time.perf_counter()
    subprocess.run(
        [*tmux, "new-session", "-d", "-x", "160", "-y", "40", shlex.join(arguments)], env=environment, check=True
    )
    try:
        while time.perf_counter() - began < 30:
            shown = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=False).stdout
            if needle in shown:
                break
            time.sleep(0.02)
        return time.perf_counter() - began
    finally:
        subprocess.run([*tmux, "kill-server"], capture_output=True, check=False)


def environment_for(conninfo: str) -> dict[str, str]:
    values = conninfo_to_dict(conninfo)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "passfile": "PGPASSFILE"}
    return {**os.environ, "TERM": "xterm", **{names[key]: str(values[key]) for key in names if key in values}}


def measure(sandbox: Sandbox, sessions: int, rounds: int) -> None:
    program = Path(sys.executable).with_name("pg_activity")
    environment = environment_for(sandbox.admin_conninfo)
    opened = [psycopg.connect(sandbox.direct_conninfo, autocommit=True) for _ in range(sessions)]
    try:
        window = SAMPLING_TIME
        ours, theirs = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "poolctl", "inspect", "--quiet"],
                env=environment,
                stdout=subprocess.DEVNULL,
                check=True,
            )
            ours.append(time.perf_counter() - began)
            if program.exists() and shutil.which("tmux"):
                theirs.append(first_paint([str(program), "--no-db-size"], environment, "PID"))
        print(f"{sessions} sessions")
        print(f"  inspect, whole: {statistics.median(ours):.2f} s with a window of {window} s")
        if theirs:
            goal = statistics.median(theirs) / 2 + window
            ratio = statistics.median(o / (t / 2 + window) for o, t in zip(ours, theirs, strict=True))
            print(f"  pg_activity to first paint: {statistics.median(theirs):.2f} s; allowed {goal:.2f} s")
            print(f"  ratio to what is allowed: {ratio:.2f} (goal: at most 1)")
        cost_of_look(sandbox)
    finally:
        for connection in opened:
            connection.close()


def cost_of_look(sandbox: Sandbox) -> None:
    """Server time of one look, by pg_stat_statements."""
    with psycopg.connect(sandbox.admin_conninfo, autocommit=True) as admin:
        admin.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        postgres = Postgres(sandbox.admin_conninfo)
        postgres.sample()
        admin.execute("SELECT pg_stat_statements_reset()")
        looks = 20
        for _ in range(looks):
            postgres.sample()
        row = admin.execute(
            "SELECT sum(total_exec_time), sum(calls) FROM pg_stat_statements "
            "WHERE query NOT LIKE '%pg_stat_statements_reset%'"
        ).fetchone()
        postgres.close()
        assert row is not None
        print(f"  server time of one look: {row[0] / looks:.2f} ms in {row[1] / looks:.0f} statements (goal: below 10)")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with Sandbox.start(max_connections=max(SESSIONS) + 30) as sandbox:
        for sessions in SESSIONS:
            measure(sandbox, sessions, rounds)


if __name__ == "__main__":
    main()
