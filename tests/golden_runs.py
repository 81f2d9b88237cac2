"""Runs of the model whose figures are kept: every example, every library, and scenarios drawn at random.

python tests/golden_runs.py writes ``golden_runs.txt``, and prints the lines that differ. Renew it only for a change
that is meant to move figures, and say in the commit which lines moved, and why. A line is the scenario's name, its
figures to be read, and a digest of all of them with the timeline.
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from poolctl.engines.model import simulate
from poolctl.engines.model.plan import check
from poolctl.errors import BadInput
from poolctl.pool import LIBRARIES
from poolctl.scenario.run import Run, Summary
from poolctl.scenario.scenario import LEAK_SHAPES, Scenario, parse_scenario
from poolctl.scenario.toml import read_toml

HERE = Path(__file__).parent
KEPT = HERE / "golden_runs.txt"
EXAMPLES = HERE.parent / "examples"
RANDOM_RUNS = 80

EXPONENTIAL = {"distribution": "exponential", "mean": 0.05}
TIMES: list[Any] = ["20ms", EXPONENTIAL, {"distribution": "lognormal", "mean": 0.03, "cv": 2.0}]


def golden_scenarios() -> Iterator[tuple[str, Scenario]]:
    """Yield each scenario that the model can run, with its name."""
    for path in sorted(EXAMPLES.rglob("*.toml")):
        try:
            scenario = parse_scenario(read_toml(path)[0])
            check(scenario)
        except BadInput:
            # No scenario but a fleet, or one that only live runs can do.
            continue
        yield path.relative_to(EXAMPLES).as_posix(), scenario
    for kind in LIBRARIES:
        yield f"library {kind}", parse_scenario(library_scenario(kind))
    for seed in range(RANDOM_RUNS):
        yield f"random {seed}", draw(Random(f"golden/{seed}"), seed)


def library_scenario(kind: str) -> dict[str, Any]:
    """Return a load that meets most rules of a library: queues, time-outs, bursts, limits, leaks, lost connections."""
    limits = {"max_open": 4, "max_idle": 2, "max_lifetime": "2s", "max_idle_time": "1s", "acquire_timeout": "300ms"}
    return {
        "name": kind,
        "database": {"connect_time": "40ms", "max_connections": 30, "cores": 2},
        "pool": fit(kind, limits),
        "load": {
            "instances": 2,
            "rate": 60.0,
            "hold": EXPONENTIAL,
            "hold_outside": "20ms",
            "duration": "20s",
            "seed": 7,
            "bursts": [{"at": "6s", "workers": 8, "requests": 2, "hold": "200ms"}],
        },
        "leak": {"every": 300},
        "events": [{"at": "12s", "do": "failover"}, {"at": "15s", "do": "restart", "down": "500ms"}],
    }


def draw(random: Random, seed: int) -> Scenario:
    """Draw a scenario. Only ``random()`` is asked, whose numbers no version of Python changes."""

    def one_of(values: list[Any]) -> Any:
        return values[int(random.random() * len(values))]

    def maybe(key: str, values: list[Any]) -> dict[str, Any]:
        return {key: one_of(values)} if random.random() < 0.4 else {}

    limits = (
        {"max_open": one_of([1, 2, 3, 5, 8])}
        | maybe("max_idle", [1, 2, 5])
        | maybe("min_idle", [1, 3])
        | maybe("max_lifetime", ["700ms", "3s"])
        | maybe("max_lifetime_jitter", ["200ms"])
        | maybe("max_idle_time", ["400ms", "2s"])
        | maybe("acquire_timeout", ["0s", "50ms", "400ms"])
        | maybe("max_waiting", [3])
        | maybe("max_uses", [20])
    )
    load = {"workers": one_of([2, 6, 12])} if random.random() < 0.5 else {"rate": one_of([20.0, 80.0])}
    load |= (
        {"hold": one_of(TIMES), "duration": "6s", "seed": seed}
        | maybe("drain", ["0s", "1s"])
        | maybe("instances", [2, 3])
        | maybe("think", TIMES)
        | maybe("connections_per_request", [2])
        | maybe("warmup", ["1s"])
        | maybe("retries", [1, 2])
        | maybe("hold_outside", ["10ms"])
        | maybe("bursts", [[{"at": "2s", "workers": 6, "requests": 2}]])
    )
    database = {"connect_time": one_of(TIMES)} | maybe("cores", [1, 2, 4]) | maybe("max_connections", [8, 20])
    database |= maybe("via", ["pgbouncer", "pgpool"]) if random.random() < 0.4 else {}
    event = {"at": 1 + 3 * random.random(), "do": one_of(["restart", "failover", "pause", "slow", "deploy"])}
    more: dict[str, dict[str, Any]] = {
        "pause": {"for": 0.7},
        "slow": {"for": 0.7, "factor": 5},
        "deploy": {"overlap": 1},
    }
    leak = maybe("shape", list(LEAK_SHAPES))
    return parse_scenario(
        {
            "name": f"random {seed}",
            "database": database,
            "pool": fit(one_of(list(LIBRARIES)), limits),
            "load": load,
            "leak": leak | {"every": 20} if leak else {},
            "events": [event | more.get(event["do"], {})] if random.random() < 0.5 else [],
        }
    )


def fit(kind: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Return what of ``limits`` the library has, and accepts together."""
    library = LIBRARIES[kind]
    given = {key: value for key, value in limits.items() if key in library.keys and key not in library.least}
    while True:
        try:
            parse_scenario({"name": "x", "pool": {"kind": kind} | given, "load": {"workers": 1}})
        except BadInput:
            given.popitem()
        else:
            return {"kind": kind} | given


def line_of(name: str, run: Run) -> str:
    """Return the line that is kept for a run."""
    total, connections = run.summary, run.summary.connections
    figures = {
        "offered": total.offered,
        "acquired": total.acquired,
        "timed_out": total.timed_out,
        "refused": total.refused,
        "failed": total.failed,
        "unfinished": total.unfinished,
        "opened": connections.opened,
        "closed": connections.closed.total,
        "waited": round(total.wait_time.total, 3),
    }
    shown = " ".join(f"{key}={value}" for key, value in figures.items())
    return f"{name}: {shown} {digest(run)}"


def digest(run: Run) -> str:
    """Return a digest of a run's figures, to nine digits: the last one of a logarithm differs between systems."""
    rows = [(p.at, p.open, p.in_use, p.idle, p.opening, p.waiting, p.acquired, p.errors) for p in run.timeline]
    told = [run.summary, *run.instances]
    text = repr([[_list_figures(one) for one in told], [[_round(value) for value in row] for row in rows], run.cut_off])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _list_figures(one: Summary) -> list[Any]:
    times = [(t.count, t.total, t.max, t.p50, t.p95, t.p99) for t in (one.wait_time, one.use_time, one.connect_time)]
    made, closed = one.connections, one.connections.closed
    counts = [one.offered, one.released, one.leaked, one.timed_out, one.refused, one.failed, one.unfinished]
    closings = [closed.max_idle, closed.max_idle_time, closed.max_lifetime, closed.error, closed.leak_reclaimed]
    states = [made.opened, made.open_failures, made.open, made.in_use, made.idle, made.peak_open, made.peak_in_use]
    rest = [made.average_open, made.average_in_use, one.queued_count, one.queued_time, one.exhausted_at]
    errors = [(seen.kind.message, seen.count, _round(seen.first_at)) for seen in one.errors]
    return [
        counts,
        [[_round(value) for value in row] for row in times],
        closings,
        states,
        [_round(v) for v in rest],
        errors,
    ]


def _round(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def golden_lines() -> Iterator[str]:
    """Yield the line of each scenario, as it is today."""
    for name, scenario in golden_scenarios():
        yield line_of(name, simulate(scenario))


def main() -> None:
    before = KEPT.read_text(encoding="utf-8").splitlines() if KEPT.exists() else []
    after = list(golden_lines())
    KEPT.write_text("".join(f"{line}\n" for line in after), encoding="utf-8")
    sys.stdout.writelines(f"- {line}\n" for line in before if line not in after)
    sys.stdout.writelines(f"+ {line}\n" for line in after if line not in before)


if __name__ == "__main__":
    main()
