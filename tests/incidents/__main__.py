"""The generator of incidents: stages them one after the other for hours, and prints what was wrong.

    python -m tests.incidents --for 1h --seed 1

Each line names the seed of its incident: ``--seed N --count 1`` stages it again. Several may run side by side. At the
end, and when it is interrupted, a table has the score of each behavior.
"""

import argparse
import ctypes
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sandboxes import connect
from staging import PROGRAM, Stage, Verdict, inspect, stage

from poolctl.errors import PoolctlError
from poolctl.units import parse_duration

from .generator import FULL, PLAIN, SCRIPT, SESSION, SHOP, TRANSACTION, Incident, draw_incident, judge
from .stacks import STACKS, CannotBuild, build_stack

SETUP = (
    "CREATE TABLE orders AS SELECT i AS id, i % 5000 AS customer_id FROM generate_series(1, 400000) AS i",
    "CREATE INDEX ON orders (id)",
    "ALTER TABLE orders OWNER TO app",
    "ANALYZE",
)
# lib/pq and pgjdbc send extra_float_digits, which PgBouncer refuses unless it is named.
POOLER = {"default_pool_size": 6, "max_client_conn": 60, "ignore_startup_parameters": "extra_float_digits"}
PLACES: dict[str, dict[str, Any]] = {
    PLAIN: {"max_connections": 100},
    FULL: {"max_connections": 40},
    TRANSACTION: {"max_connections": 40, "via": "pgbouncer", "pgbouncer": {"pool_mode": "transaction", **POOLER}},
    SESSION: {"max_connections": 40, "via": "pgbouncer", "pgbouncer": {"pool_mode": "session", **POOLER}},
}
SCORES = ("right", "wrong", "not staged")
NOT_STAGED = (AssertionError, subprocess.TimeoutExpired, ValueError, OSError, psycopg.Error, PoolctlError)
"""What may go wrong with one incident while the generator goes on with the next."""
LONGEST = 300
"""Seconds that one incident may take: a client may hang before it is ready."""
END_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux: a client has to go also when the generator is killed."""


def say(line: str) -> None:
    """Print a line at once: the output is read while the generator runs."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def usable_stacks() -> list[str]:
    """Return the stacks that can be built here, and say why the others cannot."""
    found = []
    for name in STACKS:
        try:
            build_stack(name)
            found.append(name)
        except CannotBuild as error:
            say(f"without {name}: {error}")
    return found


class Staging:
    """The servers of the places, each started when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stages: dict[str, Stage] = {}
        self._open = ExitStack()

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def at(self, place: str) -> Stage:
        """Return the stage of ``place``."""
        if place not in self._stages:
            at = self._stages[place] = self._open.enter_context(stage(**PLACES[place]))
            with connect(at.sandbox.admin_conninfo) as admin:
                for statement in SETUP:
                    admin.execute(statement.encode())
        return self._stages[place]

    def clear(self, place: str) -> None:
        """End the clients of ``place``, and forget its server where that does not answer: the next one is new."""
        at = self._stages.get(place)
        if at is None:
            return
        try:
            at.clear()
        except NOT_STAGED as error:
            say(f"a new server for {place}: {error}")
            del self._stages[place]

    def run(self, incident: Incident) -> tuple[Verdict, list[str]]:
        """Stage one incident and return the verdict, and what is wrong with it."""
        at = self.at(incident.place)
        metrics = self.folder / f"{incident.seed}.json"
        options: dict[str, object] = dict(incident.options)
        arguments = ["--relief", "--for", f"{incident.window:g}s"]
        if incident.has_figures:
            options["metrics"] = metrics
            arguments += [
                "--pool-stats",
                f"{incident.figures_of}={metrics}" if incident.figures_of else str(metrics),
            ]
        if at.sandbox.pooler_admin_conninfo is not None:
            arguments += ["--pgbouncer", at.sandbox.pooler_admin_conninfo]
        for act in incident.before:
            start_client(at, act.stack, act.application, act.options)
            at.wait(at.clients[-1])
        if incident.behavior != "session-held":
            start_client(at, incident.stack, SHOP if incident.has_name else None, options)
            at.wait(at.clients[-1])
        if incident.behavior == "stopped":
            at.clients[-1].send_signal(signal.SIGSTOP)
        for act in incident.meanwhile:
            start_client(at, act.stack, act.application, act.options)
        if incident.behavior == "session-held":
            time.sleep(2.0)
        verdict = inspect(at.conninfo_of(incident.role), *arguments)
        assert "findings" in verdict.document, verdict.document
        return verdict, judge(incident, verdict.document)


def start_client(at: Stage, stack: str, application: str | None, given: dict[str, Any]) -> None:
    """Start a client, which prints a line when it is ready and runs until the stage is cleared."""
    target = conninfo_to_dict(at.sandbox.conninfo)
    options = dict(given)
    behavior = str(options.pop("behavior"))
    if stack == SCRIPT:
        conninfo = f"{at.sandbox.conninfo} application_name={application}"
        command = [sys.executable, str(PROGRAM), behavior, conninfo]
    else:
        named = {"application": application} if application is not None else {}
        pooled = {"pooled": 1} if at.sandbox.pooler_admin_conninfo is not None else {}
        options = {key: target[key] for key in ("host", "port", "user", "dbname")} | named | pooled | options
        command = [*build_stack(stack).command, behavior]
    command += [f"{key}={value}" for key, value in options.items()]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=_end_with_parent
    )
    at.clients.append(process)


_libc = ctypes.CDLL(None)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        _libc.prctl(END_WITH_PARENT, signal.SIGKILL)


def write_table(score: Counter[tuple[str, str]]) -> list[str]:
    """Write the score of each behavior, and of all, as the lines of a table."""
    behaviors = sorted({behavior for behavior, _ in score})
    rows = [(each, [score[each, how] for how in SCORES]) for each in behaviors]
    rows.append(("all", [sum(row[1][at] for row in rows) for at in range(len(SCORES))]))
    head = f"{'behavior':<22}" + "".join(f"{how:>12}" for how in SCORES)
    return [head, *(f"{each:<22}" + "".join(f"{count:>12}" for count in counts) for each, counts in rows)]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _give_up(*_: object) -> None:
    raise TimeoutError(f"not within {LONGEST} s")


def main() -> int:
    """Run the generator; return 1 when a verdict was wrong, 130 when it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.incidents", description=__doc__.splitlines()[0])
    parser.add_argument("--for", dest="duration", default="10m", help="how long, such as 30m or 3h")
    parser.add_argument("--seed", type=int, default=1, help="of the first incident; the next has the next number")
    parser.add_argument("--count", type=int, default=0, help="so many incidents; 0: as many as the time allows")
    parser.add_argument("--stack", action="append", choices=STACKS, help="only these; may be repeated")
    parser.add_argument("--behavior", action="append", help="only these; may be repeated")
    parser.add_argument("--verbose", action="store_true", help="print the findings of every incident")
    asked = parser.parse_args()
    # What ``timeout`` and a terminal send: everything is ended, and the score printed.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGALRM, _give_up)
    began = time.monotonic()
    ends_at = began + parse_duration(asked.duration)
    stacks = asked.stack or usable_stacks()
    score: Counter[tuple[str, str]] = Counter()
    seed = asked.seed
    is_interrupted = False
    with tempfile.TemporaryDirectory(prefix="poolctl-incidents-") as folder, Staging(Path(folder)) as staging:
        try:
            while time.monotonic() < ends_at and (not asked.count or score.total() < asked.count):
                incident = draw_incident(seed, stacks)
                seed += 1
                if asked.behavior and incident.behavior not in asked.behavior:
                    continue
                run_one(staging, incident, score, asked.verbose)
        except KeyboardInterrupt:
            is_interrupted = True
    for line in write_table(score):
        say(line)
    say(
        f"{score.total()} incidents, seeds {asked.seed} to {seed - 1}: "
        f"{(time.monotonic() - began) / 60:.0f} minutes{', interrupted' if is_interrupted else ''}"
    )
    if is_interrupted:
        return 130
    return 1 if any(how == "wrong" for _, how in score) else 0


def run_one(staging: Staging, incident: Incident, score: Counter[tuple[str, str]], is_verbose: bool) -> None:
    """Stage one incident, print it where its verdict is wrong, and count it."""
    signal.alarm(LONGEST)
    try:
        verdict, wrong = staging.run(incident)
    except NOT_STAGED as error:
        score[incident.behavior, "not staged"] += 1
        say(f"{incident.seed}: not staged: {incident}: {error}")
    else:
        score[incident.behavior, "wrong" if wrong else "right"] += 1
        if wrong or is_verbose:
            say(f"{incident.seed}: {'WRONG' if wrong else 'right'}: {incident}")
            for line in [*wrong, *(f"  said {summary}" for summary in verdict.summaries)]:
                say(f"    {line}")
    signal.alarm(0)
    staging.clear(incident.place)


if __name__ == "__main__":
    sys.exit(main())
