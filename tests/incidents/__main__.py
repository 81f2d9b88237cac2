"""The generator of incidents: stages them one after the other for hours, and prints what was wrong.

    python -m tests.incidents --for 1h --seed 1

Each line names the seed of its incident: ``--seed N --count 1`` stages it again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from psycopg.conninfo import conninfo_to_dict
from sandboxes import connect
from staging import Stage, Verdict, inspect, stage

from poolctl.units import parse_duration

from .generator import Incident, draw_incident, judge
from .stacks import STACKS, CannotBuild, build_stack

SETUP = (
    "CREATE TABLE orders AS SELECT i AS id, i % 5000 AS customer_id FROM generate_series(1, 400000) AS i",
    "GRANT ALL ON orders TO app",
    "ANALYZE",
)


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


@contextmanager
def client(at: Stage, stack: str, application: str | None, options: dict[str, object]) -> Iterator[None]:
    """Run a client until the block ends; it is ready when the block begins."""
    target = conninfo_to_dict(at.sandbox.conninfo)
    words = {key: target[key] for key in ("host", "port", "user", "dbname")} | options
    if application is not None:
        words["application"] = application
    behavior = words.pop("behavior")
    command = [*build_stack(stack).command, str(behavior), *(f"{key}={value}" for key, value in words.items())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    at.clients.append(process)
    at.wait(process)
    yield


def run_incident(at: Stage, incident: Incident, folder: Path) -> tuple[Verdict, list[str]]:
    """Stage one incident and return the verdict, and what is wrong with it."""
    application = "shop"
    metrics = folder / f"{incident.seed}.json"
    options: dict[str, object] = dict(incident.options)
    arguments = ["--for", f"{incident.window:g}s"]
    if incident.has_figures:
        options["metrics"] = metrics
        arguments += ["--pool-stats", f"{application}={metrics}" if incident.has_name else str(metrics)]
    for number, neighbor in enumerate(incident.neighbors):
        beside = {"behavior": "healthy", "size": 5, "workers": 2, "think": 0.05}
        with client(at, neighbor, f"neighbor-{number}", beside):
            pass
    with client(at, incident.stack, application if incident.has_name else None, options):
        verdict = inspect(at.conninfo_of(incident.role), "--relief", *arguments)
    return verdict, judge(incident, verdict.document, application)


def main() -> int:
    """Run the generator; return 1 when a verdict was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.incidents", description=__doc__.splitlines()[0])
    parser.add_argument("--for", dest="duration", default="10m", help="how long, such as 30m or 3h")
    parser.add_argument("--seed", type=int, default=1, help="of the first incident; the next has the next number")
    parser.add_argument("--count", type=int, default=0, help="so many incidents; 0: as many as the time allows")
    parser.add_argument("--stack", action="append", choices=STACKS, help="only these; may be repeated")
    parser.add_argument("--verbose", action="store_true", help="print the findings of every incident")
    asked = parser.parse_args()
    ends_at = time.monotonic() + parse_duration(asked.duration)
    stacks = asked.stack or usable_stacks()
    score: Counter[str] = Counter()
    seed = asked.seed
    with tempfile.TemporaryDirectory(prefix="poolctl-incidents-") as folder, stage(max_connections=100) as at:
        with connect(at.sandbox.admin_conninfo) as admin:
            for statement in SETUP:
                admin.execute(statement.encode())
        while time.monotonic() < ends_at and (not asked.count or seed < asked.seed + asked.count):
            incident = draw_incident(seed, stacks)
            try:
                verdict, wrong = run_incident(at, incident, Path(folder))
            except (AssertionError, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
                score["not staged"] += 1
                say(f"{seed}: not staged: {incident}: {error}")
            else:
                score["wrong" if wrong else "right"] += 1
                if wrong or asked.verbose:
                    say(f"{seed}: {'WRONG' if wrong else 'right'}: {incident}")
                    for line in [*wrong, *(f"  said {summary}" for summary in verdict.summaries)]:
                        say(f"    {line}")
            at.clear()
            seed += 1
    say(
        f"{seed - asked.seed} incidents, seeds {asked.seed} to {seed - 1}: "
        + ", ".join(f"{n} {what}" for what, n in score.items())
    )
    return 1 if score["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
