"""Evidence against pgBadger, on the same log in one run: processor time, memory; and a paste of 5,000 rows.

    python tests/benchmarks/bench_evidence.py [MEGABYTES]

pgbadger (apt) has to be installed. What is quoted is the ratio of processor times, and what a gigabyte would take.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

TABLES = ("orders", "items", "users", "events", "payments", "stock")
ROWS = 5_000


def write_log(path: Path, size: int) -> None:
    """Write a log as a busy server with log_connections and log_min_duration_statement does, of ``size`` bytes."""
    chance = random.Random(1)
    at = datetime(2026, 10, 13, 6, 0, tzinfo=UTC)
    written = 0
    with path.open("w") as file:
        while written < size:
            at += timedelta(milliseconds=chance.randint(1, 6))
            pid = chance.randint(1000, 1400)
            prefix = f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03} UTC [{pid}] app@shop "
            written += file.write("".join(f"{prefix}{line}\n" for line in write_lines(chance, pid)))


def write_lines(chance: random.Random, pid: int) -> Iterator[str]:
    draw, table, number = chance.random(), chance.choice(TABLES), chance.randint(1, 99_999)
    if draw < 0.12:
        yield f"LOG:  connection received: host=10.0.0.{pid % 9} port={40_000 + pid}"
        yield "LOG:  connection authorized: user=app database=shop application_name=web"
    elif draw < 0.22:
        time_of_day = f"0:00:{chance.randint(0, 59):02}.{chance.randint(0, 999):03}"
        yield f"LOG:  disconnection: session time: {time_of_day} user=app database=shop host=10.0.0.{pid % 9} port=1"
    elif draw < 0.75:
        statement = f"SELECT id, total FROM {table} WHERE customer_id = {number} AND state = 'open' LIMIT 50"
        yield f"LOG:  duration: {chance.random() * 100:.3f} ms  statement: {statement}"
    elif draw < 0.85:
        yield f"LOG:  execute <unnamed>: UPDATE {table} SET total = $1 WHERE id = $2"
        yield f"DETAIL:  parameters: $1 = '12', $2 = '{number}'"
    elif draw < 0.90:
        yield f'ERROR:  duplicate key value violates unique constraint "{table}_pkey"'
        yield f"STATEMENT:  INSERT INTO {table} VALUES ({number}, 'abc')"
    elif draw < 0.93:
        yield "FATAL:  sorry, too many clients already"
    elif draw < 0.95:
        yield f"LOG:  process {pid} still waiting for ShareLock on transaction {number} after 1000.123 ms"
        yield f"DETAIL:  Process holding the lock: {pid + 1}. Wait queue: {pid}."
    else:
        yield "LOG:  checkpoint complete: wrote 512 buffers (3.1%); 0 WAL file(s) added, 0 removed, 1 recycled"


def write_paste(path: Path) -> None:
    at = datetime(2026, 10, 13, 6, 0, tzinfo=UTC)
    rows = (
        f"{pid} | shop | app | web | 10.0.0.{pid % 250} | {at - timedelta(seconds=pid)} | {at} | idle | SELECT {pid}\n"
        for pid in range(1, ROWS + 1)
    )
    names = "pid|datname|usename|application_name|client_addr|backend_start|state_change|state|query"
    path.write_text(f"{names}\n{'-+-'.join('-' * 8 for _ in names.split('|'))}\n{''.join(rows)}({ROWS} rows)\n")


def run(*command: str) -> tuple[float, float, float]:
    """Run a command; return its processor time and its time in seconds, and its memory in MB."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    inspect = (sys.executable, "-m", "poolctl", "inspect", "--quiet", "--evidence")
    with tempfile.TemporaryDirectory() as folder:
        log, paste = Path(folder, "server.log"), Path(folder, "paste.txt")
        write_log(log, megabytes * 1_000_000)
        write_paste(paste)
        ours, _, memory = run(*inspect, str(log))
        theirs, _, their_memory = run(
            *("pgbadger", "-q", "-j", "1", "-f", "stderr", "-p", "%m [%p] %u@%d "),
            *("-o", str(Path(folder, "report.html")), str(log)),
        )
        empty, _, _ = run(sys.executable, "-m", "poolctl", "inspect", "--explain", "leak")
        rows, _, _ = run(*inspect, str(paste))
    print(f"a log of {megabytes} MB: {ours:.1f} s of processor, {memory:.0f} MB of memory (goal: below 200)")
    print(f"  a gigabyte: {(ours - empty) * 1000 / megabytes + empty:.0f} s (goal: below 60)")
    print(f"  pgbadger: {theirs:.1f} s, {their_memory:.0f} MB; ratio {theirs / ours:.1f} (goal: at least 5)")
    print(f"a paste of {ROWS} rows: {rows:.2f} s of processor (goal: below 1)")


if __name__ == "__main__":
    main()
